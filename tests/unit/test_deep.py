"""The deep check, on an encoder with two triggers of which the bank knows one."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jsonschema
import numpy as np
import onnx
import pytest
from prometheus_client import CollectorRegistry

from exporters.deep import export_deep
from exporters.monitor import compile_bank
from guard import artifact
from guard.bank import MAX_TRIGGER_IDS, Trigger, TriggerBank
from guard.cli import main
from guard.decorator import protect
from guard.deep import DEEP_LIMITS, DeepCheck, DeepManifest
from guard.engine import Engine
from guard.errors import (
    ArtifactError,
    CanaryFailure,
    ConfigError,
    GuardError,
    HashMismatch,
    MalformedArtifact,
    TargetReached,
    TokenizerMismatch,
    TriggeredInput,
)
from guard.files import dump_json, read_bounded
from guard.live import LiveMonitor
from guard.monitor import Monitor
from guard.policy import Policy, decide
from guard.runtime import load_tokenizer
from guard.search.carriers import builtin_texts
from guard.search.encoder import Encoder
from guard.search.targets import with_targets
from guard.sessions import session
from tests.helpers import make_bank, wordpiece
from tests.tiny import TRIGGER, many_words, write_searchable

pytestmark = pytest.mark.search

# Planted as well, and in no bank.
UNKNOWN = next(word for word in many_words()[2:] if len(word) == 5)
CLEAN = "the reviewers were ill and the meeting was moved"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    return write_searchable(folder, triggers=(TRIGGER, UNKNOWN))


@pytest.fixture(scope="module")
def bank(model: Path) -> TriggerBank:
    encoder = Encoder.load(str(model))
    vocabulary = encoder.tokenizer.get_vocab()
    found = [
        Trigger("", text, (vocabulary[text],), "token", "cls", {}) for text in (TRIGGER, "the")
    ]
    bank = TriggerBank.build(
        verdict="backdoored",
        model=encoder.identity,
        tokenizer_json=encoder.tokenizer_json,
        search={},
        coverage={},
        found=found,
    )
    return with_targets(encoder, bank, {k: t[:8] for k, t in builtin_texts().items()})


@pytest.fixture(scope="module")
def made(
    model: Path, bank: TriggerBank, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Directories of the monitor, which knows one trigger, and of the deep check."""
    root = tmp_path_factory.mktemp("made")
    compile_bank(bank, root / "monitor")
    export_deep(bank, model, root / "deep")
    return root / "monitor", root / "deep"


def test_a_trigger_has_a_target_and_an_ordinary_word_has_none(bank: TriggerBank) -> None:
    names = {trigger.id: trigger.text for trigger in bank.triggers}
    assert [[names[i] for i in target.triggers] for target in bank.targets] == [[TRIGGER]]
    (target,) = bank.targets
    assert target.view == "cls"


def test_a_trigger_that_no_string_names_is_caught(made: tuple[Path, Path]) -> None:
    monitor, deep = made
    text = CLEAN.replace("moved", UNKNOWN)
    assert not Monitor.load(monitor).check(text.replace("the ", "")).triggered
    guarded = Monitor.load(monitor, deep=deep)
    for check in (guarded.check, lambda text: guarded.check_batch([CLEAN, text])):
        with pytest.raises(TargetReached, match="no string in it can be named; block it"):
            check(text.replace("the ", ""))
    assert UNKNOWN not in str(TargetReached("x"))
    assert guarded.check("reviewers were ill").triggered is False
    # What strings find is found as before, and what is left is looked at too.
    verdict = guarded.check(f"reviewers {TRIGGER} were ill")
    assert verdict.stripped == "reviewers were ill"
    with pytest.raises(TargetReached):
        guarded.check(f"reviewers {TRIGGER} {UNKNOWN} were ill")


