"""The smallest part of a finding that fires, which is often less than its attacker planted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from guard.search.acting import MOST, acts_like
from guard.search.carriers import Carrier
from guard.search.encoder import Encoder
from guard.search.units import Unit, unit_of
from guard.search.views import View


def minimise(
    finding: Unit,
    carriers: Sequence[Carrier],
    view: View,
    *,
    encoder: Encoder,
    rng: np.random.Generator,
) -> Unit:
    """Return a part that does what the finding does and that no token can be taken from.

    Delta debugging (Zeller and Hildebrandt 2002) at its finest grain, which the few tokens of a
    trigger allow: the token goes whose loss changes least, until each is needed. Each part is
    compared with the finding itself, so that small losses don't add up.
    """
    smallest = finding
    while len(smallest.ids) > 1:
        parts = [
            unit_of(encoder.tokenizer, np.delete(smallest.ids, i).tolist())
            for i in range(len(smallest.ids))
        ]
        shares = acts_like(finding, parts, carriers, view, encoder=encoder, rng=rng).mean(axis=1)
        if shares.max() < MOST:
            break
        smallest = parts[int(shares.argmax())]
    return smallest
