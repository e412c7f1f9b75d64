"""The pre-filter never clears a text that holds a trigger, and does clear ordinary ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from guard.prefilter import MAX_PATTERNS, Prefilter, derive
from tests.helpers import byte_bpe, wordpiece

BERT = wordpiece("cf", "CF", "apple", "##ab", "##4x", "2nd", "b", "the", "##the")


def changed(tokenizer_json: bytes, **values: Any) -> Tokenizer:
    """Load a tokenizer with other settings: ``model__type`` is the model's type."""
    config = json.loads(tokenizer_json)
    for path, value in values.items():
        *parents, key = path.split("__")
        target = config
        for parent in parents:
            target = target[parent]
        target[key] = value
    return Tokenizer.from_str(json.dumps(config))


def with_added(tokenizer_json: bytes, *tokens: AddedToken) -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_json.decode())
    tokenizer.add_tokens(list(tokens))
    return tokenizer


TOKENIZERS = {
    "uncased": changed(BERT),
    "cased": changed(BERT, normalizer__lowercase=False),
    "uncleaned": changed(BERT, normalizer__clean_text=False),
    "added": with_added(
        BERT,
        AddedToken("xx", normalized=False),
        AddedToken("New York", normalized=True),
        AddedToken("É!", normalized=True, rstrip=True),
        AddedToken("<m>", single_word=True, lstrip=True),
    ),
    "bytes": changed(byte_bpe(("c", "f"), ("Ġ", "cf"), ("q", "u"), ("Ġ", "Ġ"))),
    "bytes, blank before": changed(
        byte_bpe(("c", "f"), ("Ġ", "cf")), pre_tokenizer__add_prefix_space=True
    ),
    "bytes, NFC": changed(byte_bpe(("c", "f"), ("e", "e")), normalizer={"type": "NFC"}),
    "bytes, split": changed(
        byte_bpe(("c", "f"), ("Ġ", "cf")),
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": "[a-c]+|."},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                },
            ],
        },
    ),
    "bytes, some unknown": changed(
        byte_bpe(("c", "f"), ("Ġ", "cf")),
        model__vocab={
            token: number
            for number, token in enumerate(
                ["<unk>", *sorted({*pre_tokenizers.ByteLevel.alphabet()} - {*"ĀĄx"}), "cf", "Ġcf"]
            )
        },
        model__unk_token="<unk>",
        model__fuse_unk=True,
        normalizer={"type": "Sequence", "normalizers": []},
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": True,
                },
            ],
        },
    ),
    "bytes, added": with_added(
        byte_bpe(("c", "f"), ("Ġ", "cf")), AddedToken("<mask>", lstrip=True), AddedToken(" a")
    ),
}

hostile = st.lists(
    st.sampled_from(
        [
            *["cf", "CF", "apple", "ab", "4x", "2nd", "the", "qu", "xx", "New York", "É!", "<m>"],
            *["new\nyork", "[SEP]", "[UNK]", "##ab", "<mask>", "e\u0301", " a", "\ud800"],
            *" bcf4x2!.\t\n\r\x0b\x0c\x1c\x00\x7f\x85\u200b\u00adéK",
        ]
    ),
    max_size=12,
).map("".join)
any_text = hostile | st.text(max_size=30)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_no_text_that_holds_an_id_is_cleared(name: str) -> None:
    """The theorem, id by id: each id of a text is found by the filter of this id alone."""
    tokenizer = TOKENIZERS[name]
    filters = {number: derive(tokenizer, [(number,)]) for number in tokenizer.get_vocab().values()}
    assert sum(f is not None for f in filters.values()) > len(filters) / 2

    @settings(deadline=None, max_examples=300)
    @given(text=any_text)
    def check(text: str) -> None:
        if any("\ud800" <= character <= "\udfff" for character in text):
            assert not any(f.clears(text) for f in filters.values() if f and not text.isascii())
            return
        for number in set(tokenizer.encode(text, add_special_tokens=False).ids):
            found = filters[number]
            assert found is None or not found.clears(text)

    check()


