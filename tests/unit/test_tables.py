"""Tables in the documentation are those of the committed results."""

from __future__ import annotations

import json

from benchmarks.monitor import DOCUMENT
from benchmarks.monitor_page import render
from benchmarks.record import RESULTS


def test_the_monitor_table_is_rendered_from_its_results() -> None:
    result = json.loads((RESULTS / "monitor.json").read_bytes())
    assert render(result) == DOCUMENT.read_text(encoding="utf-8")
