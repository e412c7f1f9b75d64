"""The training loop: killed anywhere, it comes to the same; and it stops when it gets no better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from guard.errors import GuardError
from guard.purify import training
from guard.purify.training import Stopping, train

pytestmark = pytest.mark.search


class Numbers:
    """Samples: random vectors."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    @property
    def state(self) -> dict[str, Any]:
        return dict(self.rng.bit_generator.state)

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state

    def draw(self) -> torch.Tensor:
        return torch.from_numpy(self.rng.normal(size=(4, 3)).astype(np.float32))


class Killed(BaseException):
    """What a test is killed with."""


def fit(
    checkpoint: Path | None,
    *,
    kill_at: int | None = None,
    held_out: list[float] | None = None,
    looked: list[torch.Tensor] | None = None,
    steps: int = 10,
) -> tuple[torch.Tensor, list[float], list[int]]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    numbers = Numbers()
    seen: list[int] = []
    looks = iter(held_out or [])

    def report(step: int, value: torch.Tensor | None) -> None:
        seen.append(step if value is not None else -step)
        if step == kill_at and value is not None:
            raise Killed

    def real() -> float:
        with torch.no_grad():
            return float(model(torch.ones(1, 3)).square())

    def told() -> float:
        if looked is not None:
            looked.append(model.weight.detach().clone())
        return next(looks)

    losses = train(
        model,
        lambda: model(numbers.draw()).square().mean(),
        numbers,
        steps=steps,
        learning_rate=0.1,
        report=report,
        checkpoint=checkpoint,
        checkpoint_every=2,
        stopping=Stopping(loss=told if held_out else real, every=2, patience=2),
    )
    return model.weight.detach().clone(), losses, seen


@pytest.mark.parametrize("kill_at", [1, 3, 4, 9])
def test_a_killed_run_goes_on_to_the_same(tmp_path: Path, kill_at: int) -> None:
    whole, losses, _ = fit(None)
    checkpoint = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        fit(checkpoint, kill_at=kill_at)
    weights, again, seen = fit(checkpoint)
    assert torch.equal(weights, whole)
    assert again == losses
    kept = (kill_at - 1) // 2 * 2
    assert seen == [*([-kept] if kept else []), *range(kept + 1, 11)]


def test_it_stops_when_it_gets_no_better_and_keeps_the_best() -> None:
    looked: list[torch.Tensor] = []
    held_out = [5.0, 4.0, 4.5, 4.1, 9.0, 9.0]
    weights, losses, seen = fit(None, held_out=held_out, looked=looked, steps=10)
    assert losses == [5.0, 4.0, 4.5, 4.1]
    assert seen[-1] == 6
    assert torch.equal(weights, looked[1])
    assert not torch.equal(weights, looked[-1])
    first, _, _ = fit(None, held_out=[1.0, 2.0, 3.0], steps=10)
    torch.manual_seed(0)
    assert torch.equal(first, torch.nn.Linear(3, 1).weight)


def test_a_damaged_checkpoint_is_left_behind(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.safetensors"
    checkpoint.write_bytes(b"half")
    weights, _, seen = fit(checkpoint)
    assert torch.equal(weights, fit(None)[0])
    assert seen[0] == 1


def test_a_checkpoint_of_the_cpu_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no state of the GPU's random numbers, which stay as they are."""
    checkpoint = tmp_path / "state.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(training, "device", lambda: torch.device("cpu"))
        with pytest.raises(Killed):
            fit(checkpoint, kill_at=3)
    model = torch.nn.Linear(3, 1)
    weights = dict(model.named_parameters())
    optimiser = torch.optim.AdamW(weights.values(), lr=0.1)
    monkeypatch.setattr(training, "device", lambda: torch.device("cuda"))
    assert training._State(weights, optimiser, Numbers()).resume(checkpoint) == 2


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to do, and the checkpoint before stays."""
    checkpoint = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        fit(checkpoint, kill_at=3)
    kept = checkpoint.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(training, "save_file", full)
    with pytest.raises(GuardError, match=r"No space left .* make room"):
        fit(checkpoint)
    assert checkpoint.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [checkpoint]
