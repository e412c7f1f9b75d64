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


Cluster = tuple[int, int]
"""Hits and trials that may have more in common than those of others."""


def correlation(clusters: Sequence[Cluster]) -> float:
    """Return how alike trials of one cluster are: 0 as any two, 1 all of one fate.

    The intraclass correlation by analysis of variance (Donner 1986), and 1 where nothing tells:
    where there are under two clusters, or none of several trials, or all trials end alike.
    """
    counted = [(hits, trials) for hits, trials in clusters if trials]
    total, number = sum(trials for _, trials in counted), len(counted)
    ratio = sum(hits for hits, _ in counted) / max(1, total)
    if number < 2 or total == number or ratio in (0, 1):
        return 1.0
    between = sum(n * (hits / n - ratio) ** 2 for hits, n in counted) / (number - 1)
    inside = sum(hits * (1 - hits / n) for hits, n in counted) / (total - number)
    size = (total - sum(n * n for _, n in counted) / total) / (number - 1)
    return max(0.0, (between - inside) / (between + (size - 1) * inside))


def independent(clusters: Sequence[Cluster], alike: float) -> float:
    """Return how many independent trials the trials of clusters are worth (Kish 1965).

    Parameters
    ----------
    alike
        Their `correlation`, of as many clusters as are known: few tell little.
    """
    sizes = [trials for _, trials in clusters if trials]
    total = sum(sizes)
    return total / (1 + (sum(n * n for n in sizes) / total - 1) * alike) if total else 0.0


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
