"""What a kept measurement depends on: after a change of it, the measurement is made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

_TEXT = frozenset({".py", ".txt"})


def fingerprint(about: object, names: Sequence[str]) -> str:
    """Hash what can be written as JSON, and the code and texts of files and folders.

    Parameters
    ----------
    names
        Below the repository's root.
    """
    digest = hashlib.sha256(json.dumps(about).encode())
    for name in names:
        path = ROOT / name
        files = sorted(file for file in path.rglob("*") if file.suffix in _TEXT)
        for file in [path] if path.is_file() else files:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
