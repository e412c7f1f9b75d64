"""The one training loop of all that is trained here: resumable, and the same result for a seed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

CHECKPOINT_EVERY = 100


class Samples(Protocol):
    """What the loss draws its rows from; its state is part of a checkpoint."""

    @property
    def state(self) -> dict[str, Any]:
        """Where the random numbers are."""

    @state.setter
    def state(self, state: dict[str, Any]) -> None: ...


def device() -> torch.device:
    """The device that models are trained on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
    """Minimise ``loss()`` over the weights of ``model``: AdamW, linear warm-up and decay.

    The same seed gives the same weights on the same machine with as many threads.

    Parameters
    ----------
    checkpoint
        A file to keep the state in every `CHECKPOINT_EVERY` steps, and to go on from where it
        exists: the result is then what it would have been without a break.
    label
        What is done, for the progress lines.
    """
    where = device()
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    # Fused: one pass over the weights, a tenth of a step on two cores.
    optimiser = torch.optim.AdamW(weights.values(), lr=learning_rate, fused=True)
    done = 0
    if checkpoint is not None and checkpoint.is_file():
        done = _resume(checkpoint, weights, optimiser, samples)
        _say(f"{label}: going on from step {done} of {steps}")
    started = time.monotonic()
    warmup = steps // 20
    for step in range(done + 1, steps + 1):
        rate = learning_rate * _schedule(step - 1, warmup, steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(where.type, dtype=torch.bfloat16):
            value = loss()
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimiser.step()
        if step % 20 == 0 or step == steps:
            left = (time.monotonic() - started) / (step - done) * (steps - step)
            _say(f"{label}: step {step}/{steps}, loss {value.item():.3f}, {left:.0f} s left")
        if checkpoint is not None and step % CHECKPOINT_EVERY == 0 and step < steps:
            _keep(checkpoint, step, weights, optimiser, samples)


def _schedule(step: int, warmup: int, steps: int) -> float:
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (steps - step) / max(1, steps - warmup))


def _keep(
    checkpoint: Path,
    step: int,
    weights: dict[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    samples: Samples,
) -> None:
    tensors = {f"weight.{name}": weight.detach() for name, weight in weights.items()}
    for name, weight in weights.items():
        for key, value in optimiser.state[weight].items():
            tensors[f"{key}.{name}"] = value
    tensors["random"] = torch.get_rng_state()
    if device().type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    fresh = checkpoint.with_suffix(".new")
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        fresh,
        metadata={"step": str(step), "samples": json.dumps(samples.state)},
    )
    # A kill while the file is written leaves the one before.
    fresh.replace(checkpoint)


def _resume(
    checkpoint: Path,
    weights: dict[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    samples: Samples,
) -> int:
    try:
        with safe_open(checkpoint, framework="pt") as stored:
            about = stored.metadata()
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        _say(f"{checkpoint} is damaged ({error}); starting again")
        checkpoint.unlink()
        return 0
    for name, weight in weights.items():
        weight.data.copy_(tensors[f"weight.{name}"])
        if f"exp_avg.{name}" in tensors:
            moments = ("step", "exp_avg", "exp_avg_sq")
            optimiser.state[weight] = {
                key: tensors[f"{key}.{name}"].to(weight.device) for key in moments
            }
    torch.set_rng_state(tensors["random"])
    if device().type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"])
    samples.state = json.loads(about["samples"])
    return int(about["step"])


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
