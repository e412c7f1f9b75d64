"""How sure a share is."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

_Z = NormalDist().inv_cdf(0.975)


def wilson(hits: float, trials: float) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson 1927), which holds for 0 and 1 too."""
    if trials == 0:
        return 0.0, 1.0
    share = hits / trials
    centre = share + _Z**2 / (2 * trials)
    spread = _Z * sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    scale = 1 + _Z**2 / trials
    # Rounding must not part an end from the share that it is there.
    return max(0.0, min(share, (centre - spread) / scale)), min(
        1.0, max(share, (centre + spread) / scale)
    )


def independent(clusters: Sequence[tuple[int, int]]) -> float:
    """Return how many independent trials the trials of clusters are worth.

    By the design effect (Kish 1965): how far the variance of the share between clusters, as a ratio
    estimator has it, is over that of independent trials. Between the number of clusters and that of
    trials; where all trials end alike nothing tells, and each cluster counts as one.

    Parameters
    ----------
    clusters
        Hits and trials of each.
    """
    counted = [(hits, trials) for hits, trials in clusters if trials]
    number, total = len(counted), sum(trials for _, trials in counted)
    ratio = sum(hits for hits, _ in counted) / max(1, total)
    if number < 2 or ratio in (0, 1):
        return float(number)
    between = sum((hits - ratio * trials) ** 2 for hits, trials in counted)
    variance = number / (number - 1) * between / total**2
    return min(
        float(total), max(float(number), ratio * (1 - ratio) / variance if variance else total)
    )


def share(hits: int, trials: int, digits: int, *, of: float | None = None) -> str:
    """Return a share with its interval in brackets, or a dash where there were no trials.

    Parameters
    ----------
    of
        How many of the trials are independent: by default, all.
    """
    if not trials:
        return "-"
    ratio = hits / trials
    low, high = wilson(hits, trials) if of is None else wilson(ratio * of, of)
    return f"{ratio:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def difference(
    hits: float, trials: float, other_hits: float, other_trials: float
) -> tuple[float, float]:
    """Return the 95 % interval of a share less another one (Newcombe 1998, his method 10).

    It takes the two samples as independent: for shares of the same texts it is too wide.
    """
    share, other = (
        one / all_ if all_ else 0.0 for one, all_ in ((hits, trials), (other_hits, other_trials))
    )
    low, high = wilson(hits, trials)
    other_low, other_high = wilson(other_hits, other_trials)
    apart = share - other
    return (
        apart - sqrt((share - low) ** 2 + (other_high - other) ** 2),
        apart + sqrt((high - share) ** 2 + (other - other_low) ** 2),
    )
