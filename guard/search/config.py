"""A checkpoint's config.json, without what it says of those who load and call the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from guard.errors import ModelError


def read_config(folder: Path) -> PretrainedConfig:
    """Read the config of a model in a directory.

    Raises
    ------
    ModelError
        It names code of the hub, which transformers runs without being asked to trust it, or
        another config, which some versions read. Other errors are the library's.
    """
    given = json.loads((folder / "config.json").read_bytes())
    if not isinstance(given, dict):
        raise ModelError("config.json holds no object")
    if "configuration_files" in given:
        raise ModelError(
            "config.json names another config (configuration_files), which some versions of "
            "transformers read in its place"
        )
    # An id of the hub has a slash in it; what transformers computes attention with by itself, none.
    if any("/" in json.dumps(how) for how in _implementations(given)):
        raise ModelError("config.json names code of the hub that attention is computed with")
    config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    config._attn_implementation = None
    # Outputs are read by their names.
    config.return_dict, config.torchscript = True, False
    return config


def _implementations(value: Any) -> Iterator[Any]:
    """Yield what is to compute something, anywhere in a config."""
    for key, item in value.items() if isinstance(value, dict) else ():
        if key.endswith("implementation"):
            yield item
        yield from _implementations(item)
