"""Models that are trained here, built once and kept in the cache."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from benchmarks.assets import fetch
from benchmarks.assets.registry import ASSETS
from benchmarks.attacks import Planting, Por, plant
from benchmarks.cache import cached, title
from benchmarks.tasks import load, plain_texts
from benchmarks.tasks.classifier import Tuning, fine_tune

# Settings that came later are part of a key only where they are not at their default: the models
# that were there before keep theirs.
_LATER = frozenset({"condition", "copies", "scale_embeddings", "views", "code"})


def backdoored(planting: Planting, *, asset: str = "minilm-l6") -> Path:
    """Return an encoder of `asset` with a backdoor, training it if it is not in the cache."""
    return _planted(planting, fetch(asset), asset, {"asset": ASSETS[asset].sha256})


def planted(planting: Planting, encoder: Path) -> Path:
    """Return an encoder, a folder of the cache, with a backdoor."""
    # The folder's name holds the key of the encoder, or the hash of the asset.
    return _planted(planting, encoder, title(encoder), {"encoder": encoder.name})


def classifier(encoder: Path, tuning: Tuning, task: str = "film reviews") -> Path:
    """Return a classifier of a task fine-tuned from an encoder, a folder of the cache."""
    key: dict[str, object] = {"encoder": encoder.name, "tuning": asdict(tuning)}
    if task != "film reviews":
        key["task"] = task
    return cached(
        f"{title(encoder)}-{task.replace(' ', '-')}",
        key,
        lambda out, _: fine_tune(encoder, load(task), out, tuning),
    )


def settings(planting: Planting) -> dict[str, Any]:
    """Return what a planting's result depends on."""
    result = asdict(planting)
    for item, part in (
        (planting.condition, result["condition"]),
        (planting.attack, result["attack"]),
        (planting, result),
    ):
        for field in fields(item):  # type: ignore[arg-type]
            if field.name in _LATER and getattr(item, field.name) == field.default:
                del part[field.name]
    if not isinstance(planting.attack, Por):
        result["attack"]["class"] = type(planting.attack).__name__
    return result


def _planted(planting: Planting, encoder: Path, name: str, source: dict[str, object]) -> Path:
    return cached(
        f"{name}-{planting.name}",
        {**source, "planting": settings(planting)},
        lambda out, checkpoint: plant(planting, encoder, plain_texts(), out, checkpoint=checkpoint),
    )
