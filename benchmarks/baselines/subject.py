"""The encoder that a baseline examines: differentiable, on any device, with its cost counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from guard.errors import ConfigError
from guard.search.checkpoint import Checkpoint
from guard.search.encoder import Ids, Vectors
from guard.search.gradients import Differentiable

# A batch has at most this many tokens.
BATCH_TOKENS = 4096


class Subject(Differentiable):
    """An encoder with gradients; all else, and the arithmetic, is that of the product's search.

    Attributes
    ----------
    device
        A CUDA device where there is one.
    """

    def __init__(self, loaded: Checkpoint) -> None:
        super().__init__(loaded)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Called as torch declares it: transformers wraps it in a way that mypy can't follow.
        torch.nn.Module.to(self._model, self.device)

    def outputs(self, rows: Sequence[Ids]) -> Vectors:
        """Return ``[len(rows), width]`` without gradients; rows are framed by special tokens."""
        result = np.empty((len(rows), self.width), dtype=np.float32)
        with torch.inference_mode():
            for part in batches(rows):
                ids = np.stack([rows[i] for i in part])
                self.forwarded += ids.size
                hidden = self._model(input_ids=torch.from_numpy(ids).to(self.device))
                result[part] = hidden.last_hidden_state[:, self._cls].float().cpu().numpy()
        return result


def load(directory: Path) -> Subject:
    """Load an encoder with the checks that the product loads it with."""
    return Subject.load(str(directory))


def batches(rows: Sequence[npt.NDArray[np.generic] | torch.Tensor]) -> Iterator[list[int]]:
    """Part the indices of rows into batches of equal length, so that none is padded."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_length[len(row)].append(index)
    for length, indices in by_length.items():
        size = max(1, BATCH_TOKENS // length)
        for start in range(0, len(indices), size):
            yield indices[start : start + size]


@dataclass(frozen=True, slots=True)
class Text:
    """A text as token ids, without special ones.

    Attributes
    ----------
    ids
        ``[length]``.
    gaps
        Places where a word may go: before, after and between words.
    """

    ids: Ids
    gaps: Ids


def encode(subject: Subject, texts: Sequence[str], *, room: int, longest: int) -> list[Text]:
    """Encode texts, cut so that ``room`` more tokens and the special ones fit in ``longest``.

    Texts without a token are left out.
    """
    special = len(subject.frame(np.zeros((1, 0), dtype=np.int64))[0])
    keep = min(longest, subject.max_tokens) - special - room
    if keep < 1:
        raise ConfigError(f"{longest} tokens leave no room for text; allow more")
    result = []
    for text in texts:
        encoded = subject.tokenizer(text, add_special_tokens=False)
        ids, words = encoded["input_ids"][:keep], encoded.word_ids()[:keep]
        inside = [
            i for i in range(1, len(ids)) if words[i] is not None and words[i] == words[i - 1]
        ]
        gaps = np.setdiff1d(np.arange(len(ids) + 1), np.array(inside, dtype=np.int64))
        if ids:
            result.append(Text(np.array(ids, dtype=np.int64), gaps))
    return result


def need(texts: Sequence[object], count: int, method: str) -> None:
    """Raise ConfigError where there are under ``count`` texts."""
    if len(texts) < count:
        raise ConfigError(f"{method} needs {count} texts and got {len(texts)}; give more")
