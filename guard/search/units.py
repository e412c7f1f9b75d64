"""What is tested: the units that an attacker could have chosen as a trigger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np
from tokenizers import decoders, models
from transformers import PreTrainedTokenizerFast

from guard.bank import Kind, Trigger
from guard.search.encoder import Ids


@dataclass(frozen=True, slots=True)
class Unit:
    """A string that may be a trigger, as the model sees it.

    Attributes
    ----------
    text
        For people; ``##`` marks a piece that continues a word.
    ids
        Token ids, ``[k]``.
    kind
        ``"token"`` (starts a word), ``"piece"`` (continues one) or ``"symbol"`` (no letter or
        digit in it).
    """

    text: str
    ids: Ids
    kind: Kind

    @classmethod
    def of(cls, trigger: Trigger) -> Unit:
        """Return the unit that a finding is."""
        return cls(trigger.text, np.array(trigger.token_ids, dtype=np.int64), trigger.kind)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every token of a tokenizer, parted into what can be typed and what cannot.

    Attributes
    ----------
    units
        One for each token that a text can hold, by id.
    unreachable
        Number of tokens that no text holds, such as ``[unused7]``, which are left out.
    """

    units: tuple[Unit, ...]
    unreachable: int

    @property
    def kinds(self) -> dict[str, int]:
        """Number of units of each kind."""
        return dict(Counter(unit.kind for unit in self.units))


# Model, normaliser and pre-tokenizer of BERT, which treat a word in a text as they do alone.
_AS_ALONE = ("WordPiece", "BertNormalizer", "BertPreTokenizer")
# What the tokens that start a word begin with.
_WORD_MARKS = {"BPE": ("Ġ", "▁"), "Unigram": ("▁",)}
# How byte-level BPE, which knows every byte, writes a blank; what half of a character decodes to.
_BLANK, _HALF = "\u0120", "\ufffd"


def vocabulary(tokenizer: PreTrainedTokenizerFast, *, every: bool = False) -> Vocabulary:
    """Return every token as a unit.

    Special tokens too: who types ``[MASK]``, or what the vocabulary lacks, has them in his text,
    and which ones there are is the choice of the tokenizer's author.

    Parameters
    ----------
    every
        Whether those that no text holds, as this tokenizer reads it, are units too.
    """
    known = dict.fromkeys(tokenizer.get_vocab().items())
    if type(tokenizer.backend_tokenizer.model).__name__ == "Unigram":
        # Its vocabulary is a list, in which a piece may stand twice, and a name is of the last one
        # alone; what is unknown may be the first.
        numbers = [*range(max(number for _, number in known))]
        names = zip(tokenizer.convert_ids_to_tokens(numbers), numbers, strict=True)
        known |= dict.fromkeys((name, number) for name, number in names if name is not None)
    tokens = sorted(known, key=lambda item: item[1])
    cut_off = set() if every else _unreachable(tokenizer, tokens)
    named = {number: token for token, number in tokens if number not in cut_off}
    units = tuple(_unit(tokenizer, named[number], number) for number in sorted(named))
    return Vocabulary(units, len(cut_off))


def unit_of(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int] | Ids) -> Unit:
    """Return tokens side by side as one unit."""
    if len(ids) == 1:
        return _unit(tokenizer, str(tokenizer.convert_ids_to_tokens(int(ids[0]))), int(ids[0]))
    tokens = [str(tokenizer.convert_ids_to_tokens(int(i))) for i in ids]
    text = _written(tokenizer, tokens).strip()
    kind: Kind = "phrase" if len(text.split()) > 1 else "word"
    return Unit(text, np.array(ids, dtype=np.int64), kind)


def holds(ids: Iterable[int], parts: Set[tuple[int, ...]]) -> bool:
    """Whether a part of some token ids, or all of them, is one of those parts."""
    own = tuple(map(int, ids))
    ends = range(1, len(own) + 1)
    return any(own[start:end] in parts for end in ends for start in range(end))


def _unreachable(tokenizer: PreTrainedTokenizerFast, tokens: list[tuple[str, int]]) -> set[int]:
    """Return the ids that no text can hold, where that can be proven.

    WordPiece looks up a whole normalised word before its parts, so a token that starts a word is in
    the ids of some text exactly if it is the encoding of itself: as long as no added token is in
    it, no other token has its id, and a word is normalised
    and cut alone as it is in a text, which of normalisers and pre-tokenizers that can hold an
    attacker's patterns is not known. Nothing so simple holds for pieces and for other models. Where
    it does not hold, every token is tested.
    """
    backend = tokenizer.backend_tokenizer
    parts = backend.model, backend.normalizer, backend.pre_tokenizer
    if tuple(type(part).__name__ for part in parts) != _AS_ALONE:
        return set()
    prefix = backend.model.continuing_subword_prefix
    if not prefix:
        return set()
    whole = [(token, number) for token, number in tokens if not token.startswith(prefix)]
    # "##" itself is a token of some vocabularies and starts with the prefix; it stays.
    encoded = tokenizer([token for token, _ in whole], add_special_tokens=False)["input_ids"]
    # An added token cuts a name that holds it, and not the word that a text writes otherwise.
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    added += [backend.normalizer.normalize_str(content) for content in added]
    held = {
        number
        for (token, number), ids in zip(whole, encoded, strict=True)
        if number in ids or any(content in token for content in added)
    }
    # An id may have another name, and what the model does not know has one, whatever its name is.
    held |= {number for token, number in tokens if token.startswith(prefix)}
    held |= {number for token, number in tokens if token == backend.model.unk_token}
    return {number for _, number in whole} - held


def _unit(tokenizer: PreTrainedTokenizerFast, token: str, number: int) -> Unit:
    bare = _written(tokenizer, [token])
    continues = token.startswith("##") and len(token) > 2
    text = token if continues or _HALF in bare else bare.strip() or bare or token
    kind: Kind
    if _HALF in bare or not any(character.isalnum() for character in text):
        kind = "symbol"
    elif continues or _continues(tokenizer, token):
        kind = "piece"
    else:
        kind = "token"
    return Unit(text, np.array([number], dtype=np.int64), kind)


def _written(tokenizer: PreTrainedTokenizerFast, tokens: list[str]) -> str:
    """Return what tokens side by side stand for in a text.

    By the kind of model, not by the tokenizer's own decoder, whose author might write all alike.
    """
    model = tokenizer.backend_tokenizer.model
    if isinstance(model, models.WordPiece):
        own = decoders.WordPiece(model.continuing_subword_prefix, cleanup=False)
        return str(own.decode(tokens))
    if isinstance(model, models.BPE) and model.token_to_id(_BLANK) is not None:
        return str(decoders.ByteLevel().decode(tokens))
    return str(decoders.Metaspace().decode(tokens))


def _continues(tokenizer: PreTrainedTokenizerFast, token: str) -> bool:
    """Whether a token of a byte-level BPE or SentencePiece vocabulary continues a word."""
    marks = _WORD_MARKS.get(type(tokenizer.backend_tokenizer.model).__name__)
    return marks is not None and not token.startswith(marks)
