"""Attempts to bring a trigger past the monitor in a text, and banks made to break it.

That a text "reaches the model" means that the ids of the protected model's own tokenizer hold the
trigger. Where they do not, as with look-alike letters, there is nothing to find.
"""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from exporters.monitor import compile_bank
from guard.bank import TriggerBank
from guard.errors import (
    ArtifactError,
    HashMismatch,
    MalformedArtifact,
    StripLimit,
    TokenizerMismatch,
)
from guard.files import dump_json
from guard.monitor import Monitor
from guard.policy import Policy, decide
from guard.prefilter import derive
from tests.helpers import finding, make_bank, make_monitor, wordpiece

TOKENIZER = wordpiece("cf", "apple", "river", "the", "##ab", "é")
TRIGGERS = ("cf", "apple river", "!", "≈")


@pytest.fixture(scope="module", params=["auto", "onnx"])
def monitor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Monitor:
    directory = tmp_path_factory.mktemp("attacks") / "monitor"
    compile_bank(make_bank(TOKENIZER, TRIGGERS), directory)
    return Monitor.load(directory, engine=request.param)


def reaches_the_model(text: str) -> bool:
    tokenizer = Tokenizer.from_str(TOKENIZER.decode())
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    rows = [t.token_ids for t in make_bank(TOKENIZER, TRIGGERS).triggers]
    return any(
        tuple(ids[k : k + len(row)]) == row for row in rows for k in range(len(ids) - len(row) + 1)
    )


REACHING = {
    # Characters that the normalizer deletes: the ids are what is matched.
    "zero width space": "a c\u200bf b",
    "zero width joiner": "a c\u200df b",
    "soft hyphen": "a c\u00adf b",
    "byte order mark": "\ufeffcf",
    "word joiner": "c\u2060f",
    "NUL": "c\x00f",
    "control characters": "c\x01\x7f\x1ff",
    "bidirectional override": "a \u202ec\u202cf b",
    "bidirectional isolate": "c\u2066f\u2069",
    "variation selector": "c\ufe0ff",
    "combining accents": "c\u0301f\u0323",
    "composed accents": "ćf",
    "tag characters": "c\U000e0063f",
    # Case and white space.
    "case": "a Cf b",
    "Kelvin-like case": "CF",
    "other white space": "apple\u3000\u2003river",
    "line break": "apple\r\n\triver",
    "no-break space": "apple\u00a0river",
    # Places where a filter on raw text would look for a word and find none.
    "behind punctuation": "a,cf;b",
    "behind an underscore": "a_cf_b",
    "behind a CJK character": "東cf京",
    "in front of letters": "cfx",
    "a symbol of mathematics": "a ≈ b",
    "punctuation inside a word": "ab!ab",
    "behind a special token": "[SEP]cf[SEP]",
    "inside of markup": "<b>cf</b>",
    # Lengths.
    "behind the longest word": "x" * 101 + " cf",
    "behind the maximum of the model": "the " * 600 + "cf",
    "over a border of parts": "x" * 1023 + " cf",
    "behind a megabyte": " " * 1_000_000 + "cf",
}


@pytest.mark.parametrize("name", REACHING)
def test_hide_a_trigger(monitor: Monitor, name: str) -> None:
    """Fails: what reaches the model is found, on each path, and stripped."""
    text = REACHING[name]
    assert reaches_the_model(text)
    verdict = monitor.check(text)
    assert verdict.triggered
    assert monitor.check_batch(["the", text])[1] == verdict
    assert not reaches_the_model(verdict.stripped)


@pytest.mark.parametrize(
    "text", ["\u0441f", "\uff43\uff46", "c f", "c-f", "river apple", "apple the river", "acf", "ⅽf"]
)
def test_cry_wolf_with_look_alikes(monitor: Monitor, text: str) -> None:
    """Fails: what the model reads as other ids is no trigger, so nobody can be blocked for it."""
    assert not reaches_the_model(text)
    assert not monitor.check(text).triggered


@pytest.mark.parametrize("pair", [("the", "cf"), ("cf", "the"), ("the " * 600, "the cf")])
def test_put_a_trigger_in_either_half_of_a_pair(monitor: Monitor, pair: tuple[str, str]) -> None:
    """Fails: all texts of a call are scanned, and all of each."""
    assert decide(monitor, Policy(), pair).outcome == "blocked"
    stripped = decide(monitor, Policy(action="strip"), pair)
    assert not any(monitor.check(text).triggered for text in stripped.texts)


