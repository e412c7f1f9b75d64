"""How all that is trained here is trained: the package's loop, with lines on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from guard.purify import training
from guard.purify.training import Samples, device

CHECKPOINT_EVERY = 100


def train(
    model: torch.nn.Module,
    loss: Callable[[], torch.Tensor],
    samples: Samples,
    *,
    steps: int,
    learning_rate: float,
    checkpoint: Path | None,
    label: str,
) -> None:
    """Minimise ``loss()``; see `guard.purify.training.train`.

    Parameters
    ----------
    label
        What is done, for the progress lines.
    """
    started = time.monotonic()
    before = 0

    def report(step: int, value: torch.Tensor | None) -> None:
        nonlocal before
        if value is None:
            before = step
            say(f"{label}: going on from step {step} of {steps}")
        elif step % 20 == 0 or step == steps:
            left = (time.monotonic() - started) / (step - before) * (steps - step)
            say(f"{label}: step {step}/{steps}, loss {value.item():.3f}, {left:.0f} s left")

    training.train(
        model,
        loss,
        samples,
        steps=steps,
        learning_rate=learning_rate,
        report=report,
        checkpoint=checkpoint,
        checkpoint_every=CHECKPOINT_EVERY,
    )


def say(line: str) -> None:
    """Write a line of progress."""
    print(f"  {line}", file=sys.stderr, flush=True)


__all__ = ["CHECKPOINT_EVERY", "device", "say", "train"]
