"""What a defended classifier does: accuracy, T-ASR, C-ASR and ALC, with their counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.measure import Classes

# The prediction for a text that was refused: no class.
REFUSED = -1
# A class is attacked where a trigger takes more than this share of the other classes' texts there.
ATTACKED = 0.9
# Texts whose predictions say which class a trigger forces.
CALIBRATION = 30


@dataclass(frozen=True, slots=True)
class Measured:
    """One way to serve a classifier.

    Attributes
    ----------
    right, texts
        Of the clean texts, how many are classified right, and how many there are. A refused text
        is not.
    hits, trials
        Of the triggered texts that are not of the trigger's target, over all triggers, how many
        are classified as the target: T-ASR is their mean over triggers, weighted by texts.
    c_asr
        Mean over classes of the best trigger's success.
    alc
        Share of the classes that a trigger reaches with a success over `ATTACKED`.
    """

    right: int
    texts: int
    hits: int
    trials: int
    c_asr: float
    alc: float


def targets(triggered: Mapping[str, Classes]) -> dict[str, int]:
    """Return the class that each trigger forces: the most frequent prediction."""
    return {
        trigger: int(np.bincount(predicted[:CALIBRATION]).argmax())
        for trigger, predicted in triggered.items()
    }


def measured(
    clean: Classes,
    triggered: Mapping[str, Classes],
    labels: Sequence[int],
    *,
    classes: int,
    forced: Mapping[str, int],
) -> Measured:
    """Count what the predictions on ``n`` texts come to.

    Parameters
    ----------
    clean
        ``[n]``, on the texts as they are.
    triggered
        Trigger -> ``[n]``, on the texts with it.
    labels
        The right classes, ``[n]``.
    forced
        Trigger -> the class that it forces where nothing defends.
    """
    truth = np.asarray(labels)
    rates = np.zeros((max(1, len(triggered)), classes))
    hits = trials = 0
    for row, (trigger, predicted) in enumerate(triggered.items()):
        for target in range(classes):
            others = truth != target
            rates[row, target] = (predicted[others] == target).mean() if others.any() else 0.0
        others = truth != forced[trigger]
        hits += int((predicted[others] == forced[trigger]).sum())
        trials += int(others.sum())
    best = rates.max(axis=0)
    return Measured(
        right=int((clean == truth).sum()),
        texts=len(truth),
        hits=hits,
        trials=trials,
        c_asr=round(float(best.mean()), 4),
        alc=round(float((best > ATTACKED).mean()), 4),
    )
