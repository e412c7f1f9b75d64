"""Other searches for backdoors in encoders, to measure the product's own against.

Each is ``run(encoder_dir, texts, *, seed, progress)`` and answers with a `Result`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from benchmarks.baselines import lmsanitator, lt_defense, patronus
from benchmarks.baselines.result import Found, Result
from guard.search.scan import Progress


class Baseline(Protocol):
    """A search with its published settings."""

    def __call__(
        self, encoder_dir: Path, texts: Sequence[str], *, seed: int, progress: Progress
    ) -> Result: ...


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {"lmsanitator": lmsanitator.run, "lt-defense": lt_defense.run, "patronus": patronus.run}
)

__all__ = ["BASELINES", "Baseline", "Found", "Result"]
