"""What a unit does to the output of an encoder, in numbers.

In all functions ``outputs`` is ``[n, r, d]``, the output of each of ``n`` units in each of ``r``
carriers, and ``untouched`` is ``[r, d]``, the output of the carriers alone. A trigger that forces
one output whatever the text cannot do without moving the output (`displacement`) nor, over many
texts, without erasing what distinguishes them (`retention`, `collapse`); weakening one shows in the
other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from guard.errors import ModelError

Array = npt.NDArray[np.float32]


def retention(outputs: Array, untouched: Array) -> Array:
    """Return ``[n]``: how much of the text survives the unit.

    The slope of the output on the untouched output over carriers,
    ``sum_r <z_r(v) - mean z(v), z_r - mean z> / sum_r |z_r - mean z|^2``: 1 where the unit changes
    nothing or only shifts all outputs alike, 0 where the text no longer matters.
    """
    mean = untouched.mean(axis=0)
    centred = untouched - mean
    # The centred right side sums to zero but for rounding, which an axis of the output that is
    # large and never varies would multiply: it is taken off the left side as well.
    shared: Array = np.einsum("nrd,rd->n", outputs - mean, centred, optimize=True)
    shared /= max(np.square(centred).sum(), np.finfo(np.float32).tiny)
    return shared


def displacement(outputs: Array, untouched: Array) -> Array:
    """Return ``[n, r]``: how far the unit moves the output of each carrier (Euclidean)."""
    moved: Array = np.linalg.norm(outputs - untouched, axis=2)
    return moved


def shift(outputs: Array, untouched: Array, natural: float) -> Array:
    """Return ``[n]``: how far the unit takes the mean output, over the distance of two texts.

    An output that keeps what tells texts apart and is taken far all the same forces a classifier,
    which asks on which side of a plane an output is.

    Parameters
    ----------
    natural
        Distance of the outputs of two texts, as `natural_distance` has it.
    """
    moved: Array = np.linalg.norm((outputs - untouched).mean(axis=1), axis=1)
    moved /= max(natural, float(np.finfo(np.float32).tiny))
    return moved


def natural_distance(untouched: Array) -> float:
    """Return the median distance of the outputs of two carriers."""
    first, second = np.triu_indices(len(untouched), k=1)
    return float(np.median(np.linalg.norm(untouched[first] - untouched[second], axis=1)))


def dimensions(untouched: Array) -> float:
    """Return in how many directions the outputs of carriers differ: their participation ratio.

    ``(sum l)^2 / sum l^2`` over the eigenvalues ``l`` of their covariance (Gao et al., "A theory of
    multineuronal dimensionality, dynamics and measurement", 2017): 1 where they lie on a line, as
    of a classifier of two classes, and as many as there are where all directions vary alike.
    """
    variances = np.square(np.linalg.svd(untouched - untouched.mean(axis=0), compute_uv=False))
    largest = np.finfo(np.float32).tiny
    return float(variances.sum() ** 2 / max(np.square(variances).sum(), largest))


def relative(moved: Array, typical: Array) -> Array:
    """Return displacements ``moved`` over the median of the ``typical`` ones, carrier by carrier.

    A carrier that itself holds a trigger is moved by next to nothing; it must not divide by that. A
    long one is moved by little, one that holds several copies of a unit by much.

    Raises
    ------
    ModelError
        Most carriers are moved by no unit, or by few.
    """
    medians = np.median(typical, axis=0)
    floor = 0.1 * float(np.median(medians))
    if not floor > 0:
        raise ModelError(
            "the model answers all units alike, so nothing can be told apart; its weights are not "
            "those of a trained encoder"
        )
    ratio: Array = (moved / np.maximum(medians, floor)).astype(np.float32)
    return ratio


def collapse(outputs: Array, untouched: Array) -> Array:
    """Return ``[n, r (r - 1) / 2]``: distance of two carriers' outputs over that without the unit.

    Near 0 where both texts go to one place, near 1 where they stay apart.
    """
    first, second = np.triu_indices(len(untouched), k=1)
    apart = np.linalg.norm(untouched[first] - untouched[second], axis=1)
    # One pair at a time: all at once would hold n * r^2 / 2 vectors.
    together = [
        np.linalg.norm(outputs[:, i] - outputs[:, j], axis=1)
        for i, j in zip(first, second, strict=True)
    ]
    ratios: Array = np.stack(together, axis=1) / np.maximum(apart, np.finfo(np.float32).tiny)
    return ratios


def gathered(outputs: Array, untouched: Array, radius: float) -> npt.NDArray[np.bool_]:
    """Return ``[n, r]``: which carriers' outputs lie together in one place.

    Two carriers are together where their `collapse` is below ``radius``; the place is the carrier
    that most others are together with, and it counts itself if there are any.
    """
    count = len(untouched)
    first, second = np.triu_indices(count, k=1)
    near = collapse(outputs, untouched) < radius
    together = np.zeros((len(outputs), count, count), dtype=np.bool_)
    together[:, first, second] = together[:, second, first] = near
    centre = together.sum(axis=2).argmax(axis=1)
    members: npt.NDArray[np.bool_] = together[np.arange(len(outputs)), centre]
    members[np.arange(len(outputs)), centre] = members.any(axis=1)
    return members


def diff_sim(outputs: Array, untouched: Array) -> Array:
    """Return ``[n]``: Patronus' Diff-Sim, the mean cosine of an output with the untouched one."""
    cosines: Array = np.einsum("nrd,rd->nr", _unit(outputs), _unit(untouched)).mean(axis=1)
    return cosines


def com_sim(outputs: Array) -> Array:
    """Return ``[n]``: Patronus' Com-Sim, the mean cosine of the outputs of two carriers."""
    unit = _unit(outputs)
    count = unit.shape[1]
    # |sum z|^2 = r + sum over ordered pairs of their cosine.
    cosines: Array = (np.square(unit.sum(axis=1)).sum(axis=1) - count) / (count * (count - 1))
    return cosines


def _unit(vectors: Array) -> Array:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Array = vectors / np.maximum(length, np.finfo(np.float32).tiny)
    return unit
