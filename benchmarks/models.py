"""Models that are trained here, built once and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks.assets import cache_dir, fetch
from benchmarks.assets.registry import ASSETS
from benchmarks.attacks import Planting, plant
from benchmarks.tasks import film_reviews, plain_texts
from benchmarks.tasks.classifier import Tuning, fine_tune

# Part of every key: raised when a change of the training code changes what comes out of it.
CODE = 2


def backdoored(planting: Planting, *, asset: str = "minilm-l6") -> Path:
    """Return an encoder of `asset` with a backdoor, training it if it is not in the cache."""
    key = {"asset": ASSETS[asset].sha256, "planting": asdict(planting)}
    return _cached(
        f"{asset}-{planting.name}",
        key,
        lambda out: plant(planting, fetch(asset), plain_texts(), out),
    )


def classifier(encoder: Path, tuning: Tuning) -> Path:
    """Return a film review classifier fine-tuned from `encoder`."""
    # The folder's name holds the key of the encoder, or the hash of the asset.
    key = {"encoder": encoder.name, "tuning": asdict(tuning)}
    return _cached(
        f"{encoder.name.rsplit('-', 1)[0]}-film-reviews",
        key,
        lambda out: fine_tune(encoder, film_reviews(), out, tuning),
    )


def _cached(name: str, key: Mapping[str, object], build: Callable[[Path], None]) -> Path:
    """Return the folder of a model; it is built under a temporary name, so it is whole."""
    digest = hashlib.sha256(json.dumps([CODE, key], sort_keys=True).encode()).hexdigest()
    final = cache_dir() / "models" / f"{name}-{digest[:12]}"
    if not final.is_dir():
        final.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{name}-"))
        try:
            build(scratch)
            scratch.chmod(0o755)
            try:
                scratch.rename(final)
            except OSError:
                # Another process may have been first.
                if not final.is_dir():
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return final
