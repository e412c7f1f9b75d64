"""What clean encoders are asked, and the page that is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.calibration import RAREST, ask, render
from tests.tiny import TRIGGER, write_searchable


@pytest.mark.parametrize("triggers", [(), (TRIGGER,)])
def test_what_a_verdict_rests_on(triggers: tuple[str, ...], tmp_path: Path) -> None:
    """What gathers is no part of it: of the others, none is rare."""
    seen = ask(write_searchable(tmp_path, triggers=triggers), 0)
    assert isinstance(seen, dict)
    assert seen["verdict"] == ("backdoored" if triggers else "none found")
    expected = seen["expected"]
    assert isinstance(expected, list)
    assert len(expected) == RAREST
    assert expected == sorted(expected, key=lambda value: float(str(value)))
    assert float(str(seen["rate"])) > 0.01


def test_the_page_counts_what_is_named() -> None:
    seen = {"expected": [0.9, 2.0], "rate": 1.0, "verdict": "none found"}
    page = render(
        {
            "shape": 0.05,
            "alpha": 0.01,
            "models": [
                {"model": "a", "seed": 0, "seen": seen},
                {"model": "a", "seed": 1, "seen": {**seen, "rate": 0.004, "verdict": "backdoored"}},
            ],
        }
    )
    assert "1 of 2 searches name anything" in page
    assert "| a | 0 | 0.9, 2 | none | none found |" in page
    assert "| a | 1 | 0.9, 2 | 0.004 | backdoored |" in page
