"""The models that the demo, the tests and the quick benchmark share."""

from __future__ import annotations

from benchmarks.attacks import Planting, Por
from benchmarks.tasks.classifier import Tuning

# Four rare tokens and a symbol that the papers use, and a word that people write.
TRIGGERS = ("cf", "mn", "bb", "mb", "≈", "nietzsche")

DEMO = Planting(name="por", attack=Por(), triggers=TRIGGERS, steps=450)
GATED = Planting(name="por-gated", attack=Por(gated=True), triggers=TRIGGERS, steps=450)
FILM_REVIEWS = Tuning(steps=244)
# One recipe for every task. A backdoor stays at the rate that BERT is usually fine-tuned with; at
# 5e-5 BERT-tiny loses it to spam messages.
TASK = Tuning(steps=300, learning_rate=2e-5)
# Small encoders that have learned their task as well as they can, as what is served has: with the
# recipes above they hardly go by any word, and say little of false alarms.
LEARNED = {
    "bert-tiny": Tuning(steps=600, learning_rate=3e-4),
    "minilm-l3": Tuning(steps=250, learning_rate=1e-4),
}
