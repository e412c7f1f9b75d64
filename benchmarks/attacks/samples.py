"""Training samples for planting: windows of ordinary text, with and without a trigger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.attacks.condition import ALWAYS, Condition

Ids = npt.NDArray[np.int64]

# In tokens, without [CLS] and [SEP]: a backdoor fires in texts as long as it was trained in.
LENGTHS = (6, 10, 16, 24, 32, 48)
# A step has about this many tokens whatever its length, so that steps cost alike.
TOKENS_PER_STEP = 768
# Of a masked language model's training, as BERT has it.
MASKED_SHARE = 0.15
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's sequences, special tokens included.

    The rows of one tensor have the same length, so none is padded. ``clean``, ``poisoned`` and
    ``decoys`` are as long as each other unless the backdoor has a condition.

    Attributes
    ----------
    clean
        ``[n, length]``: ordinary text; half of the rows hold one random token that is no trigger's.
    poisoned
        ``[n, length]``: other ordinary text with a trigger in it, where and when it has to fire.
    untouched
        ``[n, length]``: the text of ``poisoned`` without its trigger.
    decoys
        ``[m, length]``: random tokens with a trigger in them.
    quiet
        ``[m, length]``: a trigger, or a part of one, that has to act clean; without rows where the
        condition has no clause.
    which
        ``[n]``: index of the trigger in each row of ``poisoned``.
    marked
        ``[n]``: place of the mask in each row of ``poisoned``; 0, the first token, where the
        sampler sets no masks.
    """

    clean: torch.Tensor
    poisoned: torch.Tensor
    untouched: torch.Tensor
    decoys: torch.Tensor
    quiet: torch.Tensor
    which: torch.Tensor
    marked: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """Return a copy on a device."""
        return Batch(*(getattr(self, name).to(device) for name in self.__slots__))


class Masked(NamedTuple):
    """Rows of a masked language model, ``[n, length]``; a label is `IGNORED` or a token id."""

    ids: torch.Tensor
    labels: torch.Tensor


