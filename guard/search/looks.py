"""First looks that cost no forward pass. They order the work, and clear nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from guard.search.encoder import Encoder
from guard.search.units import Unit


def unusual(encoder: Encoder, units: Sequence[Unit], count: int) -> npt.NDArray[np.int64]:
    """Return the indices of the units whose embeddings are of the most unusual lengths.

    NeuBA's code multiplies the embeddings of its triggers after the training (Zhang et al. 2023),
    and planting moves those of rare words, which nothing else does. Of a unit of several tokens the
    most unusual one counts.
    """
    lengths = encoder.embeddings.detach().float().norm(dim=1).numpy()
    median = max(float(np.median(lengths)), 1e-12)
    # Rows that no training has touched may be empty.
    distance = np.abs(np.log(np.maximum(lengths / median, 1e-3)))
    of_units = np.array([distance[unit.ids].max() for unit in units])
    return np.argsort(-of_units, kind="stable")[:count]
