"""How extreme a unit is, measured on the model's own vocabulary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from guard.errors import ModelError

Scores = npt.NDArray[np.float64]

# Order statistics that the tail is fitted to: below the first may lie triggers and what fires with
# them, from the second on the suspects are no longer all there.
TAIL = (20, 100)
# Its exponential, times the first of them, still is a float.
LARGEST = 700.0


def robust_deviation(values: npt.ArrayLike) -> float:
    """Return ``1.4826 MAD``, the standard deviation where values are normal; 0 where most agree."""
    own = np.asarray(values, dtype=np.float64)
    return float(1.4826 * np.median(np.abs(own - np.median(own))))


def robust_z(values: npt.ArrayLike, reference: npt.ArrayLike) -> Scores:
    """Return ``(value - median) / robust_deviation``, both of the reference.

    Raises
    ------
    ModelError
        The reference does not vary: the model does not react to its input.
    """
    reference = np.asarray(reference, dtype=np.float64)
    spread = robust_deviation(reference)
    if not spread > 0:
        raise ModelError(
            "the model answers all units alike, so nothing can be told apart; its weights are not "
            "those of a trained encoder"
        )
    z: Scores = (np.asarray(values, dtype=np.float64) - np.median(reference)) / spread
    return z


def expected_by_chance(scores: Scores, among: Scores | None = None) -> Scores:
    """Return how many scores as high as each the tail of the vocabulary lets expect.

    An exponential tail, as that of most light-tailed distributions becomes (Gumbel domain;
    Pickands 1975), through two order statistics: ``E(x) = k exp(-(x - s_k) / scale)`` with
    ``scale = (s_k - s_m) / log(m / k)``. The highest scores, which may be triggers, do not enter.

    Parameters
    ----------
    scores
        What is measured, of any shape.
    among
        ``[n]``, those of the most suspect units of the vocabulary, at least ``TAIL[1]`` of them; by
        default, ``scores``.
    """
    k, m = TAIL
    ordered = np.sort(scores if among is None else among)[::-1]
    scale = (ordered[k - 1] - ordered[m - 1]) / np.log(m / k)
    if scale == 0:
        # A flat tail says nothing of how rare a higher score is.
        return np.full(scores.shape, np.inf)
    # In a tail that is all but flat, the rest is beyond what a float holds.
    exponent = np.minimum((ordered[k - 1] - scores) / scale, LARGEST)
    expected: Scores = k * np.exp(exponent)
    return expected


def false_discovery(expected: Scores, rate: float) -> npt.NDArray[np.bool_]:
    """Return which tests to reject so that under ``rate`` of the rejected are false, on average.

    Benjamini and Hochberg (1995). ``expected`` is how many of all tests are as extreme by chance,
    which is the p-value times the number of tests: the k lowest are rejected for the largest k
    whose kth is at most ``rate * k``. Where nothing is true, any rejection has at most this rate.
    """
    order = np.argsort(expected, kind="stable")
    below = np.flatnonzero(expected[order] <= rate * np.arange(1, len(order) + 1))
    rejected = np.zeros(len(expected), dtype=np.bool_)
    if len(below):
        rejected[order[: below[-1] + 1]] = True
    return rejected
