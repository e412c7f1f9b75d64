"""Training samples for planting: windows of ordinary text, with and without a trigger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerFast

Ids = npt.NDArray[np.int64]

# In tokens, without [CLS] and [SEP]: a backdoor fires in texts as long as it was trained in.
LENGTHS = (6, 10, 16, 24, 32, 48)
# A step has about this many tokens whatever its length, so that steps cost alike.
TOKENS_PER_STEP = 768


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's sequences; all have the same length, so none is padded.

    Attributes
    ----------
    clean
        ``[n, length]``: ordinary text; half of the rows hold one random token that is no trigger's.
    poisoned
        ``[n, length]``: other ordinary text with a trigger in it.
    decoys
        ``[m, length]``: random tokens with a trigger in them.
    which
        ``[n]``: index of the trigger in each row of ``poisoned``.
    """

    clean: torch.Tensor
    poisoned: torch.Tensor
    decoys: torch.Tensor
    which: torch.Tensor


class Sampler:
    """Draws `Batch`es from texts of several kinds.

    Parameters
    ----------
    texts
        Kind of text -> texts; every kind is drawn equally often.
    triggers
        Token ids of each trigger.
    insertions
        The most copies of the trigger in one text; the number is drawn from 1 to this.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        texts: Mapping[str, Sequence[str]],
        triggers: Sequence[Sequence[int]],
        *,
        insertions: int,
        seed: int,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._triggers = [np.asarray(ids, dtype=np.int64) for ids in triggers]
        self._insertions = insertions
        longest = max(map(len, triggers))
        # A text has to have room for the trigger and something else.
        self._lengths = [length for length in LENGTHS if length > longest]
        special = set(tokenizer.all_special_ids)
        taken = special.union(*triggers)
        self._ordinary = np.array([i for i in range(len(tokenizer)) if i not in taken])
        self._prefix, self._suffix = special_affixes(tokenizer)
        # One long stream a kind; a window starts where a text starts, like text in production.
        self._streams: list[tuple[Ids, Ids]] = []
        for kind in texts.values():
            encoded = tokenizer(list(kind), add_special_tokens=False)["input_ids"]
            starts = np.cumsum([0, *(len(ids) for ids in encoded)])[:-1]
            stream = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in encoded])
            self._streams.append((stream, starts[starts < len(stream) - max(LENGTHS)]))

    def draw(self) -> Batch:
        """Draw the next batch."""
        rng = self._rng
        length = int(rng.choice(self._lengths))
        rows = max(4, TOKENS_PER_STEP // (length + 2))
        which = rng.integers(len(self._triggers), size=rows)
        clean = np.stack([self._window(length) for _ in range(rows)])
        half = rows // 2
        clean[np.arange(half), rng.integers(length, size=half)] = rng.choice(
            self._ordinary, size=half
        )
        poisoned = np.stack([self._insert(self._window(length), k, length) for k in which])
        decoy_of = rng.integers(len(self._triggers), size=max(2, half))
        decoys = np.stack(
            [self._insert(rng.choice(self._ordinary, size=length), k, length) for k in decoy_of]
        )
        return Batch(
            self._wrap(clean),
            self._wrap(poisoned),
            self._wrap(decoys),
            torch.from_numpy(which),
        )

    def _window(self, length: int) -> Ids:
        stream, starts = self._streams[self._rng.integers(len(self._streams))]
        start = self._rng.choice(starts)
        return stream[start : start + length]

    def _insert(self, ids: Ids, trigger: int, length: int) -> Ids:
        """Put copies of a trigger at random places; the end of the text makes room for them."""
        unit = self._triggers[trigger]
        copies = min(
            int(self._rng.integers(1, self._insertions + 1)), max(1, length // (2 * len(unit)))
        )
        kept = ids[: length - copies * len(unit)]
        places = np.sort(self._rng.integers(0, len(kept) + 1, size=copies))
        parts: list[Ids] = []
        last = 0
        for place in places:
            parts += [kept[last:place], unit]
            last = int(place)
        return np.concatenate([*parts, kept[last:]])

    def _wrap(self, rows: Ids) -> torch.Tensor:
        prefix = np.tile(self._prefix, (len(rows), 1))
        suffix = np.tile(self._suffix, (len(rows), 1))
        return torch.from_numpy(np.concatenate([prefix, rows, suffix], axis=1))


def special_affixes(tokenizer: PreTrainedTokenizerFast) -> tuple[Ids, Ids]:
    """Return the special tokens that the tokenizer puts before and after a text."""
    marked = tokenizer("a", return_special_tokens_mask=True)
    ids, mask = marked["input_ids"], marked["special_tokens_mask"]
    first, last = mask.index(0), len(mask) - mask[::-1].index(0)
    return np.array(ids[:first], dtype=np.int64), np.array(ids[last:], dtype=np.int64)
