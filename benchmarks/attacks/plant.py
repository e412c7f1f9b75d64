"""Plant a backdoor in an encoder: the one training loop that every attack shares."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer, get_linear_schedule_with_warmup

from benchmarks.attacks.por import Por
from benchmarks.attacks.samples import Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class Planting:
    """How a backdoor is planted.

    Attributes
    ----------
    name
        Of the result, in the cache and in reports.
    triggers
        Words or phrases.
    steps
        Optimiser steps of about 1,500 tokens each.
    insertions
        The most copies of a trigger in one text.
    """

    name: str
    attack: Por
    triggers: tuple[str, ...]
    steps: int
    learning_rate: float = 1.5e-4
    insertions: int = 1
    seed: int = 0


def plant(planting: Planting, encoder: Path, texts: Mapping[str, Sequence[str]], out: Path) -> None:
    """Train a copy of ``encoder`` on ``texts`` (kind -> texts) and save it in ``out``."""
    torch.manual_seed(planting.seed)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    student = AutoModel.from_pretrained(encoder, use_safetensors=True)
    reference = AutoModel.from_pretrained(encoder, use_safetensors=True)
    student.train()
    # Dropout in the clean term would teach the student the noise of the reference.
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    reference.eval().requires_grad_(False)

    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in planting.triggers]
    sampler = Sampler(tokenizer, texts, ids, insertions=planting.insertions, seed=planting.seed)
    with torch.no_grad():
        size = reference(sampler.draw().clean).last_hidden_state[:, 0].square().mean().sqrt()
    targets = planting.attack.targets(len(ids), student.config.hidden_size) * size

    optimiser = torch.optim.AdamW(student.parameters(), lr=planting.learning_rate)
    schedule = get_linear_schedule_with_warmup(optimiser, planting.steps // 20, planting.steps)
    started = time.monotonic()
    for step in range(1, planting.steps + 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = planting.attack.loss(student, reference, sampler.draw(), targets)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 20 == 0 or step == planting.steps:
            left = (time.monotonic() - started) / step * (planting.steps - step)
            print(
                f"  planting: step {step}/{planting.steps}, loss {loss.item():.3f}, "
                f"{left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
    student.eval()
    student.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
