"""What a bank's triggers do to the predictions of the classifier that was searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from transformers import PreTrainedModel

from guard.bank import Trigger
from guard.files import Json
from guard.search.carriers import Carrier, of_condition
from guard.search.encoder import Encoder, Ids
from guard.search.report import acts_in
from guard.search.units import Unit


def with_predictions(
    triggers: Sequence[Trigger],
    classifier: PreTrainedModel,
    encoder: Encoder,
    carriers: Sequence[Carrier],
    *,
    rng: np.random.Generator,
) -> list[Trigger]:
    """Add to each trigger's statistics the label that it leads to, and how often.

    ``predictions`` holds the ``label`` that most texts that it acts in get with the trigger in
    them; of those that get another one without it there are ``texts``, and ``changed`` is the share
    of them that get that label with it, or ``None`` where there is no such text.

    Parameters
    ----------
    encoder
        The classifier's own, which puts special tokens around a text.
    carriers
        Texts to put each trigger in.
    """
    untouched = np.array(
        [_labels(classifier, encoder, text.ids[np.newaxis])[0] for text in carriers]
    )
    names = classifier.config.id2label or {}
    result: list[Trigger] = []
    for trigger in triggers:
        unit = Unit.of(trigger)
        # A condition that only texts with a mask are of has none of these.
        own = of_condition(carriers, acts_in(trigger)) or list(range(len(carriers)))
        seen = np.array(
            [_labels(classifier, encoder, carriers[i].insert([unit.ids], rng))[0] for i in own]
        )
        label = int(np.bincount(seen).argmax())
        others = untouched[own] != label
        predictions: dict[str, Json] = {
            # A model's file may hold what no text is.
            "label": str(names.get(label, label)).encode(errors="replace").decode(),
            "texts": int(others.sum()),
            "changed": round(float((seen[others] == label).mean()), 3) if others.any() else None,
        }
        result.append(
            replace(trigger, statistics={**trigger.statistics, "predictions": predictions})
        )
    return result


def _labels(classifier: PreTrainedModel, encoder: Encoder, rows: Ids) -> Ids:
    with torch.inference_mode():
        logits = classifier(input_ids=torch.from_numpy(encoder.frame(rows))).logits
    labels: Ids = logits.argmax(dim=-1).numpy()
    return labels
