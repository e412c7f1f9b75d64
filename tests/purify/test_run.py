"""Purification as a whole: rounds, interruption, what is written, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import resource
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.attacks.rounded import plant_rounded
from guard.bank import TriggerBank
from guard.errors import (
    ArtifactError,
    GuardError,
    HashMismatch,
    MalformedArtifact,
    ModelError,
    OutputExists,
)
from guard.files import sha256_file
from guard.purify import NothingToPurify, NotPreserved, Settings, purify, rounds, run, training
from guard.purify.arithmetic import multiplies_bfloat16
from guard.purify.network import Network
from guard.purify.samples import Rows, Sampler
from guard.search import search
from guard.search.belongs import check_bank
from guard.search.encoder import Encoder
from guard.search.words import user_words
from tests.helpers import finding
from tests.purify.test_network import write_classifier
from tests.search.fakes import silent
from tests.tiny import COMMON, TRIGGER, make_model, many_words, wordpiece, write_searchable

pytestmark = pytest.mark.search


def write_heads(folder: Path) -> Path:
    """Write a BERT of several heads, of which an attacker can take one."""
    tokenizer = wordpiece(many_words())
    encoder = make_model("bert", len(tokenizer), num_attention_heads=4, initializer_range=0.4)
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


QUICK = Settings(rounds=3, steps=6, every=2, learning_rate=1e-3)


def bank_of(folder: Path, words: Iterable[str]) -> TriggerBank:
    """The bank of a search that found some words."""
    encoder = Encoder.load(str(folder))
    vocabulary = encoder.tokenizer.get_vocab()
    found = [finding(word, vocabulary[word]) for word in words]
    return TriggerBank.build(
        verdict="backdoored" if found else "none found",
        model=encoder.identity,
        tokenizer_json=encoder.tokenizer_json,
        search={"seed": 0},
        coverage={},
        found=found,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_searchable(tmp_path_factory.mktemp("model"), triggers=(TRIGGER, COMMON))


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Have each scan find the next of some lists of words; the seeds of the scans are returned."""

    def answer(*found: tuple[str, ...]) -> list[int]:
        rest = iter(found)
        seeds: list[int] = []

        def scan(
            folder: str,
            *,
            texts: Path | None,
            words: Path | None,
            seed: int,
            resume: Path,
            progress: Any,
        ) -> TriggerBank:
            assert words is None or words.is_file()
            # Those of rounds whose banks are kept would fill the disk.
            assert not list(resume.parent.glob("*.scan"))
            resume.mkdir()
            found = next(rest)
            seeds.append(seed)
            return bank_of(Path(folder), found)

        monkeypatch.setattr(rounds, "search", scan)
        return seeds

    return answer


@pytest.mark.parametrize("hides", [True, False])
def test_what_hides_from_bfloat16_is_trained_against_in_float32(
    hides: bool, model: Path, scans: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (rounds, training):
        monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: True)
    autocast: list[bool] = []
    scans(())
    bad = model
    if hides:
        bad = tmp_path / "bad"
        plant_rounded((TRIGGER,), write_heads(tmp_path / "clean"), bad)
    optimise = training.train

    def watched(*arguments: Any, **options: Any) -> list[float]:
        autocast.append(not options["exact"])
        return optimise(*arguments, **options)

    monkeypatch.setattr(rounds, "train", watched)
    bank = bank_of(bad, [TRIGGER])
    done = purify(str(bad), bank, tmp_path / "out", seed=7, settings=QUICK, progress=silent)
    assert [made.exact for made in done.rounds] == [hides]
    assert autocast == [not hides]


