"""The detection benchmark: what counts as found, what is kept, and what the table says."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__, detection
from benchmarks.assets import AssetError
from benchmarks.detection import cases, collect, render, run
from benchmarks.detection.cases import Case, source
from benchmarks.intervals import correlation, difference, independent, wilson
from benchmarks.zoo import ZOO
from benchmarks.zoo.build import Achieved, Record


@given(trials=st.integers(1, 500), data=st.data())
def test_interval(trials: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, trials))
    low, high = wilson(hits, trials)
    assert 0 <= low <= hits / trials <= high <= 1
    other = wilson(trials - hits, trials)
    assert other == pytest.approx((1 - high, 1 - low))


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1),
    alike=st.floats(0, 1),
    data=st.data(),
)
def test_clusters_are_worth_as_many_trials_as_there_are_at_most(
    sizes: list[int], alike: float, data: st.DataObject
) -> None:
    clusters = [(data.draw(st.integers(0, size)), size) for size in sizes]
    worth = independent(clusters, alike)
    assert 1 <= round(worth, 6) <= sum(sizes)
    # What was not tried says nothing.
    assert independent([*clusters, (0, 0)], alike) == worth
    assert 0 <= correlation(clusters) <= 1
    assert correlation([*clusters, (0, 0)]) == correlation(clusters)


def test_how_alike_the_trials_of_a_cluster_are() -> None:
    assert correlation([(5, 5)] * 10 + [(0, 5)] * 10) == 1
    assert correlation([(2, 4)] * 20) == 0
    # By hand: mean squares 9/19 between and 16/80 within.
    some = [(4, 5)] * 10 + [(1, 5)] * 10
    assert correlation(some) == pytest.approx((9 / 19 - 0.2) / (9 / 19 + 4 * 0.2))
    # Nothing tells.
    assert correlation([(5, 5)] * 20) == correlation([(3, 9)]) == correlation([]) == 1
    assert independent(some, 0) == 100
    assert independent(some, 1) == 20
    # One bank has nearly all units.
    assert independent([(98, 98), (1, 3)], 1) == pytest.approx(101**2 / (98**2 + 3**2))


def test_interval_of_a_known_case() -> None:
    # Newcombe (1998), table I: 15 of 148.
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_interval_of_a_difference_as_published() -> None:
    """Newcombe 1998, table II, method 10."""
    assert difference(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert difference(9, 10, 3, 10) == pytest.approx((0.1705, 0.8090), abs=1e-4)
    assert difference(10, 10, 0, 20) == pytest.approx((0.6791, 1.0), abs=1e-4)
    assert difference(0, 0, 0, 0) == (-1.0, 1.0)


def _model(name: str, attack: str | None, works: bool | None, **triggers: float) -> dict[str, Any]:
    found = {text: Achieved(1.0, 1.0, after) for text, after in triggers.items()}
    record = Record(
        name=name,
        encoder="minilm-l6",
        kind="rare" if attack else None,
        model=name,
        twin=f"{name}-twin",
        triggers=found,
        accuracy=0.9,
        works=works,
        seconds=1.0,
    )
    return {**asdict(record), "attack": attack, "planting": attack, "list": "others"}


def _case(
    model: str,
    part: Any,
    found: dict[str, bool],
    spurious: tuple[str, ...] = (),
    *,
    earlier: bool = False,
) -> Any:
    """A case of before there was anything of the model itself in one."""
    banked = tuple(text for text, hit in found.items() if hit) + spurious
    case = asdict(
        Case(
            search="fast",
            model=model,
            part=part,
            works=None,
            triggers={},
            statistics={},
            verdict="backdoored" if banked else "none found",
            banked=banked,
            found=found,
            spurious=spurious,
            seconds=10.0,
            token_forwards=2_000_000,
            peak_mb=500.0,
            seed=0,
            source="x",
            environment={},
        )
    )
    del case["works"], case["triggers"]
    return {**case, "earlier": earlier}


def test_the_table_counts_what_works_and_tells_what_does_not() -> None:
    page = render(
        {
            "zoo": [
                _model("a", "Por", True, cf=0.95, mn=0.2),
                _model("failed", "Uor", False, bb=0.1),
                _model("bad", "BadPre", True, mb=1.0),
                _model("clean", None, None),
            ],
            "not_built": ["other"],
            "cases": [
                _case("a", "encoder", {"cf": True, "mn": False}),
                _case("failed", "encoder", {"bb": False}),
                _case("bad", "encoder", {"mb": False}),
                _case("clean", "encoder", {}, ("zz",)),
                _case("a", "classifier", {"cf": True, "mn": False}),
                _case("clean", "classifier", {}, earlier=True),
            ],
        }
    )
    lines = page.splitlines()
    assert "2 encoders with a backdoor that works (1 more failed; 2 were searched), 1 clean" in page
    (encoders,) = (line for line in lines if line.startswith("| fast | encoders"))
    cells = [cell.strip().split(" ")[0] for cell in encoders.split("|")[3:]]
    assert cells[:5] == ["1/1", "1/2", "1/1", "1/1", "1/2"]
    (classifiers,) = (line for line in lines if line.startswith("| fast | classifiers"))
    cells = [cell.strip().split(" ")[0] for cell in classifiers.split("|")[3:]]
    assert cells[:5] == ["1/1", "1/2", "1/1", "0/1", "1/1"]
    assert "- a, encoder: missed `mn` (1.00, 0.20 after fine-tuning)" in lines
    assert "- a, classifier: missed `mn` (0.20 after fine-tuning)" in lines
    assert "- clean, encoder: spurious `zz`" in lines
    assert "- bad, encoder: fast says none found, found 0 of 1" in lines
    assert "Not built here: other." in lines
    assert "- fast, classifiers: clean" in lines
    assert not any("failed, encoder" in line for line in lines)


def test_a_case_is_of_the_model_that_was_searched() -> None:
    """What is built elsewhere by the same recipe may do something else."""
    own = {"works": True, "triggers": {"cf": {"before": 1.0, "anywhere": 1.0, "after": 1.0}}}
    case = {**_case("a", "classifier", {"cf": True}), **own}
    for built in (_model("a", "Por", False, cf=0.1), _model("a", "Por", True, cf=0.1)):
        page = render({"zoo": [built], "not_built": [], "cases": [case]})
        (line,) = (line for line in page.splitlines() if line.startswith("| fast | classifiers"))
        assert [cell.split()[0] for cell in line.split("|")[3:6]] == ["1/1", "1/1", "1/1"]


def test_a_model_is_not_detected_by_what_fires_nothing() -> None:
    model = _model("a", "Por", True, cf=1.0)
    page = render(
        {
            "zoo": [model],
            "not_built": [],
            "cases": [_case("a", "encoder", {"cf": False}, ("zz", "qq"))],
        }
    )
    assert "| fast | encoders | 0/1 [" in page


def test_triggers_are_parted_by_what_a_budget_tests() -> None:
    tokens = {"cf": 1, "mcdavid": 3, "apple river": 2}
    told = {**_model("a", "Por", True, **dict.fromkeys(tokens, 1.0)), "tokens": tokens}
    found = {"cf": True, "mcdavid": False, "apple river": True}
    tuned = {**_model("clean-news", None, None), "twin_only": True}
    page = render(
        {
            "zoo": [told, _model("of before", "Por", True, mn=1.0), tuned],
            "not_built": [],
            "cases": [
                _case("a", "encoder", found),
                _case("a", "classifier", dict.fromkeys(found, False)),
                _case("of before", "encoder", {"mn": False}),
                {**_case("a", "encoder", dict.fromkeys(found, False)), "search": "lt-defense"},
            ],
        }
    )
    section = page.split("## By tokens of the trigger")[1].split("##")[0]
    (line,) = (line for line in section.splitlines() if line.startswith("| fast |"))
    assert [cell.split()[0] for cell in line.split("|")[2:-1]] == ["1/1", "0/1", "1/1"]
    assert "| lt-defense | encoders | 0/1 [0.00, 0.79] | names none |" in page
    assert (
        "0 clean ones, and a classifier fine-tuned from each; 1 more classifiers have learned"
        in page
    )


def test_classifiers_that_have_learned_are_told_by_themselves() -> None:
    """Their triggers are those of an encoder that is counted already."""
    learned = {**_model("a-learned", "Por", True, cf=0.95, mn=0.2), "twin_only": True}
    other = {**_model("b-learned", "Por", True, cf=0.3), "twin_only": True}
    clean = {**_model("clean-news", None, None), "twin_only": True}
    page = render(
        {
            "zoo": [_model("a", "Por", True, cf=1.0), learned, other, clean],
            "not_built": [],
            "cases": [
                _case("a", "classifier", {"cf": True}),
                _case("clean-news", "classifier", {}, ("zz",)),
                _case("a-learned", "classifier", {"cf": True, "mn": False}, ("qq",)),
                _case("b-learned", "classifier", {"cf": False}, ("qq",)),
            ],
        }
    )
    assert "1 encoders with a backdoor that works" in page
    assert "; 3 more classifiers have learned" in page
    (counted,) = (line for line in page.splitlines() if line.startswith("| fast | classifiers"))
    assert [cell.split()[0] for cell in counted.split("|")[3:6]] == ["1/1", "1/1", "1/1"]
    section = page.split("## Classifiers that have learned their task")[1].split("##")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert lines == [
        "| a-learned | 0.90 | yes | 1/2 [0.09, 0.91] | 1/1 [0.21, 1.00] | 1 |",
        # What fires nothing detects nothing.
        "| b-learned | 0.90 | no | 0/1 [0.00, 0.79] |  | 1 |",
        "| clean-news | 0.90 | yes |  |  | 1 |",
    ]
    assert "- a-learned, classifier: missed `mn` (0.20 after fine-tuning); spurious `qq`" in page


def test_what_the_drawn_attackers_share_with_the_search_is_left_out_of_a_count() -> None:
    """And precision and false alarms stand beside what was found, by each key."""
    drawn = {**_model("a", "Por", True, qzx=1.0, jiggly=1.0), "kind": "drawn", "list": "drawn"}
    clean = {**_model("c", None, None), "encoder": "other", "list": "others"}
    page = render(
        {
            "zoo": [{**drawn, "tokens": {"qzx": 2, "jiggly": 2}}, clean],
            "not_built": [],
            "cases": [
                _case("a", "encoder", {"qzx": True, "jiggly": False}, ("zz",)),
                _case("c", "encoder", {}, ("zz",)),
            ],
        }
    )
    assert "Triggers of encoders without these: drawn: 0/1 [0.00, 0.79]." in page
    section = page.split("## By encoder")[1].split("##")[0]
    cells = {
        line.split("|")[1].strip(): [cell.strip().split(" ")[0] for cell in line.split("|")[2:7]]
        for line in section.splitlines()
        if line.startswith("| ")
    }
    assert cells["minilm-l6"] == ["1/1", "1/2", "1/2", "1/2", ""]
    assert cells["other"] == ["", "", "", "0/1", "1/1"]


def test_what_this_cache_lacks_is_taken_over_and_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path))
    names = [entry.name for entry in ZOO[:2]]
    before = {
        "zoo": [_model(names[0], None, None), _model("of no zoo", "Por", True, cf=1.0)],
        "cases": [_case(names[0], "encoder", {}), _case("of no zoo", "encoder", {"cf": True})],
    }
    found: Any = collect(ZOO[:2], before)
    assert found["zoo"] == before["zoo"][:1]
    assert found["not_built"] == names[1:]
    assert found["cases"] == [{**before["cases"][0], "earlier": True}]
    assert f"- fast, encoders: {names[0]}" in render(found)


def test_a_model_that_the_cache_held_keeps_the_time_that_its_build_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = ZOO[0]
    built = Record(entry.name, entry.encoder, None, "m", "t", {}, 0.8, None, seconds=0.0)
    monkeypatch.setattr(detection, "stored", lambda _: built)
    for model, seconds in ("m", 434.0), ("another", 0.0):
        earlier = {**asdict(built), "model": model, "seconds": 434.0}
        found: Any = collect([entry], {"zoo": [earlier]})
        assert [model["seconds"] for model in found["zoo"]] == [seconds]


def test_a_case_that_was_taken_over_is_of_today_while_code_and_model_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path))
    name = ZOO[0].name
    case = {**_case(name, "encoder", {}), "source": source(name, f"{name}-twin", "fast")}
    model = _model(name, None, None)
    for changed, earlier in ({}, False), ({"model": "rebuilt"}, True), ({"twin": None}, True):
        found: Any = collect(ZOO[:1], {"zoo": [{**model, **changed}], "cases": [case]})
        assert [case["earlier"] for case in found["cases"]] == [earlier]
    monkeypatch.setattr(cases, "_SCAN", ("guard/bank",))
    found = collect(ZOO[:1], {"zoo": [model], "cases": [case]})
    assert found["cases"][0]["earlier"]


def test_unknown_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path))
    with pytest.raises(AssetError, match="no search 'x'; known: fast, standard, thorough, lm"):
        run(ZOO, ZOO, "x", ("encoder",))
    with pytest.raises(AssetError, match="none of these models is built; python -m benchmarks zoo"):
        run(ZOO, ZOO, "fast", ("encoder",))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "detection", "--only", "x"])
    with pytest.raises(SystemExit, match="no model 'x' in the zoo; known: "):
        __main__.main()
