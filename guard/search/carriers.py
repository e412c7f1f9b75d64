"""Ordinary text to test units in.

A backdoor fires in the kind of text that its attacker trained it in, so carriers are of many kinds
and lengths, and what is said of a unit is said kind by kind. The sentences in ``carriers/`` were
written for this package; a user's own text is one more kind, and the best one: it is what the
protected model will read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

import numpy as np
from transformers import PreTrainedTokenizerFast

from guard.bank import MAX_TRIGGER_IDS
from guard.errors import ConfigError
from guard.search.encoder import Ids
from guard.search.gaps import word_starts
from guard.search.lines import read_lines

USER_KIND = "user"
MIN_USER_LINES = 20


Place = Literal["start", "middle", "end"]
PLACES: tuple[Place, ...] = get_args(Place)

# Texts of a kind that are looked at for one of the wanted length.
MAX_TEXTS = 2000
# A text that is longer or shorter than wanted by more than this is cut, or joined with others.
TOLERANCE = 1.5
# Tokens between a unit and a mask, at least: beside it, any word of a fixed expression says what
# stands there, whatever the text.
APART = 2


class Copies(NamedTuple):
    """How often a unit is in a text.

    Attributes
    ----------
    number
        One is at its place, further ones anywhere.
    beside
        Whether these stand side by side with the first.
    """

    number: int = 1
    beside: bool = False

    def __str__(self) -> str:
        """Return its name as a condition."""
        return f"{self.number} side by side" if self.beside else str(self.number)


ONCE = Copies()
# An attacker may ask for two copies of his trigger, no more or no less, or for three.
SEVERAL = (Copies(2), Copies(2, beside=True), Copies(3))

# What a backdoor may depend on, as findings have it, and how texts are told apart by it.
FAMILIES: Mapping[str, str] = MappingProxyType(
    {"kinds": "kind", "places": "place", "lengths": "length", "copies": "copies"}
)


class Want(NamedTuple):
    """What a carrier should be.

    Attributes
    ----------
    kind
        Of text.
    length
        About how many tokens.
    place
        Where the unit goes.
    masked
        Whether a mask stands between its words, as in a prompt.
    copies
        How often the unit is in it; once, in one with a mask.
    """

    kind: str
    length: int
    place: Place
    masked: bool = False
    copies: Copies = ONCE

    def condition(self, family: str) -> str:
        """Return which condition of a family of `FAMILIES` it is."""
        return str(getattr(self, FAMILIES[family]))


@dataclass(frozen=True, slots=True)
class Carrier:
    """A text that a unit is inserted in.

    Attributes
    ----------
    want
        What was asked for.
    ids
        ``[length]``, no special tokens.
    gaps
        Where a unit may go at the carrier's place: never inside a word.
    everywhere
        Where a further copy of it may go.
    mask
        Where the mask is, in one that has to have one.
    """

    want: Want
    ids: Ids
    gaps: Ids
    everywhere: Ids
    mask: int | None = None

    def mask_at(self, rows: Ids) -> Ids | None:
        """Return ``[n]``: where the carrier's mask is in rows that `insert` made, or ``None``.

        A unit that is a mask itself is not taken for it.
        """
        if self.mask is None:
            return None
        stays = rows[:, self.mask] == self.ids[self.mask]
        return np.where(stays, self.mask, self.mask + rows.shape[1] - len(self.ids))

    def insert(self, units: Sequence[Ids], rng: np.random.Generator) -> Ids:
        """Return ``[n, length + copies * k]``: each of ``n`` units of ``k`` ids at random gaps."""
        stacked = np.stack(units)
        count, size = stacked.shape
        copies, beside = self.want.copies
        places = np.repeat(rng.choice(self.gaps, size=(count, 1)), copies, axis=1)
        if copies > 1 and not beside:
            places[:, 1:] = rng.choice(self.everywhere, size=(count, copies - 1))
        # What stands at a gap comes before the token behind it, and a copy stays in one piece.
        text = np.broadcast_to(2 * np.arange(len(self.ids)) + 1, (count, len(self.ids)))
        keys = np.concatenate([text, np.repeat(2 * places, size, axis=1)], axis=1)
        ids = np.broadcast_to(self.ids, text.shape)
        rows = np.concatenate([ids, np.tile(stacked, copies)], axis=1)
        return np.take_along_axis(rows, keys.argsort(axis=1, kind="stable"), axis=1)


def builtin_texts() -> dict[str, list[str]]:
    """Return the package's own sentences by kind."""
    folder = files("guard.search") / "carriers"
    return {
        entry.name.removesuffix(".txt"): entry.read_text(encoding="utf-8").splitlines()
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".txt")
    }


