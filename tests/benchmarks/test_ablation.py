"""What is seen of a search, and the page that is made of it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.ablation import Watched, render
from guard.search.gradients import Differentiable
from guard.search.units import vocabulary
from tests.tiny import TRIGGER, write_searchable


def test_a_search_is_watched(tmp_path: Path) -> None:
    encoder = Differentiable.load(str(write_searchable(tmp_path, triggers=(TRIGGER,))))
    ids = {unit.text: tuple(unit.ids.tolist()) for unit in vocabulary(encoder.tokenizer).units}
    number, other = ids[TRIGGER], ids["the"]
    watched = Watched([number, other])
    watched.search(encoder, seed=0)
    assert {"cls: retention", "cls: mean displacement"} <= watched.scanned[number]
    assert "cls: retention" in watched.sifted[number]
    assert "cls: gathers" in watched.judged[number]
    assert not watched.judged[other]


def test_parts_are_counted_alone_and_together() -> None:
    page = render(
        {
            "seed": 0,
            "models": [
                {
                    "model": "m",
                    "attack": "por",
                    "triggers": {
                        "cf": {
                            "scanned": ["cls: retention", "mean: retention"],
                            "sifted": ["cls: retention"],
                            "judged": ["cls: gathers", "cls: stands out"],
                        },
                        "mn": {
                            "scanned": ["mean: closest pair"],
                            "sifted": ["mean: closest pair"],
                            "judged": [],
                        },
                    },
                }
            ],
        }
    )
    assert "1 encoders with 2 planted triggers" in page
    assert "| retention | 1 | 1 |" in page
    assert "| closest pair | 1 | 1 |" in page
    assert "| **all of them** | 2 | 2 |" in page
    assert "| cls | 1 | 1 | 1 |" in page
    assert "| mean | 2 | 1 | 0 |" in page
    assert "| gathers | 1 |" in page
    assert "| m | 2 | 1 | 1 | 0 | 1 |" in page