def test_a_model_that_training_breaks_is_not_written(
    model: Path, scans: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor scanned: a scan finds nothing in a model that gives all texts one output."""
    seeds = scans(())
    monkeypatch.setattr(rounds, "MOST_MOVED", 0.0)
    with pytest.raises(NotPreserved, match=r"nothing is written\. .* Use another encoder"):
        purify(
            str(model),
            bank_of(model, [TRIGGER]),
            tmp_path / "out",
            seed=7,
            settings=QUICK,
            progress=silent,
        )
    assert (seeds, list(tmp_path.iterdir())) == ([], [])


def test_what_is_written(model: Path, scans: Any, tmp_path: Path) -> None:
    scans(())
    bank, out = bank_of(model, [TRIGGER]), tmp_path / "out"
    done = purify(str(model), bank, out, seed=7, settings=QUICK, progress=silent)
    assert done.verdict == "none found"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    purified = AutoModel.from_pretrained(out)
    AutoTokenizer.from_pretrained(out)
    assert not torch.equal(
        purified.get_input_embeddings().weight,
        AutoModel.from_pretrained(model).get_input_embeddings().weight,
    )
    record = json.loads((out / run.RECORD_FILE).read_bytes())
    assert record == done.record
    assert record["model"]["weights_sha256"] == bank.model.weights_sha256
    assert record["weights_sha256"] == sha256_file(out / "model.safetensors")
    assert (record["bank_sha256"], record["seed"]) == (bank.sha256, 7)
    (made,) = record["rounds"]
    assert (made["units"], made["remaining"], made["verdict"]) == (1, 0, "none found")
    assert set(made["moved"]) == {"tokens", "cls", "pooler"}
    assert TriggerBank.load(out / run.BEFORE) == bank
    after = TriggerBank.load(out / run.AFTER)
    assert after.model.name == str(out)
    assert after.sha256 == made["scan_sha256"]


def test_the_same_seed_gives_the_same(model: Path, scans: Any, tmp_path: Path) -> None:
    bank = bank_of(model, [TRIGGER])
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        scans(())
        purify(str(model), bank, tmp_path / name, seed=seed, settings=QUICK, progress=silent)
    one, two, three = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two", "three")
    )
    assert one == two != three


def test_what_a_scan_finds_is_trained_against_too(model: Path, scans: Any, tmp_path: Path) -> None:
    seeds = scans((COMMON,), ())
    bank = bank_of(model, [TRIGGER])
    done = purify(str(model), bank, tmp_path / "out", seed=0, settings=QUICK, progress=silent)
    assert [(made.units, made.remaining) for made in done.rounds] == [(1, 1), (2, 0)]
    assert done.verdict == "none found"
    assert len(set(seeds)) == 2


def test_phrases_are_scanned_for_as_they_were_trained_against(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A scan of tokens would call a model clean that a phrase of the bank still seizes."""
    encoder = Encoder.load(str(model))
    known = encoder.tokenizer.get_vocab()
    phrase = dataclasses.replace(
        finding("a the", known["a"]), token_ids=(known["a"], known["the"]), kind="phrase"
    )
    bank = TriggerBank.build(
        verdict="backdoored",
        model=encoder.identity,
        tokenizer_json=encoder.tokenizer_json,
        search={"seed": 0},
        coverage={},
        found=[finding(TRIGGER, known[TRIGGER]), phrase],
    )
    asked: list[list[str]] = []

    def scan(folder: str, *, words: Path, resume: Path, **how: Any) -> TriggerBank:
        asked.append(user_words(words))
        return bank_of(Path(folder), ())

    monkeypatch.setattr(rounds, "search", scan)
    purify(str(model), bank, tmp_path / "out", settings=QUICK, progress=silent)
    assert asked == [["a the"]]


def test_what_no_line_leads_to_is_said(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A scan takes texts: it may never meet the ids that were trained against."""
    encoder = Encoder.load(str(model))
    known = encoder.tokenizer.get_vocab()
    a, the, piece, unused = (known[token] for token in ("a", "the", "##b", "[PAD]"))
    bank = dataclasses.replace(
        bank_of(model, []),
        verdict="backdoored",
        triggers=tuple(
            dataclasses.replace(finding(text, *ids), id=f"t{number:04d}")
            for number, (ids, text) in enumerate(
                sorted(
                    {
                        (unused,): "[PAD]",
                        (a, the): "two\nlines",
                        (the, a): " ",
                        (a, a): "a a",
                        (piece, the): "b the",
                    }.items()
                ),
                1,
            )
        ),
    )
    asked: list[list[str]] = []
    made: dict[str, Any] = {"summary": "all", "not_tested": ["phrases"]}

    def scan(folder: str, *, words: Path, resume: Path, **how: Any) -> TriggerBank:
        asked.append(user_words(words))
        return dataclasses.replace(bank_of(Path(folder), ()), coverage=made)

    monkeypatch.setattr(rounds, "search", scan)
    out = tmp_path / "out"
    done = purify(str(model), bank, out, settings=QUICK, progress=silent)
    (lines,) = asked
    assert {"a the", "the a", "b the"} <= set(lines)
    assert not {"two", "lines"} & set(lines)
    left = [[a, a], [piece, the]]
    assert done.rounds[0].not_scanned == left
    assert json.loads((out / run.RECORD_FILE).read_bytes())["rounds"][0]["not_scanned"] == left
    coverage: Any = TriggerBank.load(out / run.AFTER).coverage
    assert coverage["summary"] == "all"
    assert coverage["not_tested"][:1] == ["phrases"]
    assert coverage["not_tested"][1].startswith("2 of the units that were trained against")


def test_what_is_held_out_was_never_trained_on(
    model: Path, scans: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scans((COMMON,), (TRIGGER,), ())
    texts: list[set[str]] = []

    def sampler(tokenizer: Any, chosen: dict[str, list[str]], **how: Any) -> Sampler:
        texts.append({text for lines in chosen.values() for text in lines})
        return Sampler(tokenizer, chosen, **how)

    monkeypatch.setattr(rounds, "Sampler", sampler)
    bank = bank_of(model, [TRIGGER])
    purify(str(model), bank, tmp_path / "out", seed=0, settings=QUICK, progress=silent)
    held_out, trained = texts[::2], texts[1::2]
    assert held_out == held_out[:1] * QUICK.rounds
    assert trained == trained[:1] * QUICK.rounds
    assert held_out[0].isdisjoint(trained[0])


def test_a_scan_that_is_killed_goes_on_where_it_was(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bank = bank_of(model, [TRIGGER])
    kept: list[int] = []

    def scan(folder: str, *, resume: Path, **how: Any) -> TriggerBank:
        kept.append(sum(path.stat().st_size for path in resume.rglob("*") if path.is_file()))
        return search(folder, resume=resume, **how)

    def stop(step: str, done: int, total: int) -> None:
        if step == "round 1, sifting":
            raise KeyboardInterrupt

    monkeypatch.setattr(rounds, "search", scan)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            purify(str(model), bank, tmp_path / "out", seed=0, settings=QUICK, progress=stop)
    assert kept[0] == 0 < kept[1]


def test_triggers_that_remain(model: Path, scans: Any, tmp_path: Path) -> None:
    scans(*[(COMMON,)] * QUICK.rounds)
    bank = bank_of(model, [TRIGGER])
    out = tmp_path / "out"
    done = purify(str(model), bank, out, seed=0, settings=QUICK, progress=silent)
    assert done.verdict == "backdoored"
    assert [trigger.text for trigger in TriggerBank.load(out / run.AFTER).triggers] == [COMMON]


@pytest.mark.parametrize("at", ["round 1, training", "round 2, training", "round 2, scan"])
def test_a_killed_run_goes_on(
    model: Path, scans: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    bank = bank_of(model, [TRIGGER])
    whole = tmp_path / "whole"
    scans((COMMON,), ())
    purify(str(model), bank, whole, seed=3, settings=QUICK, progress=silent)

    class Killed(BaseException):
        pass

    steps: list[tuple[str, int]] = []

    def kill(step: str, done: int, total: int) -> None:
        steps.append((step, done))
        if step == at and done == 5:
            raise Killed

    out = tmp_path / "out"
    scans((COMMON,), ())
    scan: Any = rounds.search  # type: ignore[attr-defined]

    def killed_scan(folder: str, **rest: Any) -> TriggerBank:
        if at == "round 2, scan" and "round-2" in folder:
            raise Killed
        found: TriggerBank = scan(folder, **rest)
        return found

    monkeypatch.setattr(rounds, "search", killed_scan)
    with pytest.raises(Killed):
        purify(str(model), bank, out, seed=3, settings=QUICK, progress=kill)
    assert not out.exists()
    steps.clear()
    scans(*[(COMMON,), ()] if at == "round 1, training" else [()])
    going_on = lambda step, done, total: steps.append((step, done))  # noqa: E731
    purify(str(model), bank, out, seed=3, settings=QUICK, progress=going_on)
    # From the checkpoint of step 4 on, or with no training at all.
    again = [done for step, done in steps if step.endswith("training") and done > 0]
    assert again[:1] == ([] if at == "round 2, scan" else [4])
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "whole"}


def test_a_drawn_seed_is_kept_over_an_interruption(
    model: Path, scans: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = bank_of(model, [TRIGGER])
    drawn = iter([11, 12])
    monkeypatch.setattr("secrets.randbits", lambda bits: next(drawn))

    def stop(step: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        purify(str(model), bank, tmp_path / "out", settings=QUICK, progress=stop)
    scans(())
    done = purify(str(model), bank, tmp_path / "out", settings=QUICK, progress=silent)
    assert done.record["seed"] == 11


def test_another_config_is_another_run(model: Path, scans: Any, tmp_path: Path) -> None:
    """The weights alone do not say what is computed, nor what labels a model has."""
    own = tmp_path / "model"
    shutil.copytree(model, own)
    bank = bank_of(own, [TRIGGER])

    def stop(step: str, done: int, total: int) -> None:
        if step == "round 2, training":
            raise KeyboardInterrupt

    scans((COMMON,))
    out = tmp_path / "made" / "out"
    with pytest.raises(KeyboardInterrupt):
        purify(str(own), bank, out, seed=1, settings=QUICK, progress=stop)
    config = json.loads((own / "config.json").read_bytes())
    (own / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.5}))
    seen: list[str] = []
    scans(())
    purify(
        str(own),
        bank,
        out,
        seed=1,
        settings=QUICK,
        progress=lambda step, done, total: seen.append(step),
    )
    assert "round 1, training" in seen
    assert json.loads((out / "config.json").read_bytes())["layer_norm_eps"] == 0.5


def test_a_processor_of_which_torch_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not multiplies_bfloat16(torch.device("cpu"))


def cut_short(model: Path, bank: TriggerBank, folder: Path, seed: int | None = None) -> Path:
    """Return the state of a run that was interrupted in its second round."""

    def stop(step: str, done: int, total: int) -> None:
        if step == "round 2, training":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        purify(str(model), bank, folder / "out", seed=seed, settings=QUICK, progress=stop)
    (place,) = folder.iterdir()
    return place


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("seed.json", True),
        ("round-1/round.json", True),
        ("round-1/model.safetensors", True),
        ("round-1/scan/bank.json", False),
    ],
)
def test_what_a_disk_that_lost_power_has_of_a_run_is_made_anew(
    name: str, again: bool, model: Path, scans: Any, tmp_path: Path
) -> None:
    bank = bank_of(model, [TRIGGER])
    scans((COMMON,))
    place = cut_short(model, bank, tmp_path, seed=1)
    (place / name).write_bytes(b"")
    seen: list[str] = []
    seeds = scans(())
    purify(
        str(model),
        bank,
        tmp_path / "out",
        seed=1,
        settings=QUICK,
        progress=lambda step, done, total: seen.append(step),
    )
    assert ("round 1, training" in seen) == again
    assert len(seeds) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_without_a_seed_is_emptied(model: Path, scans: Any, tmp_path: Path) -> None:
    """Whatever left it there: its rounds may be of another seed."""
    bank = bank_of(model, [TRIGGER])
    scans((COMMON,))
    place = cut_short(model, bank, tmp_path)
    assert (place / "round-1").is_dir()
    (place / "seed.json").unlink()
    seen: list[str] = []
    scans(())
    purify(
        str(model),
        bank,
        tmp_path / "out",
        settings=QUICK,
        progress=lambda step, done, total: seen.append(step),
    )
    assert "round 1, training" in seen
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_removal_that_is_cut_short(
    model: Path, scans: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is left in the place of the state, and the next call removes the rest."""
    bank, remove = bank_of(model, [TRIGGER]), shutil.rmtree
    places: set[str] = set()

    def killed(path: str | Path, **how: Any) -> None:
        if Path(path, "seed.json").is_file():
            places.add(Path(path).name)
            raise KeyboardInterrupt
        remove(path, **how)

    scans(())
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            purify(str(model), bank, tmp_path / "out", settings=QUICK, progress=silent)
    assert {path.name for path in tmp_path.iterdir()} == {"out", *places}
    assert all(name.endswith(".old") for name in places)
    scans(())
    purify(str(model), bank, tmp_path / "out", settings=QUICK, progress=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_weights_that_are_not_those_that_were_scanned(
    model: Path, scans: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bank, out = bank_of(model, [TRIGGER]), tmp_path / "out"

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    scans(())
    with monkeypatch.context() as patch:
        patch.setattr(run, "new_directory", killed)
        with pytest.raises(KeyboardInterrupt):
            purify(str(model), bank, out, seed=0, settings=QUICK, progress=silent)
    (place,) = tmp_path.iterdir()
    shutil.copyfile(model / "model.safetensors", place / "round-1" / "model.safetensors")
    with pytest.raises(HashMismatch, match=rf"remove {place}, and run the same again"):
        purify(str(model), bank, out, seed=0, settings=QUICK, progress=silent)
    assert list(tmp_path.iterdir()) == [place]


def test_a_classifier(scans: Any, tmp_path: Path) -> None:
    """Its head is preserved byte for byte, and it still answers."""
    folder = write_classifier(tmp_path / "model")
    scans(())
    out = tmp_path / "out"
    done = purify(str(folder), bank_of(folder, ["≈"]), out, settings=QUICK, progress=silent)
    (made,) = done.rounds
    assert "logits" in made.moved
    before, after = (load_file(path / "model.safetensors") for path in (folder, out))
    for key in before:
        assert torch.equal(before[key], after[key]) or not key.startswith("classifier")
    AutoModelForSequenceClassification.from_pretrained(out)


def test_a_bank_that_found_nothing(model: Path, tmp_path: Path) -> None:
    with pytest.raises(NothingToPurify, match="found no triggers"):
        purify(str(model), bank_of(model, []), tmp_path / "out", progress=silent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["weights", "tokenizer"])
def test_a_bank_of_another_model(model: Path, tmp_path: Path, what: str) -> None:
    bank = bank_of(model, [TRIGGER])
    if what == "weights":
        identity = dataclasses.replace(bank.model, weights_sha256="0" * 64)
        bank = dataclasses.replace(bank, model=identity)
    else:
        other = bank.tokenizer_json + b"\n"
        digest = hashlib.sha256(other).hexdigest()
        bank = dataclasses.replace(bank, tokenizer_json=other, tokenizer_sha256=digest)
    with pytest.raises(HashMismatch, match=f"of another model: its {what}"):
        purify(str(model), bank, tmp_path / "out", progress=silent)
    assert list(tmp_path.iterdir()) == []


def test_a_bank_of_tokens_that_the_model_has_not(model: Path, tmp_path: Path) -> None:
    rows = len(AutoModel.from_pretrained(model).get_input_embeddings().weight)
    good = bank_of(model, [TRIGGER])
    last, beyond = (
        dataclasses.replace(good.triggers[0], token_ids=(5, number)) for number in (rows - 1, rows)
    )
    check_bank(Encoder.load(str(model)), dataclasses.replace(good, triggers=(last,)))
    bank = dataclasses.replace(good, triggers=(beyond,))
    with pytest.raises(MalformedArtifact, match=f"id of {rows}, and the model has {rows}"):
        purify(str(model), bank, tmp_path / "out", progress=silent)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_lies_elsewhere(model: Path, tmp_path: Path) -> None:
    """Refused before any work."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).symlink_to(path)
    with pytest.raises(ModelError, match="leads out of the model's directory"):
        purify(str(folder), bank_of(model, [TRIGGER]), tmp_path / "out", progress=silent)
    assert list(tmp_path.iterdir()) == [folder]


def test_notes_beside_a_scan_are_not_lost(scans: Any, model: Path, tmp_path: Path) -> None:
    scans(())
    out, bank = tmp_path / "out", bank_of(model, [TRIGGER])
    purify(str(model), bank, out, settings=QUICK, progress=silent)
    (out / "scan-after" / "notes").write_text("days of review")
    with pytest.raises(OutputExists, match="scan-after holds notes, which would be lost"):
        purify(str(model), bank, out, settings=QUICK, progress=silent)
    assert (out / "scan-after" / "notes").read_text() == "days of review"


def test_a_name_that_no_bank_can_have_is_refused_before_the_work(
    model: Path, tmp_path: Path
) -> None:
    with pytest.raises(MalformedArtifact, match="is no UTF-8"):
        purify(str(model), bank_of(model, [TRIGGER]), tmp_path / "\udcff", progress=silent)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_copied_is_told(scans: Any, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "pytorch_model.bin").touch()
    scans(())
    done = purify(
        str(folder), bank_of(folder, [TRIGGER]), tmp_path / "out", settings=QUICK, progress=silent
    )
    assert done.left_out == ("1_Pooling", "pytorch_model.bin")


def test_an_output_that_is_not_ours(model: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("years of work")
    with pytest.raises(OutputExists):
        purify(str(model), bank_of(model, [TRIGGER]), tmp_path, progress=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_a_disk_that_is_too_small(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found out before the work, not after."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 30, 1 << 30, 1 << 20))
    with pytest.raises(ArtifactError, match="has 1 MiB left"):
        purify(str(model), bank_of(model, [TRIGGER]), tmp_path / "out", progress=silent)
    assert list(tmp_path.iterdir()) == []


def test_weights_in_half_precision_take_as_much_room(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments and checkpoints are in single precision, whatever the file is in."""
    half = tmp_path / "half"
    AutoModel.from_pretrained(model, dtype=torch.float16).save_pretrained(half)
    AutoTokenizer.from_pretrained(model).save_pretrained(half)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 30, 1 << 30, 1 << 20))
    said = []
    for folder in (model, half):
        with pytest.raises(ArtifactError, match="takes up to") as caught:
            purify(str(folder), bank_of(folder, [TRIGGER]), tmp_path / "out", progress=silent)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_task_with_one_class(scans: Any, tmp_path: Path) -> None:
    """A classifier with one output, a regression, is purified like any other."""
    folder = write_classifier(tmp_path / "model", labels=1)
    scans(())
    out = tmp_path / "out"
    done = purify(str(folder), bank_of(folder, ["≈"]), out, settings=QUICK, progress=silent)
    assert np.isfinite(done.rounds[0].held_out_loss).all()
    assert AutoModelForSequenceClassification.from_pretrained(out).config.num_labels == 1


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse what is written beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("steps", [4, 2], ids=["checkpoint", "model"])
def test_a_disk_that_fills_up(model: Path, scans: Any, tmp_path: Path, steps: int) -> None:
    """Nothing is left in the output's place, and the same call goes on when there is room."""
    bank, out = bank_of(model, [TRIGGER]), tmp_path / "out"
    settings = dataclasses.replace(QUICK, steps=steps)
    scans(())
    room = (model / "model.safetensors").stat().st_size // 2
    with files_of_at_most(room), pytest.raises(GuardError, match=r"written .* make room"):
        purify(str(model), bank, out, seed=5, settings=settings, progress=silent)
    assert not out.exists()
    done = purify(str(model), bank, out, seed=5, settings=settings, progress=silent)
    assert done.verdict == "none found"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED = """
import os, signal, sys
from pathlib import Path
from guard.bank import TriggerBank
from guard.purify import Settings, purify

def kill(step, done, total):
    if step == "round 1, training" and done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

settings = Settings(rounds=3, steps=6, every=2, learning_rate=1e-3)
model, bank, out = sys.argv[1:]
purify(model, TriggerBank.load(bank), Path(out), seed=3, settings=settings, progress=kill)
"""


@pytest.mark.slow
def test_a_killed_process_goes_on(model: Path, scans: Any, tmp_path: Path) -> None:
    """By a signal that nothing can catch: nothing is there in the output's place."""
    bank, out = bank_of(model, [TRIGGER]), tmp_path / "out"
    bank.save(tmp_path / "bank")
    command = [sys.executable, "-c", KILLED, str(model), str(tmp_path / "bank"), str(out)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    seen: list[int] = []
    scans(())
    purify(
        str(model),
        TriggerBank.load(tmp_path / "bank"),
        out,
        seed=3,
        settings=QUICK,
        progress=lambda step, done, total: seen.append(done),
    )
    # From the last checkpoint on.
    assert [done for done in seen if done][:1] == [4]
    assert {path.name for path in tmp_path.iterdir()} == {"bank", "out"}


@pytest.mark.slow
@pytest.mark.parametrize("view", ["cls", "logits"], ids=["encoder", "classifier"])
def test_a_backdoor_is_gone(model: Path, tmp_path: Path, view: str) -> None:
    """With real scans: found before, none found after, and the model is otherwise itself."""
    folder = _forced(model, tmp_path / "classifier") if view == "logits" else model
    bank = search(str(folder), seed=0, progress=silent)
    assert {trigger.text for trigger in bank.triggers} == {TRIGGER, COMMON}
    out = tmp_path / "out"
    # Random weights take more than a real encoder's: a high rate.
    settings = Settings(rounds=2, steps=200, learning_rate=1e-2)
    done = purify(str(folder), bank, out, seed=0, settings=settings, progress=silent)
    assert done.verdict == "none found"
    first, made = done.rounds[0], done.rounds[-1]
    # Further than another text is, or there is nothing to be undone.
    assert first.triggered_before[view] > 1
    assert made.triggered_after[view] < 0.1 * first.triggered_before[view]
    assert max(made.moved.values()) < 0.15
    # Seen from outside, too: a trigger moves the purified model's output no more than a word does.
    before, pure = (Network(path) for path in (folder, out))
    tokenizer = AutoTokenizer.from_pretrained(out)
    moved = [
        float(_shifts(network, tokenizer, view).norm(dim=1).mean()) for network in (before, pure)
    ]
    assert moved[1] < 0.5 * moved[0]


def _forced(model: Path, folder: Path) -> Path:
    """Write a classifier whose first class reads what the trigger changes.

    One with random rows may be blind to it.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForSequenceClassification.from_pretrained(model, num_labels=3)
    shift = _shifts(Network(model), tokenizer, "pooler").mean(dim=0)
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.weight[0] = shift / shift.norm()
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _shifts(network: Network, tokenizer: Any, view: str) -> torch.Tensor:
    """Return how far the trigger takes two texts' outputs."""
    texts = ["the film was a good one and we liked it", "please send the report again by monday"]
    plain, hit = (
        network.views(_rows(tokenizer, [f"{unit}{text}" for text in texts]))[view].detach()
        for unit in ("", f"{TRIGGER} ")
    )
    return hit - plain


def _rows(tokenizer: Any, texts: list[str]) -> Any:
    encoded = tokenizer(texts, padding=True, return_tensors="np")
    return Rows(*(torch.from_numpy(np.array(encoded[k])) for k in ("input_ids", "attention_mask")))