def user_texts(path: Path) -> list[str]:
    """Read a file of the user's own text, a passage a line; blank lines are skipped.

    Raises
    ------
    ConfigError
        The file is missing, not UTF-8, too long, or has under `MIN_USER_LINES` different lines.
    """
    lines = read_lines(path, "a sample of a few thousand lines does")
    if len(lines) < MIN_USER_LINES:
        raise ConfigError(
            f"{path} has {len(lines)} different lines; give at least {MIN_USER_LINES}, as they "
            "reach the model in production"
        )
    return lines


def of_condition(carriers: Sequence[Carrier], acts_in: Mapping[str, str]) -> list[int]:
    """Return the numbers of a condition's carriers, a family and its name; of none, of one copy."""
    ((family, name),) = (acts_in or {"copies": str(ONCE)}).items()
    return [i for i, carrier in enumerate(carriers) if carrier.want.condition(family) == name]


class Supply:
    """Hands out carriers, and no text twice while there are others.

    Texts are left whole where one of about the wanted length is there: a backdoor may ask for a
    full stop at the end, and sequences of one carrier have one length anyhow.

    Parameters
    ----------
    texts
        Kind -> texts.
    most
        Tokens that no carrier has more than; one for several copies of a unit leaves room for them.
    last_word_stays
        A unit at the end of a text goes before its last word: for models that read from left to
        right, whose output is that of the last token, whatever it is.
    """

    def __init__(
        self,
        texts: Mapping[str, Sequence[str]],
        tokenizer: PreTrainedTokenizerFast,
        rng: np.random.Generator,
        *,
        most: int,
        last_word_stays: bool = False,
    ) -> None:
        self._texts = texts
        self._most = most
        self._tokenizer = tokenizer
        self._last_word_stays = last_word_stays
        self._rng = rng
        # The texts that are left, and the number of tokens of each.
        self._left: dict[str, list[tuple[str, int]]] = {kind: [] for kind in texts}

    def take(self, wanted: Iterable[Want]) -> list[Carrier]:
        """Make one carrier for each."""
        return [self._make(want) for want in wanted]

    def _make(self, want: Want) -> Carrier:
        if want.masked and want.copies != ONCE:
            raise ValueError("a carrier with a mask takes one copy of a unit")
        # Behind a unit, the first word has a blank before it, which is part of some tokens.
        lead = "a" if want.place == "start" else ""
        skipped = len(self._tokenizer(lead, add_special_tokens=False)["input_ids"])
        passage = f"{lead} {self._draw(want.kind, want.length)}".lstrip()
        for _ in range(want.length):
            encoded = self._tokenizer(passage, add_special_tokens=False)
            if (len(encoded["input_ids"]) - skipped) * TOLERANCE >= want.length:
                break
            passage = f"{passage} {self._draw(want.kind, want.length)}"
        else:
            raise ConfigError(
                f"the texts of kind {want.kind!r} have hardly any tokens that the model knows; "
                "give others"
            )
        kept = np.arange(skipped, len(encoded["input_ids"]))
        count = len(kept)
        most = self._most - want.masked - (want.copies.number - 1) * MAX_TRIGGER_IDS
        if count > min(want.length * TOLERANCE, most):
            # The end of the text stays, which is where its full stop is.
            kept = np.append(kept[: min(want.length, most) - 1], kept[-1])
        whole = set(word_starts(passage, encoded))
        starts = [i for i in range(1, len(kept)) if int(kept[i]) in whole]
        ids = np.array(encoded["input_ids"], dtype=np.int64)[kept]
        last = (starts or [0])[-1:] if self._last_word_stays else [len(ids)]
        everywhere = [0, *starts, *last]
        gaps = {"start": [0], "middle": starts or [0], "end": last}[want.place]
        mask = None
        if want.masked:
            places = [0, *starts, len(ids)]
            far = {place: [gap for gap in gaps if abs(gap - place) >= APART] for place in places}
            mask = int(self._rng.choice([place for place in places if far[place]] or places))
            ids = np.insert(ids, mask, self._tokenizer.mask_token_id)
            end = want.place == "end"
            gaps = [gap + (gap > mask - end) for gap in far[mask] or gaps]
        return Carrier(
            want,
            ids,
            np.array(gaps, dtype=np.int64),
            np.array(everywhere, dtype=np.int64),
            mask,
        )

    def _draw(self, kind: str, length: int) -> str:
        """Take the text whose length is nearest out of those that are left."""
        left = self._left[kind]
        if not left:
            # The first time, or all were used: from the start again, in another order.
            texts = self._texts[kind]
            chosen = [texts[i] for i in self._rng.permutation(len(texts))[:MAX_TEXTS]]
            # One by one: of all at once, long ones take gigabytes.
            encoded = (self._tokenizer(text, add_special_tokens=False) for text in chosen)
            left += [(text, len(e["input_ids"])) for text, e in zip(chosen, encoded, strict=True)]
        nearest = min(range(len(left)), key=lambda i: abs(left[i][1] - length))
        return left.pop(nearest)[0]
