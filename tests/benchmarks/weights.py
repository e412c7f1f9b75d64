"""Change the weights of a written model, to make one whose behaviour is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def change(directory: Path, how: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    """Replace each weight by what `how` makes of its name and value."""
    path = directory / "model.safetensors"
    weights = {name: how(name, weight).contiguous() for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    return directory


def loud(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Make what attention reads outweigh what was there: a trigger then takes all of the output."""
    return 4 * weight if "attention.self.value.weight" in name else weight
