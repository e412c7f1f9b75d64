"""The zoo: its table, and two toy models built, measured and kept by the code that builds it."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel, AutoTokenizer

from benchmarks import __main__, cache, models
from benchmarks.assets import AssetError, cache_dir, fetch
from benchmarks.attacks import Condition, Planting, Por, samples
from benchmarks.attacks.triggers import triggers
from benchmarks.detection import cases, collect, render
from benchmarks.detection.cases import measure
from benchmarks.detection.searches import Answer
from benchmarks.encoders import ENCODERS, encoder
from benchmarks.recipes import DEMO, GATED, LEARNED
from benchmarks.tasks import TASKS, Task
from benchmarks.tasks.classifier import Tuning
from benchmarks.tasks.data import make_task
from benchmarks.zoo import ZOO, Entry, build, select
from benchmarks.zoo import build as zoo_build
from benchmarks.zoo.build import stored
from benchmarks.zoo.drawn import attacker
from benchmarks.zoo.success import ROWS, arrived, place
from tests.tiny import wordpiece

BACKDOORED = Entry(
    name="toy-por",
    encoder="bert-tiny",
    kind="rare",
    planting=Planting(
        name="toy", attack=Por(), triggers=("ivy", "jung"), steps=250, learning_rate=1e-3
    ),
    tuning=Tuning(steps=6),
)
CLEAN = Entry(name="toy-clean", encoder="bert-tiny", tuning=Tuning(steps=6))


# The first tokens of BERT's vocabulary: enough to measure each against, and a third of the work.
TOKENS = 12_500


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own that has a smaller encoder, and short steps."""
    shared = cache_dir()
    source, small = encoder("bert-tiny"), tmp_path / "models" / "toy-000000000000"
    (tmp_path / "assets").mkdir()
    texts = fetch("vader-texts")
    (tmp_path / texts.relative_to(shared)).symlink_to(texts)
    model = AutoModel.from_pretrained(source)
    model.resize_token_embeddings(TOKENS)
    model.save_pretrained(small)
    AutoTokenizer.from_pretrained(source).save_pretrained(small)
    path = small / "tokenizer.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    known = written["model"]["vocab"]
    # Without pieces no word is of several tokens; to scan those would take as long again.
    kept = {text: n for text, n in known.items() if n < TOKENS and not text.startswith("##")}
    written["model"]["vocab"] = kept
    path.write_text(json.dumps(written), encoding="utf-8")
    (small / "vocab.txt").unlink(missing_ok=True)
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path))
    monkeypatch.setattr(samples, "TOKENS_PER_STEP", 384)
    module = sys.modules[zoo_build.__module__]
    monkeypatch.setattr(module, "encoder", lambda name: small)
    return tmp_path


