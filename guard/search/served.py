"""What is served may be other than what is searched: other files, tokenizers or arithmetic."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from guard.terminal import printable

# How files of weights end, whatever reads them; a trainer's own state is none.
_WEIGHTS = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".joblib", ".npz", ".gguf", ".ot"),
    *(".onnx", ".onnx_data", ".h5", ".msgpack", ".pb", ".tflite", ".mlmodel"),
)
_TRAINERS = ("optimizer", "scheduler", "scaler", "rng_state", "training_args")
_NAMED = 3


def beside(folder: Path, searched: Sequence[Path]) -> tuple[str, ...]:
    """Return the other files of weights in a model's directory, below it too, by their paths.

    A model is often there in several formats, which different servers take, and nothing but its
    author's word says that they hold the same.

    Parameters
    ----------
    searched
        The files of weights in the directory that the model was loaded from.
    """
    found = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    return tuple(
        sorted(
            path.relative_to(folder).as_posix()
            for path in found
            if path.name.endswith(_WEIGHTS)
            and not path.name.startswith(_TRAINERS)
            and path not in searched
        )
    )


def told(
    *, stored: str, remade: Sequence[str], others: Sequence[str], of_hub: bool
) -> tuple[str, ...]:
    """Say in what a server may differ from the search, and how to have it not.

    Parameters
    ----------
    stored
        The arithmetic that the model is loaded in unless another is asked for: that of its config,
        or of its weights.
    remade
        As in `guard.search.checkpoint.Checkpoint`.
    others
        As `beside` returns them.
    of_hub
        Whether only what the search reads was downloaded.
    """
    lines = []
    if others or of_hub:
        names = [printable(name) for name in others[:_NAMED]]
        if more := len(others) - len(names):
            names.append(f"{more} more")
        if of_hub:
            names.append("those that were not downloaded, such as pickles or ONNX")
        lines.append(
            f"weights in other files: {', '.join(names)}; serve those that were searched, whose "
            "sha256 the bank has"
        )
    if remade:
        lines.append(
            "texts as servers read them that take tokenizer.json alone, with another "
            f"{' and another '.join(remade)}: serve it with transformers, or save it anew with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    if stored != "float32":
        lines.append(
            f"outputs in {stored}, in which the weights are stored and many programs load them: "
            "serve them with dtype=torch.float32"
        )
    return tuple(lines)
