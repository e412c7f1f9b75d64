"""What a text needs to hold of a token: the families of tokenizers of which that can be proven.

The theorem that rests on this is in `guard.prefilter`: if a token is among the ids of a text that
meets its family's premise, one of the token's *patterns* is a substring of the text's *key*.

**WordPiece** (`BertNormalizer`, `BertPreTokenizer`, prefix ``##``; uncased and cased). Premise: the
text is ASCII without control characters other than tab, line feed and carriage return (the others
are themselves patterns, so they need no look of their own). Key: ``text.encode().title()``, which
makes the first letter of each run of letters a capital and all others small.

- The normalizer changes nothing on such a text but the case of letters and the kind of white space,
  and the key forgets the case. The pre-tokenizer cuts at white space and makes each punctuation
  character a word of its own; ASCII that is neither is a letter or a digit. So a word is one
  punctuation character or a whole run of letters and digits.
- A token without ``##`` is the beginning of a word: what stands before it in the text is no letter,
  so if it starts with a letter, the key has a capital there. A token with ``##`` continues a word:
  what stands before it is a letter, and the key has a small letter, or a digit, and the pattern
  holds that digit. The case of all later characters in the key depends on the token alone. A token
  of punctuation looks the same wherever it stands.
- Added tokens are matched literally before the model sees the text, so what they hold between white
  space is in the text, in any place. Where one may end in a letter or digit, a word may begin
  behind it, and the tokens that begin words get the patterns of both places.
- The model looks a whole word up before its parts. So if the run of letters and digits around a
  pattern is itself a token, the word is this token alone, and the patterns in the run stand for
  nothing unless the token is an id that was chosen. Where it is, the text still needs the other
  ids of an n-gram that it was chosen for, so it is cleared where a pattern of one of these is
  missing. (Not where an added token begins or ends in a letter or digit: it may cut a run.)
- A token that is not ASCII cannot be in the ids of an ASCII text. The unknown token stands for any
  text: no pattern of it exists.

**Byte-level BPE** (every byte in the vocabulary, or an unknown token for those that are not, which
no merge leads over). Premise: the text has no lone surrogate; with a Unicode normal form as the
normalizer, that it is ASCII, which those forms leave as it is. Key: its UTF-8.

- The bytes of the tokens, one after the other, are the bytes of the text, but for one blank that
  may be put before each part, and for unknown ones; patterns go without that blank. Added tokens
  are matched literally. The unknown token has no pattern where there are bytes that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from tokenizers import Tokenizer, pre_tokenizers

# Byte strings, one of which is in a key.
Patterns: TypeAlias = tuple[bytes, ...]

# Words that are looked up whole may be as long.
LONGEST_WORD = 64

_CONTROLS = tuple(bytes([c]) for c in (*range(9), 11, 12, *range(14, 32), 127))
_NORMAL_FORMS = {"NFC", "NFD", "NFKC", "NFKD"}
_KEEPING = {"Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"}
_DIGITS = b"0123456789"


def family_of(config: Any, tokenizer: Tokenizer) -> WordPiece | ByteBpe | None:
    """Return the family of a tokenizer, or ``None`` where nothing is proven.

    Parameters
    ----------
    config
        The tokenizer's serialisation, as parsed JSON.
    """
    return _wordpiece(config, tokenizer) or _byte_bpe(config, tokenizer)


@dataclass(frozen=True, slots=True)
class _Added:
    """The added tokens by their content: what of them is in a text that holds them, alternatively.

    Only what is between white space, for a normalizer may change that.
    """

    parts: dict[str, tuple[bytes, ...]]
    ends_in_word: bool
    cuts_words: bool

    @classmethod
    def of(cls, config: Any, tokenizer: Tokenizer) -> _Added | None:
        """Return None where a token has no visible character: such a one may cut anywhere."""
        parts: dict[str, tuple[bytes, ...]] = {}
        ends = begins = False
        for token in config["added_tokens"]:
            forms = {token["content"]}
            if tokenizer.normalizer is not None:
                forms.add(tokenizer.normalizer.normalize_str(token["content"]))
            if not all(form.split() for form in forms):
                return None
            ends |= any(form[-1:].isalnum() for form in forms)
            begins |= any(form[:1].isalnum() for form in forms)
            parts[token["content"]] = tuple(
                max(form.split(), key=len).encode() for form in sorted(forms)
            )
        return cls(parts, ends, ends or begins)


@dataclass(frozen=True, slots=True)
class WordPiece:
    """BERT's family.

    Attributes
    ----------
    unknown
        The unknown token.
    words
        Tokens that are looked up before their parts.
    lower
        Whether they are looked up in lower case.
    titled, ascii_only
        Whether the key is in title case, and the premise that the text is ASCII.
    always
        Patterns that are looked for whatever the tokens.
    """

    unknown: str
    added: _Added
    words: frozenset[bytes]
    lower: bool
    titled: bool = True
    ascii_only: bool = True
    always: tuple[bytes, ...] = _CONTROLS

    def patterns(self, token: str) -> Patterns | None:
        """Return a token's patterns, or ``None`` where there are none that can be proven."""
        if token == self.unknown:
            return None
        found: set[bytes] = set()
        for part in self.added.parts.get(token, ()):
            if part.isascii():
                found |= {_behind(b".", part), _behind(b"a", part)}
        if not token or not token.isascii():
            return tuple(found)
        text = token.encode()
        if text.startswith(b"##") and len(text) > 2:
            text = text[2:]
            found.add(_behind(b"a", text))
            if text[:1].isalpha():
                found |= {bytes([digit]) + _behind(b"0", text) for digit in _DIGITS}
        else:
            found.add(_behind(b".", text))
            if self.added.ends_in_word:
                found.add(_behind(b"a", text))
        return tuple(found)


