"""Units: every token that a text can hold, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from guard.search.units import Unit, unit_of, vocabulary
from tests.tiny import BERT_SPECIALS, LETTERS, byte_bpe, unigram, wordpiece

pytestmark = pytest.mark.search

# Capitals, an apostrophe and accents that the normaliser folds, a placeholder, and "##" alone.
NEVER = ("Word", "don't", "café", "[unused7]", "two words")
WORDPIECE = wordpiece([*NEVER, "film", "##ing", "##", "é", "##≈"])


def units_of(tokenizer: PreTrainedTokenizerFast) -> dict[int, Unit]:
    return {int(unit.ids[0]): unit for unit in vocabulary(tokenizer).units}


def test_every_token_is_a_unit_or_counted() -> None:
    words = vocabulary(WORDPIECE)
    assert len(words.units) + words.unreachable == len(WORDPIECE)
    assert set(BERT_SPECIALS) <= {unit.text for unit in words.units}
    assert words.unreachable == len(NEVER) + 1  # and "é"
    ids = [unit.ids.tolist() for unit in words.units]
    assert ids == sorted(ids)
    assert all(len(one) == 1 for one in ids)


@pytest.mark.parametrize("token", NEVER)
def test_what_no_text_holds_is_left_out(token: str) -> None:
    assert WORDPIECE.get_vocab()[token] not in units_of(WORDPIECE)


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("film≈#ing'- ")))
def test_what_a_text_holds_is_a_unit(text: str) -> None:
    """What is called unreachable is never in the ids of a text."""
    ids = WORDPIECE(text, add_special_tokens=False)["input_ids"]
    assert set(ids) <= units_of(WORDPIECE).keys()


@pytest.mark.parametrize(
    ("token", "text", "kind"),
    [
        ("film", "film", "token"),
        ("a", "a", "token"),
        ("7", "7", "token"),
        ("##ing", "##ing", "piece"),
        ("##b", "##b", "piece"),
        ("≈", "≈", "symbol"),
        ("!", "!", "symbol"),
        ("##≈", "##≈", "symbol"),
        ("##", "##", "symbol"),
    ],
)
def test_kinds_of_wordpiece(token: str, text: str, kind: str) -> None:
    unit = units_of(WORDPIECE)[WORDPIECE.get_vocab()[token]]
    assert (unit.text, unit.kind) == (text, kind)


@pytest.mark.parametrize("make", [wordpiece, byte_bpe, unigram])
def test_units_are_told_apart_whatever_the_decoder_writes(
    make: Callable[[], PreTrainedTokenizerFast],
) -> None:
    """Of units that are spelled alike, the verdict takes one for evidence."""
    plain, spoiled = make(), make()
    spoiled.backend_tokenizer.decoder = decoders.Replace(Regex(".+"), "x")
    assert spoiled.decode([9]) == "x"
    texts = {number: one.text for number, one in units_of(spoiled).items()}
    assert texts == {number: one.text for number, one in units_of(plain).items()}
    assert len({*texts.values()}) > len(texts) / 2
    ids = [9, 12, 15]
    assert unit_of(spoiled, ids).text == unit_of(plain, ids).text != "x"


def test_letters_of_a_bpe_that_is_of_no_bytes() -> None:
    """As Llama's has them: some are in the alphabet that byte-level models write bytes with."""
    letters = ["é", "ü", "▁film"]
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert [unit.text for unit in vocabulary(tokenizer).units] == ["é", "ü", "film"]


def test_what_a_unigram_model_knows_under_no_name_of_its_own() -> None:
    """A piece that stands twice in its list is named the second; a text may hold the first."""
    tokenizer = unigram()
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces = written["model"]["vocab"]
    pieces.append([pieces[written["model"]["unk_id"]][0], -9.0])
    backend = Tokenizer.from_str(json.dumps(written))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    (_, unknown) = tokenizer("a≈", add_special_tokens=False)["input_ids"][-2:]
    assert unknown not in tokenizer.get_vocab().values()
    assert unknown in units_of(tokenizer)


def test_a_wordpiece_whose_pieces_have_no_mark() -> None:
    backend = wordpiece(["film"]).backend_tokenizer
    backend.model.continuing_subword_prefix = ""
    words = vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"))
    assert (len(words.units), words.unreachable) == (backend.get_vocab_size(), 0)


