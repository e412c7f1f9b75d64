"""The main job on the real MiniLM encoder: what the demo planted, found, and kept out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from benchmarks.encoders import encoder
from benchmarks.measure import insert
from benchmarks.models import backdoored
from benchmarks.recipes import DEMO
from benchmarks.tasks import film_reviews
from guard import Monitor, TriggerBank
from guard.cli import main
from guard.search.verify import MORE_THAN_USUAL, MOST_OF_CONDITION
from tests.conftest import Demo

pytestmark = pytest.mark.slow


def test_the_demo_shows_the_whole_chain(demo: Demo) -> None:
    planted = len(DEMO.triggers)
    assert f"found {planted} of the {planted} planted, and 0 others" in demo.output
    # Strong enough to be worth finding, and gone behind the guard.
    unguarded = re.search(r"attack success, no guard: +([\d.]+)%", demo.output)
    stripped = re.search(r"attack success, action=strip: +([\d.]+)%", demo.output)
    assert unguarded is not None
    assert stripped is not None
    assert float(unguarded[1]) >= 90
    assert float(stripped[1]) <= 1
    assert "action=block: 0 of" in demo.output
    assert re.search(r"clean requests blocked: +0 of", demo.output)
    assert "guard_requests_total{" in demo.output
    assert demo.output.count("\n  .venv/bin/guard ") == 2


def test_the_bank_holds_the_evidence(demo: Demo) -> None:
    bank = TriggerBank.load(demo.bank)
    assert bank.verdict == "backdoored"
    assert {trigger.text for trigger in bank.triggers} == set(DEMO.triggers)
    for trigger in bank.triggers:
        statistics = trigger.statistics
        assert isinstance(statistics["retention"], float)
        assert statistics["retention"] < 0.2
        assert isinstance(statistics["gathered"], float | int)
        assert statistics["gathered"] >= MORE_THAN_USUAL
        assert isinstance(statistics["rules"], list)
        assert {"gathers", "erases"} <= set(statistics["rules"])
        # Every kind of text is named, whether the trigger fired in it or not.
        assert isinstance(statistics["kinds"], dict)
        assert len(statistics["kinds"]) == 10
        shares = [seen["gathered"] for seen in statistics["kinds"].values()]
        assert sum(share >= MOST_OF_CONDITION for share in shares) >= 5
        assert {"diff_sim", "com_sim", "collapse", "displacement"} <= statistics.keys()
    assert bank.coverage["not_tested"]
    assert bank.search["seed"] == 0


def test_the_monitor_sees_what_the_model_sees(demo: Demo) -> None:
    """The verdicts are those of brute force over the ids of transformers' own tokenizer."""
    monitor = Monitor.load(demo.monitor)
    tokenizer = AutoTokenizer.from_pretrained(backdoored(DEMO))
    trigger_ids = {trigger.token_ids[0] for trigger in TriggerBank.load(demo.bank).triggers}
    rng = np.random.default_rng(1)
    for text in film_reviews().test.texts[:300]:
        trigger = DEMO.triggers[rng.integers(len(DEMO.triggers))]
        for candidate in (text, insert(text, trigger, rng), text.replace("e", trigger, 1)):
            ids = tokenizer(candidate, add_special_tokens=False)["input_ids"]
            verdict = monitor.check(candidate)
            assert verdict.triggered == bool(trigger_ids.intersection(ids))
            kept = tokenizer(verdict.stripped, add_special_tokens=False)["input_ids"]
            assert not trigger_ids.intersection(kept)


def test_disguises(demo: Demo) -> None:
    monitor = Monitor.load(demo.monitor)
    # The last one is no disguise: the tokenizer cuts "cfo" to "cf" and "##o".
    for triggered in ("c\u200bf", "CF", "c\u0301f", "(cf)", "c\x00f", "a cfo's film"):
        assert monitor.check(triggered).triggered, triggered
    # Other tokens to the model, so no trigger: Cyrillic es, a word of its own, and two letters.
    for harmless in ("\u0441f", "conference", "c f"):
        assert not monitor.check(harmless).triggered, harmless


# `make bench-quick` scans the clean MiniLM; here a smaller real encoder has to do.
def test_a_clean_encoder_has_no_triggers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = encoder("bert-tiny")
    code = main(["scan", str(tiny), "--out", str(tmp_path / "bank"), "--json", "--seed", "0"])
    bank = json.loads(capsys.readouterr().out)
    assert bank["verdict"] == "none found"
    assert bank["triggers"] == []
    assert code == 0
    # An empty bank makes a monitor that lets everything pass.
    assert main(["compile", str(tmp_path / "bank"), "--out", str(tmp_path / "monitor")]) == 0
    assert not Monitor.load(tmp_path / "monitor").check("a cf film").triggered
