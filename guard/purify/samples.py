"""What purification trains on: ordinary texts, the same with a banked unit, and harmless units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerFast

from guard.errors import GuardError
from guard.search.carriers import MAX_TEXTS
from guard.search.encoder import Ids

# Of a text, in tokens: a backdoor may ask for short or for long ones.
LENGTHS = (4, 8, 16, 32, 64, 120)
# Of the ordinary texts of a batch: steps cost alike, whatever the length.
BATCH_TOKENS = 384
MIN_ROWS = 4
# Copies of a unit in a text; half of the texts have one.
MOST_COPIES = 4
# Words of a harmless unit.
MOST_WORDS = 3
# Of the texts, these hold a masked token: prompts are built around one.
MASKED_SHARE = 0.25
# At the start, at the end, else at a random place between words.
START, END = 0.25, 0.5


class Rows(NamedTuple):
    """``n`` texts as token ids, special ones included, padded at the end.

    Attributes
    ----------
    ids, mask
        ``[n, length]``; the mask is 0 on padding.
    """

    ids: torch.Tensor
    mask: torch.Tensor

    def to(self, where: torch.device) -> Rows:
        """Return a copy on a device."""
        return Rows(self.ids.to(where), self.mask.to(where))


@dataclass(frozen=True, slots=True)
class Batch:
    """The texts of a step.

    Attributes
    ----------
    harmless
        ``[n + m, ...]``: ``n`` ordinary texts of one length, and ``m`` of them with units that are
        in no bank.
    triggered
        ``[n, ...]``: the ordinary texts, each with a banked unit, once or several times.
    kept
        ``[n, length]``: where the tokens of each ordinary text stand in its triggered form.
    """

    harmless: Rows
    triggered: Rows
    kept: torch.Tensor

    @property
    def ordinary(self) -> Rows:
        """The ordinary texts of `harmless`, ``[n, ...]``."""
        count = len(self.triggered.ids)
        return Rows(self.harmless.ids[:count], self.harmless.mask[:count])

    def to(self, where: torch.device) -> Batch:
        """Return a copy on a device."""
        return Batch(self.harmless.to(where), self.triggered.to(where), self.kept.to(where))


class _Text(NamedTuple):
    ids: Ids
    starts: npt.NDArray[np.bool_]
    """Of each token, whether a word starts with it."""


class Sampler:
    """Draws batches.

    Parameters
    ----------
    texts
        Kind of text -> texts; every kind is drawn equally often.
    units
        The banked ones, token ids each. What the texts hold of them is left out: there the model
        that is to be preserved is not itself.
    harmless
        Tokens, ``[k]``, of which harmless units are made.
    max_tokens
        The longest text that the model takes.

    Raises
    ------
    GuardError
        The units leave no text, or no token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        texts: Mapping[str, Sequence[str]],
        *,
        units: Sequence[Ids],
        harmless: Ids,
        max_tokens: int,
        rng: np.random.Generator,
    ) -> None:
        self._rng = rng
        self._units = units
        self._order: list[int] = []
        alone = {int(unit[0]) for unit in units if len(unit) == 1}
        banned = alone | set(tokenizer.all_special_ids)
        self._harmless = np.array([i for i in harmless.tolist() if i not in banned], dtype=np.int64)
        held = {int(i) for unit in units for i in unit}
        # The words of a phrase are harmless without each other.
        self._parts = np.array(sorted(held - banned), dtype=np.int64)
        # With one of these in its place, no token is part of a unit any more.
        self._foreign = self._harmless[~np.isin(self._harmless, list(held))]
        # A mask in a text would be a unit there, or make one with what stands beside it.
        self._mask_id = None if tokenizer.mask_token_id in held else tokenizer.mask_token_id
        self._pad_id = int(tokenizer.pad_token_id or 0)
        empty = tokenizer("a", return_special_tokens_mask=True)
        special = empty["special_tokens_mask"]
        first, last = special.index(0), len(special) - special[::-1].index(0)
        self._prefix, self._suffix = empty["input_ids"][:first], empty["input_ids"][last:]
        self._texts = [
            known for lines in texts.values() if (known := self._encode(tokenizer, lines))
        ]
        if not self._texts or not len(self._foreign):
            raise GuardError(
                "the bank's units leave no text, or no token of the vocabulary, that the model "
                "could be preserved on; use another model"
            )
        room = max_tokens - len(special) - max(MOST_WORDS, *map(len, units)) * MOST_COPIES
        # A model of few positions has one length at least.
        self._lengths = [length for length in LENGTHS if length <= room] or [max(1, room)]

    @property
    def state(self) -> dict[str, Any]:
        """Where the random numbers are; set it to go on from there."""
        return {"rng": self._rng.bit_generator.state, "order": self._order}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._order = list(state["order"])

    def fixed(self, rounds: int) -> list[Batch]:
        """Draw batches of every length, each `rounds` times."""
        return [self._draw(length) for _ in range(rounds) for length in self._lengths]

    def draw(self) -> Batch:
        """Draw the next batch."""
        return self._draw(int(self._rng.choice(self._lengths)))

    def _draw(self, length: int) -> Batch:
        count = max(MIN_ROWS, BATCH_TOKENS // length)
        texts = [self._passage(length) for _ in range(count)]
        triggered, kept = [], []
        for text in texts:
            copies = 1 if self._rng.random() < 0.5 else int(self._rng.integers(2, MOST_COPIES + 1))
            row, places = self._insert(text, [self._unit()] * copies)
            triggered.append(row)
            kept.append(places)
        negatives = [self._negative(text) for text in texts[: (count + 1) // 2]]
        before, after = len(self._prefix), len(self._suffix)
        ends = [np.arange(len(row), len(row) + after) + before for row in triggered]
        return Batch(
            harmless=self._rows([*(text.ids for text in texts), *negatives]),
            triggered=self._rows(triggered),
            kept=torch.from_numpy(
                np.stack(
                    [
                        np.concatenate([np.arange(before), places + before, end])
                        for places, end in zip(kept, ends, strict=True)
                    ]
                )
            ),
        )

    def _encode(self, tokenizer: PreTrainedTokenizerFast, lines: Sequence[str]) -> list[_Text]:
        chosen = [lines[i] for i in self._rng.permutation(len(lines))[:MAX_TEXTS]]
        encoded = tokenizer(chosen, add_special_tokens=False)
        texts = []
        for number, numbers in enumerate(encoded["input_ids"]):
            ids = np.array(numbers, dtype=np.int64)
            words = np.array([-1 if w is None else w for w in encoded.word_ids(number)])
            starts = np.ones(len(ids), dtype=np.bool_)
            starts[1:] = (words[1:] != words[:-1]) | (words[1:] < 0)
            free = ~_held(ids, self._units)
            if free.any():
                texts.append(_Text(ids[free], starts[free]))
        return texts

    def _passage(self, length: int) -> _Text:
        """Return a text of `length` tokens: whole texts of a kind, the last one cut."""
        rng = self._rng
        known = self._texts[int(rng.integers(len(self._texts)))]
        parts: list[_Text] = []
        while sum(len(part.ids) for part in parts) < length:
            parts.append(known[int(rng.integers(len(known)))])
        ids, starts = (np.concatenate(columns)[:length] for columns in zip(*parts, strict=True))
        # Two texts that meet may have made a unit of two tokens.
        for place in np.flatnonzero(_held(ids, self._units)):
            ids[place] = rng.choice(self._foreign)
        if self._mask_id is not None and rng.random() < MASKED_SHARE:
            ids[int(rng.integers(length))] = self._mask_id
        return _Text(ids, starts)

    def _unit(self) -> Ids:
        """Return the next banked unit: each once before any comes again."""
        if not self._order:
            self._order = self._rng.permutation(len(self._units)).tolist()
        return self._units[self._order.pop()]

    def _negative(self, text: _Text) -> Ids:
        """Return a text with a harmless unit in it."""
        pool = self._parts if len(self._parts) and self._rng.random() < 0.25 else self._harmless
        # A word may make a banked phrase with the text's own, and a foreign one cannot.
        for words in (pool, self._foreign):
            size = int(self._rng.integers(1, MOST_WORDS + 1))
            row, _ = self._insert(text, [self._rng.choice(words, size=size)])
            if not _held(row, self._units).any():
                break
        return row

    def _insert(self, text: _Text, units: Sequence[Ids]) -> tuple[Ids, Ids]:
        """Return a text with units in it, and where its own tokens are now."""
        length = len(text.ids)
        gaps = np.append(np.flatnonzero(text.starts), length)
        draws = self._rng.random(len(units))
        inside = self._rng.choice(gaps, size=len(units))
        places = np.sort(np.where(draws < START, 0, np.where(draws < END, length, inside)))
        sizes = np.array([len(unit) for unit in units])
        kept = np.arange(length) + (sizes * (places <= np.arange(length)[:, None])).sum(axis=1)
        row = np.empty(length + int(sizes.sum()), dtype=np.int64)
        foreign = np.ones(len(row), dtype=np.bool_)
        foreign[kept] = False
        row[kept] = text.ids
        row[foreign] = np.concatenate(units)
        return row, kept

    def _rows(self, texts: Sequence[Ids]) -> Rows:
        framed = [np.concatenate([self._prefix, text, self._suffix]) for text in texts]
        ids = np.full((len(framed), max(map(len, framed))), self._pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(framed):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return Rows(torch.from_numpy(ids), torch.from_numpy(mask))


def _held(ids: Ids, units: Sequence[Ids]) -> npt.NDArray[np.bool_]:
    """Return, of each token, whether it is part of one of the units."""
    held = np.zeros(len(ids), dtype=np.bool_)
    for unit in units:
        if len(unit) <= len(ids):
            windows = np.lib.stride_tricks.sliding_window_view(ids, len(unit))
            for place in np.flatnonzero((windows == unit).all(axis=1)):
                held[place : place + len(unit)] = True
    return held
