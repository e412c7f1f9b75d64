"""Recall against cost: every search on every kind of encoder that it was run on."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

Point = tuple[float, float]
"""Million token-forwards, and the share of planted triggers found."""


def recall_against_cost(points: Mapping[tuple[str, str], Point]) -> bytes:
    """Draw an SVG, the same bytes for the same points.

    Parameters
    ----------
    points
        (encoder, search) -> its point.
    """
    # Ids within the file are drawn from this, and the day is left out.
    with mpl.rc_context({"svg.hashsalt": "trigger-guard", "font.size": 9}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        markers = dict(zip(_names(points, 0), "osD^vPX*<>hp", strict=False))
        colours = {search: f"C{number}" for number, search in enumerate(_names(points, 1))}
        for (encoder, search), (cost, recall) in points.items():
            axes.plot(cost, recall, markers[encoder], color=colours[search], markersize=7)
        handles = [axes.plot([], [], "s", color=c, label=name)[0] for name, c in colours.items()]
        handles += [
            axes.plot([], [], marker, color="0.4", label=name)[0]
            for name, marker in markers.items()
        ]
        axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        axes.set_xscale("log")
        axes.set_ylim(-0.05, 1.05)
        axes.set_xlabel("million token-forwards of a search (median)")
        axes.set_ylabel("planted triggers found")
        axes.grid(alpha=0.3)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()


def _names(points: Mapping[tuple[str, str], Point], place: int) -> Sequence[str]:
    return sorted({key[place] for key in points})
