"""Results files: what was measured, with what, and on which machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from guard.files import Json, dump_json

RESULTS = Path(__file__).parent / "results"

_PACKAGES = (
    "ahocorasick-rs",
    "numpy",
    "onnxruntime",
    "tokenizers",
    "torch",
    "transformers",
    "trigger-guard",
)


def environment() -> dict[str, Json]:
    """Return the versions and the machine that a measurement was made with."""
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
    }


def write(name: str, result: dict[str, Json]) -> Path:
    """Write ``results/<name>.json``, whole or not at all."""
    path = RESULTS / f"{name}.json"
    keep(path, {**result, "environment": environment()})
    return path


def earlier(name: str) -> Mapping[str, Any]:
    """Return what was written as ``results/<name>.json`` before; nothing where it never was."""
    path = RESULTS / f"{name}.json"
    result: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return result


def keep(path: Path, value: Json) -> None:
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(dump_json(value))
    fresh.replace(path)


def remembered(path: Path, source: str, measure: Callable[[], Json]) -> Json:
    """Return what was measured with the same source before, or measure it and keep it."""
    if path.is_file() and (known := json.loads(path.read_bytes()))["source"] == source:
        seen: Json = known["seen"]
        return seen
    fresh = measure()
    keep(path, {"source": source, "seen": fresh})
    return fresh


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
