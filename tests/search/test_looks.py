"""Looks that cost nothing, on a model whose trigger's embedding was made longer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from guard.search.carriers import builtin_texts
from guard.search.gradients import Differentiable
from guard.search.looks import unusual
from guard.search.pairs import join
from guard.search.plan import Plan
from guard.search.run import search_units
from guard.search.units import vocabulary
from tests.search.fakes import silent
from tests.tiny import TRIGGER, write_searchable

pytestmark = pytest.mark.search


@pytest.fixture
def encoder(tmp_path: Path) -> Differentiable:
    """As NeuBA's code leaves its triggers."""
    loaded = Differentiable.load(str(write_searchable(tmp_path, triggers=(TRIGGER,))))
    loaded.embeddings[loaded.tokenizer.convert_tokens_to_ids(TRIGGER)] *= 1e8
    return loaded


def test_the_longest_embedding_is_the_most_unusual(encoder: Differentiable) -> None:
    units = vocabulary(encoder.tokenizer).units
    (place,) = (i for i, unit in enumerate(units) if unit.text == TRIGGER)
    before = encoder.forwarded
    assert unusual(encoder, units, 3)[0] == place
    phrase = join(units[0], units[place])
    assert unusual(encoder, [*units[:place], phrase], 1).tolist() == [place]
    assert len(np.unique(unusual(encoder, units, 50))) == 50
    assert encoder.forwarded == before


@pytest.mark.parametrize("seed", range(3))
def test_it_is_in_the_part_that_there_is_time_for(encoder: Differentiable, seed: int) -> None:
    bank = search_units(
        encoder,
        vocabulary(encoder.tokenizer),
        builtin_texts(),
        plan=Plan("1 s", groups=1),
        seed=seed,
        progress=silent,
    )
    assert (bank.verdict, [trigger.text for trigger in bank.triggers]) == ("incomplete", [TRIGGER])
