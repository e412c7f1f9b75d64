"""A look at the raw text that spares most texts the tokenizer, and can never clear a trigger.

**Theorem.** Let a tokenizer be of one of the families below, and let a text meet the family's
premise. If a token id is among the ids of the text, then one of the id's *patterns* is a substring
of the text's *key*. An n-gram needs each of its ids, so a text whose key holds no pattern of one
chosen id of each n-gram holds none of the n-grams.

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

All other tokenizers (SentencePiece, Unigram, BPE over characters) have no theorem here and get no
filter: what their normalizers do to a text is a table that proves nothing.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from ahocorasick_rs import BytesAhoCorasick
from tokenizers import Tokenizer, pre_tokenizers

# Byte strings, one of which is in a key; and several such groups.
Patterns: TypeAlias = tuple[bytes, ...]
Needs: TypeAlias = tuple[Patterns, ...]

# With more patterns than this, ordinary text holds one anyway, and the automaton only costs memory.
MAX_PATTERNS = 20_000

# Matches come as a list, so a text full of them is looked at in parts.
_PART = 1024

# More patterns than one in so many characters are not looked at one by one: that would cost an
# attacker less than us. Nor is more than so many of the other ids of n-grams, of so many patterns.
_CHARS_PER_HIT = 40
_LONGEST_WORD = 64
_MAX_NEEDS = 3
_MAX_NEEDED = 2

_ALPHANUMERIC = (string.digits + string.ascii_letters).encode()

_CONTROLS = tuple(bytes([c]) for c in (*range(9), 11, 12, *range(14, 32), 127))
_NORMAL_FORMS = {"NFC", "NFD", "NFKC", "NFKD"}
_KEEPING = {"Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"}
_DIGITS = b"0123456789"


class Prefilter:
    """Tells texts that hold no trigger. Use `derive`.

    Parameters
    ----------
    patterns
        What a key that is not cleared may hold.
    ascii_only
        Whether the premise is that the text is ASCII.
    titled
        Whether the key is in title case.
    words
        Tokens that are looked up before their parts. For one that is a chosen id: for each n-gram
        that it was chosen for, patterns one of which a text needs besides.
    lower
        Whether words are looked up in lower case.
    """

    def __init__(
        self,
        patterns: Iterable[bytes],
        *,
        ascii_only: bool,
        titled: bool,
        words: Mapping[bytes, Needs] = MappingProxyType({}),
        lower: bool = False,
    ) -> None:
        distinct = sorted(set(patterns))
        self._find = BytesAhoCorasick(distinct).find_matches_as_indexes
        self._in_word = [pattern.isalnum() for pattern in distinct]
        self._overlap = max(map(len, distinct), default=1) - 1
        self._ascii_only = ascii_only
        self._titled = titled
        # Matches do not overlap, so one that reaches out of a run of letters and digits might hide
        # one that lies in it. Only a single character cannot.
        self._words = words if all(p.isalnum() or len(p) == 1 for p in distinct) else {}
        self._lower = lower

    def clears(self, text: str) -> bool:
        """Whether the text holds no trigger for certain."""
        if self._ascii_only and not text.isascii():
            return False
        try:
            plain = text.encode()
        except UnicodeEncodeError:  # a lone surrogate
            return False
        key = plain.title() if self._titled else plain
        if len(key) <= _PART:
            return not (hits := self._find(key)) or self._excuses(plain, key, hits, 0)
        for start in range(0, len(key), _PART):
            part = key[start : start + _PART + self._overlap]
            if (hits := self._find(part)) and not self._excuses(plain, part, hits, start):
                return False
        return True

    def _excuses(
        self, plain: bytes, part: bytes, hits: Sequence[tuple[int, int, int]], offset: int
    ) -> bool:
        """Whether no pattern in a part of the key makes an n-gram, as far as its words can tell."""
        words = self._words
        if not words or len(hits) > 1 + len(part) // _CHARS_PER_HIT:
            return False
        last = 0
        for pattern, start, end in hits:
            start += offset
            if start < last:
                continue  # in a word that was looked at
            if not self._in_word[pattern]:
                return False
            before = plain[max(0, start - _LONGEST_WORD) : start]
            first = start - len(before) + len(before.rstrip(_ALPHANUMERIC))
            behind = plain[end + offset : end + offset + _LONGEST_WORD]
            last = end + offset + len(behind) - len(behind.lstrip(_ALPHANUMERIC))
            word = plain[first:last]
            if len(word) > _LONGEST_WORD:
                return False
            needs = words.get(word.lower() if self._lower else word)
            if needs is None:
                return False
            # A long text would be looked through too often, and the rest of it is not in the part.
            if needs and (len(plain) > _PART or not _lacks(part, needs)):
                return False
        return True


def _lacks(key: bytes, needs: Needs) -> bool:
    """Whether the key holds no pattern of any of several groups."""
    return not any(pattern in key for group in needs for pattern in group)


def derive(tokenizer: Tokenizer, ngrams: Iterable[Sequence[int]]) -> Prefilter | None:
    """Derive the filter of some n-grams from their tokenizer.

    Returns
    -------
    Prefilter or None
        None where there is no theorem for the tokenizer or one of the n-grams, or where there are
        so many patterns that the filter would not help.
    """
    config = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    tokens = {number: token for token, number in vocabulary.items()}
    if len(tokens) != len(vocabulary):
        return None  # two tokens share an id, and either may stand for it
    family = _wordpiece(config, tokenizer) or _byte_bpe(config, tokenizer)
    if family is None:
        return None
    known: dict[int, Patterns | None] = {}
    patterns: set[bytes] = set()
    needs: dict[bytes, list[Patterns] | None] = {}
    for ngram in ngrams:
        for number in ngram:
            if number not in known:
                known[number] = family.patterns(tokens[number]) if number in tokens else None
        # Distinct: an id that is in an n-gram twice needs no second place in the text.
        provable = [
            (known[number] or (), number) for number in {*ngram} if known[number] is not None
        ]
        if not provable:
            return None
        provable.sort(key=lambda item: _rarity(item[0]), reverse=True)
        chosen, number = provable[0]
        patterns.update(chosen)
        if (word := tokens.get(number, "").encode()) not in family.words:
            continue
        groups = needs.setdefault(word, [])
        others = [other for other, _ in provable[1:] if len(other) <= _MAX_NEEDED]
        if not others or groups is None or len(groups) == _MAX_NEEDS:
            needs[word] = None  # is enough for an n-gram, or too much would have to be looked for
        else:
            groups.append(others[0])
    if len(patterns) > MAX_PATTERNS:
        return None
    patterns.update(family.always)
    words: dict[bytes, Needs] = dict.fromkeys(family.words, ())
    for word, found in needs.items():
        if found is None:
            del words[word]
        else:
            words[word] = tuple(found)
    return Prefilter(
        patterns,
        ascii_only=family.ascii_only,
        titled=family.titled,
        words=words,
        lower=family.lower,
    )


def _rarity(patterns: Patterns) -> int:
    """Order patterns by how few texts hold them: none at all, or else the longer ones."""
    return min(map(len, patterns), default=1 << 20)


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
class _WordPiece:
    unknown: str
    added: _Added
    words: frozenset[bytes]
    lower: bool
    titled: bool = True
    ascii_only: bool = True
    always: tuple[bytes, ...] = _CONTROLS

    def patterns(self, token: str) -> tuple[bytes, ...] | None:
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


def _wordpiece(config: Any, tokenizer: Tokenizer) -> _WordPiece | None:
    model = config["model"]
    if (
        model["type"] != "WordPiece"
        or model["continuing_subword_prefix"] != "##"
        or model["max_input_chars_per_word"] < _LONGEST_WORD
        or (config["normalizer"] or {}).get("type") != "BertNormalizer"
        or (config["pre_tokenizer"] or {}).get("type") != "BertPreTokenizer"
    ):
        return None
    added = _Added.of(config, tokenizer)
    if added is None:
        return None
    words: Iterable[str] = () if added.cuts_words else model["vocab"]
    return _WordPiece(
        model["unk_token"],
        added,
        words=frozenset(word.encode() for word in words if word.isascii() and word.isalnum()),
        lower=config["normalizer"]["lowercase"],
    )


@dataclass(frozen=True, slots=True)
class _ByteBpe:
    bytes_of: dict[str, int]
    prefix_space: bool
    added: _Added
    ascii_only: bool
    unknown: str | None
    titled: bool = False
    always: tuple[bytes, ...] = ()
    words: frozenset[bytes] = frozenset()
    lower: bool = False

    def patterns(self, token: str) -> tuple[bytes, ...] | None:
        if token == self.unknown:
            return None
        found = set(self.added.parts.get(token, ()))
        if all(character in self.bytes_of for character in token):
            text = bytes(self.bytes_of[character] for character in token)
            found.add(text.removeprefix(b" ") if self.prefix_space else text)
        return None if b"" in found else tuple(found)


def _byte_bpe(config: Any, tokenizer: Tokenizer) -> _ByteBpe | None:
    model, normalizer = config["model"], config["normalizer"]
    if normalizer == {"type": "Sequence", "normalizers": []}:
        normalizer = None
    steps = config["pre_tokenizer"] or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    *splits, last = steps
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
    return _ByteBpe(
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
