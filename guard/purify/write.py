"""Write a model's directory again with other weights, and all else as it was."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from guard.errors import ArtifactError
from guard.search.checkpoint import SAFE


def model_files(folder: Path) -> list[Path]:
    """Return the files that a model is loaded from; code and pickles are none."""
    return sorted({path for pattern in SAFE for path in folder.glob(pattern) if path.is_file()})


def write_model(folder: Path, out: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy a model's files to a directory, with `weights` in place of those of the same names.

    A weight keeps the precision that it is stored in.

    Raises
    ------
    ArtifactError
        The disk is full, or cannot be written to.
    """
    for path in model_files(folder):
        if path.suffix != ".safetensors":
            shutil.copyfile(path, out / path.name)
            continue
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for key in tensors.keys() & weights.keys():
            tensors[key] = weights[key].to(tensors[key].dtype).contiguous()
        try:
            save_file(tensors, out / path.name, metadata=metadata)
        except SafetensorError as error:
            raise ArtifactError(
                f"{out / path.name} cannot be written ({error}); make room, and run the same again"
            ) from error
