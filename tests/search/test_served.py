"""What a bank says of servers that may serve something else than what was searched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guard.search import checkpoint
from guard.search.encoder import Encoder
from guard.search.served import beside, told
from tests.tiny import write_model

pytestmark = pytest.mark.search


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_model_alone_says_nothing(tmp_path: Path) -> None:
    assert Encoder.load(str(write_model(tmp_path))).otherwise == ()


def test_other_formats_are_told(tmp_path: Path) -> None:
    """The attacker leaves the safetensors clean, and plants his trigger in what servers prefer."""
    directory = write_model(tmp_path)
    put(
        directory, "onnx/model.onnx", "pytorch_model.bin", "0_Transformer/model.safetensors", "x.h5"
    )
    (line,) = Encoder.load(str(directory)).otherwise
    assert line.startswith(
        "weights in other files: 0_Transformer/model.safetensors, onnx/model.onnx, "
        "pytorch_model.bin, 1 more; serve those that were searched"
    )


def test_what_holds_no_weights_is_not_told(tmp_path: Path) -> None:
    put(tmp_path, "model.safetensors", "checkpoint-5/optimizer.pt", "training_args.bin", "notes.md")
    assert beside(tmp_path, [tmp_path / "model.safetensors"]) == ()


def test_shards_are_searched_and_a_stray_file_beside_the_model_is_not(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    alone = Encoder.load(str(directory))
    put(directory, *(f"model-0000{number}-of-00002.safetensors" for number in (1, 2)))
    encoder = Encoder.load(str(directory))
    (line,) = encoder.otherwise
    assert "model-00001-of-00002.safetensors, model-00002-of-00002.safetensors;" in line
    assert encoder.identity.weights_sha256 == alone.identity.weights_sha256
    shards = sorted(directory.glob("model-*.safetensors"))
    (directory / "model.safetensors").unlink()
    assert beside(directory, shards) == ()


def test_a_name_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    put(tmp_path, "a\x1b[2J.bin", os.fsdecode(b"\xff.bin"))
    (line,) = told(stored="float32", remade=(), others=beside(tmp_path, []), of_hub=False)
    assert line.isprintable()
    assert line.encode()


def test_of_the_hub_other_files_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = write_model(tmp_path / "0123abc")
    monkeypatch.setattr(checkpoint, "snapshot_download", lambda *_, **__: str(snapshot))
    encoder = Encoder.load("somebody/model")
    assert encoder.identity.revision == "0123abc"
    (line,) = encoder.otherwise
    assert "those that were not downloaded, such as pickles or ONNX" in line
