"""Write a model's directory again with other weights, and all else as it was."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from guard.errors import ArtifactError, ModelError
from guard.search.checkpoint import SAFE, safe_weights

# Of a model's files, those that decide what it computes.
_NEEDED = ("*.safetensors*", "config.json", "*token*.json", "*vocab*", "merges.txt", "*.model")


def model_files(folder: Path) -> list[Path]:
    """Return the files that a model is loaded from; code, pickles and other weights are none.

    Nor are links that lead out of the directory: a model's author could name any file of the user
    there, who publishes it with the copy.
    """
    return sorted(path for path, own in _safe(folder).items() if own)


def check_files(folder: Path) -> None:
    """Refuse a model that would be another one without the links that `model_files` leaves out.

    Raises
    ------
    ModelError
        A link that leads out of the directory is one of the model's own files.
    """
    for path, own in sorted(_safe(folder).items()):
        if not own and any(path.match(pattern) for pattern in _NEEDED):
            raise ModelError(
                f"{path} is a link that leads out of the model's directory, and the model needs "
                "it; copy the file to its place"
            )


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


def _safe(folder: Path) -> dict[Path, bool]:
    """Return, of each file that is neither code nor a pickle, whether it is the model's own."""
    real = folder.resolve()
    homes = [real]
    # In the hub's cache, the files of a snapshot are links to the blobs beside it.
    if real.parent.name == "snapshots":
        homes.append(real.parent.with_name("blobs"))
    # Others may hold what the model does, backdoor and all, for whoever loads them.
    loaded = safe_weights(folder)
    return {
        path: any(path.resolve().is_relative_to(home) for home in homes)
        for pattern in SAFE
        for path in folder.glob(pattern)
        if path.is_file() and (path in loaded or path.suffix != ".safetensors")
    }
