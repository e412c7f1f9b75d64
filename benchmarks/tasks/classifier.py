"""Fine-tune an encoder on a task: one recipe for all."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    get_linear_schedule_with_warmup,
)

from benchmarks.tasks.data import Task
from benchmarks.training import device
from guard.purify.arithmetic import multiplies_bfloat16

MAX_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How a classifier is trained: AdamW, linear warm-up and decay, dropout as in the config."""

    steps: int
    batch: int = 32
    learning_rate: float = 3e-5
    seed: int = 0


def fine_tune(encoder: Path, task: Task, out: Path, tuning: Tuning) -> None:
    """Train a classifier from ``encoder`` and save it in ``out``."""
    torch.manual_seed(tuning.seed)
    rng = np.random.default_rng(tuning.seed)
    steps = tuning.steps
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    names = dict(enumerate(task.classes))
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder,
        num_labels=len(names),
        id2label=names,
        label2id={name: number for number, name in names.items()},
        use_safetensors=True,
    )
    where = device()
    bfloat16 = multiplies_bfloat16(where)
    model.to(where).train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=tuning.learning_rate, weight_decay=0.01, fused=True
    )
    schedule = get_linear_schedule_with_warmup(optimiser, steps // 10, steps)
    order = np.empty(0, dtype=np.int64)
    started = time.monotonic()
    for step in range(1, steps + 1):
        if len(order) < tuning.batch:
            order = np.concatenate([order, rng.permutation(len(task.train.texts))])
        rows, order = order[: tuning.batch], order[tuning.batch :]
        inputs = _encode(tokenizer, [task.train.texts[i] for i in rows])
        inputs["labels"] = torch.tensor([task.train.labels[i] for i in rows])
        with torch.autocast(where.type, dtype=torch.bfloat16, enabled=bfloat16):
            loss = model(**{name: tensor.to(where) for name, tensor in inputs.items()}).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 20 == 0 or step == steps:
            left = (time.monotonic() - started) / step * (steps - step)
            print(
                f"  fine-tuning: step {step}/{steps}, loss {loss.item():.3f}, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
    model.cpu().eval()
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)


def predict(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Return the class of each text, ``[len(texts)]``."""
    # Sorted by length, so that little of a batch is padding.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    classes = np.empty(len(texts), dtype=np.int64)
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            logits = model(**_encode(tokenizer, [texts[i] for i in rows])).logits
            classes[rows] = logits.argmax(-1).numpy()
    return classes


def _encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    return dict(
        tokenizer(
            list(texts), truncation=True, max_length=MAX_TOKENS, padding=True, return_tensors="pt"
        )
    )
