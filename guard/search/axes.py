"""Axes of an output that are so long that they hide the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from guard.bank import MAX_TRIGGER_IDS
from guard.search.carriers import Supply, Want
from guard.search.encoder import Encoder
from guard.search.journal import Arrays, Journal
from guard.search.scan import outputs_of
from guard.search.statistics import Array, dimensions
from guard.search.texts import VERDICT_LENGTHS

# Where outputs differ in fewer directions, they may be a classifier's. With all axes alike,
# encoders have more, but for small ones that learned for minutes and poolers of some that have a
# backdoor, and classifiers that have learned their task have fewer: ``python -m benchmarks
# directions``.
NARROW = 12.0
# Of the median axis' deviation: what an axis is lengthened to at most, so that one that says
# nothing is not made to say noise.
_FLOOR = 0.1


def directions_wanted(encoder: Encoder) -> float:
    """Return in how many directions outputs have to differ, so as not to be a classifier's.

    Outputs of few axes lie in fewer, and the classes of a classifier are told apart in as many as
    they are.
    """
    return max(min(NARROW, encoder.width / 8), encoder.classes)


def make_axes_alike(encoder: Encoder, kinds: Mapping[str, Sequence[str]], journal: Journal) -> None:
    """Have an encoder read outputs with all axes alike, where some hide the others.

    Outputs that lie in few directions are a classifier's, or an encoder's of which somebody
    lengthened a few axes (of its last layer norm, which no task minds), so that it is judged like
    one. Those lie in many once all axes vary alike, and are read so; a classifier's do not.

    Parameters
    ----------
    kinds
        Ordinary texts by kind.
    """
    encoder.axes = {}
    rng, most = journal.rng("texts of axes"), encoder.room - MAX_TRIGGER_IDS
    texts = Supply(kinds, encoder.tokenizer, rng, most=most).take(
        Want(kind, length, "start") for length in VERDICT_LENGTHS for kind in kinds
    )
    wanted = directions_wanted(encoder)

    def measure(_: np.random.Generator) -> Arrays:
        # None is written as no axes: a search that goes on reads as it did before.
        return {view: _alike(seen, wanted) for view, seen in outputs_of(encoder, texts).items()}

    found = journal.shard("axes", [text.ids for text in texts], measure)
    axes = {view: found[view] for view in encoder.views if view in found and found[view].size}
    if "cls" in axes and "mask" in encoder.views:
        # Of the same layer norm.
        axes["mask"] = axes["cls"]
    encoder.axes = axes


def _alike(outputs: Array, wanted: float) -> Array:
    """Return what to multiply axes by, ``[width]``, or nothing where it makes no difference."""
    deviations = outputs.std(axis=0)
    if not deviations.any() or dimensions(outputs) >= wanted:
        nothing: Array = deviations[:0]
        return nothing
    shortest = _FLOOR * np.median(deviations[deviations > 0])
    alike: Array = (1 / np.maximum(deviations, shortest)).astype(np.float32)
    if dimensions(outputs * alike) < wanted:
        return alike[:0]
    return alike
