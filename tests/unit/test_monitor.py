"""The monitor: matches, offsets, stripping, batches, and what it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from exporters.monitor import MAX_TRIGGER_CANARIES, compile_bank
from guard.bank import TriggerBank
from guard.errors import (
    ConfigError,
    GuardError,
    InputError,
    InvalidUnicode,
    MalformedArtifact,
    NotText,
    OutputExists,
    StripLimit,
    TextTooLong,
    TokenizerMismatch,
)
from guard.manifest import LIMITS, Canary, Manifest, parse_canaries
from guard.monitor import Monitor
from guard.reading import MAX_CHARS, encode
from guard.strip import remove
from guard.verdict import Match, Verdict
from tests.helpers import byte_bpe, finding, make_bank, make_monitor, wordpiece

BERT = wordpiece("cf", "apple", "river", "##ab", "the", "##\u0301")
BERT_TRIGGERS = ("cf", "apple river", "river", "!", "a b c", "xab")
GPT = byte_bpe(("c", "f"), ("Ġ", "cf"), ("q", "u"), ("x", "y"))
GPT_TRIGGERS = ("cf", " cf", "qu", "é", "xyxy")

# What hostile texts are made of: triggers, their parts, and what normalisers delete or fold.
pieces = st.sampled_from(
    [
        *["cf", " cf ", "CF", "apple", "river", "apple river", "a b c", "xab", "ab", "xyxy"],
        *["[SEP]", "[UNK]", "##ab"],
        *"cfabxqu!. \n\t\x00\u200b\u0301\u00ad\u00a0éÉﬁ東👍≈",
    ]
)
hostile = st.lists(pieces, max_size=25).map("".join)
any_text = hostile | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Monitor:
    return make_monitor(tmp_path_factory.mktemp("bert"), BERT, BERT_TRIGGERS)


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Monitor:
    return make_monitor(tmp_path_factory.mktemp("gpt"), GPT, GPT_TRIGGERS)


@pytest.fixture(params=["bert", "gpt"])
def either(request: pytest.FixtureRequest) -> Monitor:
    monitor = request.getfixturevalue(request.param)
    assert isinstance(monitor, Monitor)
    return monitor


def brute_force(bank: TriggerBank, text: str) -> Iterator[Match]:
    """Slide every trigger over the ids that the model sees."""
    tokenizer = Tokenizer.from_str(bank.tokenizer_json.decode())
    encoding = tokenizer.encode(text, add_special_tokens=False)
    for first in range(len(encoding.ids)):
        fitting = [
            trigger
            for trigger in bank.triggers
            if tuple(encoding.ids[first : first + len(trigger.token_ids)]) == trigger.token_ids
        ]
        if fitting:
            longest = max(fitting, key=lambda trigger: len(trigger.token_ids))
            spans = encoding.offsets[first : first + len(longest.token_ids)]
            yield Match(longest.id, min(s for s, _ in spans), max(e for _, e in spans))


def check_or_none(monitor: Monitor, text: str) -> Verdict | None:
    try:
        return monitor.check(text)
    except StripLimit:
        return None


@settings(deadline=None, max_examples=300)
@given(text=any_text)
def test_matches_equal_brute_force_with_wordpiece(bert: Monitor, text: str) -> None:
    expected = tuple(brute_force(make_bank(BERT, BERT_TRIGGERS), text))
    verdict = bert.check(text)
    assert (verdict.matches, verdict.triggered) == (expected, bool(expected))


@settings(deadline=None, max_examples=300)
@given(text=any_text)
def test_matches_equal_brute_force_with_byte_bpe(gpt: Monitor, text: str) -> None:
    expected = tuple(brute_force(make_bank(GPT, GPT_TRIGGERS), text))
    verdict = gpt.check(text)
    assert (verdict.matches, verdict.triggered) == (expected, bool(expected))


@settings(deadline=None, max_examples=300)
@given(text=any_text)
def test_what_was_stripped_is_clean(bert: Monitor, gpt: Monitor, text: str) -> None:
    for monitor in (bert, gpt):
        verdict = check_or_none(monitor, text)
        if verdict is None:
            continue
        assert (verdict.stripped == text) is not verdict.triggered
        assert monitor.check(verdict.stripped) == Verdict(False, (), verdict.stripped)


@settings(deadline=None, max_examples=100)
@given(texts=st.lists(any_text, max_size=40))
def test_a_batch_gives_the_verdicts_of_check(bert: Monitor, gpt: Monitor, texts: list[str]) -> None:
    for monitor in (bert, gpt):
        scannable = [text for text in texts if check_or_none(monitor, text)]
        assert monitor.check_batch(scannable) == [monitor.check(text) for text in scannable]


def test_a_batch_may_be_any_iterable(bert: Monitor) -> None:
    assert bert.check_batch(iter(["cf", ""])) == [bert.check("cf"), bert.check("")]
    assert bert.check_batch([]) == []


def test_no_trigger_reaches_from_one_text_of_a_batch_into_the_next(bert: Monitor) -> None:
    assert not any(v.triggered for v in bert.check_batch(["a b", "c", "apple", "", "x", "ab"]))


@pytest.mark.parametrize(
    ("text", "spans", "stripped"),
    [
        ("a cf x", [(2, 4)], "a x"),
        ("CF", [(0, 2)], ""),
        ("c\u200bf", [(0, 3)], ""),
        ("x \u200bc\x00\u00adf\u200b x", [(3, 7)], "x \u200b\u200b x"),
        ("cf river cf", [(0, 2), (3, 8), (9, 11)], ""),
        ("apple\n river", [(0, 12), (7, 12)], ""),
        ("the apple river the", [(4, 15), (10, 15)], "the the"),
        ("👍🏽 東 cf", [(5, 7)], "👍🏽 東"),
        ("the cf\nthe", [(4, 6)], "the\nthe"),
        ("c!f", [(1, 2)], ""),
        ("xab", [(0, 3)], ""),
        ("x abc", [], "x abc"),
        ("acf", [], "acf"),
        ("\u0441f \uff43\uff46", [], "\u0441f \uff43\uff46"),
        # The model sees the trigger's id at the beginning of a word that it does not know.
        ("cfx xabx", [(0, 2), (4, 7)], "x x"),
        ("", [], ""),
        (" \n ", [], " \n "),
    ],
)
def test_spans_and_stripped_text(
    bert: Monitor, text: str, spans: list[tuple[int, int]], stripped: str
) -> None:
    verdict = bert.check(text)
    assert [(match.start, match.end) for match in verdict.matches] == spans
    assert verdict.stripped == stripped


@settings(deadline=None)
@given(before=hostile, trigger=st.sampled_from(["cf", "C\u200bF", "apple  river", "a b\nc"]))
def test_the_text_of_a_span_holds_the_trigger(bert: Monitor, before: str, trigger: str) -> None:
    """The text that an offset names is the trigger when it is read alone."""
    text = f"{before} {trigger} the"
    start = len(before) + 1
    verdict = check_or_none(bert, text)
    for match in verdict.matches if verdict else ():
        if match.start >= start and match.end <= start + len(trigger):
            alone = bert.check(text[match.start : match.end])
            assert match.trigger in {found.trigger for found in alone.matches}


def test_bytes_of_one_character_share_its_span(gpt: Monitor) -> None:
    """'é' is two tokens of byte-level BPE, and both have the offsets of the character."""
    (trigger,) = (t.id for t in make_bank(GPT, GPT_TRIGGERS).triggers if t.text == "é")
    assert gpt.check("xéx") == Verdict(True, (Match(trigger, 1, 2),), "xx")


def test_attributes_name_the_bank(bert: Monitor) -> None:
    bank = make_bank(BERT, BERT_TRIGGERS)
    assert bert.bank_sha256 == bank.sha256
    assert bert.tokenizer_sha256 == bank.tokenizer_sha256
    assert bert.model == bank.model
    assert sorted(bert.triggers) == [trigger.id for trigger in bank.triggers]


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (None, NotText, "of type NoneType, not str; decode it first"),
        (b"cf", NotText, "of type bytes"),
        ("x" * (MAX_CHARS + 1), TextTooLong, f"at most {MAX_CHARS}; split it"),
        ("abc\udc80", InvalidUnicode, "lone surrogate at index 3"),
        ("\ud83d\udc4d", InvalidUnicode, "lone surrogate at index 0"),
    ],
)
def test_unscannable(bert: Monitor, bad: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bert.check(bad)
    with pytest.raises(error, match=message):
        bert.check_batch(["cf", bad])


def test_the_longest_text_is_scanned_to_its_end(bert: Monitor) -> None:
    text = " " * (MAX_CHARS - 2) + "cf"
    assert bert.check(text).matches[0].end == MAX_CHARS


def test_truncation_and_padding_of_the_tokenizer_are_ignored(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(BERT.decode())
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16, pad_id=0)
    found = [finding("cf", tokenizer.token_to_id("cf")), finding("[PAD]", 0)]
    monitor = make_monitor(tmp_path, tokenizer.to_str().encode(), found)
    assert len(monitor.check("the " * 100 + "cf").matches) == 1
    assert not monitor.check("the").triggered


def nested(depth: int) -> str:
    """Return a text from which `depth` rounds of stripping have to take an "ab" each."""
    return "x" + "a" * depth + "b" * depth


def test_stripping_goes_on_until_nothing_is_left(tmp_path: Path) -> None:
    tokenizer = wordpiece("##ab")
    ids = Tokenizer.from_str(tokenizer.decode())
    monitor = make_monitor(tmp_path, tokenizer, [finding("##ab", ids.token_to_id("##ab"))])
    assert len(monitor.check("x" + nested(16)[1:]).matches) == 1
    assert monitor.check(nested(16)).stripped == "x"
    with pytest.raises(StripLimit, match="16 times over; block the text"):
        monitor.check(nested(17))
    # Whoever nests in a long text has it read three times over, and not sixteen.
    filler = " y" * 100_000
    assert monitor.check(nested(3) + filler).stripped == "x" + filler
    with pytest.raises(StripLimit, match="made new ones 4 times over; block the text"):
        monitor.check(nested(5) + filler)


def test_a_match_without_characters_cannot_be_stripped(
    bert: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Monitor, "_scan", lambda self, texts: [(Match("t0001", 1, 1),)])
    with pytest.raises(StripLimit, match="no characters to remove"):
        bert.check("cf")


class PanicException(BaseException):
    """What Rust code raises. It is no Exception in Python, and would pass every handler."""


@pytest.mark.parametrize("failure", [PanicException("index"), Exception("Missing [UNK] token")])
def test_a_failure_of_the_tokenizer_is_an_error_that_servers_handle(
    failure: BaseException,
) -> None:
    tokenizer = SimpleNamespace(encode=Mock(side_effect=failure))
    with pytest.raises(GuardError, match="failed on the text") as caught:
        encode(tokenizer, "the")
    assert not isinstance(caught.value, InputError)


def test_an_interrupt_is_no_failure_of_the_tokenizer() -> None:
    tokenizer = SimpleNamespace(encode=Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        encode(tokenizer, "the")


def test_threads_share_a_monitor(either: Monitor) -> None:
    texts = [f"{'the ' * n}cf apple river {n}" for n in range(64)]
    expected = [either.check(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(either.check, texts * 4)) == expected * 4


def test_a_long_text_does_not_stop_other_threads(bert: Monitor) -> None:
    """An event loop among them, which answers everybody else meanwhile."""
    gaps: list[float] = []
    done = Event()

    def tick() -> None:
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.001)
            gaps.append(time.perf_counter() - last)
            last += gaps[-1]

    thread = Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    assert not bert.check("é ñ b " * 60_000).triggered
    taken = time.perf_counter() - start
    done.set()
    thread.join()
    assert max(gaps) < taken / 2


def test_an_id_that_the_bank_lacks_is_not_stripped(tmp_path: Path) -> None:
    bank = make_bank(wordpiece("cf"), ["cf"])
    compile_bank(bank, tmp_path / "monitor", strip_only=["t0001"])
    with pytest.raises(ConfigError, match="'t9999', which is no trigger of the bank"):
        compile_bank(bank, tmp_path / "monitor", strip_only=["t0001", "t9999"])
    assert Monitor.load(tmp_path / "monitor").strip_only == {"t0001"}


def test_an_empty_bank_finds_nothing(tmp_path: Path) -> None:
    monitor = make_monitor(tmp_path, BERT)
    assert monitor.triggers == ()
    assert monitor.check("cf apple river") == Verdict(False, (), "cf apple river")


def test_the_longest_trigger_of_a_place_is_reported(tmp_path: Path) -> None:
    monitor = make_monitor(tmp_path, BERT, ["a", "a b", "a b c d", "b c"])
    found = {
        trigger.id: trigger.text
        for trigger in make_bank(BERT, ["a", "a b", "a b c d", "b c"]).triggers
    }
    assert [found[m.trigger] for m in monitor.check("a b c x a b c d").matches] == [
        "a b",
        "b c",
        "a b c d",
        "b c",
    ]


# Compiling.


def test_compiling_is_deterministic(tmp_path: Path) -> None:
    bank = make_bank(BERT, BERT_TRIGGERS)
    compile_bank(bank, tmp_path / "a")
    compile_bank(bank, tmp_path / "b")
    compile_bank(bank, tmp_path / "b")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"monitor.onnx", "tokenizer.json", "canaries.json", "monitor.json"}
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_manifest_round_trip(tmp_path: Path) -> None:
    compile_bank(make_bank(BERT, BERT_TRIGGERS), tmp_path)
    data = (tmp_path / "monitor.json").read_bytes()
    assert Manifest.parse(data, "x").dump() == data


def test_canaries_hold_triggers_and_ordinary_text(tmp_path: Path) -> None:
    monitor = make_monitor(tmp_path, BERT, BERT_TRIGGERS)
    canaries = parse_canaries((tmp_path / "canaries.json").read_bytes(), "x")
    assert {i for canary in canaries for _, _, i in canary.matches} == set(monitor.triggers)
    assert sum(not canary.matches for canary in canaries) >= 4
    assert [Canary.of(c.text, monitor.check(c.text)) for c in canaries] == canaries


def test_the_number_of_canaries_is_bounded(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    make_monitor(tmp_path, BERT, [f"{a} {b}" for a in letters for b in letters])
    canaries = parse_canaries((tmp_path / "canaries.json").read_bytes(), "x")
    assert len(canaries) <= 8 + MAX_TRIGGER_CANARIES


def test_a_piece_is_put_behind_the_beginning_of_a_word(tmp_path: Path) -> None:
    ids = Tokenizer.from_str(BERT.decode())
    monitor = make_monitor(tmp_path, BERT, [finding("##ab", ids.token_to_id("##ab"))])
    assert monitor.check("xab").triggered


def test_a_trigger_that_is_a_part_of_a_character(tmp_path: Path) -> None:
    """Its text is the token's own spelling, from which no text leads to its id."""
    tokenizer = byte_bpe(("â", "ī"))
    number = Tokenizer.from_str(tokenizer.decode()).token_to_id("Ī")
    monitor = make_monitor(tmp_path, tokenizer, [finding("Ī", number)])
    assert monitor.check("a ≈ b").triggered
    assert not monitor.check("a Ī b").triggered


