"""The model behind the monitor: what share of its time a check is, and what a deep check adds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from benchmarks.measure import insert
from benchmarks.tasks import film_reviews
from exporters.deep import export_deep, quantised
from guard import Trigger, TriggerBank
from guard.deep import DeepCheck
from guard.files import Json
from guard.runtime import load_tokenizer, open_session
from guard.search.carriers import builtin_texts
from guard.search.encoder import Encoder
from guard.search.targets import with_targets

TEXTS = 200


class _Logits(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        mask = torch.ones_like(input_ids)
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=mask).logits
        return logits


def int8_classifier(folder: Path, text: str) -> Callable[[], object]:
    """Return a call of a classifier in int8 on the ids of one text, on one thread."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    session = open_session(quantised(_Logits(model), {"logits": ("batch",)}), "classifier.onnx")
    tokenizer = load_tokenizer((folder / "tokenizer.json").read_bytes())
    ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
    return lambda: session.run(None, {"input_ids": ids})


def bank_of(encoder: Encoder, triggers: tuple[str, ...]) -> TriggerBank:
    """Return the bank of a search that found just the planted triggers."""
    found = []
    for text in triggers:
        ids = encoder.tokenizer(text, add_special_tokens=False).input_ids
        found.append(Trigger("", text, tuple(ids), "word", "cls", {}))
    return TriggerBank.build(
        verdict="backdoored",
        model=encoder.identity,
        tokenizer_json=encoder.tokenizer_json,
        search={},
        coverage={},
        found=found,
    )


def deep(folder: Path, triggers: tuple[str, ...]) -> dict[str, Json]:
    """Measure the deep check alone, with no string looked for: what it catches, and its cost."""
    encoder = Encoder.load(str(folder))
    bank = with_targets(encoder, bank_of(encoder, triggers), builtin_texts())
    texts = film_reviews().test.texts[:TEXTS]
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        left_out = export_deep(bank, folder, Path(scratch) / "deep")
        check = DeepCheck.load(Path(scratch) / "deep")
        size = sum(path.stat().st_size for path in (Path(scratch) / "deep").iterdir())
        started = time.perf_counter()
        alarms = sum(map(check.alarms, texts))
        seconds = time.perf_counter() - started
        caught = sum(
            check.alarms(insert(text, triggers[i % len(triggers)], rng))
            for i, text in enumerate(texts)
        )
    return {
        "texts": len(texts),
        "targets": len(bank.targets) - len(left_out),
        "recall": round(caught / len(texts), 4),
        "false_alarms": round(alarms / len(texts), 4),
        "us": round(1e6 * seconds / len(texts), 1),
        "megabytes": round(size / 1e6, 1),
    }
