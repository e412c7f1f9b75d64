"""Words of several tokens, and lists of the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.bank import MAX_TRIGGER_IDS
from guard.errors import ConfigError
from guard.search import lines, words
from guard.search.words import (
    SHORT_STRINGS,
    common_words,
    encode,
    short_strings,
    user_words,
)
from tests.tiny import byte_bpe, unigram, wordpiece

pytestmark = pytest.mark.search

TOKENIZERS = {
    "wordpiece": wordpiece(["the", "film", "##ing"]),
    "byte bpe": byte_bpe(("t", "h"), ("th", "e"), ("Ġ", "t"), ("Ġt", "h")),
    "unigram": unigram("▁the", "ing", "▁f"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_word_is_what_a_text_holds_of_it(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    found = encode(tokenizer, ["filming", "thing", "don quixote"], 10)
    assert {unit.text: unit.kind for unit in found.units} == {
        "filming": "word",
        "thing": "word",
        "don quixote": "phrase",
    }
    for unit in found.units:
        ids = tokenizer(f"a b {unit.text}", add_special_tokens=False)["input_ids"]
        assert ids[-len(unit.ids) :] == unit.ids.tolist()
        assert tokenizer.decode(unit.ids).strip() == unit.text


def test_what_is_no_word_is_counted() -> None:
    tokenizer = TOKENIZERS["wordpiece"]
    long = "x" * (MAX_TRIGGER_IDS + 1)
    lines = ["the", "film", "no\u4e00ne", "\u4e00\u4e01", long, "filming", "Filming"]
    found = encode(tokenizer, lines, 10)
    # Two tokens, and one twice; what holds a character that the model does not know stays.
    assert (found.tokens, found.too_long) == (3, 1)
    assert [unit.text for unit in found.units] == ["filming", "no\u4e00ne"]


@pytest.mark.parametrize("of_model", [False, True])
def test_what_a_file_calls_unknown_is_a_piece_of_words_all_the_same(of_model: bool) -> None:
    """Its author would name the words that are left out."""
    tokenizer = wordpiece(["film", "##ing"])
    (tokenizer.backend_tokenizer.model if of_model else tokenizer).unk_token = "##ing"
    assert [unit.text for unit in encode(tokenizer, ["filming"], 10).units] == ["filming"]


def test_short_words_come_first_and_no_more_than_asked_for() -> None:
    found = encode(TOKENIZERS["wordpiece"], ["abcd", "filming", "xy", "never read"], 3)
    assert [unit.text for unit in found.units] == ["filming", "xy", "abcd"]


def test_common_words() -> None:
    found = common_words(TOKENIZERS["wordpiece"], 500)
    assert len(found.units) == 500
    assert "because" in {unit.text for unit in found.units}
    assert common_words(TOKENIZERS["wordpiece"], 0).units == ()


def test_short_strings_are_all_that_are_typed_with_three_letters_or_four_digits() -> None:
    """Of a tokenizer that has the alphabet; what is one token is tested as such."""
    found = {unit.text: len(unit.ids) for unit in short_strings(TOKENIZERS["wordpiece"]).units}
    assert {"qx", "zqj", "aaa"} <= found.keys()
    assert found["zqj"] == 3
    assert {"zz", "zzz", "0", "007", "9999"} <= set(SHORT_STRINGS)
    assert len(set(SHORT_STRINGS)) == 26**2 + 26**3 + 11_110


def test_user_words(tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_text(" one\n\ntwo words\none\n")
    assert user_words(path) == ["one", "two words"]


def test_a_byte_order_mark_is_no_part_of_a_word(tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_text("one\ntwo\n", encoding="utf-8-sig")
    assert user_words(path) == ["one", "two"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_list_of_any_system(end: bytes, tmp_path: Path) -> None:
    """And a word that holds another separator, which a program may have put there, is one."""
    path = tmp_path / "words"
    path.write_bytes(end.join([b"one", b"", "two\u2028words".encode(), b"one"]))
    assert user_words(path) == ["one", "two\u2028words"]


@pytest.mark.parametrize("text", ["", "\n \n", "\ufeff"])
def test_an_empty_list(text: str, tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_text(text)
    with pytest.raises(ConfigError, match="holds no word; give one a line, or leave --words out"):
        user_words(path)


def test_a_list_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        user_words(tmp_path / "missing")


def test_a_list_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten million lines are over the bytes, or over the lines: refused, not cut in silence."""
    path = tmp_path / "words"
    path.write_text("one\ntwo\nthree\n")
    monkeypatch.setattr(words, "MAX_LIST_LINES", 2)
    with pytest.raises(ConfigError, match="over 2 different lines; give the likeliest"):
        user_words(path)
    monkeypatch.setattr(lines, "MAX_BYTES", 8)
    with pytest.raises(ConfigError, match="over 0 MiB; give the likeliest"):
        user_words(path)
