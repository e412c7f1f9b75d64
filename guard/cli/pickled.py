"""Weights that are pickled: commands that make a model of a model read safetensors alone."""

from __future__ import annotations

from pathlib import Path

from guard.errors import ModelError


def refuse_pickled(model: str) -> None:
    """Refuse a directory of pickled weights, and say what can be done with them.

    Raises
    ------
    ModelError
        There are no others in it.
    """
    folder = Path(model)
    if any(folder.glob("*.safetensors")):
        return
    # As in `guard.search.checkpoint`, which needs torch; a trainer's other pickles are no weights.
    globs = ("pytorch_model*.bin", "model*.pt", "model*.pth")
    if pickled := sorted(path.name for glob in globs for path in folder.glob(glob)):
        raise ModelError(
            f"{model} has only pickled weights ({pickled[0]}), which can run code when they are "
            "loaded. Save them as safetensors in a sandbox, scan that copy, and pass it and its "
            "bank"
        )