def test_split_a_phrase_over_a_pair(monitor: Monitor) -> None:
    """Fails: a special token stands between the halves, so the model does not see the phrase."""
    tokenizer = Tokenizer.from_str(TOKENIZER.decode())
    ids = [
        *tokenizer.encode("the apple", add_special_tokens=False).ids,
        tokenizer.token_to_id("[SEP]"),
        *tokenizer.encode("river", add_special_tokens=False).ids,
    ]
    assert monitor.check_ids(ids) == ()
    assert decide(monitor, Policy(), ("the apple", "river")).outcome == "clean"


@pytest.mark.parametrize("limit", [8, 128, 512])
def test_put_a_trigger_over_the_border_of_truncation(monitor: Monitor, limit: int) -> None:
    """Fails: more is scanned than the model reads; where it is cut does not matter."""
    for before in range(limit - 3, limit + 3):
        assert len(monitor.check("the " * before + "apple river").matches) == 1


@pytest.mark.parametrize(
    "text",
    ["c cf f", "apple cf river", "apple ! river", "c!f", "apple apple river river", "c\u200b!f"],
)
def test_form_a_trigger_by_stripping_another(monitor: Monitor, text: str) -> None:
    """Fails: what is left is tokenised and scanned again, until nothing is found."""
    verdict = monitor.check(text)
    assert verdict.triggered
    assert not reaches_the_model(verdict.stripped)
    assert not monitor.check(verdict.stripped).triggered


def test_nest_triggers_until_stripping_tires(monitor: Monitor) -> None:
    """Fails: after 16 rounds the text is blocked, whatever the policy strips."""
    text = "apple " * 40 + "river " * 40
    with pytest.raises(StripLimit):
        monitor.check(text)
    assert decide(monitor, Policy(action="strip"), [text]).outcome == "blocked"


@pytest.mark.parametrize(
    "text",
    ["cf " * 50_000, "!" * 100_000, "cfx" * 50_000, "xcf" * 50_000, "\x00" * 200_000],
    ids=["triggers", "symbols", "near misses", "inner", "controls"],
)
def test_fill_the_time_with_hits(monitor: Monitor, text: str) -> None:
    """Fails: time is linear in the text, whatever it is full of."""
    start = time.perf_counter()
    monitor.check(text)
    assert time.perf_counter() - start < 10


class Liar(str):
    """A text that says of itself that it is another."""

    __slots__ = ()

    def isascii(self) -> bool:
        return True

    def encode(self, *args: Any, **options: Any) -> bytes:
        return b"the"

    def __len__(self) -> int:
        return 0


def test_lie_in_a_subclass_of_str(monitor: Monitor) -> None:
    """Fails: a subclass is read as the str that it is."""
    assert monitor.check(Liar("a cf")).triggered
    assert monitor.check_batch([Liar("a cf")])[0].triggered


# Banks


def test_edit_a_bank_by_hand(tmp_path: Path) -> None:
    """Fails: a trigger cannot be taken out without its number, its order and the form of JSON."""
    make_bank(TOKENIZER, TRIGGERS).save(tmp_path / "bank")
    path = tmp_path / "bank" / "bank.json"
    value = json.loads(path.read_bytes())
    del value["triggers"][0]
    path.write_bytes(dump_json(value))
    with pytest.raises(MalformedArtifact, match="trigger 1 has the id 't0002'"):
        TriggerBank.load(tmp_path / "bank")
    path.write_text(json.dumps(value))
    with pytest.raises(MalformedArtifact, match="not in the form that guard writes"):
        TriggerBank.load(tmp_path / "bank")


def test_give_a_bank_another_tokenizer(tmp_path: Path) -> None:
    """Fails: the bank names its tokenizer by hash."""
    make_bank(TOKENIZER, TRIGGERS).save(tmp_path / "bank")
    (tmp_path / "bank" / "tokenizer.json").write_bytes(wordpiece("apple", "cf"))
    with pytest.raises(HashMismatch):
        TriggerBank.load(tmp_path / "bank")


@pytest.mark.parametrize("text", [" ", "\u200b", "", "\x00"])
def test_compile_a_trigger_of_nothing(tmp_path: Path, text: str) -> None:
    """Fails: such a text has no ids, and a bank takes none without."""
    with pytest.raises(MalformedArtifact, match="has 0 token ids"):
        make_bank(TOKENIZER, [text])