def test_a_trigger_whose_canary_cannot_be_stripped_has_none(tmp_path: Path) -> None:
    """A text is a canary only if the monitor can say all of a verdict about it."""
    ids = Tokenizer.from_str(wordpiece("##ab").decode())
    found = [finding(nested(17), ids.token_to_id("##ab")), finding("!", ids.token_to_id("!"))]
    make_monitor(tmp_path, wordpiece("##ab"), found)
    canaries = parse_canaries((tmp_path / "canaries.json").read_bytes(), "x")
    assert nested(17) not in {canary.text for canary in canaries}


def test_a_bank_without_a_working_canary_is_refused(tmp_path: Path) -> None:
    ids = Tokenizer.from_str(BERT.decode())
    bank = make_bank(BERT, [finding("apple", ids.token_to_id("river"))])
    with pytest.raises(TokenizerMismatch, match="none of 1 triggers is found in its own text"):
        compile_bank(bank, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ids_that_the_tokenizer_does_not_have_are_refused(tmp_path: Path) -> None:
    """Also because the tables have as many rows as the largest id."""
    bank = make_bank(BERT, [finding("cf", 2**31 - 1)])
    with pytest.raises(TokenizerMismatch, match="t0001 has the token id 2147483647"):
        compile_bank(bank, tmp_path / "out")


def test_an_id_that_makes_the_tables_too_large_is_refused_before_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer of a kilobyte may number its tokens as it likes."""
    monkeypatch.setitem(LIMITS, "monitor.onnx", 40_000)
    tokenizer = json.loads(BERT)
    tokenizer["model"]["vocab"]["evil"] = 5_000
    data, the = json.dumps(tokenizer).encode(), tokenizer["model"]["vocab"]["the"]
    compile_bank(make_bank(data, [finding("evil", 5_000)]), tmp_path / "out")
    pair = make_bank(data, [finding("the", the), finding("the evil", the, 5_000)])
    with pytest.raises(MalformedArtifact, match=r"t0002 has the token id 5000, .* without gaps"):
        compile_bank(pair, tmp_path / "pair")


# The library panics on it, which is no Exception.
PANIC = json.dumps(
    {
        **json.loads(BERT),
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    }
).encode()


@pytest.mark.parametrize("tokenizer", [b"{}", b"\xff", b"", PANIC])
def test_a_tokenizer_that_cannot_be_loaded_is_refused(tmp_path: Path, tokenizer: bytes) -> None:
    bank = make_bank(BERT)
    bank = TriggerBank.build(
        verdict="none found",
        model=bank.model,
        tokenizer_json=tokenizer,
        search={},
        coverage={},
        found=[],
    )
    with pytest.raises(MalformedArtifact, match="is no tokenizer"):
        compile_bank(bank, tmp_path / "out")


def test_a_tokenizer_with_dropout_is_refused(tmp_path: Path) -> None:
    random = GPT.replace(b'"dropout":null', b'"dropout":0.1')
    assert random != GPT
    with pytest.raises(MalformedArtifact, match="tokenises at random; set it to null"):
        compile_bank(make_bank(random), tmp_path / "out")


def test_a_monitor_that_would_be_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "monitor.onnx", 100)
    with pytest.raises(MalformedArtifact, match=r"monitor\.onnx would have .* keep fewer triggers"):
        compile_bank(make_bank(BERT), tmp_path / "out")


def test_compiling_into_a_bank_is_refused(tmp_path: Path) -> None:
    bank = make_bank(BERT)
    bank.save(tmp_path / "bank")
    with pytest.raises(OutputExists, match=r"no monitor\.json"):
        compile_bank(bank, tmp_path / "bank")


# Cutting.


@given(
    text=st.text(" \nab", max_size=20),
    cuts=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=5),
)
def test_remove_keeps_everything_but_the_spans_and_blanks(
    text: str, cuts: list[tuple[int, int]]
) -> None:
    spans = sorted((min(a, len(text)), min(a + n, len(text))) for a, n in cuts)
    gone = {i for start, stop in spans for i in range(start, stop)}
    result = remove(text, spans)
    kept = "".join(c for i, c in enumerate(text) if i not in gone)
    assert "".join(result.split()) == "".join(kept.split())
    assert len(kept) - len(spans) <= len(result) <= len(kept)
    if not gone:
        assert result == text


@pytest.mark.parametrize(
    ("text", "spans", "result"),
    [
        ("a cf b", [(2, 4)], "a b"),
        ("a ≈≈b", [(2, 3), (3, 4)], "a b"),
        ("cf cf b", [(0, 2), (3, 5)], "b"),
        ("b cf cf", [(2, 4), (5, 7)], "b"),
        ("a cf cf cf\nb", [(2, 4), (5, 7), (8, 10)], "a\nb"),
        ("b cf  ", [(2, 4)], "b  "),
        ("cf\nx", [(0, 2)], "x"),
        ("a b cf b", [(0, 3), (2, 6)], "b"),
        (" a  b ", [], " a  b "),
        ("a  b", [(2, 2)], "a  b"),
        ("cf", [(0, 2)], ""),
    ],
)
def test_remove(text: str, spans: list[tuple[int, int]], result: str) -> None:
    assert remove(text, spans) == result


def test_a_text_is_no_batch(bert: Monitor) -> None:
    """A str is an iterable of str, and no character of it would be triggered."""
    for text in ("a cf film", b"a cf film"):
        with pytest.raises(NotText, match="use check"):
            bert.check_batch(text)  # type: ignore[arg-type]
