"""The page of what a search costs."""

from __future__ import annotations

import json

from benchmarks.record import RESULTS
from benchmarks.search_cost import render


def test_costs_and_targets_are_of_the_cases() -> None:
    pairs = json.loads((RESULTS / "search-cost-pairs.json").read_bytes())
    case = {
        "model": "minilm-l6-clean",
        "part": "encoder",
        "search": "fast",
        "found": {},
        "token_forwards": 2_500_000,
        "seconds": 61.0,
        "peak_mb": 900.0,
        "earlier": False,
    }
    searched = {
        "model": "bert-tiny-por-phrase-whole",
        "banked": ["a b", "z"],
        "found": {"a b": True, "c d": False},
        "spurious": ["z"],
        "million_token_forwards": 61.2,
        "seconds": 1234,
        "source": "abc",
    }
    page = render(
        pairs,
        {
            "zoo": [
                {"name": "minilm-l6-clean", "encoder": "minilm-l6", "works": None},
                {"name": "other", "encoder": "minilm-l6", "works": None},
                {"name": "failed", "encoder": "minilm-l6", "works": False},
            ],
            "cases": [
                case,
                # Of another code, whose cost is no part of the median; what it found counts.
                {**case, "model": "other", "seconds": 9.0, "peak_mb": 9999.0, "earlier": True},
                {**case, "search": "patronus", "token_forwards": 25_000_000, "peak_mb": 3000.0},
                {**case, "search": "lt-defense", "found": {"cf": False}, "earlier": True},
                {**case, "part": "classifier", "seconds": 1.0},
                {**case, "model": "failed", "found": {"cf": False}, "seconds": 1.0},
            ],
        },
        {"seed": 3, "models": [searched]},
        {"seed": 3, "models": [{**searched, "plan": "climbs 64"}]},
    )
    told = "bert-tiny-por-phrase-whole: `a b` found, `c d` missed; `z` spurious; 2 units banked; 61"
    assert f"- {told}" in page
    assert f"- 64 starts, {told}" in page
    # What the results do not hold is said, not left out.
    assert "- bert-tiny-clean: not measured" in page
    assert "- 64 starts, bert-tiny-clean: not measured" in page
    assert "- 512 starts, bert-tiny-por-phrase-whole: not measured" in page
    assert "- bert-tiny-clean: not measured" in page
    assert "1,234 s on one thread beside other work (code `abc`)" in page
    assert "| minilm-l6 | fast | 2 | none planted | 2.5 | 61 | 900 | 1 |" in page
    assert (
        "under 60 s on 2 cores: 61 s at best, on one thread beside other work, **missed**" in page
    )
    assert "- MiniLM, standard, under 480 s on 2 cores: not measured" in page
    assert "Patronus' search, on minilm-l6: 10.0 times, **missed**" in page
    # Of a scan; what another search takes is no concern of that target.
    assert "memory of a scan under 2000 MB: 900 MB at most, reached" in page
    assert "| minilm-l6 | lt-defense | 1 | names none | 2.5 | 61 | 900 | 1, earlier code |" in page