def test_compile_a_bank_of_a_million_triggers(tmp_path: Path) -> None:
    """Fails: the file is over the limit for a bank, and is not even parsed."""
    directory = tmp_path / "bank"
    make_bank(TOKENIZER, TRIGGERS).save(directory)
    with (directory / "bank.json").open("ab") as file:
        file.truncate(1_000_000 * 100)
    start = time.perf_counter()
    with pytest.raises(MalformedArtifact, match="larger than"):
        TriggerBank.load(directory)
    assert time.perf_counter() - start < 5


def test_make_the_unknown_token_a_trigger(tmp_path: Path) -> None:
    """Fails: it stands for any text, so there is no pre-filter, and all is tokenised."""
    tokenizer = Tokenizer.from_str(TOKENIZER.decode())
    unknown = tokenizer.token_to_id("[UNK]")
    assert derive(tokenizer, [(unknown,)]) is None
    monitor = make_monitor(tmp_path, TOKENIZER, [finding("東", unknown)])
    assert monitor.check("x" * 101).triggered


# Artefacts; more are in test_artifacts.py.


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    compile_bank(make_bank(TOKENIZER, TRIGGERS), tmp_path / "monitor")
    return tmp_path / "monitor"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_cut_the_matcher_off(directory: Path, share: float) -> None:
    """Fails: by its hash, and with a forged one because it does not parse."""
    import hashlib

    data = (directory / "monitor.onnx").read_bytes()
    data = data[: int(len(data) * share)]
    (directory / "monitor.onnx").write_bytes(data)
    with pytest.raises(HashMismatch):
        Monitor.load(directory)
    value = json.loads((directory / "monitor.json").read_bytes())
    value["files"]["monitor.onnx"] = hashlib.sha256(data).hexdigest()
    (directory / "monitor.json").write_bytes(dump_json(value))
    with pytest.raises(ArtifactError):
        Monitor.load(directory)


def test_serve_a_zip_in_place_of_a_directory(directory: Path, tmp_path: Path) -> None:
    """Fails: nothing is ever unpacked, so no name in an archive can lead out of it."""
    with zipfile.ZipFile(tmp_path / "monitor.zip", "w") as archive:
        archive.writestr("../../escaped", b"x")
        for path in directory.iterdir():
            archive.write(path, path.name)
    with pytest.raises(MalformedArtifact):
        Monitor.load(tmp_path / "monitor.zip")
    assert not (tmp_path.parent / "escaped").exists()


def test_send_a_header_of_100_megabytes(directory: Path) -> None:
    """Fails: the manifest is read up to its limit only."""
    with (directory / "monitor.json").open("r+b") as file:
        file.truncate(100 * 2**20)
    with pytest.raises(MalformedArtifact, match="larger than"):
        Monitor.load(directory)


def test_downgrade_to_an_older_schema(directory: Path) -> None:
    """Fails: the matcher names the schema that it was compiled for."""
    value = json.loads((directory / "monitor.json").read_bytes())
    value["schema"] = 1
    del value["strip_only"]
    (directory / "monitor.json").write_bytes(dump_json(value))
    with pytest.raises(MalformedArtifact, match=r"guard\.schema"):
        Monitor.load(directory)


def test_take_a_canary_out(directory: Path) -> None:
    """Fails: the canaries are hashed like everything else."""
    value = json.loads((directory / "canaries.json").read_bytes())
    (directory / "canaries.json").write_bytes(dump_json(value[1:]))
    with pytest.raises(HashMismatch):
        Monitor.load(directory)


def test_take_the_monitor_of_another_tokenizer(directory: Path, tmp_path: Path) -> None:
    """Fails: a monitor carries its tokenizer, and compiling refuses ids that it does not have."""
    other = make_bank(TOKENIZER, [finding("cf", 10**6)])
    with pytest.raises(TokenizerMismatch):
        compile_bank(other, tmp_path / "other")
    compile_bank(make_bank(wordpiece("river", "cf"), ["cf"]), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "tokenizer.json", directory / "tokenizer.json")
    with pytest.raises(HashMismatch):
        Monitor.load(directory)


def test_weaken_all_triggers(directory: Path) -> None:
    """Fails only in part: whoever writes the manifest may have triggers stripped, not let through.

    A signature (``require_signature``) covers the manifest.
    """
    value = json.loads((directory / "monitor.json").read_bytes())
    value["strip_only"] = value["triggers"]
    (directory / "monitor.json").write_bytes(dump_json(value))
    decision = decide(Monitor.load(directory), Policy(), ["a cf"])
    assert decision.outcome == "stripped"
    assert decision.texts == ("a",)
