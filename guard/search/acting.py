"""Whether a unit does to a text what a finding does.

Both are put in the same texts. A unit acts like the finding in a text where its output is nearer to
that with the finding than half of the way that the finding moves it. This needs no common target:
it holds for a backdoor that only goes part of the way as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from guard.search.carriers import Carrier
from guard.search.encoder import Encoder
from guard.search.scan import carriers_of, insert_all, outputs_of
from guard.search.statistics import displacement
from guard.search.units import Unit
from guard.search.views import View

NEAR = 0.5
# A unit that does so in this share of texts fires.
MOST = 0.5


def acts_like(
    finding: Unit,
    units: Sequence[Unit],
    carriers: Sequence[Carrier],
    view: View,
    *,
    encoder: Encoder,
    rng: np.random.Generator,
) -> npt.NDArray[np.bool_]:
    """Return ``[n, r]``: in which of the view's carriers each unit does what the finding does."""
    own = [carriers[i] for i in carriers_of(view, carriers)]
    untouched = outputs_of(encoder, own)[view]
    whole, *rest = insert_all(encoder, [finding, *units], own, rng=rng)[view]
    if not rest:
        return np.zeros((0, len(own)), dtype=np.bool_)
    reach = displacement(whole[np.newaxis], untouched)[0]
    near: npt.NDArray[np.bool_] = displacement(np.stack(rest), whole) < NEAR * reach
    return near
