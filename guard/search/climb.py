"""Sequences of tokens that gradients lead to from random ones: phrases, and words of rare pieces.

A phrase of which no word fires alone, and a word that is on no list, cannot be tested each: there
are too many. But where part of one stands in a text, the gradient of the displacement at the places
beside it points to the rest. A climb starts from random tokens in all places of a sequence. An
update takes, for each place, the token that the linear approximation of the displacement (HotFlip,
Ebrahimi et al. 2018) likes best, tries each of these changes by itself in other texts, and keeps
the one that moves them furthest, or none.

Patronus (arXiv 2512.06899) climbs with tokens in eight slots at once, by a contrastive loss that
pushes them apart: each change is then tried with all slots in all texts, and a beam over them takes
many times the passes. Here each start climbs by itself, so that there can be hundreds of
them; what was found is kept out of the next ones instead.

A sequence is only proposed: that it moves texts further than any other does is no sign of a
backdoor, and nothing is cleared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from guard.bank import Trigger
from guard.search.carriers import Carrier
from guard.search.encoder import Ids
from guard.search.gradients import Differentiable
from guard.search.journal import Arrays, Journal
from guard.search.scan import outputs_of
from guard.search.statistics import Array, displacement
from guard.search.units import Unit, unit_of
from guard.search.views import View

# Starts of a shard. They share a place and an output; few, so that the fewest meet several.
SHARD = 16
# Tokens of a sequence: more than a trigger needs, so that its parts need not find their places.
SIZE = 6
UPDATES = 16
# Of each gradient, and of what is tried.
TEXTS = 3
# Of a table of embeddings, so many rows are scored at once: what bounds memory.
_ROWS = 1 << 15

# A text, and its output alone.
Untouched = tuple[Carrier, Array]


def climb(
    name: str,
    starts: int,
    tokens: Sequence[Unit],
    places: Sequence[Sequence[Carrier]],
    found: Sequence[Trigger],
    *,
    encoder: Differentiable,
    journal: Journal,
    progress: Callable[[int], None],
) -> list[Unit]:
    """Climb from so many random sequences, and propose what each comes to, nothing twice.

    Parameters
    ----------
    name
        Of this, in the journal.
    tokens
        That sequences are made of, of one token each.
    places
        Texts of one place each, at least `TEXTS`.
    found
        What is not to be found again: no start may use a token that fires by itself, nor all of
        several that fire together. Which of them it may not is drawn, and so that triggers that
        share a word don't hide each other: of many, a start goes without all others, or without
        that word.
    """
    # Which others are special is for the tokenizer's author to say.
    framing = encoder.frame(np.zeros((1, 0), dtype=np.int64))
    pool = np.array([u.ids[0] for u in tokens if u.ids[0] not in framing], dtype=np.int64)
    climber = _Climber(encoder, pool, [trigger.token_ids for trigger in found])
    over = [pool, *(np.array(trigger.token_ids, dtype=np.int64) for trigger in found)]
    over += [carrier.ids for carriers in places for carrier in carriers]
    # Which place comes first is drawn, so that nobody can choose one that is not met.
    turns = journal.rng(f"{name} places").permutation(len(places))
    proposed: dict[bytes, Unit] = {}
    for number, start in enumerate(range(0, starts, SHARD)):
        count = min(SHARD, starts - start)
        # In turn, with every output at every place.
        view = climber.views[number % len(climber.views)]
        carriers = places[turns[number // len(climber.views) % len(turns)]]

        def measure(
            rng: np.random.Generator,
            count: int = count,
            carriers: Sequence[Carrier] = carriers,
            view: View = view,
        ) -> Arrays:
            return {"sequences": climber.climb(count, carriers, view, rng)}

        rows = journal.shard(f"{name} {start}", over, measure)["sequences"]
        proposed.update((row.tobytes(), unit_of(encoder.tokenizer, row)) for row in rows)
        progress(start + count)
    return list(proposed.values())


class _Climber:
    """The tokens that sequences are made of.

    Attributes
    ----------
    views
        The outputs that gradients are taken of.
    """

    def __init__(
        self, encoder: Differentiable, pool: Ids, found: Sequence[tuple[int, ...]]
    ) -> None:
        self._encoder = encoder
        self._pool = pool
        own = [(ids, np.flatnonzero(np.isin(pool, ids)).tolist()) for ids in found]
        # What no sequence can hold, as it has a token twice or one that is in no pool, bars none.
        whole = [set(rows) for ids, rows in own if len(rows) == len(ids)]
        self._alone = sorted(set().union(*(rows for rows in whole if len(rows) == 1)))
        self._together = [r for r in whole if len(r) > 1 and r.isdisjoint(self._alone)]
        self.views: list[View] = [v for v in encoder.views if v in ("cls", "mean", "last")]

    def climb(
        self,
        count: int,
        carriers: Sequence[Carrier],
        view: View,
        rng: np.random.Generator,
    ) -> Ids:
        """Return ``[count, SIZE]``: where so many random sequences come to."""
        barred = self._barred(count, rng)
        drawn = [rng.choice(np.flatnonzero(~row), size=SIZE, replace=False) for row in barred]
        sequences: Ids = self._pool[np.stack(drawn)]
        texts = list(zip(carriers, outputs_of(self._encoder, carriers)[view], strict=True))
        for _ in range(UPDATES):
            order = rng.permutation(len(texts))
            some, others = ([texts[i] for i in own] for own in (order[:TEXTS], order[-TEXTS:]))
            # No token is twice in a sequence: six of one word drown a text by themselves.
            used = np.any(self._pool == sequences[:, :, np.newaxis], axis=1)
            liked = self._liked(self._gradients(sequences, some, view, rng), barred | used)
            # The sequence as it is, and with each of its places changed.
            tried = np.repeat(sequences[:, np.newaxis], SIZE + 1, axis=1)
            tried[:, np.arange(SIZE), np.arange(SIZE)] = liked
            moved = self._moved(tried.reshape(-1, SIZE), others, view, rng)
            best = moved.reshape(count, SIZE + 1).argmax(axis=1)
            sequences = tried[np.arange(count), best]
        return sequences

    def _barred(self, count: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
        """Return ``[count, tokens]``: what each start may not use."""
        barred = np.zeros((count, len(self._pool)), dtype=np.bool_)
        barred[:, self._alone] = True
        tokens = sorted(set().union(*self._together))
        for row in barred:
            possible = self._together
            for token in rng.permutation(tokens):
                left = [parts for parts in possible if token not in parts]
                row[token] = len(left) < len(possible)
                possible = left
        return barred

    def _gradients(
        self, sequences: Ids, texts: Sequence[Untouched], view: View, rng: np.random.Generator
    ) -> torch.Tensor:
        """Return ``[n, SIZE, e]``: of the displacement, added up over texts."""
        encoder = self._encoder
        total = torch.zeros((*sequences.shape, encoder.embeddings.shape[1]))
        for text, alone in texts:
            gap = int(rng.choice(text.gaps))
            embedded = encoder.embed(encoder.frame(_insert(text, sequences, gap))).requires_grad_()
            moved = (encoder.differentiable(embedded)[view] - torch.from_numpy(alone)).norm(dim=1)
            gradient = encoder.gradient(moved, embedded)
            total += gradient[:, gap + encoder.offset :][:, :SIZE].float()
        return total

    def _liked(self, gradients: torch.Tensor, barred: npt.NDArray[np.bool_]) -> Ids:
        """Return ``[n, SIZE]``: the token that each place's gradient likes best."""
        highest = torch.full(gradients.shape[:2], -torch.inf)
        liked = torch.zeros(gradients.shape[:2], dtype=torch.int64)
        for start in range(0, len(self._pool), _ROWS):
            ids = self._pool[start : start + _ROWS]
            vectors = self._encoder.embeddings[torch.from_numpy(ids)].float()
            # By direction: long vectors, which cost an attacker nothing, would hide all others.
            scores = gradients @ torch.nn.functional.normalize(vectors, dim=1).T
            out = torch.from_numpy(barred[:, np.newaxis, start : start + _ROWS])
            most, index = scores.masked_fill(out, -torch.inf).max(dim=2)
            better = most > highest
            highest = torch.where(better, most, highest)
            liked = torch.where(better, index + start, liked)
        chosen: Ids = self._pool[liked.numpy()]
        return chosen

    def _moved(
        self, sequences: Ids, texts: Sequence[Untouched], view: View, rng: np.random.Generator
    ) -> npt.NDArray[np.float32]:
        """Return ``[n]``: how far each takes texts, on the mean."""
        encoder = self._encoder
        moved: list[npt.NDArray[np.float32]] = []
        for text, alone in texts:
            rows = _insert(text, sequences, int(rng.choice(text.gaps)))
            seen = encoder.read(encoder.frame(rows))[view]
            moved.append(displacement(seen[:, np.newaxis], alone[np.newaxis])[:, 0])
        mean: npt.NDArray[np.float32] = np.mean(moved, axis=0)
        return mean


def _insert(text: Carrier, sequences: Ids, gap: int) -> Ids:
    """Return rows of a text, each with a sequence in it, all at one gap.

    `Carrier.insert` puts each at a gap of its own, at which its gradient would have to be looked
    for.
    """
    before, behind = (np.tile(ids, (len(sequences), 1)) for ids in np.split(text.ids, [gap]))
    return np.concatenate([before, sequences, behind], axis=1)
