"""A training loop that can be killed: what it comes to is what it would have come to without."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from guard.errors import GuardError
from guard.purify.arithmetic import multiplies_bfloat16

# Told the step that was made, and its loss; without one, the step that a checkpoint was made at.
Report = Callable[[int, torch.Tensor | None], None]
Weights = dict[str, torch.nn.Parameter]


class Samples(Protocol):
    """What the loss draws its rows from; its state is part of a checkpoint."""

    @property
    def state(self) -> dict[str, Any]:
        """Where the random numbers are."""

    @state.setter
    def state(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """When to stop early, and what to stop on.

    Attributes
    ----------
    loss
        Returns the loss on held-out samples.
    every
        Steps from one look at it to the next.
    patience
        Looks without a new best after which training ends.
    """

    loss: Callable[[], float]
    every: int
    patience: int


def device() -> torch.device:
    """Return the device that models are trained on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    model: torch.nn.Module,
    loss: Callable[[], torch.Tensor],
    samples: Samples,
    *,
    steps: int,
    learning_rate: float,
    exact: bool = False,
    report: Report,
    checkpoint: Path | None,
    checkpoint_every: int,
    stopping: Stopping | None = None,
) -> list[float]:
    """Minimise ``loss()`` over the weights of `model`: AdamW, linear warm-up and decay.

    Multiplied in bfloat16 where the device does that in hardware; weights stay in float32.
    The same seed gives the same weights on the same machine with as many threads.

    Parameters
    ----------
    exact
        Multiply in float32 in any case.
    report
        Told of each step.
    checkpoint
        A file to keep the state in every `checkpoint_every` steps, and to go on from where it
        exists. A damaged one is left behind.
    stopping
        The weights of the lowest held-out loss are kept, those before the first step included.

    Returns
    -------
    list of float
        The held-out losses, the first before the first step; empty without `stopping`.
    """
    where = device()
    bfloat16 = not exact and multiplies_bfloat16(where)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    # Fused: one pass over the weights, a tenth of a step on two cores.
    optimiser = torch.optim.AdamW(weights.values(), lr=learning_rate, fused=True)
    state = _State(weights, optimiser, samples)
    done = 0
    if checkpoint is not None and checkpoint.is_file() and (kept := state.resume(checkpoint)):
        done = kept
        report(done, None)
    if stopping is not None and not state.held_out:
        state.look(stopping.loss())
    warmup = steps // 20
    for step in range(done + 1, steps + 1):
        if stopping is not None and state.looks_since_best >= stopping.patience:
            break
        rate = learning_rate * _schedule(step - 1, warmup, steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(where.type, dtype=torch.bfloat16, enabled=bfloat16):
            value = loss()
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimiser.step()
        report(step, value.detach())
        if stopping is not None and (step % stopping.every == 0 or step == steps):
            state.look(stopping.loss())
        if checkpoint is not None and step % checkpoint_every == 0 and step < steps:
            state.keep(checkpoint, step)
    state.restore_best()
    return state.held_out


def _schedule(step: int, warmup: int, steps: int) -> float:
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (steps - step) / max(1, steps - warmup))


class _State:
    """All that a run has to know to go on."""

    def __init__(
        self, weights: Weights, optimiser: torch.optim.Optimizer, samples: Samples
    ) -> None:
        self._weights = weights
        self._optimiser = optimiser
        self._samples = samples
        self._best: dict[str, torch.Tensor] = {}
        self.held_out: list[float] = []

    @property
    def looks_since_best(self) -> int:
        return len(self.held_out) - 1 - self.held_out.index(min(self.held_out))

    def look(self, loss: float) -> None:
        """Note a held-out loss, and the weights where it is the lowest."""
        self.held_out.append(loss)
        if self.looks_since_best == 0:
            self._best = {name: w.detach().clone() for name, w in self._weights.items()}

    def restore_best(self) -> None:
        for name, best in self._best.items():
            self._weights[name].data.copy_(best)

    def keep(self, checkpoint: Path, step: int) -> None:
        tensors = {f"weight.{name}": weight.detach() for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            for key, value in self._optimiser.state[weight].items():
                tensors[f"{key}.{name}"] = value
        tensors |= {f"best.{name}": weight for name, weight in self._best.items()}
        tensors["random"] = torch.get_rng_state()
        if device().type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        about = {
            "step": str(step),
            "samples": json.dumps(self._samples.state),
            "held_out": json.dumps(self.held_out),
        }
        fresh = checkpoint.with_suffix(".new")
        try:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()},
                fresh,
                metadata=about,
            )
        except SafetensorError as error:
            fresh.unlink(missing_ok=True)
            # It says what the system said, such as that no space is left.
            raise GuardError(
                f"{checkpoint} cannot be written ({error}); make room, and run the same again"
            ) from error
        # A kill while the file is written leaves the one before.
        fresh.replace(checkpoint)

    def resume(self, checkpoint: Path) -> int:
        """Go on from a checkpoint; return its step, 0 where it is damaged."""
        try:
            with safe_open(checkpoint, framework="pt") as stored:
                about = stored.metadata()
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except SafetensorError:
            checkpoint.unlink()
            return 0
        for name, weight in self._weights.items():
            weight.data.copy_(tensors[f"weight.{name}"])
            if f"exp_avg.{name}" in tensors:
                moments = ("step", "exp_avg", "exp_avg_sq")
                self._optimiser.state[weight] = {
                    key: tensors[f"{key}.{name}"].to(weight.device) for key in moments
                }
            if f"best.{name}" in tensors:
                self._best[name] = tensors[f"best.{name}"].to(weight.device)
        torch.set_rng_state(tensors["random"])
        # Of a checkpoint that was made without a GPU there is none.
        if device().type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"])
        self._samples.state = json.loads(about["samples"])
        self.held_out = json.loads(about.get("held_out", "[]"))
        return int(about["step"])
