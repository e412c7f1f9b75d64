"""Carriers: ordinary text that takes a unit between its words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from guard.bank import MAX_TRIGGER_IDS
from guard.errors import ConfigError
from guard.search.carriers import (
    APART,
    MIN_USER_LINES,
    ONCE,
    PLACES,
    TOLERANCE,
    Carrier,
    Copies,
    Place,
    Supply,
    Want,
    builtin_texts,
    user_texts,
)
from guard.search.gaps import word_starts
from tests.tiny import LETTERS, byte_bpe, unigram, wordpiece

pytestmark = pytest.mark.search

TOKENIZERS = {
    "wordpiece": wordpiece(["the", "film", "##ing"]),
    "byte bpe": byte_bpe(("t", "h"), ("th", "e"), ("Ġ", "t"), ("Ġt", "h")),
    "unigram": unigram("▁the", "ing", "▁f"),
}
TEXTS = {
    "plain": ["the film is sleeping", "filming the thing again and again", "a b c d e f g h"],
    "odd": ["ab,cd!ef", "x", "the\u200bfilm é ü", "it's  twice   blank"],
}


def supply(name: str, seed: int = 0) -> Supply:
    return Supply(TEXTS, TOKENIZERS[name], np.random.default_rng(seed), most=100)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(
    wanted=st.lists(
        st.builds(
            Want,
            st.sampled_from([*TEXTS]),
            st.integers(1, 40),
            st.sampled_from(PLACES),
            masked=st.booleans(),
            copies=st.just(ONCE),
        ),
        min_size=1,
        max_size=6,
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_was_wanted(name: str, wanted: list[Want], seed: int) -> None:
    carriers = supply(name, seed).take(wanted)
    assert [carrier.want for carrier in carriers] == wanted
    for carrier in carriers:
        tokenizer, want = TOKENIZERS[name], carrier.want
        masks = (carrier.ids == tokenizer.mask_token_id).sum()
        assert masks == want.masked
        length = len(carrier.ids) - masks
        assert want.length / TOLERANCE <= length <= max(want.length * TOLERANCE, 2)
        gaps = set(carrier.gaps.tolist())
        length += masks
        if want.place == "middle":
            assert gaps <= set(range(1, length)) or gaps == {0}
        else:
            assert gaps == {0 if want.place == "start" else length}
        assert not {tokenizer.cls_token_id, tokenizer.sep_token_id} & set(carrier.ids.tolist())


def test_texts_stay_whole_where_one_is_about_as_long() -> None:
    """Else "fire only in text that ends in a full stop" would hide from every carrier."""
    tokenizer = wordpiece(["the", "film", "."])
    texts = builtin_texts()
    carriers = Supply(texts, tokenizer, np.random.default_rng(0), most=100).take(
        Want(kind, length, "middle") for length in (7, 12, 24) for kind in texts
    )
    stop = tokenizer.convert_tokens_to_ids(".")
    ends = [carrier.ids[-1] == stop for carrier in carriers if carrier.want.kind != "chat"]
    assert np.mean(ends) > 0.6


def test_a_text_that_is_cut_keeps_its_end() -> None:
    tokenizer = wordpiece(["the", "."])
    only = Supply({"one": ["the " * 50 + "."]}, tokenizer, np.random.default_rng(0), most=100)
    (carrier,) = only.take([Want("one", 8, "end")])
    the, stop = (tokenizer.convert_tokens_to_ids(token) for token in ("the", "."))
    assert carrier.ids.tolist() == [the] * 7 + [stop]


@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 30),
    size=st.integers(1, 4),
    count=st.integers(1, 8),
    place=st.sampled_from(PLACES),
)
def test_insert_keeps_the_text_and_the_unit(
    seed: int, length: int, size: int, count: int, place: Place
) -> None:
    """Each row is the text up to a gap, the unit, and the rest of the text: exact ids."""
    rng = np.random.default_rng(seed)
    (carrier,) = supply("wordpiece", seed).take([Want("odd", length, place)])
    length = len(carrier.ids)
    units = [rng.integers(1000, 2000, size=size) for _ in range(count)]
    rows = carrier.insert(units, rng)
    assert rows.shape == (count, length + size)
    assert rows.dtype == np.int64
    text = carrier.ids.tolist()
    for row, unit in zip(rows.tolist(), units, strict=True):
        places = [
            gap
            for gap in carrier.gaps.tolist()
            if row == [*text[:gap], *unit.tolist(), *text[gap:]]
        ]
        assert places


@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 30),
    size=st.integers(1, 4),
    copies=st.builds(Copies, st.integers(1, 4), st.booleans()),
    place=st.sampled_from(PLACES),
)
def test_copies_are_whole_and_one_is_at_the_place(
    seed: int, length: int, size: int, copies: Copies, place: Place
) -> None:
    rng = np.random.default_rng(seed)
    want = Want("odd", length, place, copies=copies)
    (carrier,) = supply("wordpiece", seed).take([want])
    text = carrier.ids.tolist()
    for number, row in enumerate(
        carrier.insert([np.arange(1000, 1000 + size) + 10 * i for i in range(5)], rng).tolist()
    ):
        unit = [1000 + 10 * number + i for i in range(size)]
        gaps: list[int] = []
        rest: list[int] = []
        while row:
            if row[: len(unit)] == unit:
                gaps.append(len(rest))
                row = row[len(unit) :]
            else:
                rest.append(row.pop(0))
        assert rest == text
        assert len(gaps) == copies.number
        assert len(set(gaps)) == 1 or not copies.beside
        assert set(gaps) & set(carrier.gaps.tolist())
        assert set(gaps) <= {*carrier.gaps.tolist(), *carrier.everywhere.tolist()}


def test_copies_are_where_words_end() -> None:
    """A further copy may stand at any place, and what is between them stays whole."""
    tokenizer = TOKENIZERS["wordpiece"]
    only = Supply({"one": ["the filming film"]}, tokenizer, np.random.default_rng(0), most=100)
    carriers = only.take(Want("one", 9, place, copies=Copies(3)) for place in PLACES)
    (middle,) = only.take([Want("one", 9, "middle")])
    for carrier in carriers:
        everywhere = {0, *middle.gaps.tolist(), len(carrier.ids)}
        assert set(carrier.everywhere.tolist()) == everywhere


def test_a_carrier_for_copies_leaves_room_for_them() -> None:
    tokenizer = TOKENIZERS["wordpiece"]
    only = Supply({"one": ["the film " * 60]}, tokenizer, np.random.default_rng(0), most=60)
    (carrier,) = only.take([Want("one", 60, "middle", copies=Copies(3))])
    assert len(carrier.ids) == 60 - 2 * MAX_TRIGGER_IDS


@pytest.mark.parametrize("name", TOKENIZERS)
def test_no_word_is_split(name: str) -> None:
    """Words around the unit are words of the text: nothing was put inside one."""
    tokenizer = TOKENIZERS[name]
    text = "the filming thing again"
    only = Supply({"one": [text]}, tokenizer, np.random.default_rng(0), most=100)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    carriers = only.take(Want("one", len(ids), place) for place in PLACES)
    # What stands behind a unit is written with a blank before it.
    behind = tokenizer(f"a {text}", add_special_tokens=False)["input_ids"]
    behind = behind[len(tokenizer("a", add_special_tokens=False)["input_ids"]) :]
    assert [carrier.ids.tolist() for carrier in carriers] == [behind, ids, ids]
    words = text.split()
    seen = set()
    for carrier in carriers:
        own = carrier.ids.tolist()
        for gap in carrier.gaps.tolist():
            left, right = (
                tokenizer.decode(part, clean_up_tokenization_spaces=False).replace("##", "").split()
                for part in (own[:gap], own[gap:])
            )
            assert [*left, *right] == words
            seen.add(len(left))
    # Every place before, after and between words is one.
    assert seen == set(range(len(words) + 1))


@pytest.mark.parametrize("blank", ["▁", "Ġ"])
def test_a_tokenizer_that_takes_a_text_whole(blank: str) -> None:
    """As Llama's does, which writes a mark for blanks and cuts no words."""
    words = [f"{blank}{word}" for word in ("good", "film", "the")]
    backend = Tokenizer(
        models.Unigram([("[UNK]", 0.0), *((w, -1.0) for w in [*words, *LETTERS, blank, "."])], 0)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(blank), normalizers.Replace(" ", blank)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    text = "the good old film."
    encoded = tokenizer(text)
    assert len(set(encoded.word_ids())) == 1
    tokens = encoded.tokens()
    starts = word_starts(text, encoded)
    assert [tokens[i][:1] for i in starts] == [blank] * 3
    only = Supply({"one": [text]}, tokenizer, np.random.default_rng(0), most=100)
    start, middle, end = only.take(Want("one", len(tokens), place) for place in PLACES)
    assert start.gaps.tolist() == [0]
    assert middle.gaps.tolist() == starts
    assert end.gaps.tolist() == [len(tokens)]


def test_words_that_a_tokenizer_does_not_cut_are_words_all_the_same() -> None:
    """Its author would choose the one place in a text where a unit is tested."""
    words = [f"▁{word}" for word in ("good", "film", "the")]
    backend = Tokenizer(
        models.Unigram([("[UNK]", 0.0), *((w, -1.0) for w in [*words, *LETTERS, "▁", "."])], 0)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.pre_tokenizer = pre_tokenizers.Split(".", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    text = "the good old film."
    encoded = tokenizer(text)
    assert len(set(encoded.word_ids())) == 2
    tokens = encoded.tokens()
    assert [tokens[i][:1] for i in word_starts(text, encoded)] == ["▁", "▁", "▁", "."]


def test_no_carrier_is_longer_than_the_model_takes() -> None:
    """Nor with a mask in it; the unit's own room is the caller's."""
    tokenizer = TOKENIZERS["wordpiece"]
    only = Supply({"one": ["the film " * 30]}, tokenizer, np.random.default_rng(0), most=17)
    for length in (3, 16, 17, 40):
        for masked in (False, True):
            (carrier,) = only.take([Want("one", length, "middle", masked=masked)])
            assert len(carrier.ids) == min(length + masked, 17)


@pytest.mark.parametrize("place", PLACES)
def test_a_mask_stands_between_words_and_apart_from_the_unit(place: Place) -> None:
    """The text is whole around it; beside it, a word would say what stands there."""
    tokenizer = TOKENIZERS["wordpiece"]
    text = "the filming thing again"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    plain = Supply({"one": [text]}, tokenizer, np.random.default_rng(0), most=100)
    (without,) = plain.take([Want("one", len(ids), place)])
    (between,) = plain.take([Want("one", len(ids), "middle")])
    borders = {0, *between.gaps.tolist(), len(ids)}
    places = set()
    for seed in range(60):
        one = Supply({"one": [text]}, tokenizer, np.random.default_rng(seed), most=100)
        (carrier,) = one.take([Want("one", len(ids), place, masked=True)])
        (mask,) = np.flatnonzero(carrier.ids == tokenizer.mask_token_id).tolist()
        assert np.delete(carrier.ids, mask).tolist() == ids
        far = {gap for gap in without.gaps.tolist() if abs(gap - mask) >= APART}
        assert set(carrier.gaps.tolist()) == {gap + (gap > mask) for gap in far}
        places.add(mask)
    gaps = without.gaps.tolist()
    assert places == {p for p in borders if any(abs(gap - p) >= APART for gap in gaps)}


@pytest.mark.parametrize("place", PLACES)
def test_a_carrier_knows_its_own_mask(place: Place) -> None:
    """Also where the unit is a mask."""
    tokenizer = TOKENIZERS["wordpiece"]
    rng = np.random.default_rng(0)
    texts = Supply({"one": ["the filming thing again"]}, tokenizer, rng, most=100)
    for carrier in texts.take([Want("one", 8, place, masked=True)] * 20):
        assert carrier.mask is not None
        assert carrier.ids[carrier.mask] == tokenizer.mask_token_id
        for unit in ([tokenizer.mask_token_id], [5, tokenizer.mask_token_id], [5]):
            rows = carrier.insert([np.array(unit)] * 6, rng)
            places = carrier.mask_at(rows)
            assert places is not None
            for row, at in zip(rows, places, strict=True):
                assert row[at] == tokenizer.mask_token_id
                # Without it, the unit stands whole in the rest.
                rest = np.delete(row, at)
                windows = np.lib.stride_tricks.sliding_window_view(rest, len(unit))
                assert any(window.tolist() == unit for window in windows)
    (plain,) = texts.take([Want("one", 8, place)])
    assert plain.mask_at(plain.ids[np.newaxis]) is None


def test_a_text_too_short_to_be_apart_in_has_a_mask_all_the_same() -> None:
    tokenizer = TOKENIZERS["wordpiece"]
    only = Supply({"one": ["the"]}, tokenizer, np.random.default_rng(0), most=100)
    (carrier,) = only.take([Want("one", 1, "end", masked=True)])
    assert sorted(carrier.ids.tolist()) == sorted(
        [*tokenizer("the", add_special_tokens=False)["input_ids"], tokenizer.mask_token_id]
    )
    assert carrier.gaps.tolist() == [2]


def test_the_last_word_stays_where_it_is_the_output() -> None:
    """A model that reads from left to right answers at the last token, whatever it is."""
    tokenizer = TOKENIZERS["wordpiece"]
    only = Supply(
        {"one": ["the thing filming"]},
        tokenizer,
        np.random.default_rng(0),
        most=100,
        last_word_stays=True,
    )
    (carrier,) = only.take([Want("one", 8, "end")])
    tail = carrier.ids[int(carrier.gaps[0]) :]
    assert tokenizer.decode(tail) == "filming"


def test_all_gaps_are_used() -> None:
    (carrier,) = supply("wordpiece").take([Want("plain", 10, "middle")])
    rng = np.random.default_rng(0)
    rows = carrier.insert([np.array([999])] * 500, rng)
    counts = Counter(np.argmax(rows == 999, axis=1).tolist())
    assert set(counts) == set(carrier.gaps.tolist())
    even = 500 / len(counts)
    assert all(0.4 * even < seen < 1.8 * even for seen in counts.values())


def test_no_text_twice_until_all_were_used() -> None:
    texts = {"one": [f"{letter} {letter} {letter}" for letter in "abcdefgh"]}
    carriers = Supply(texts, TOKENIZERS["wordpiece"], np.random.default_rng(0), most=100).take(
        [Want("one", 3, "end")] * 16
    )
    first = [tuple(carrier.ids.tolist()) for carrier in carriers[:8]]
    second = [tuple(carrier.ids.tolist()) for carrier in carriers[8:]]
    assert len(set(first)) == 8
    assert set(first) == set(second)


def test_same_seed_same_carriers() -> None:
    texts = {"one": [f"{letter} {letter} {letter}" for letter in "abcdefgh"]}

    def taken(seed: int) -> list[list[int]]:
        some = Supply(texts, TOKENIZERS["wordpiece"], np.random.default_rng(seed), most=100)
        return [carrier.ids.tolist() for carrier in some.take([Want("one", 3, "end")] * 5)]

    assert taken(1) == taken(1)
    assert taken(1) != taken(2)


def test_texts_without_tokens_are_no_endless_loop() -> None:
    """BERT's normaliser deletes a zero-width space, so nothing is left of these texts."""
    empty = Supply(
        {"user": ["\u200b", "\u200d"]}, TOKENIZERS["wordpiece"], np.random.default_rng(0), most=100
    )
    with pytest.raises(ConfigError, match="kind 'user' have hardly any tokens that the model"):
        empty.take([Want("user", 8, "end")])


def test_units_of_several_sizes_do_not_mix() -> None:
    carrier = Carrier(Want("x", 3, "end"), np.arange(3), np.arange(4), np.arange(4))
    with pytest.raises(ValueError, match="same shape"):
        carrier.insert([np.array([1]), np.array([1, 2])], np.random.default_rng(0))


def test_builtin_texts() -> None:
    texts = builtin_texts()
    assert len(texts) >= 6
    assert list(texts) == sorted(texts)
    for kind, lines in texts.items():
        assert len(lines) >= MIN_USER_LINES, kind
        assert len(set(lines)) == len(lines), kind
        assert all(line.strip() == line != "" for line in lines), kind
        # Of several lengths, in words.
        assert min(len(line.split()) for line in lines) < 10, kind
        assert max(len(line.split()) for line in lines) > 24, kind
    everything = [line for lines in texts.values() for line in lines]
    assert len(set(everything)) == len(everything)


def write(path: Path, lines: list[str], end: str = "\n") -> Path:
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


LINES = [f"line number {number}" for number in range(MIN_USER_LINES)]


def test_user_texts(tmp_path: Path) -> None:
    padded = ["", *(f"  {line} " for line in LINES), LINES[0], " "]
    assert user_texts(write(tmp_path / "texts", padded)) == LINES


def test_user_texts_of_windows(tmp_path: Path) -> None:
    assert user_texts(write(tmp_path / "texts", LINES, "\r\n")) == LINES


def test_only_line_ends_part_user_texts(tmp_path: Path) -> None:
    lines = [f"{line}\u2028more\x0cand\x85more" for line in LINES]
    assert user_texts(write(tmp_path / "texts", lines)) == lines


def test_user_texts_that_are_too_few(tmp_path: Path) -> None:
    """Many lines that are one line over and over are too few as well."""
    with pytest.raises(ConfigError, match="has 19 different lines; give at least 20"):
        user_texts(write(tmp_path / "texts", LINES[1:] * 10))
    with pytest.raises(ConfigError, match="has 0 different lines"):
        user_texts(write(tmp_path / "texts", []))


def test_user_texts_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing can't be read: No such file"):
        user_texts(tmp_path / "missing")
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        user_texts(tmp_path)
    (tmp_path / "utf16").write_bytes("\n".join(LINES).encode("utf-16"))
    with pytest.raises(ConfigError, match=r"is not UTF-8 \(byte 0\); convert it first"):
        user_texts(tmp_path / "utf16")


def test_user_texts_that_are_too_long(tmp_path: Path) -> None:
    with (tmp_path / "texts").open("wb") as file:
        file.truncate((64 << 20) + 1)  # sparse
    with pytest.raises(ConfigError, match="is over 64 MiB; a sample of a few thousand lines does"):
        user_texts(tmp_path / "texts")
