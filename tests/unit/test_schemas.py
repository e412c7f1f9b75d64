"""The formats on disk: their JSON Schemas, and files that earlier versions wrote.

Files in ``tests/golden`` are never written anew: they stand for those that users have.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from exporters.monitor import compile_bank
from guard.bank import BANK_SCHEMA, TriggerBank
from guard.errors import ArtifactError, MalformedArtifact
from guard.files import dump_json
from guard.manifest import MONITOR_SCHEMA, Manifest
from guard.monitor import Monitor
from guard.verdict import Verdict
from tests.helpers import make_bank, wordpiece

GOLDEN = Path(__file__).parents[1] / "golden"
DIGESTS = {
    "bank-1": "d8d5cd318e91f4c4",
    "bank-2": "2468f3fe0c4325ff",
    "monitor-1": "99af6fd714e83be7",
    "monitor-2": "e7474f99c3b10ff5",
}


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((files("guard") / "schemas" / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("triggers", [[], ["cf"], ["cf", "a b", "!"]])
def test_what_is_written_fits_its_schema(tmp_path: Path, triggers: list[str]) -> None:
    bank = make_bank(wordpiece("cf"), triggers)
    validator("bank").validate(json.loads(bank.dump()))
    compile_bank(bank, tmp_path, strip_only=["t0001"] if triggers else [])
    validator("monitor").validate(json.loads((tmp_path / "monitor.json").read_bytes()))


@pytest.mark.parametrize("name", ["bank", "monitor"])
def test_golden_files_fit_their_schema(name: str) -> None:
    for path in GOLDEN.glob(f"{name}-*/{name}.json"):
        validator(name).validate(json.loads(path.read_bytes()))


@pytest.mark.parametrize("schema", range(1, BANK_SCHEMA + 1))
def test_banks_of_all_schemas_are_read(schema: int) -> None:
    bank = TriggerBank.load(GOLDEN / f"bank-{schema}")
    assert [trigger.text for trigger in bank.triggers] == ["!", "a b c", "cf", "apple river"]
    assert bank.dump() == (GOLDEN / f"bank-{schema}" / "bank.json").read_bytes()
    assert [target.triggers for target in bank.targets] == [("t0001", "t0003")] * (schema - 1)


def test_a_bank_gets_and_loses_targets(tmp_path: Path) -> None:
    """With targets it is of schema 2, and without them what it was."""
    first, second = (TriggerBank.load(GOLDEN / f"bank-{schema}") for schema in (1, 2))
    replace(first, targets=second.targets).save(tmp_path / "bank")
    assert TriggerBank.load(tmp_path / "bank") == second
    assert second.sha256 != first.sha256 == replace(second, targets=()).sha256


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(schema=1),
        lambda value: value.pop("targets"),
        lambda value: value.update(targets=[]),
        lambda value: value["targets"][0].update(vector=[]),
        lambda value: value["targets"][0].update(vector="x"),
        lambda value: value["targets"][0].update(vector=["a"]),
        lambda value: value["targets"][0].update(cosine=1.0),
        lambda value: value["targets"][0].update(triggers=[]),
        lambda value: value["targets"][0].update(view=""),
        lambda value: value["targets"][0].update(more=1),
    ],
)
def test_schema_and_code_refuse_the_same_targets(tmp_path: Path, change: Any) -> None:
    shutil.copytree(GOLDEN / "bank-2", tmp_path / "bank")
    value = json.loads((tmp_path / "bank" / "bank.json").read_bytes())
    change(value)
    (tmp_path / "bank" / "bank.json").write_bytes(dump_json(value))
    assert not validator("bank").is_valid(value)
    with pytest.raises(ArtifactError):
        TriggerBank.load(tmp_path / "bank")


@pytest.mark.parametrize(
    "change",
    [
        lambda target: target.update(vector=[0.5, 0.5, 0.0]),
        lambda target: target.update(vector=[1, 0, 0]),
        lambda target: target.update(triggers=["t9999"]),
        lambda target: target.update(triggers=[1]),
    ],
)
def test_targets_that_no_schema_can_refuse(tmp_path: Path, change: Any) -> None:
    shutil.copytree(GOLDEN / "bank-2", tmp_path / "bank")
    value = json.loads((tmp_path / "bank" / "bank.json").read_bytes())
    change(value["targets"][0])
    (tmp_path / "bank" / "bank.json").write_bytes(dump_json(value))
    with pytest.raises(MalformedArtifact, match="search for"):
        TriggerBank.load(tmp_path / "bank")


@pytest.mark.parametrize("schema", range(1, MONITOR_SCHEMA + 1))
@pytest.mark.parametrize("engine", ["auto", "onnx"])
def test_monitors_of_all_schemas_are_read(schema: int, engine: Any) -> None:
    monitor = Monitor.load(GOLDEN / f"monitor-{schema}", engine=engine)
    assert monitor.bank_sha256 == TriggerBank.load(GOLDEN / "bank-1").sha256
    assert monitor.check("an apple  RIVER a").stripped == "an a"
    assert monitor.check("an apple") == Verdict(False, (), "an apple")
    assert monitor.strip_only == ({"t0001"} if schema > 1 else set())


@pytest.mark.parametrize("schema", range(1, MONITOR_SCHEMA + 1))
def test_a_manifest_is_written_as_it_was_read(schema: int) -> None:
    data = (GOLDEN / f"monitor-{schema}" / "monitor.json").read_bytes()
    manifest = Manifest.parse(data, "x")
    assert manifest.schema == schema
    if schema == MONITOR_SCHEMA:
        assert manifest.dump() == data


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(verdict="clean"),
        lambda value: value.update(verdict="none found"),
        lambda value: value.update(extra=1),
        lambda value: value.pop("coverage"),
        lambda value: value.update(tokenizer_sha256="x"),
        lambda value: value["triggers"][0].update(token_ids=[]),
        lambda value: value["triggers"][0].update(token_ids=[-1]),
        lambda value: value["triggers"][0].update(kind="rune"),
        lambda value: value["triggers"][0].update(id="cf"),
    ],
)
def test_schema_and_code_refuse_the_same_banks(tmp_path: Path, change: Any) -> None:
    shutil.copytree(GOLDEN / "bank-1", tmp_path / "bank")
    value = json.loads((tmp_path / "bank" / "bank.json").read_bytes())
    change(value)
    (tmp_path / "bank" / "bank.json").write_bytes(dump_json(value))
    assert not validator("bank").is_valid(value)
    with pytest.raises(ArtifactError):
        TriggerBank.load(tmp_path / "bank")


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(schema=1),
        lambda value: value.pop("strip_only"),
        lambda value: value.update(strip_only=["t0001", "t0001"]),
        lambda value: value.update(strip_only="t0001"),
        lambda value: value.update(strip_only=[[1]]),
        lambda value: value.update(bank_sha256="a, signed by key"),
        lambda value: value["files"].update(extra="0"),
        # It stands in logs.
        lambda value: value.update(triggers=["t0001", "t1\noutcome=clean"]),
        lambda value: value.update(triggers=["t0001", ""]),
    ],
)
def test_schema_and_code_refuse_the_same_manifests(change: Any) -> None:
    value = json.loads((GOLDEN / "monitor-2" / "monitor.json").read_bytes())
    change(value)
    assert not validator("monitor").is_valid(value)
    with pytest.raises(MalformedArtifact):
        Manifest.parse(dump_json(value), "x")


def test_strip_only_names_triggers_of_the_monitor() -> None:
    value = json.loads((GOLDEN / "monitor-2" / "monitor.json").read_bytes())
    value["strip_only"] = ["t9999"]
    with pytest.raises(MalformedArtifact, match="names no such triggers"):
        Manifest.parse(dump_json(value), "x")


def test_no_golden_file_was_changed() -> None:
    """Add a directory for a new schema, and its line here."""
    digests = {
        str(path.parent.relative_to(GOLDEN)): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(GOLDEN.glob("*/*.json"))
        if path.name in ("bank.json", "monitor.json")
    }
    assert digests == DIGESTS