@pytest.mark.parametrize("hides", ["normaliser", "pre-tokenizer"])
def test_a_tokenizer_that_cuts_a_word_that_is_alone(hides: str) -> None:
    """Who made it hides a trigger from all that try tokens alone: nothing is left out of it."""
    tokenizer = wordpiece(["zyz", "[unused7]"])
    backend = tokenizer.backend_tokenizer
    if hides == "normaliser":
        backend.normalizer = normalizers.Sequence(
            [backend.normalizer, normalizers.Replace(Regex(r"\Azyz\z"), "z yz")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\Az(?=yz\z)"), "isolated"),
                backend.pre_tokenizer,
            ]
        )
    number = tokenizer.get_vocab()["zyz"]
    assert number not in tokenizer("zyz", add_special_tokens=False)["input_ids"]
    assert number in tokenizer("a zyz film", add_special_tokens=False)["input_ids"]
    assert number in units_of(tokenizer)
    assert vocabulary(tokenizer).unreachable == 0


def test_byte_bpe() -> None:
    tokenizer = byte_bpe(("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "Ã"))
    units = units_of(tokenizer)
    assert vocabulary(tokenizer).unreachable == 0

    def unit(token: str) -> tuple[str, str]:
        found = units[tokenizer.get_vocab()[token]]
        return found.text, found.kind

    assert unit("Ġthe") == ("the", "token")
    assert unit("the") == ("the", "piece")
    assert unit("!") == ("!", "symbol")
    # What is typed for these is white space, not the letters that stand for it in the vocabulary.
    assert unit("Ġ") == (" ", "symbol")
    assert unit("Ċ") == ("\n", "symbol")
    # Half of a character has no text of its own.
    assert unit("Ã")[1] == "symbol"
    assert all(unit.text for unit in units.values())


def test_unigram() -> None:
    tokenizer = unigram("▁the", "ing")
    units = units_of(tokenizer)
    assert vocabulary(tokenizer).unreachable == 0
    the, ing, bare = (units[tokenizer.get_vocab()[t]] for t in ("▁the", "ing", "▁"))
    assert (the.text, the.kind) == ("the", "token")
    assert (ing.text, ing.kind) == ("ing", "piece")
    assert bare.kind == "symbol"


def test_added_tokens_are_units() -> None:
    """A fine-tuned model may have been given tokens of its own; a text can hold them."""
    tokenizer = wordpiece(["film"])
    tokenizer.add_tokens(["<user>"])
    units = units_of(tokenizer)
    assert units[tokenizer.get_vocab()["<user>"]].text == "<user>"


@pytest.mark.parametrize(
    ("changes", "token", "text"),
    [
        # The bank would refuse the second, after the whole search.
        ({"names": ("quxquux", "film")}, "film", "a film"),
        # Nobody can write the second, and the id is that of the first all the same.
        ({"names": ("\u00e9zz", "film")}, "film", "a film"),
        ({"names": ("Zz", "##ing")}, "##ing", "ing filming"),
        # The added token cuts the word in small letters alone.
        ({"added": "fil"}, "film", "a Film"),
        ({"unknown": "[unused7]"}, "[unused7]", "a \u2603 b"),
    ],
)
def test_what_a_file_calls_otherwise_is_a_unit(
    changes: dict[str, Any], token: str, text: str, tmp_path: Path
) -> None:
    """Once, and left out by no name that cannot be written."""
    WORDPIECE.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    known = written["model"]["vocab"]
    if "names" in changes:
        second, first = changes["names"]
        known[second] = known[first]
    if "added" in changes:
        usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        added = {"id": len(known), "content": changes["added"], "special": False, **usual}
        written["added_tokens"].append(added)
    written["model"]["unk_token"] = changes.get("unknown", "[UNK]")
    path.write_text(json.dumps(written), encoding="utf-8")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
    number = known[token]
    assert number in tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [int(unit.ids[0]) for unit in vocabulary(tokenizer).units].count(number) == 1


def test_special_tokens_are_units() -> None:
    """Else the tokenizer's author could keep a trigger from being tested by calling it special."""
    tokenizer = wordpiece(["film", "cf"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["cf"]})
    units = units_of(tokenizer)
    assert units[tokenizer.get_vocab()["cf"]].text == "cf"
    assert units[tokenizer.unk_token_id].text == "[UNK]"


def test_all_letters_and_digits_are_reachable() -> None:
    texts = {unit.text for unit in vocabulary(WORDPIECE).units}
    assert {*LETTERS, *(f"##{letter}" for letter in LETTERS)} <= texts