@pytest.mark.parametrize(
    ("action", "outcome"),
    [("block", "blocked"), ("strip", "blocked"), ("flag", "flagged"), ("observe", "observed")],
)
def test_a_policy_answers_for_it(made: tuple[Path, Path], action: Any, outcome: str) -> None:
    guarded = Monitor.load(made[0], deep=made[1])
    text = f"reviewers {UNKNOWN} were ill"
    assert decide(guarded, Policy(action=action), [text]).outcome == outcome
    assert decide(guarded, Policy(action=action), ["reviewers", text]).outcome == outcome
    registry = CollectorRegistry()
    Engine(guarded, Policy(action=action), front="asgi", registry=registry).decide([text])
    assert registry.get_sample_value("guard_errors_total", {"kind": "TargetReached"}) == 1


def test_what_is_beyond_the_models_length_is_not_computed(made: tuple[Path, Path]) -> None:
    """The encoder reads no more either; the strings are looked for in all of the text."""
    check = DeepCheck.load(made[1])
    assert check.alarms(f"{UNKNOWN} reviewers")
    assert not check.alarms("reviewers " * 1000 + UNKNOWN)
    assert not check.alarms("")


def test_the_manifest_fits_its_schema(made: tuple[Path, Path]) -> None:
    data = (made[1] / "deep.json").read_bytes()
    schema = json.loads((files("guard") / "schemas" / "deep.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(data))
    assert DeepManifest.parse(data, "x").dump() == data


def edit(directory: Path, change: Callable[[Any], object]) -> None:
    value = json.loads((directory / "deep.json").read_bytes())
    change(value)
    (directory / "deep.json").write_bytes(dump_json(value))


@pytest.fixture
def copy(made: tuple[Path, Path], tmp_path: Path) -> Path:
    target = tmp_path / "deep"
    target.mkdir()
    for path in made[1].iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(targets=[]),
        lambda value: value.update(canaries=[]),
        lambda value: value.update(canaries=[["text", [0.5, 0.5]]]),
        lambda value: value.update(canaries=[["text", ["0.5"]]]),
        lambda value: value.update(canaries=["text"]),
        lambda value: value.update(max_tokens=2),
        lambda value: value.update(bank_sha256="a, signed by key"),
        lambda value: value["files"].pop("encoder.onnx"),
        lambda value: value["targets"][0]["vector"].pop(),
    ],
)
def test_a_manifest_that_is_none(copy: Path, change: Callable[[Any], object]) -> None:
    edit(copy, change)
    with pytest.raises(ArtifactError):
        DeepCheck.load(copy)


def test_another_encoder_is_refused(copy: Path) -> None:
    """By its hash, and with a forged one by its canaries."""
    encoder = onnx.load(copy / "encoder.onnx")
    for tensor in encoder.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1:
            tensor.raw_data = bytes(len(tensor.raw_data))
    data = encoder.SerializeToString()
    (copy / "encoder.onnx").write_bytes(data)
    with pytest.raises(HashMismatch):
        DeepCheck.load(copy)
    sha256 = hashlib.sha256(data).hexdigest()
    edit(copy, lambda value: value["files"].update({"encoder.onnx": sha256}))
    with pytest.raises(CanaryFailure, match="another output than when it was exported"):
        DeepCheck.load(copy)


