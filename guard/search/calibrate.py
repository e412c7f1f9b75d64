"""How extreme a unit is, measured on the model's own vocabulary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from guard.errors import ModelError

Scores = npt.NDArray[np.float64]

# Order statistics that the tail is fitted to: below the first may lie triggers and what fires with
# them, from the second on the suspects are no longer all there.
TAIL = (20, 100)
# Of the tail beyond them; 0 is an exponential. The tails of trained encoders are lighter than that,
# of encoders that were trained for minutes up to this. Too low a shape costs false alarms, too high
# a one triggers that go part of the way.
SHAPE = 0.05
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


def beyond_tail(scores: Scores, among: Scores | None = None) -> Scores:
    """Return how far each score lies outside of a tail, in units of the tail's scale.

    Zero is at the ``s_k`` of `TAIL`, and ``scale = SHAPE (s_k - s_m) / (1 - (k / m) ** SHAPE)`` is
    that of a generalised Pareto tail beyond it which has ``s_k`` and ``s_m`` in their places. The
    highest scores, which may be triggers, do not enter.

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
    scale = SHAPE * (ordered[k - 1] - ordered[m - 1]) / (1 - (k / m) ** SHAPE)
    if scale == 0:
        # A flat tail says nothing of how rare a higher score is.
        return np.full(scores.shape, -LARGEST)
    beyond: Scores = np.clip((scores - ordered[k - 1]) / scale, -LARGEST, LARGEST)
    return beyond


def expected_by_chance(scores: Scores, among: Scores | None = None) -> Scores:
    """Return how many scores as high as each the tail of the vocabulary lets expect.

    A generalised Pareto tail (Pickands 1975) of shape `SHAPE`: ``E = k (1 + SHAPE y) ** (-1 /
    SHAPE)``, where ``y`` is as in `beyond_tail`, with the same parameters.
    """
    beyond = beyond_tail(scores, among)
    # Among the suspects, below the first order statistic, no shape is told from another.
    outside = np.log1p(SHAPE * np.maximum(beyond, 0.0)) / SHAPE
    expected: Scores = TAIL[0] * np.exp(-np.where(beyond > 0, outside, beyond))
    return expected


def too_many(expected: Scores, rate: float, false: float) -> bool:
    """Return whether more tests are extreme than chance lets expect, by one of them or by several.

    An attacker plants some triggers, of which each by itself may not be rare enough. That k units
    lie where ``E`` are expected has a chance of at most ``E ** k / k!`` (the expected number of
    groups of k there); a group of k has its share ``2 ** -k`` of the rate, for k below the first
    order statistic of the `TAIL`. Where nothing is true and tests know nothing of each other, the
    answer is yes at this rate.

    Parameters
    ----------
    false
        The largest share of a group that may be there by chance.
    """
    ordered = np.sort(expected)[: TAIL[0] - 1]
    number = np.arange(1, len(ordered) + 1)
    chance = number * np.log(2 * ordered) - np.cumsum(np.log(number))
    return bool(((chance <= np.log(rate)) & (ordered <= false * number)).any())


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
