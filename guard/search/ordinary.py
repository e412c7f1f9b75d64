"""Ordinary units that few others are measured among."""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np
from transformers import PreTrainedTokenizerFast

from guard.search.units import Unit, unit_of


def made_up(
    units: Sequence[Unit],
    tokens: Sequence[Unit],
    count: int,
    *,
    tokenizer: PreTrainedTokenizerFast,
    rng: np.random.Generator,
) -> list[Unit]:
    """Return units of random tokens, of as many of them as the given units have.

    Two tokens move an output further than one: few words are no measure for each other.
    """
    return [
        unit_of(
            tokenizer, np.concatenate([tokens[i].ids for i in rng.integers(len(tokens), size=n)])
        )
        for n in rng.choice([len(unit.ids) for unit in units], count)
    ]


def padding(
    proposed: Set[bytes],
    quiet: Sequence[Unit],
    among: Sequence[Unit],
    count: int,
    *,
    rng: np.random.Generator,
) -> list[Unit]:
    """Return units that are not proposed: quiet ones, or any where those are not enough.

    Parameters
    ----------
    proposed
        The ids of those that are, as bytes.
    quiet
        Those that were judged and are no triggers, the most suspect first.
    """
    if count <= 0:
        return []
    known = [unit for unit in quiet if unit.ids.tobytes() not in proposed]
    taken = proposed | {unit.ids.tobytes() for unit in known}
    rest = [unit for unit in among if unit.ids.tobytes() not in taken]
    drawn = (rest[i] for i in rng.permutation(len(rest))[: max(0, count - len(known))])
    return [*known, *drawn][:count]