def _behind(before: bytes, text: bytes) -> bytes:
    """Return what the key holds where `text` stands behind a character like `before`."""
    return (before + text).title()[1:]


def _wordpiece(config: Any, tokenizer: Tokenizer) -> WordPiece | None:
    model = config["model"]
    if (
        model["type"] != "WordPiece"
        or model["continuing_subword_prefix"] != "##"
        or model["max_input_chars_per_word"] < LONGEST_WORD
        or (config["normalizer"] or {}).get("type") != "BertNormalizer"
        or (config["pre_tokenizer"] or {}).get("type") != "BertPreTokenizer"
    ):
        return None
    added = _Added.of(config, tokenizer)
    if added is None:
        return None
    words: Iterable[str] = () if added.cuts_words else model["vocab"]
    return WordPiece(
        model["unk_token"],
        added,
        words=frozenset(word.encode() for word in words if word.isascii() and word.isalnum()),
        lower=config["normalizer"]["lowercase"],
    )


@dataclass(frozen=True, slots=True)
class ByteBpe:
    """RoBERTa's and GPT-2's family; attributes as in `WordPiece`."""

    bytes_of: dict[str, int]
    prefix_space: bool
    added: _Added
    ascii_only: bool
    unknown: str | None
    titled: bool = False
    always: tuple[bytes, ...] = ()
    words: frozenset[bytes] = frozenset()
    lower: bool = False

    def patterns(self, token: str) -> Patterns | None:
        """Return a token's patterns, or ``None`` where there are none that can be proven."""
        if token == self.unknown:
            return None
        found = set(self.added.parts.get(token, ()))
        if all(character in self.bytes_of for character in token):
            text = bytes(self.bytes_of[character] for character in token)
            found.add(text.removeprefix(b" ") if self.prefix_space else text)
        return None if b"" in found else tuple(found)


def _byte_bpe(config: Any, tokenizer: Tokenizer) -> ByteBpe | None:
    model, normalizer = config["model"], config["normalizer"]
    if normalizer == {"type": "Sequence", "normalizers": []}:
        normalizer = None
    steps = config["pre_tokenizer"] or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    *splits, last = steps or [{}]
    bytes_of = _byte_alphabet()
    added = _Added.of(config, tokenizer)
    if (
        model["type"] != "BPE"
        or model["continuing_subword_prefix"]
        or model["end_of_word_suffix"]
        or model["byte_fallback"]
        or last.get("type") != "ByteLevel"
        # Splits may only cut, not drop what they cut at.
        or not all(
            s.get("type") == "Digits" or (s.get("type") == "Split" and s["behavior"] in _KEEPING)
            for s in splits
        )
        or (normalizer is not None and normalizer["type"] not in _NORMAL_FORMS)
        or added is None
    ):
        return None
    unknown = None
    if not bytes_of.keys() <= model["vocab"].keys():
        unknown = model["unk_token"]
        if unknown is None or any(unknown in merge for merge in model["merges"]):
            return None
    return ByteBpe(
        bytes_of,
        prefix_space=last["add_prefix_space"],
        added=added,
        ascii_only=normalizer is not None,
        unknown=unknown,
    )


def _byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    Printable Latin-1 characters stand for their own byte; those from U+0100 on for the others, in
    order.
    """
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    own = {character: ord(character) for character in alphabet if ord(character) < 256}
    others = sorted(alphabet - own.keys())
    return own | dict(zip(others, sorted(set(range(256)) - set(own.values())), strict=True))