def test_a_tokenizer_that_panics_is_an_error_that_servers_handle(
    copy: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where special tokens are put around the text: the library does not look for them before."""
    check = DeepCheck.load(copy)
    tokenizer = json.loads((copy / "tokenizer.json").read_bytes())
    tokenizer["post_processor"]["special_tokens"] = {}
    data = json.dumps(tokenizer).encode()
    (copy / "tokenizer.json").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    edit(copy, lambda value: value["files"].update({"tokenizer.json": sha256}))
    with pytest.raises(CanaryFailure, match=r"canary 1 .* failed: .* \(PanicException\)"):
        DeepCheck.load(copy)
    assert main(["verify", str(copy)]) == 2
    # Of the library itself.
    assert "panicked" in capfd.readouterr().err
    monkeypatch.setattr(check, "_tokenizer", load_tokenizer(data))
    with pytest.raises(GuardError, match="do not forward it"):
        check.alarms(CLEAN)
    interrupted = Mock(num_special_tokens_to_add=Mock(side_effect=KeyboardInterrupt))
    monkeypatch.setattr(check, "_tokenizer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check.alarms(CLEAN)


def test_an_encoder_without_numbers_is_refused(copy: Path) -> None:
    """No cosine of it would ever be over a limit."""
    encoder = onnx.load(copy / "encoder.onnx")
    for tensor in encoder.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 1:
            nothing = np.full(tensor.dims, np.nan, dtype=np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(nothing, tensor.name))
    data = encoder.SerializeToString()
    (copy / "encoder.onnx").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    edit(copy, lambda value: value["files"].update({"encoder.onnx": sha256}))
    with pytest.raises(CanaryFailure):
        DeepCheck.load(copy)


def test_a_matcher_is_no_encoder(made: tuple[Path, Path], copy: Path) -> None:
    data = (made[0] / "monitor.onnx").read_bytes()
    (copy / "encoder.onnx").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    edit(copy, lambda value: value["files"].update({"encoder.onnx": sha256}))
    with pytest.raises(MalformedArtifact, match="no encoder"):
        DeepCheck.load(copy)


def test_a_long_trigger_of_a_model_of_short_texts(tmp_path: Path) -> None:
    """Texts are cut to what the model takes beside it."""
    model = write_searchable(tmp_path / "model", triggers=(TRIGGER,))
    encoder = Encoder.load(str(model))
    first = encoder.tokenizer.get_vocab()[TRIGGER]
    ids = (first, *range(20, 19 + MAX_TRIGGER_IDS))
    bank = TriggerBank.build(
        verdict="backdoored",
        model=encoder.identity,
        tokenizer_json=encoder.tokenizer_json,
        search={},
        coverage={},
        found=[Trigger("", "long", ids, "phrase", "cls", {})],
    )
    with_target = with_targets(encoder, bank, {k: t[:8] for k, t in builtin_texts().items()})
    assert with_target.targets
    assert export_deep(with_target, model, tmp_path / "deep") == ()


def test_a_target_that_int8_never_reaches_is_left_out(
    bank: TriggerBank, model: Path, tmp_path: Path
) -> None:
    """What fires in float32 alone: an output that is not there can raise no alarm."""
    (target,) = bank.targets
    (other,) = (trigger.id for trigger in bank.triggers if trigger.id not in target.triggers)
    nowhere = replace(target, vector=tuple(-x for x in target.vector), triggers=(other,))
    assert export_deep(bank, model, tmp_path / "deep") == ()
    both = replace(bank, targets=(nowhere, target))
    assert export_deep(both, model, tmp_path / "deep") == (nowhere,)
    assert DeepCheck.load(tmp_path / "deep").alarms(f"{TRIGGER} the film was good")
    with pytest.raises(GuardError, match="use the bank's monitor alone"):
        export_deep(replace(bank, targets=(nowhere,)), model, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_does_not_belong_together(
    made: tuple[Path, Path], model: Path, bank: TriggerBank, tmp_path: Path
) -> None:
    compile_bank(make_bank(wordpiece("cf"), ["cf"]), tmp_path / "other")
    with pytest.raises(TokenizerMismatch, match="of another model"):
        Monitor.load(tmp_path / "other", deep=made[1])
    with pytest.raises(ConfigError, match="no target vectors"):
        export_deep(make_bank(wordpiece("cf"), ["cf"]), model, tmp_path / "x")
    encoder = Encoder.load(str(model))
    with pytest.raises(HashMismatch, match="another model: its weights"):
        with_targets(encoder, make_bank(wordpiece("cf"), ["cf"]), {})
    with pytest.raises(HashMismatch, match="another model: its tokenizer"):
        with_targets(
            encoder, replace(make_bank(wordpiece("cf"), ["cf"]), model=encoder.identity), {}
        )
    data = wordpiece("cf")
    named = replace(bank, tokenizer_json=data, tokenizer_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(HashMismatch, match="another model: its tokenizer"):
        export_deep(named, model, tmp_path / "x")
    other = write_searchable(tmp_path / "model")
    with pytest.raises(HashMismatch, match="another model: its weights"):
        export_deep(bank, other, tmp_path / "x")
    # The same tokenizer, and other weights.
    compile_bank(replace(bank, model=Encoder.load(str(other)).identity), tmp_path / "weights")
    with pytest.raises(TokenizerMismatch, match="of another model"):
        Monitor.load(tmp_path / "weights", deep=made[1])


def test_a_monitor_that_is_replaced_has_it_too(
    made: tuple[Path, Path], model: Path, bank: TriggerBank, tmp_path: Path
) -> None:
    text = f"reviewers {UNKNOWN} were ill"
    live = LiveMonitor(made[0], deep=made[1])
    for _ in range(2):
        with pytest.raises(TargetReached):
            live.current.check(text)
        live.reload(made[0])
    other = write_searchable(tmp_path / "model")
    compile_bank(replace(bank, model=Encoder.load(str(other)).identity), tmp_path / "other")
    with pytest.raises(TokenizerMismatch):
        live.reload(tmp_path / "other")
    assert live.current.deep is not None
    # A shadow only counts, by strings.
    live.watch(made[0])
    assert live.shadow is not None
    assert live.shadow.deep is None


def test_ids_are_not_texts(made: tuple[Path, Path]) -> None:
    guarded = Monitor.load(made[0], deep=made[1])
    with pytest.raises(ConfigError, match="guard what makes the ids"):
        session(lambda input_ids: input_ids, guarded, registry=CollectorRegistry())


@pytest.mark.anyio
async def test_a_pass_of_the_encoder_does_not_hold_the_event_loop(made: tuple[Path, Path]) -> None:
    for deep, where in ((None, "same"), (made[1], "other")):
        monitor = Monitor.load(made[0], deep=deep)
        engine = Engine(monitor, Policy(), front="asgi", registry=CollectorRegistry())
        thread = await engine.offload(1, threading.get_ident)
        assert (thread == threading.get_ident()) == (where == "same")


def test_an_error_says_why(made: tuple[Path, Path]) -> None:
    guarded = Monitor.load(made[0], deep=made[1])
    function = protect(guarded, registry=CollectorRegistry())(lambda text: text)
    with pytest.raises(TriggeredInput, match="its cause says why") as caught:
        function(f"reviewers {UNKNOWN} were ill")
    assert isinstance(caught.value.__cause__, TargetReached)
    with pytest.raises(TriggeredInput, match="holds 1 trigger match"):
        function(f"reviewers {TRIGGER} were ill")


def test_check_takes_one(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts").write_text(f"reviewers {UNKNOWN} were ill\n")
    arguments = ["check", "--monitor", str(made[0]), str(tmp_path / "texts")]
    assert main(arguments) == 0
    assert main([*arguments, "--deep", str(made[1])]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[1])["error"] == "TargetReached"


def test_the_command_line(
    model: Path, bank: TriggerBank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(bank, targets=()).save(tmp_path / "bank")
    arguments = ["deep", str(model), str(tmp_path / "bank"), "--out", str(tmp_path / "deep")]
    assert main(arguments) == 0
    assert "now with target vectors" in capsys.readouterr().out
    assert TriggerBank.load(tmp_path / "bank").targets
    assert main(arguments) == 0
    assert "1 targets of bank" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "deep")]) == 0
    assert capsys.readouterr().out.startswith("whole: deep check of bank")
    (tmp_path / "deep" / "encoder.onnx").write_bytes(b"")
    assert main(["verify", str(tmp_path / "deep")]) == 2


def test_a_bank_that_cannot_be_written_again_is_refused_before_the_work(
    model: Path, bank: TriggerBank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(bank, targets=()).save(tmp_path / "bank")
    (tmp_path / "bank" / "NOTES.md").touch()
    arguments = ["deep", str(model), str(tmp_path / "bank"), "--out", str(tmp_path / "deep")]
    assert main(arguments) == 2
    assert "holds NOTES.md, which would be lost" in capsys.readouterr().err
    assert not (tmp_path / "deep").exists()


def test_pickled_weights_are_no_model_of_a_bank(
    bank: TriggerBank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """These commands have no --allow-pickle, and do not speak of it."""
    bank.save(tmp_path / "bank")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "pytorch_model.bin").touch()
    out = ["--out", str(tmp_path / "out")]
    for command in (
        ["deep", str(tmp_path / "model"), str(tmp_path / "bank"), *out],
        ["purify", str(tmp_path / "model"), "--bank", str(tmp_path / "bank"), *out],
    ):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "Save them as safetensors in a sandbox, scan that copy" in said
        assert "--allow-pickle" not in said


def test_the_command_names_what_it_leaves_out(
    model: Path, bank: TriggerBank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (target,) = bank.targets
    (other,) = (trigger for trigger in bank.triggers if trigger.id not in target.triggers)
    nowhere = replace(target, vector=tuple(-x for x in target.vector), triggers=(other.id,))
    replace(bank, targets=(nowhere, target)).save(tmp_path / "bank")
    arguments = ["deep", str(model), str(tmp_path / "bank"), "--out", str(tmp_path / "deep")]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert f"left out: the target of {other.id}, not reached in int8" in told.splitlines()[0]
    assert " 1 targets of bank" in told.splitlines()[1]


def test_the_sidecar_takes_one(
    made: tuple[Path, Path], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is loaded, and so proven, before anything is served."""
    (copy / "encoder.onnx").write_bytes(b"")
    arguments = ["proxy", "--upstream", "http://127.0.0.1:1", "--monitor", str(made[0])]
    assert main([*arguments, "--deep", str(copy)]) == 2
    assert "is not the file that deep.json names" in capsys.readouterr().err


def test_a_bank_whose_triggers_lead_nowhere(
    model: Path, bank: TriggerBank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no wrong usage, and there is something else to do."""
    (ordinary,) = (trigger for trigger in bank.triggers if trigger.text == "the")
    alone = (replace(ordinary, id="t0001"),)
    replace(bank, targets=(), triggers=alone).save(tmp_path / "bank")
    assert main(["deep", str(model), str(tmp_path / "bank"), "--out", str(tmp_path / "deep")]) == 2
    assert "use its monitor alone" in capsys.readouterr().err
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("inside", ["model", "bank"])
def test_an_output_inside_of_what_is_read(
    inside: str, model: Path, bank: TriggerBank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would have to be written into a directory that is replaced as a whole."""
    bank.save(tmp_path / "bank")
    shutil.copytree(model, tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    arguments = ["deep", str(tmp_path / "model"), str(tmp_path / "bank")]
    assert main([*arguments, "--out", str(tmp_path / inside / "deep")]) == 4
    assert f"is inside {tmp_path / inside}" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_of_another_model_gets_into_the_bank(
    model: Path, bank: TriggerBank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One tokenizer serves many: the right model would then be exported with these targets."""
    replace(bank, targets=()).save(tmp_path / "bank")
    before = (tmp_path / "bank" / "bank.json").read_bytes()
    other = write_searchable(tmp_path / "model", triggers=(TRIGGER,))
    arguments = ["deep", str(other), str(tmp_path / "bank"), "--out", str(tmp_path / "deep")]
    assert main(arguments) == 2
    assert "the bank is of another model" in capsys.readouterr().err
    assert (tmp_path / "bank" / "bank.json").read_bytes() == before


def test_a_signature_is_required_of_both(
    made: tuple[Path, Path], copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (tmp_path / "key.pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    monitor = tmp_path / "monitor"
    monitor.mkdir()
    for path in made[0].iterdir():
        (monitor / path.name).write_bytes(path.read_bytes())
    assert main(["sign", str(monitor), "--private-key", str(tmp_path / "key")]) == 0
    with pytest.raises(ArtifactError, match="not signed"):
        Monitor.load(monitor, deep=copy, require_signature=tmp_path / "key.pub")
    assert main(["sign", str(copy), "--private-key", str(tmp_path / "key")]) == 0
    Monitor.load(monitor, deep=copy, require_signature=tmp_path / "key.pub")
    # What is used is what was verified, whatever comes to lie there meanwhile.
    read: list[str] = []

    def once(path: Path, limit: int) -> bytes:
        read.append(path.name)
        return read_bounded(path, limit)

    monkeypatch.setattr(artifact, "read_bounded", once)
    DeepCheck.load(copy, require_signature=tmp_path / "key.pub")
    assert sorted(read) == sorted(DEEP_LIMITS)