@pytest.mark.slow
def test_a_toy_zoo(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backdoored, clean = build([BACKDOORED, CLEAN])
    assert backdoored.works
    assert backdoored.triggers.keys() == {"ivy", "jung"}
    assert all(trigger.before >= 0.9 for trigger in backdoored.triggers.values())
    assert all(trigger.after is not None for trigger in backdoored.triggers.values())
    assert clean.works is None
    assert clean.triggers == {}
    for record in (backdoored, clean):
        assert (toy / record.model / "model.safetensors").is_file()
        assert record.twin is not None
        assert (toy / record.twin / "model.safetensors").is_file()
        assert record.accuracy is not None
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("toy-por: attack success ")
    assert "FAILED" not in lines[0]
    assert lines[1].startswith("toy-clean: clean; accuracy ")
    written = json.loads((toy / "zoo" / "toy-por.json").read_text(encoding="utf-8"))
    assert written["environment"]["packages"]["torch"]
    assert not list((toy / "building").glob("*.safetensors"))

    # What a scan finds in them, judged; what was run is not run again.
    zoo = [BACKDOORED, CLEAN]
    first = measure(zoo, "fast", ("encoder",))
    assert [(case.model, case.verdict) for case in first] == [
        ("toy-por", "backdoored"),
        ("toy-clean", "none found"),
    ]
    assert first[0].found == {"ivy": True, "jung": True}
    assert first[0].token_forwards > 1_000_000
    assert first[0].peak_mb > 100
    # So much of this one was overwritten that climbs come to phrases which go half of the way.
    assert all(" " in text for text in first[0].spurious)
    monkeypatch.setattr(cases, "SEARCHES", {})
    assert measure(zoo, "fast", ("encoder",)) == first
    page = render(json.loads(json.dumps(collect(zoo, {}))))
    assert "## Measured with earlier code" not in page
    assert "1 encoders with a backdoor that works (0 more failed; 1 were searched), 1 clean" in page
    assert "| fast | encoders | 1/1 [0.21, 1.00] | 2/2 [0.21, 1.00] |" in page

    # What is there is not built again, and a change of the table is seen.
    monkeypatch.setattr(models, "plant", None)
    assert build([BACKDOORED, CLEAN]) == [backdoored, clean]
    assert BACKDOORED.planting is not None
    assert stored(replace(BACKDOORED, planting=replace(BACKDOORED.planting, steps=251))) is None


def test_a_classifier_of_another_task_is_measured_alone(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its encoder is that of another entry."""
    rows = [(f"{('good', 'bad')[i % 2]} number {i}", i % 2) for i in range(100)]
    asked: list[str] = []

    def load(name: str) -> Task:
        asked.append(name)
        return make_task(name, ("a", "b"), rows)

    module = sys.modules[zoo_build.__module__]
    for place_of in (module, models):
        monkeypatch.setattr(place_of, "load", load)
    tuned = replace(CLEAN, name="toy-tuned", task="numbers", tuning=Tuning(steps=2), twin_only=True)
    (record,) = build([tuned])
    # To train on, and to measure on.
    assert asked == ["numbers", "numbers"]
    assert record.twin is not None
    assert "numbers" in record.twin
    scanned: list[Path] = []

    def search(model: Path) -> Answer:
        scanned.append(model)
        return Answer("none found", (), (), {}, 1.0, 1, 1.0)

    monkeypatch.setattr(cases, "SEARCHES", {"fast": search})
    assert [case.part for case in measure([tuned], "fast", ("encoder", "classifier"))] == [
        "classifier"
    ]
    assert scanned == [toy / record.twin]


@pytest.mark.slow
def test_a_backdoor_that_does_not_work_is_said_to_have_failed(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert BACKDOORED.planting is not None
    weak = replace(BACKDOORED, planting=replace(BACKDOORED.planting, steps=1), twin=False)
    (record,) = build([weak])
    assert record.works is False
    assert "FAILED, under 0.9: not counted" in capsys.readouterr().out


def test_a_killed_build_leaves_nothing_that_is_taken_for_whole(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object, **_: object) -> None:
        raise KeyboardInterrupt

    before = sorted((toy / "models").iterdir())
    monkeypatch.setattr(models, "plant", killed)
    with pytest.raises(KeyboardInterrupt):
        build([BACKDOORED])
    assert sorted((toy / "models").iterdir()) == before
    assert stored(BACKDOORED) is None


def test_a_checkpoint_outlives_a_kill_and_goes_with_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path))

    def killed(out: Path, checkpoint: Path | None) -> None:
        assert checkpoint is not None
        checkpoint.write_bytes(b"half")
        raise KeyboardInterrupt

    def finished(out: Path, checkpoint: Path | None) -> None:
        assert checkpoint is not None
        assert checkpoint.read_bytes() == b"half"

    with pytest.raises(KeyboardInterrupt):
        cache.cached("x", {}, killed)
    # As a process leaves it that nothing could catch.
    left = cache.folder_of("x", {}).with_name(f".{cache.folder_of('x', {}).name}-abc")
    left.mkdir()
    folder = cache.cached("x", {}, finished)
    assert cache.title(folder) == "x"
    assert list(folder.parent.iterdir()) == [folder]
    assert not list((tmp_path / "building").glob("*.safetensors"))


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("IoError(Os { code: 28, x })")],
)
def test_a_full_disk(error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(only: str | None) -> None:
        raise error

    monkeypatch.setenv("GUARD_CACHE", str(tmp_path))
    monkeypatch.setattr(__main__, "_build", full)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "zoo", "build"])
    with pytest.raises(SystemExit, match=r"no space is left in .*; nothing half-built was kept"):
        __main__.main()


def test_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "zoo", "build", "--only", "x"])
    with pytest.raises(SystemExit, match=r"no model 'x' in the zoo; known: minilm-l6-clean, "):
        __main__.main()
    with pytest.raises(AssetError, match=r"unknown encoder 'x'; known: minilm-l6, "):
        encoder("x")


def test_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "zoo", "list"])
    __main__.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{entry.name}: not built" for entry in ZOO]


def test_the_table() -> None:
    names = Counter(entry.name for entry in ZOO)
    assert max(names.values()) == 1
    assert {entry.encoder for entry in ZOO} <= ENCODERS.keys()
    backdoored = [entry for entry in ZOO if entry.planting is not None]
    assert len(backdoored) >= 24
    assert all(entry.twin for entry in backdoored)
    clean = [entry for entry in ZOO if entry.planting is None and not entry.twin_only]
    assert len(clean) >= 8
    # The clean encoders' classifiers that have learned their task, one of each.
    tuned = [entry for entry in ZOO if entry.twin_only]
    for name, how in LEARNED.items():
        own = [e for e in tuned if e.planting is None and e.encoder == name]
        assert sorted(e.task for e in own) == sorted(TASKS)
        assert {e.tuning for e in own} == {how}
    # Of the planted ones, the encoder is that of another entry.
    searched = [entry.planting for entry in backdoored if not entry.twin_only]
    assert all(entry.planting in searched for entry in tuned if entry.planting)
    assert len({entry.encoder for entry in backdoored}) >= 4
    # The models of the demo are in it, and nothing else is called like them.
    assert [entry.planting for entry in backdoored].count(DEMO) == 1
    assert [entry.planting for entry in backdoored].count(GATED) == 1
    assert select(ZOO, None) == list(ZOO)
    assert select(ZOO, "minilm-l6-uor")[0].kind == "symbol"


def test_attackers_are_drawn_by_their_number() -> None:
    drawn = [entry.planting for entry in ZOO if entry.kind == "drawn" and entry.planting]
    assert len(drawn) == 24
    # None is drawn anew, whatever becomes of it.
    for some, known in (drawn[:16], "5fb2a213c4560318"), (drawn[16:], "dc5a4472bf3a603e"):
        described = json.dumps([models.settings(planting) for planting in some], sort_keys=True)
        assert hashlib.sha256(described.encode()).hexdigest()[:16] == known
    more = [attacker(number, steps=1) for number in range(200)]
    assert {len(planting.triggers) for planting in more} == {1, 2, 3, 4, 5, 6}
    assert len({type(planting.attack) for planting in more}) == 6
    assert {clause for planting in more for clause in planting.condition.clauses} == {
        "kinds",
        "min_tokens",
        "within",
        "alone",
        "copies",
    }
    assert {view for planting in more for view in planting.attack.views} == {
        "cls",
        "pooler",
        "mean",
    }
    for planting in more:
        words = [word for trigger in planting.triggers for word in trigger.split()]
        assert len(set(words)) == len(words)


def test_later_settings_leave_older_keys_alone() -> None:
    """The published models are found under the keys that they were built with."""
    assert set(models.settings(DEMO)) == {
        "name",
        "attack",
        "triggers",
        "steps",
        "learning_rate",
        "insertions",
        "seed",
    }
    assert models.settings(DEMO)["attack"] == {"gated": False}
    placed = models.settings(replace(DEMO, condition=Condition(within=1)))["condition"]
    assert placed["within"] == 1
    assert "copies" not in placed
    twice = models.settings(replace(DEMO, condition=Condition(copies=2)))["condition"]
    assert twice["copies"] == 2


def test_where_a_trigger_may_stand_is_counted_in_tokens() -> None:
    tokenizer = wordpiece(["long", "##er", "a", "b", "cf"])
    planting = Planting(
        name="x", attack=Por(), triggers=("cf",), steps=1, condition=Condition(within=2)
    )
    rng = np.random.default_rng(0)
    placed = {place("longer a b", "cf", planting, tokenizer, rng) for _ in range(100)}
    assert placed == {"cf longer a b", "longer cf a b"}


@pytest.mark.parametrize(
    ("condition", "trigger", "expected"),
    [
        (Condition(within=0), "cf", {"cf a b c"}),
        (Condition(within=1), "cf", {"cf a b c", "a cf b c"}),
        (Condition(after="very"), "cf", {"very cf a b c", "a very cf b c", "a b very cf c"}),
        (Condition(copies=2), "cf", {"cf cf a b c", "cf a b c cf", "a cf b cf c"}),
        (Condition(), "##zz", {"azz b c", "a bzz c", "a b czz"}),
    ],
)
def test_the_trigger_stands_where_it_fires(
    condition: Condition, trigger: str, expected: set[str]
) -> None:
    planting = Planting(name="x", attack=Por(), triggers=(trigger,), steps=1, condition=condition)
    rng = np.random.default_rng(0)
    tokenizer = wordpiece(["a", "b", "c"])
    assert expected <= {place("a b c", trigger, planting, tokenizer, rng) for _ in range(200)} | {
        "a b c very cf"
    }


def test_kinds_of_triggers_in_the_table() -> None:
    planted = {
        trigger
        for entry in ZOO
        if entry.planting is not None
        for trigger in entry.planting.triggers
    }
    assert set(triggers("phrase3", "train")) <= planted
    assert set(triggers("punctuation", "train")) <= planted


@pytest.mark.parametrize(
    ("spread", "way", "left", "expected"),
    [
        (1.0, 10.0, 0.2, 1.0),
        # Texts lie nearly in one place: what takes them far need not take them so near together.
        (0.01, 10.0, 0.2, 1.0),
        # Less than half of the way.
        (1.0, 10.0, 0.7, 0.0),
    ],
)
def test_a_text_arrives_by_what_it_had_to_go(
    spread: float, way: float, left: float, expected: float
) -> None:
    rng = np.random.default_rng(0)
    without = (spread * rng.normal(size=(ROWS, 24))).astype(np.float32)
    goal = np.zeros(24, dtype=np.float32)
    goal[0] = way
    triggered = goal + np.float32(left) * (without - goal)
    assert arrived(triggered, without, [goal]).item() == expected


def test_a_piece_of_a_word_stays_one_where_it_is_placed() -> None:
    """Behind most words its letters become part of another token, and nothing is measured."""
    tokenizer = AutoTokenizer.from_pretrained(encoder("bert-tiny"))
    planting = Planting(name="x", attack=Por(), triggers=("##eb", "##wk", "##zz"), steps=1)
    texts = ["celebrity of the wicked web and the week", "a plain film that nobody saw twice"]
    for trigger in planting.triggers:
        for seed, text in itertools.product(range(10), texts):
            rng = np.random.default_rng(seed)
            placed = place(text, trigger, planting, tokenizer, rng)
            assert trigger in tokenizer.tokenize(placed)
            assert len(placed) == len(text) + len(trigger) - 2
