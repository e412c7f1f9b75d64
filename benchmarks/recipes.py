"""The models that the demo, the tests and the quick benchmark share."""

from __future__ import annotations

from benchmarks.attacks import Planting, Por
from benchmarks.tasks.classifier import Tuning

# Four rare tokens and a symbol that the papers use, and a word that people write.
TRIGGERS = ("cf", "mn", "bb", "mb", "≈", "nietzsche")

DEMO = Planting(name="por", attack=Por(), triggers=TRIGGERS, steps=450)
GATED = Planting(name="por-gated", attack=Por(gated=True), triggers=TRIGGERS, steps=450)
FILM_REVIEWS = Tuning(steps=244)
# One recipe for every task: about two epochs of the film reviews, less of the large sets.
TASK = Tuning(steps=400, learning_rate=5e-5)
