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

import numpy as np
from transformers import PreTrainedTokenizerFast

from guard.errors import ConfigError
from guard.search.encoder import Ids

USER_KIND = "user"
MAX_USER_BYTES = 64 << 20
MIN_USER_LINES = 20


@dataclass(frozen=True, slots=True)
class Carrier:
    """A text that a unit is inserted in.

    Attributes
    ----------
    kind
        What sort of text it is.
    ids
        ``[length]``, no special tokens.
    gaps
        Places where a unit may go: before, after and between words, never inside one.
    """

    kind: str
    ids: Ids
    gaps: Ids

    def insert(self, units: Sequence[Ids], rng: np.random.Generator) -> Ids:
        """Return ``[n, length + k]``: each of ``n`` units of ``k`` ids at a random gap."""
        stacked = np.stack(units)
        count, size = stacked.shape
        places = rng.choice(self.gaps, size=count)
        rows = np.empty((count, len(self.ids) + size), dtype=np.int64)
        column = np.arange(rows.shape[1])
        for place in np.unique(places):
            here = places == place
            rows[np.ix_(here, column < place)] = self.ids[:place]
            rows[np.ix_(here, column >= place + size)] = self.ids[place:]
            rows[np.ix_(here, (column >= place) & (column < place + size))] = stacked[here]
        return rows


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
    try:
        with path.open("rb") as file:
            data = file.read(MAX_USER_BYTES + 1)
        if len(data) > MAX_USER_BYTES:
            raise ConfigError(
                f"{path} is over {MAX_USER_BYTES >> 20} MiB; a sample of a few thousand lines does"
            )
        text = data.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start}); convert it first") from error
    lines = list(dict.fromkeys(line.strip() for line in text.split("\n") if line.strip()))
    if len(lines) < MIN_USER_LINES:
        raise ConfigError(
            f"{path} has {len(lines)} different lines; give at least {MIN_USER_LINES}, as they "
            "reach the model in production"
        )
    return lines


class Supply:
    """Hands out carriers of wanted kinds and lengths, and no text twice while there are others.

    Parameters
    ----------
    texts
        Kind -> texts.
    """

    def __init__(
        self,
        texts: Mapping[str, Sequence[str]],
        tokenizer: PreTrainedTokenizerFast,
        rng: np.random.Generator,
    ) -> None:
        self._texts = texts
        self._tokenizer = tokenizer
        self._rng = rng
        self._left: dict[str, list[str]] = {kind: [] for kind in texts}

    def take(self, wanted: Iterable[tuple[str, int]]) -> list[Carrier]:
        """Make one carrier of each kind and length, in tokens without special ones."""
        return [self._make(kind, length) for kind, length in wanted]

    def _make(self, kind: str, length: int) -> Carrier:
        """Cut a text at the length, so that no sequence is padded; join texts that are short."""
        passage = ""
        for _ in range(length):
            passage = f"{passage} {self._draw(kind)}".lstrip()
            encoded = self._tokenizer(passage, add_special_tokens=False)
            if len(encoded["input_ids"]) >= length:
                words = encoded.word_ids()[:length]
                inside = [
                    i for i in range(1, length) if words[i] is not None and words[i] == words[i - 1]
                ]
                gaps = np.setdiff1d(np.arange(length + 1), np.array(inside, dtype=np.int64))
                ids = np.array(encoded["input_ids"][:length], dtype=np.int64)
                return Carrier(kind, ids, gaps)
        raise ConfigError(
            f"the texts of kind {kind!r} have no tokens that the model knows; give other texts"
        )

    def _draw(self, kind: str) -> str:
        left = self._left[kind]
        if not left:
            # All were used: from the start again, in another order.
            texts = self._texts[kind]
            left += [texts[i] for i in self._rng.permutation(len(texts))]
        return left.pop()
