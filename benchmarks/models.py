"""Models that are trained here, built once and kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

from benchmarks.assets import cache_dir, fetch
from benchmarks.assets.registry import ASSETS
from benchmarks.attacks import Planting, Por, plant
from benchmarks.tasks import film_reviews, plain_texts
from benchmarks.tasks.classifier import Tuning, fine_tune

# Part of every key: raised when a change of the training code changes what comes out of it.
CODE = 2

# Settings that came later are part of a key only where they are not at their default: the models
# that were there before keep theirs.
_LATER = frozenset({"condition", "scale_embeddings", "views", "code"})


def backdoored(planting: Planting, *, asset: str = "minilm-l6") -> Path:
    """Return an encoder of `asset` with a backdoor, training it if it is not in the cache."""
    return cached(
        f"{asset}-{planting.name}",
        {"asset": ASSETS[asset].sha256, "planting": settings(planting)},
        lambda out, checkpoint: plant(
            planting, fetch(asset), plain_texts(), out, checkpoint=checkpoint
        ),
    )


def planted(planting: Planting, encoder: Path, texts: Mapping[str, list[str]]) -> Path:
    """Return `encoder`, a folder whose name holds a hash of its contents, with a backdoor."""
    return cached(
        f"{_title(encoder)}-{planting.name}",
        {"encoder": encoder.name, "planting": settings(planting), "texts": _hash(texts)},
        lambda out, checkpoint: plant(planting, encoder, texts, out, checkpoint=checkpoint),
    )


def classifier(encoder: Path, tuning: Tuning) -> Path:
    """Return a film review classifier fine-tuned from `encoder`."""
    # The folder's name holds the key of the encoder, or the hash of the asset.
    key = {"encoder": encoder.name, "tuning": asdict(tuning)}
    return cached(
        f"{_title(encoder)}-film-reviews",
        key,
        lambda out, _: fine_tune(encoder, film_reviews(), out, tuning),
    )


def settings(planting: Planting) -> dict[str, object]:
    """Return what a planting's result depends on."""
    result = asdict(planting)
    for item, part in ((planting, result), (planting.attack, result["attack"])):
        for field in fields(item):  # type: ignore[arg-type]
            if field.name in _LATER and getattr(item, field.name) == field.default:
                del part[field.name]
    if not isinstance(planting.attack, Por):
        result["attack"]["class"] = type(planting.attack).__name__
    return result


def cached(name: str, key: Mapping[str, object], build: Callable[[Path, Path], None]) -> Path:
    """Return the folder of a model, building it if it is not in the cache.

    A folder in the cache is whole: it is filled under a temporary name and then renamed. A build
    that was killed leaves its last checkpoint, and the next one goes on from there. Only one
    process builds a model at a time; others wait for it.

    Parameters
    ----------
    build
        Called with the folder to fill and the file for checkpoints.
    """
    digest = hashlib.sha256(json.dumps([CODE, key], sort_keys=True).encode()).hexdigest()
    final = cache_dir() / "models" / f"{name}-{digest[:12]}"
    if final.is_dir():
        return final
    work = cache_dir() / "building"
    work.mkdir(parents=True, exist_ok=True)
    final.parent.mkdir(parents=True, exist_ok=True)
    with _alone(work / f"{final.name}.lock"):
        if not final.is_dir():
            checkpoint = work / f"{final.name}.safetensors"
            with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{name}-") as scratch:
                content = Path(scratch) / "content"
                content.mkdir()
                build(content, checkpoint)
                content.rename(final)
            checkpoint.unlink(missing_ok=True)
    return final


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that a killed process loses."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _title(encoder: Path) -> str:
    """Return a cached folder's name without its hash."""
    return encoder.name.rsplit("-", 1)[0]


def _hash(texts: Mapping[str, list[str]]) -> str:
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:12]
