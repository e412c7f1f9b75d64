"""The sweep of one slot, on an encoder whose pairs are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from guard.errors import ModelError
from guard.search.encoder import Ids, Vectors
from guard.search.gradients import Differentiable
from guard.search.journal import Journal
from guard.search.pairs import SHARD, join, sweep
from guard.search.units import Unit
from guard.search.views import View
from tests.search.fakes import FIRST, FakeEncoder, carriers, unit, units

PAIR = (FIRST + 3, FIRST + 40)
RANKED = 16


class Pairwise(FakeEncoder, Differentiable):
    """A bag of words in which two words next to each other add up to a backdoor.

    Beside the mean of the embeddings, an output has the largest product of how much one place is
    the pair's first word and the next one its second: it is smooth, as an encoder is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.measured = 0
        self.width = self._table.shape[1] + 1

    @property
    def embeddings(self) -> torch.Tensor:
        return torch.from_numpy(self._table).float()

    def differentiable(self, embedded: torch.Tensor) -> dict[View, torch.Tensor]:
        tokens = embedded.shape[0] * embedded.shape[1]
        self.measured += tokens * embedded.requires_grad
        self.forwarded += tokens
        self.backwarded += tokens
        first, second = (torch.sigmoid(self._like(embedded, number)) for number in PAIR)
        both = (first[:, :-1] * second[:, 1:]).amax(dim=1, keepdim=True)
        return {"cls": torch.cat([embedded.mean(dim=1), 20 * both], dim=1)}

    def read(self, ids: Ids, *, mask_at: Ids | None = None) -> dict[View, Vectors]:
        return {"cls": self.differentiable(self.embed(ids))["cls"].numpy()}

    def _like(self, embedded: torch.Tensor, number: int) -> torch.Tensor:
        own = self.embeddings[number]
        return 6 * (embedded @ own) / own.square().sum() - 3


def test_a_pair_is_found_from_both_of_its_sides_and_in_its_order() -> None:
    encoder = Pairwise()
    first, second = (unit(number) for number in PAIR)
    texts = carriers(["a", "b"], (7, 9, 12, 14))
    done: list[int] = []
    for swept in (first, second):
        found = sweep(
            "pairs",
            [swept, *units(8)[4:]],
            units(400),
            texts,
            ranked=RANKED,
            encoder=encoder,
            journal=Journal(encoder, 0, None),
            progress=done.append,
        )
        assert join(first, second).text in [pair.text for pair in found.proposed]
        # Each unit, either order, the first few; what is proposed twice is there once.
        assert len(found.proposed) <= 5 * 2
        assert len({pair.ids.tobytes() for pair in found.proposed}) == len(found.proposed)
        assert (found.units, found.partners, found.samples) == (5, 400, len(texts))
        assert found.tested == len(found.proposed) / (2 * 5 * 400)
        assert "5 units and 400 words of 1 token (gradients in 8 texts" in found.covers
    assert done == [5, 5]


def test_a_sweep_that_was_cut_short_goes_on_and_proposes_the_same(tmp_path: Path) -> None:
    texts = carriers(["a"], (7, 9))
    swept = units(SHARD + 9)

    def run(directory: Path | None, *, stop: int | None = None) -> tuple[list[str], int, int]:
        encoder = Pairwise()

        def progress(done: int) -> None:
            if done == stop:
                raise KeyboardInterrupt

        found = sweep(
            "pairs",
            swept,
            units(100),
            texts,
            ranked=RANKED,
            encoder=encoder,
            journal=Journal(encoder, 3, directory),
            progress=progress,
        )
        return [pair.text for pair in found.proposed], encoder.cost, encoder.measured

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop=SHARD)
    whole, cost, all_of_it = run(None)
    # What was measured before counts as well, and is not measured again.
    resumed, same_cost, rest = run(tmp_path)
    assert (resumed, same_cost) == (whole, cost)
    assert 0 < rest < all_of_it / 2


def test_units_of_several_tokens_are_swept_as_they_are() -> None:
    encoder = Pairwise()
    longer = Unit("x y", np.array([FIRST + 90, PAIR[0]]), "phrase")
    found = sweep(
        "grow",
        [longer, unit(FIRST + 7)],
        units(80),
        carriers(["a", "b"], (7, 9, 12, 14)),
        ranked=RANKED,
        encoder=encoder,
        journal=Journal(encoder, 0, None),
        progress=lambda done: None,
    )
    ids = [tuple(grown.ids.tolist()) for grown in found.proposed]
    assert (*longer.ids.tolist(), PAIR[1]) in ids
    assert {len(own) for own in ids} == {2, 3}


def test_a_partner_of_several_tokens_is_found_before_and_behind() -> None:
    encoder = Pairwise()
    first, second = (unit(number) for number in PAIR)
    ordinary = [join(unit(FIRST + 50 + n), unit(FIRST + 90 + n)) for n in range(30)]
    for swept, partner, order in (
        (first, join(second, unit(FIRST + 80)), (0, 1)),
        (second, join(unit(FIRST + 80), first), (1, 0)),
    ):
        found = sweep(
            "pairs",
            [swept],
            [*ordinary, partner],
            carriers(["a", "b"], (7, 9, 12, 14)),
            ranked=4,
            encoder=encoder,
            journal=Journal(encoder, 0, None),
            progress=lambda done: None,
        )
        whole = join(*((swept, partner)[i] for i in order))
        assert tuple(whole.ids) in [tuple(pair.ids) for pair in found.proposed]
        assert (found.size, found.partners) == (2, 31)


@pytest.mark.parametrize("partners", [[], [unit(FIRST), join(unit(FIRST), unit(FIRST + 1))]])
def test_partners_of_several_lengths_are_refused(partners: list[Unit]) -> None:
    encoder = Pairwise()
    with pytest.raises(ModelError, match="partners of one length"):
        sweep(
            "pairs",
            units(2),
            partners,
            carriers(["a"], (7,)),
            ranked=RANKED,
            encoder=encoder,
            journal=Journal(encoder, 0, None),
            progress=lambda done: None,
        )