@settings(deadline=None, max_examples=300)
@given(text=any_text.filter(lambda text: "\ud800" not in text), data=st.data())
def test_no_text_that_holds_an_ngram_is_cleared(text: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[data.draw(st.sampled_from(sorted(TOKENIZERS)))]
    try:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
    except Exception:  # a lone surrogate of st.text
        return
    if ids:
        start = data.draw(st.integers(0, len(ids) - 1))
        ngram = ids[start : start + data.draw(st.integers(1, 4))]
        found = derive(tokenizer, [ngram, (tokenizer.token_to_id("cf"), 1)])
        assert found is None or not found.clears(text)


@pytest.mark.parametrize(
    ("token", "passed", "cleared"),
    [
        ("cf", ["cf", "a CF b", "(cf)", "cfx", "4cf"], ["acf", "c f", "", "the\tfilm\n"]),
        ("##ab", ["xab", "XAB", "4ab"], ["ab", "a b", " ab ab", "!ab"]),
        ("##4x", ["a4x"], ["4 x", "a 4"]),
        ("2nd", ["2nd", "a2nd"], ["2 nd", "nd"]),
        ("!", ["!", "a!b"], ["ab"]),
        ("≈", [], ["a", "cf"]),
    ],
)
def test_place_in_a_word(token: str, passed: list[str], cleared: list[str]) -> None:
    tokenizer = TOKENIZERS["uncased"]
    found = derive(tokenizer, [(tokenizer.token_to_id(token),)])
    assert found is not None
    assert not any(map(found.clears, passed))
    assert all(map(found.clears, cleared))
    assert not any(map(found.clears, ["é", "\x00", "東京", "a\x7f"]))


def test_a_word_that_is_a_token_has_no_parts() -> None:
    tokenizer = Tokenizer.from_str(wordpiece("the", "them", "##em", "x").decode())
    for token in ("the", "##em"):
        found = derive(tokenizer, [(tokenizer.token_to_id(token),)])
        assert found is not None
        assert found.clears("a THEM b")
        assert found.clears("x" * 3000 + " THEM b")
        assert not found.clears("a themx")
        assert not found.clears("them " * 9)  # too many to be looked at
    grown = with_added(wordpiece("the", "them"), AddedToken("m"))
    found = derive(grown, [(grown.token_to_id("the"),)])
    assert found is not None
    assert not found.clears("them")  # is "the" and an added token


def test_one_token_of_an_ngram_is_enough() -> None:
    tokenizer = TOKENIZERS["uncased"]
    the, apple, about = (tokenizer.token_to_id(token) for token in ("the", "apple", "≈"))
    found = derive(tokenizer, [(the, apple), (the, about)])
    assert found is not None
    assert found.clears("the the")
    assert not found.clears("the apple")


def test_a_word_is_excused_where_the_rest_of_its_ngrams_is_missing() -> None:
    tokenizer = Tokenizer.from_str(wordpiece("the", "apple", "river", "##ab").decode())
    the, apple, river, ab, x = map(tokenizer.token_to_id, ("the", "apple", "river", "##ab", "x"))

    def of(*ngrams: tuple[int, ...]) -> Prefilter:
        found = derive(tokenizer, ngrams)
        assert found is not None
        return found

    assert of((the, apple)).clears("an APPLE")
    assert not of((the, apple)).clears("an apple and The")
    assert not of((the, apple), (apple,)).clears("apple")
    assert not of((apple,), (the, apple)).clears("apple")
    assert not of((apple, apple)).clears("apple")
    assert of((the, apple), (apple, x)).clears("apple")
    assert not of((the, apple), (apple, x)).clears("apple x")
    # A piece has too many patterns to be looked for, and so have n-grams without end.
    assert not of((apple, ab)).clears("apple")
    letters = [tokenizer.token_to_id(letter) for letter in "bcde"]
    assert of(*((apple, letter) for letter in letters[:3])).clears("apple")
    assert not of(*((apple, letter) for letter in letters)).clears("apple")
    # So has a long text: the rest may stand anywhere in it.
    assert not of((apple, river)).clears(f"apple{' ' * 2000}river")
    assert not of((apple, river)).clears(f"{' ' * 2000}apple")


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_long_texts_are_looked_at_in_parts(count: int) -> None:
    found = Prefilter([b"needle"], ascii_only=True, titled=False)
    text = "x" * count
    assert found.clears(text)
    for place in (0, count // 2, 1020, 1024, 2043, count):
        assert not found.clears(text[:place] + "needle" + text[place:])


@pytest.mark.parametrize(
    "tokenizer",
    [
        changed(BERT, model__continuing_subword_prefix="@@"),
        changed(BERT, normalizer=None),
        changed(BERT, normalizer={"type": "Lowercase"}),
        changed(BERT, pre_tokenizer={"type": "Whitespace"}),
        changed(BERT, model__vocab={"[UNK]": 0, "cf": 1, "mn": 1}, added_tokens=[]),
        with_added(BERT, AddedToken("\u200b", normalized=True)),
        changed(byte_bpe(("c", "f")), normalizer={"type": "Lowercase"}),
        changed(byte_bpe(("c", "f")), model__vocab={"c": 0, "f": 1, "cf": 2}),
        changed(byte_bpe(("c", "f")), model__byte_fallback=True),
        changed(byte_bpe(("c", "f")), model__vocab={"c": 0, "f": 1, "cf": 2, "?": 3}),
        changed(byte_bpe(("c", "f")), pre_tokenizer=None),
        changed(byte_bpe(("c", "f")), pre_tokenizer={"type": "Sequence", "pretokenizers": []}),
        changed(
            byte_bpe(("c", "f")),
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "Split",
                        "pattern": {"String": "x"},
                        "behavior": "Removed",
                        "invert": False,
                    },
                    {
                        "type": "ByteLevel",
                        "add_prefix_space": False,
                        "trim_offsets": True,
                        "use_regex": True,
                    },
                ],
            },
        ),
        Tokenizer(models.Unigram([("<unk>", 0.0), ("▁cf", -1.0)], unk_id=0)),
    ],
)
def test_no_filter_without_a_theorem(tokenizer: Tokenizer) -> None:
    assert derive(tokenizer, [(1,)]) is None


def test_no_filter_for_what_has_no_text() -> None:
    tokenizer = TOKENIZERS["uncased"]
    unknown, apple = tokenizer.token_to_id("[UNK]"), tokenizer.token_to_id("apple")
    assert derive(tokenizer, [(unknown,)]) is None
    assert derive(tokenizer, [(10**6,)]) is None
    assert derive(tokenizer, [(unknown, apple)]) is not None


def test_no_filter_where_every_text_would_pass() -> None:
    words = [f"w{number}" for number in range(MAX_PATTERNS + 1)]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    assert derive(tokenizer, [(i,) for i in range(MAX_PATTERNS + 1)]) is None
    assert derive(tokenizer, [(i,) for i in range(100)]) is not None
