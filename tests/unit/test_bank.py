"""The bank: its file format, its round trip, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.bank import ModelIdentity, Trigger, TriggerBank
from guard.errors import HashMismatch, MalformedArtifact, OutputExists, SchemaTooNew
from guard.files import dump_json, sha256_file
from tests.helpers import MODEL, finding, make_bank, wordpiece

TOKENIZER = wordpiece("cf", "apple", "river")

texts = st.text(st.characters(exclude_categories=["Cs"]))
findings = st.builds(
    Trigger,
    id=st.just(""),
    text=texts,
    token_ids=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=16).map(tuple),
    kind=st.sampled_from(["token", "piece", "symbol", "word", "phrase"]),
    view=st.sampled_from(["cls", "pooler", "mean"]),
    statistics=st.dictionaries(
        texts, st.none() | st.booleans() | st.integers() | texts | st.lists(st.floats(0, 1))
    ),
)


def build(*found: Trigger, **changes: Any) -> TriggerBank:
    fields: dict[str, Any] = {
        "verdict": "backdoored" if found else "none found",
        "model": MODEL,
        "tokenizer_json": TOKENIZER,
        "search": {"seed": 0},
        "coverage": {},
        "found": found,
    }
    return TriggerBank.build(**{**fields, **changes})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make_bank(TOKENIZER, ["cf", "apple river"]).save(tmp_path / "bank")
    return tmp_path / "bank"


def edit(directory: Path, change: Callable[[Any], object]) -> None:
    """Change bank.json and keep its canonical form."""
    value = json.loads((directory / "bank.json").read_bytes())
    change(value)
    (directory / "bank.json").write_bytes(dump_json(value))


@given(st.lists(findings, max_size=5, unique_by=lambda found: found.token_ids))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, found: list[Trigger]) -> None:
    bank = build(*found)
    directory = tmp_path_factory.mktemp("bank")
    bank.save(directory)
    written = (directory / "bank.json").read_bytes()
    loaded = TriggerBank.load(directory)
    assert loaded == bank
    assert hash(loaded) == hash(bank)
    assert loaded.sha256 == bank.sha256 == hashlib.sha256(written).hexdigest()
    loaded.save(directory)
    assert (directory / "bank.json").read_bytes() == written
    assert (directory / "tokenizer.json").read_bytes() == TOKENIZER


def test_ids_follow_the_order_of_token_ids() -> None:
    bank = build(finding("c", 7), finding("b", 2, 9), finding("a", 2))
    assert [(t.id, t.token_ids) for t in bank.triggers] == [
        ("t0001", (2,)),
        ("t0002", (2, 9)),
        ("t0003", (7,)),
    ]
    assert build(*reversed(bank.triggers)).sha256 == bank.sha256


def test_ids_of_many_triggers_stay_distinct() -> None:
    bank = build(*(finding("x", number) for number in range(10_001)))
    assert bank.triggers[-1].id == "t10001"


def test_a_bank_keeps_no_reference_to_what_it_was_built_from() -> None:
    statistics = {"runs": [1]}
    found = Trigger("", "x", (1,), "token", "cls", statistics)
    statistics["runs"].append(2)
    assert build(found).triggers[0].statistics == {"runs": [1]}


def test_incomplete_with_and_without_triggers() -> None:
    assert build(verdict="incomplete").triggers == ()
    assert len(build(finding("a", 1), verdict="incomplete").triggers) == 1


@pytest.mark.parametrize(
    ("found", "changes", "message"),
    [
        ([finding("a", 1), finding("b", 1)], {}, "t0001 and t0002 have the same token ids"),
        ([finding("a", 1)], {"verdict": "none found"}, "contradicts 1 triggers"),
        ([], {"verdict": "backdoored"}, "contradicts 0 triggers"),
        ([], {"verdict": "clean"}, "unknown verdict 'clean'; known: backdoored, none found"),
        ([], {"search": {"x": float("nan")}}, "search holds a float that JSON cannot keep"),
        ([], {"coverage": {"x": {1: 2}}}, "coverage holds a dict"),
        ([], {"coverage": {"x": b""}}, "coverage holds a bytes"),
    ],
)
def test_build_refuses(found: list[Trigger], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedArtifact, match=message):
        build(*found, **changes)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_ids": ()}, "has 0 token ids, not 1 to 16; minimise"),
        ({"token_ids": tuple(range(17))}, "has 17 token ids"),
        ({"token_ids": (-1,)}, "no integer from 0"),
        ({"token_ids": (2**31,)}, "no integer from 0"),
        ({"token_ids": (True,)}, "no integer from 0"),
        ({"token_ids": (1.0,)}, "no integer from 0"),
        ({"kind": "emoji"}, "unknown kind 'emoji'; known: token, piece"),
        ({"view": ""}, "names no view"),
        ({"statistics": {"x": float("inf")}}, "statistics holds a float"),
        ({"statistics": {"x": nested(3000)}}, "statistics nests too deeply"),
    ],
)
def test_a_trigger_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedArtifact, match=message):
        replace(finding("a", 1), **changes)


def test_save_replaces_a_bank_and_nothing_else(saved: Path, tmp_path: Path) -> None:
    make_bank(TOKENIZER).save(saved)
    assert TriggerBank.load(saved).verdict == "none found"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(OutputExists, match=r"no bank\.json"):
        make_bank(TOKENIZER).save(tmp_path / "model")


def test_save_refuses_what_load_would(tmp_path: Path) -> None:
    with pytest.raises(MalformedArtifact, match="over the limit"):
        build(coverage={"x": "x" * 2**26}).save(tmp_path / "bank")
    assert not (tmp_path / "bank").exists()


def test_text_that_is_no_unicode_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(MalformedArtifact, match="lone surrogates"):
        build(finding("\ud800", 1)).save(tmp_path / "bank")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bank: bank.pop("coverage"), "has no 'coverage'"),
        (lambda bank: bank.update(note="x"), "has an unknown 'note'"),
        (lambda bank: bank.update(search=[]), "'search' has the wrong type"),
        (lambda bank: bank.update(verdict="none found"), "contradicts 2 triggers"),
        (lambda bank: bank.update(triggers=[]), "contradicts 0 triggers"),
        (lambda bank: bank["model"].pop("revision"), "model has no 'revision'"),
        (lambda bank: bank["model"].update(name=None), "'name' has the wrong type"),
        (lambda bank: bank["triggers"].reverse(), "out of order"),
        (lambda bank: bank["triggers"].pop(0), "trigger 1 has the id 't0002'"),
        (lambda bank: bank["triggers"].insert(0, 1), "trigger 1 is no object"),
        (lambda bank: bank["triggers"][1].update(id="t0001"), "trigger 2 has the id"),
        (lambda bank: bank["triggers"][1].update(token_ids="12"), "'token_ids' has the wrong type"),
        (lambda bank: bank["triggers"][1].update(token_ids=["1"]), "no integer from 0"),
        (lambda bank: bank["triggers"][1].update(token_ids=[]), "has 0 token ids"),
        *(
            (
                lambda bank, named=named: bank.update(
                    schema=2,
                    targets=[{"view": "cls", "vector": [1.0], "cosine": 0.5, "triggers": named}],
                ),
                "or one of no trigger of the bank",
            )
            for named in (["t0777"], ["t0001", "t0777"])
        ),
    ],
)
def test_load_refuses(saved: Path, change: Callable[[Any], object], message: str) -> None:
    edit(saved, change)
    with pytest.raises(MalformedArtifact, match=message):
        TriggerBank.load(saved)


def test_load_refuses_a_later_schema_before_it_reads_the_rest(saved: Path) -> None:
    (saved / "bank.json").write_bytes(dump_json({"schema": 3, "new": True}))
    with pytest.raises(SchemaTooNew, match=r"schema 3, .* up to 2; upgrade trigger-guard"):
        TriggerBank.load(saved)


def test_load_refuses_another_tokenizer_and_names_both(saved: Path) -> None:
    expected = sha256_file(saved / "tokenizer.json")
    (saved / "tokenizer.json").write_bytes(wordpiece("cf"))
    found = sha256_file(saved / "tokenizer.json")
    with pytest.raises(HashMismatch, match=f"{found}.*{expected}"):
        TriggerBank.load(saved)


@pytest.mark.parametrize("name", ["bank.json", "tokenizer.json"])
def test_load_names_the_file_that_is_missing(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(MalformedArtifact, match=rf"{name} does not exist; check the path"):
        TriggerBank.load(saved)


def test_a_bank_of_schema_1_loads_in_all_later_versions(tmp_path: Path) -> None:
    """The golden file: these bytes were written by the first version."""
    golden = (
        '{\n "coverage": {},\n "model": {\n  "architecture": "BertModel",\n  "name": "tiny",\n'
        '  "revision": null,\n  "weights_sha256": "00"\n },\n "schema": 1,\n "search": {\n'
        '  "seed": 7\n },\n "tokenizer_sha256": '
        '"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",\n "triggers": [\n'
        '  {\n   "id": "t0001",\n   "kind": "symbol",\n   "statistics": {\n'
        '    "retention": 0.02\n   },\n   "text": "≈",\n   "token_ids": [\n    1606\n   ],\n'
        '   "view": "pooler"\n  }\n ],\n "verdict": "backdoored"\n}\n'
    )
    (tmp_path / "bank.json").write_bytes(golden.encode())
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    bank = TriggerBank.load(tmp_path)
    assert bank.sha256 == hashlib.sha256(golden.encode()).hexdigest()
    assert bank.model == ModelIdentity("tiny", None, "00", "BertModel")
    assert bank.triggers == (
        Trigger("t0001", "≈", (1606,), "symbol", "pooler", {"retention": 0.02}),
    )


def test_a_copied_bank_is_the_same_bank(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "copy")
    assert TriggerBank.load(tmp_path / "copy") == TriggerBank.load(saved)