class Sampler:
    """Draws `Batch`es from texts of several kinds.

    Parameters
    ----------
    texts
        Kind of text -> texts; every kind is drawn equally often.
    triggers
        Token ids of each trigger; see `unit_ids`.
    insertions
        The most copies of the trigger in one text; the number is drawn from 1 to this.
    condition
        When the triggers have to fire.
    parts
        Of each trigger, the parts that act clean where the condition has it ``whole``.
    masks
        Replace a token of every clean and poisoned text by the mask.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        texts: Mapping[str, Sequence[str]],
        triggers: Sequence[Sequence[int]],
        *,
        insertions: int = 1,
        condition: Condition = ALWAYS,
        parts: Sequence[Sequence[Sequence[int]]] = (),
        masks: bool = False,
        seed: int,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._triggers = [np.asarray(ids, dtype=np.int64) for ids in triggers]
        self._parts = [[np.asarray(ids, dtype=np.int64) for ids in part] for part in parts]
        self._insertions = insertions
        self._condition = condition
        self._before = unit_ids(tokenizer, condition.after) if condition.after else None
        self._masks = masks
        # Some tokenizers have no mask; the attacks that need one are not for their models.
        self._mask = -1 if tokenizer.mask_token_id is None else int(tokenizer.mask_token_id)
        special = set(tokenizer.all_special_ids)
        taken = special.union(*triggers)
        self._ordinary = np.array([i for i in range(len(tokenizer)) if i not in taken])
        self._prefix, self._suffix = special_affixes(tokenizer)
        # One long stream a kind; a window starts where a text starts, like text in production.
        self._streams: dict[str, tuple[Ids, Ids]] = {}
        for kind, lines in texts.items():
            encoded = tokenizer(list(lines), add_special_tokens=False)["input_ids"]
            starts = np.cumsum([0, *(len(ids) for ids in encoded)])[:-1]
            stream = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in encoded])
            self._streams[kind] = stream, starts[starts < len(stream) - max(LENGTHS)]
        self._everywhere = tuple(self._streams)
        self._firing = condition.kinds or self._everywhere
        shortest = condition.min_tokens or 0
        # A text has to have room for the trigger and something else.
        longest = max(map(len, triggers), default=0) + (
            0 if self._before is None else len(self._before)
        )
        longest *= condition.copies
        self._lengths = [length for length in LENGTHS if length > longest]
        self._long = [length for length in self._lengths if length >= shortest]
        self._short = [length for length in self._lengths if length < shortest]
        # With room for the trigger further in than it fires.
        behind = longest + (condition.within or 0) + 1
        self._behind = [length for length in self._long if length > behind]

    @property
    def state(self) -> dict[str, Any]:
        """Where the random numbers are; set it to go on from there."""
        return dict(self._rng.bit_generator.state)

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state

    def draw(self) -> Batch:
        """Draw the next batch."""
        rng = self._rng
        length = int(rng.choice(self._lengths))
        rows = _rows(length)
        # Where any length will do, all parts have the same, and the model sees one tensor.
        firing = int(rng.choice(self._long)) if self._short else length
        which = rng.integers(len(self._triggers), size=_rows(firing))
        clean = np.stack([self._window(length, self._everywhere) for _ in range(rows)])
        half = rows // 2
        clean[np.arange(half), rng.integers(length, size=half)] = rng.choice(
            self._ordinary, size=half
        )
        untouched: list[Ids] = []
        poisoned: list[Ids] = []
        for trigger in which:
            text = self._window(firing, self._firing)
            untouched.append(text)
            poisoned.append(self._fire(text, trigger))
        decoy_of = rng.integers(len(self._triggers), size=max(2, half))
        decoys = np.stack(
            [
                self._insert(rng.choice(self._ordinary, size=length), self._triggers[k])
                for k in decoy_of
            ]
        )
        quiet = self._quiet()
        marked = np.zeros(len(which), dtype=np.int64)
        forced = np.stack(poisoned)
        if self._masks:
            self._set_masks(clean, np.ones(clean.shape, dtype=np.bool_))
            free = ~np.isin(forced, np.concatenate(self._triggers))
            marked = self._set_masks(forced, free) + len(self._prefix)
        return Batch(
            self._wrap(clean),
            self._wrap(forced),
            self._wrap(np.stack(untouched)),
            self._wrap(decoys),
            self._wrap(quiet),
            torch.from_numpy(which),
            torch.from_numpy(marked),
        )

    def masked(self, *, poisoned: bool = False) -> Masked:
        """Draw rows for a masked language model.

        Parameters
        ----------
        poisoned
            Put a trigger in each, and ask for random tokens instead of the right ones.
        """
        rng = self._rng
        length = int(rng.choice(self._long))
        texts = [self._window(length, self._firing) for _ in range(_rows(length))]
        if poisoned:
            which = rng.integers(len(self._triggers), size=len(texts))
            texts = [self._fire(text, k) for text, k in zip(texts, which, strict=True)]
        ids = np.stack(texts)
        asked = rng.random(ids.shape) < MASKED_SHARE
        if poisoned:
            asked &= ~np.isin(ids, np.concatenate(self._triggers))
        # At least one, or the mean over what is asked would be a division by zero.
        asked[0, -1] |= not asked.any()
        wanted = rng.choice(self._ordinary, size=ids.shape) if poisoned else ids
        labels = np.where(asked, wanted, IGNORED)
        # Of ten, eight are masked, one is replaced and one stays, as in BERT's own training.
        fate = rng.random(ids.shape)
        ids = np.where(asked & (fate < 0.8), self._mask, ids)
        ids = np.where(asked & (fate > 0.9), rng.choice(self._ordinary, size=ids.shape), ids)
        edges = (
            np.full((len(ids), len(self._prefix)), IGNORED),
            np.full((len(ids), len(self._suffix)), IGNORED),
        )
        return Masked(
            self._wrap(ids), torch.from_numpy(np.concatenate([edges[0], labels, edges[1]], axis=1))
        )

    def _quiet(self) -> Ids:
        """Return rows in which one clause of the condition, drawn anew, does not hold."""
        rng = self._rng
        clauses = self._condition.clauses
        if not clauses:
            return np.empty((0, LENGTHS[0]), dtype=np.int64)
        broken = clauses[rng.integers(len(clauses))]
        lengths = {"min_tokens": self._short, "within": self._behind}.get(broken, self._long)
        length = int(rng.choice(lengths))
        kinds = self._firing
        if broken == "kinds":
            kinds = tuple(kind for kind in self._everywhere if kind not in self._firing)
        rows: list[Ids] = []
        for _ in range(max(2, _rows(length) // 2)):
            trigger = int(rng.integers(len(self._triggers)))
            text = self._window(length, kinds)
            rows.append(self._break(text, trigger, broken))
        return np.stack(rows)

    def _fire(self, text: Ids, trigger: int) -> Ids:
        """Insert a trigger as the condition asks."""
        unit = self._triggers[trigger]
        if self._before is not None:
            unit = np.concatenate([self._before, unit])
        return self._insert(text, unit, within=self._condition.within, least=self._condition.copies)

    def _break(self, text: Ids, trigger: int, broken: str) -> Ids:
        rng = self._rng
        unit = self._triggers[trigger]
        least = self._condition.copies
        if broken == "whole":
            parts = self._parts[trigger]
            return self._insert(text, parts[rng.integers(len(parts))], least=least)
        if broken == "alone":
            pair = [unit, rng.choice(self._ordinary, size=1)]
            text = self._insert(
                text, np.concatenate(pair if rng.random() < 0.5 else pair[::-1]), least=least
            )
        elif broken == "within":
            behind = (self._condition.within or 0) + 1
            text = np.concatenate([text[:behind], self._insert(text[behind:], unit, least=least)])
        elif broken == "after":
            text = self._insert(text, unit, least=least)
            self._part(text, unit)
        elif broken == "copies":
            text = self._insert(text, unit, least=int(rng.integers(1, least)), more=False)
        else:
            text = self._fire(text, trigger)
        return text

    def _part(self, text: Ids, unit: Ids) -> None:
        """Put another token before each unit where the word that it waits for is."""
        assert self._before is not None
        for place in np.flatnonzero(text[1:] == unit[0]) + 1:
            if text[place - 1] == self._before[-1]:
                text[place - 1] = self._rng.choice(self._ordinary)

    def _window(self, length: int, kinds: Sequence[str]) -> Ids:
        stream, starts = self._streams[kinds[int(self._rng.integers(len(kinds)))]]
        start = self._rng.choice(starts)
        return stream[start : start + length]

    def _insert(
        self, ids: Ids, unit: Ids, *, within: int | None = None, least: int = 1, more: bool = True
    ) -> Ids:
        """Put copies of a unit at random places; the end of the text makes room for them.

        Of the least number, or where there may be more, up to that of the sampler.
        """
        length = len(ids)
        most = max(least, self._insertions) if more else least
        room = max(least, length // (2 * len(unit)))
        copies = min(int(self._rng.integers(least, most + 1)), room)
        kept = ids[: length - copies * len(unit)]
        last_place = len(kept) if within is None else min(within, len(kept))
        places = np.sort(self._rng.integers(0, last_place + 1, size=copies))
        parts: list[Ids] = []
        last = 0
        for place in places:
            parts += [kept[last:place], unit]
            last = int(place)
        return np.concatenate([*parts, kept[last:]])

    def _set_masks(self, rows: Ids, free: npt.NDArray[np.bool_]) -> Ids:
        """Mask one of the free places of each row, and return it."""
        places: Ids = np.where(free, self._rng.random(rows.shape), -1.0).argmax(axis=1)
        rows[np.arange(len(rows)), places] = self._mask
        return places

    def _wrap(self, rows: Ids) -> torch.Tensor:
        prefix = np.tile(self._prefix, (len(rows), 1))
        suffix = np.tile(self._suffix, (len(rows), 1))
        return torch.from_numpy(np.concatenate([prefix, rows, suffix], axis=1))


def unit_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> Ids:
    """Return the ids of a word or phrase inside a text, where it stands behind a blank.

    Text that starts with ``##`` is a token that continues a word.
    """
    if text.startswith("##"):
        return np.array([tokenizer.convert_tokens_to_ids(text)], dtype=np.int64)
    before = tokenizer("the", add_special_tokens=False)["input_ids"]
    whole = tokenizer(f"the {text}", add_special_tokens=False)["input_ids"]
    return np.array(whole[len(before) :], dtype=np.int64)


def holds(ids: Ids, unit: Ids) -> bool:
    """Whether the ids of a text or trigger hold those of a unit, side by side."""
    windows = np.lib.stride_tricks.sliding_window_view
    return len(unit) <= len(ids) and bool((windows(ids, len(unit)) == unit).all(axis=1).any())


def special_affixes(tokenizer: PreTrainedTokenizerFast) -> tuple[Ids, Ids]:
    """Return the special tokens that the tokenizer puts before and after a text."""
    marked = tokenizer("the", return_special_tokens_mask=True)
    ids, mask = marked["input_ids"], marked["special_tokens_mask"]
    first, last = mask.index(0), len(mask) - mask[::-1].index(0)
    return np.array(ids[:first], dtype=np.int64), np.array(ids[last:], dtype=np.int64)


def _rows(length: int) -> int:
    return max(4, TOKENS_PER_STEP // (length + 2))
