"""A fine-tuned classifier as ONNX, with a certificate of how near it is to the original.

optimum exports where it is installed (lane A); torch.onnx does where it cannot be, beside
transformers 5 (lane B).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from guard.errors import ModelError
from guard.files import dump_json, write_directory
from guard.pipelines import tokenizer_json
from guard.search.config import read_config

MODEL_FILE = "model.onnx"
CERTIFICATE_FILE = "parity.json"
TOLERANCE = 1e-3

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Parity:
    """How near an exported classifier is to the one it was made from.

    Parameters
    ----------
    exporter
        ``"optimum"`` or ``"torch"``.
    texts
        How many texts both were given, alone and in one padded batch.
    max_difference
        Largest absolute difference between two logits.
    worst_text
        Number of the text that has it.
    same_class
        Texts that both give the same class.
    onnx_sha256, tokenizer_sha256
        Of the files.
    """

    exporter: str
    texts: int
    max_difference: float
    worst_text: int
    same_class: int
    onnx_sha256: str
    tokenizer_sha256: str


def export_classifier(
    model_dir: str | PathLike[str],
    out: str | PathLike[str],
    *,
    texts: Sequence[str],
    tolerance: float = TOLERANCE,
) -> Parity:
    """Export a classifier that ``save_pretrained`` wrote, and certify it on `texts`.

    Writes ``model.onnx`` (inputs as the tokenizer makes them, int64 [batch, sequence]; output
    ``logits``, float32 [batch, classes]), ``tokenizer.json``, ``config.json`` and the certificate,
    ``parity.json``.

    Raises
    ------
    ModelError
        The directory is no classifier, there are no texts to compare on, or the two differ by more
        than `tolerance` in a logit; nothing is written then.
    """
    if not texts:
        raise ModelError("there is no text to compare on; pass some that the classifier is used on")
    model_dir = Path(model_dir)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=False)
        # Whatever they are stored in: what is exported computes in float32.
        model, info = AutoModelForSequenceClassification.from_pretrained(
            model_dir,
            config=read_config(model_dir),
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        model.eval()
    except (OSError, ValueError) as error:
        raise ModelError(f"{model_dir} is no classifier with safetensors ({error})") from error
    if missing := sorted(info["missing_keys"]):
        # transformers makes them up at random, and only warns.
        raise ModelError(
            f"{model_dir} is no classifier, for it has no weights of {missing[0]}; pass the "
            "directory of one that was fine-tuned"
        )
    with tempfile.TemporaryDirectory() as scratch:
        exporter = "optimum" if _has_optimum() else "torch"
        path = Path(scratch) / MODEL_FILE
        if exporter == "optimum":
            _with_optimum(model_dir, path)
        else:
            _with_torch(model, tokenizer, path)
        onnx = path.read_bytes()
    serialised = tokenizer_json(tokenizer)
    difference, same = _compare(model, tokenizer, onnx, texts)
    parity = Parity(
        exporter=exporter,
        texts=len(texts),
        max_difference=float(difference.max()),
        worst_text=int(difference.argmax()),
        same_class=same,
        onnx_sha256=hashlib.sha256(onnx).hexdigest(),
        tokenizer_sha256=hashlib.sha256(serialised).hexdigest(),
    )
    if not parity.max_difference <= tolerance:
        raise ModelError(
            f"the exported classifier differs by {parity.max_difference:.2g} in a logit of text "
            f"{parity.worst_text}, over {tolerance:.2g}; export with other versions, or allow it"
        )
    files = {
        MODEL_FILE: onnx,
        "tokenizer.json": serialised,
        "config.json": json.dumps(model.config.to_dict(), default=str).encode(),
        CERTIFICATE_FILE: dump_json(asdict(parity)),
    }
    write_directory(Path(out), files, owner=CERTIFICATE_FILE)
    return parity


def _has_optimum() -> bool:
    return find_spec("optimum") is not None and find_spec("optimum.onnxruntime") is not None


def _with_optimum(model_dir: Path, path: Path) -> None:
    from optimum.exporters.onnx import main_export

    with warnings.catch_warnings():
        # Of torch's exporter, about its own future.
        warnings.simplefilter("ignore")
        # What it validates by itself is compared here, on texts of the user.
        main_export(str(model_dir), path.parent, task="text-classification", do_validation=False)


class _Logits(torch.nn.Module):
    """The classifier, with its inputs in order and its logits alone."""

    def __init__(self, model: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def _with_torch(model: torch.nn.Module, tokenizer: Any, path: Path) -> None:
    example = dict(tokenizer(["a", "a b"], return_tensors="pt", padding=True))
    names = list(example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Logits(model, names).eval(),
            tuple(example.values()),
            str(path),
            input_names=names,
            output_names=["logits"],
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in names}
            | {"logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )


def _compare(
    model: Any, tokenizer: Any, onnx: bytes, texts: Sequence[str]
) -> tuple[npt.NDArray[np.float64], int]:
    """Return the largest difference in each text's logits, and how many classes agree."""
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    largest = np.zeros(len(texts))
    same = np.ones(len(texts), bool)
    # Alone and in a batch: a mask that is ignored shows in a padded batch only.
    for rows in (*([number] for number in range(len(texts))), list(range(len(texts)))):
        inputs = tokenizer(
            [texts[row] for row in rows], return_tensors="pt", padding=True, truncation=True
        )
        with torch.no_grad():
            expected: Logits = model(**inputs).logits.numpy()
        (found,) = session.run(["logits"], {name: inputs[name].numpy() for name in names})
        largest[rows] = np.maximum(largest[rows], np.abs(found - expected).max(axis=1))
        same[rows] &= found.argmax(axis=1) == expected.argmax(axis=1)
    return largest, int(same.sum())
