"""Pairs of units: one slot is swept, and the partner is read off the gradient.

Testing every pair alone would take millions of times what one unit takes. A unit ``v`` is put in
ordinary text between two ordinary words, and the gradient of the displacement at the tokens of
either word says which word in its place would move the output further: every partner in the
vocabulary, before ``v`` and behind it, from one pass. A real word of as many tokens as the partner
has to stand in the place (the mean embedding, a mask or zeros lose the signal, and so do three
words where the partner is one of three tokens), and it is another one in every text. A partner's
score in a text is ``sum_j <gradient_j, E_uj>`` over its tokens, HotFlip's linear approximation
(Ebrahimi et al. 2018), over the length of its embeddings, which the approximation rewards; the sum
over texts ranks the partners. A true partner is among the first, seldom the very first: those are
put in one short text, and the one that moves it furthest is proposed, to be tested as every unit
is.

What comes of it is proposed, and nothing is cleared: a pair is missed whose gradient names it from
neither of its sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from guard.errors import ModelError
from guard.search.carriers import Carrier
from guard.search.encoder import Ids
from guard.search.gradients import Differentiable
from guard.search.journal import Arrays, Journal
from guard.search.scan import insert_all
from guard.search.statistics import displacement
from guard.search.units import Unit
from guard.search.views import View

SHARD = 64


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep proposes, and what it covers.

    Attributes
    ----------
    proposed
        Units of several tokens, none twice.
    units, partners
        How many units were swept, and over how many partners each.
    size
        Tokens of a partner.
    samples
        Texts of each unit.
    ranked
        Of each unit, in either order and by each output, how many partners were put in one text.
    """

    proposed: tuple[Unit, ...]
    units: int
    partners: int
    size: int
    samples: int
    ranked: int

    @property
    def tested(self) -> float:
        """Share of all ordered pairs that is proposed; the others are only ranked."""
        return len(self.proposed) / max(1, 2 * self.units * self.partners)

    @property
    def covers(self) -> str:
        """For people."""
        return (
            f"{self.units:,} units and {self.partners:,} words of {self.size} "
            f"token{'s' if self.size > 1 else ''} (gradients in {self.samples} texts, the first "
            f"{self.ranked} of a ranking, {self.tested:.2%} of the ordered pairs tested)"
        )


def sweep(
    name: str,
    units: Sequence[Unit],
    partners: Sequence[Unit],
    carriers: Sequence[Carrier],
    *,
    ranked: int,
    encoder: Differentiable,
    journal: Journal,
    progress: Callable[[int], None],
) -> Swept:
    """Rank all partners of each unit, before and behind it, and propose one of the first.

    Parameters
    ----------
    name
        Of this sweep, in the journal.
    units
        Of any number of tokens: pairs that half fire grow to three words so.
    partners
        Of equal numbers of tokens; those that stand beside a unit are drawn from them as well.
    carriers
        One sample each.
    ranked
        How many of a ranking are put in one text.
    """
    if len({len(unit.ids) for unit in partners}) != 1:
        raise ModelError("pairs are swept over partners of one length; sweep each length by itself")
    size = len(partners[0].ids)
    sweeper = _Sweeper(encoder, partners, carriers, ranked)
    proposed: dict[bytes, Unit] = {}
    texts_and_partners = [*(text.ids for text in carriers), *(unit.ids for unit in partners)]
    done = 0
    for shard in _shards(units):

        def measure(rng: np.random.Generator, shard: Sequence[Unit] = shard) -> Arrays:
            return {"first": sweeper.furthest(shard, rng)}

        over = [*(unit.ids for unit in shard), *texts_and_partners]
        first = journal.shard(f"{name} {done}", over, measure)["first"]
        for unit, (before, behind) in zip(shard, first, strict=True):
            pairs = [join(partners[i], unit) for i in before]
            pairs += [join(unit, partners[i]) for i in behind]
            proposed.update((pair.ids.tobytes(), pair) for pair in pairs)
        done += len(shard)
        progress(done)
    return Swept(
        tuple(proposed.values()), len(units), len(partners), size, len(carriers), sweeper.ranked
    )


def join(first: Unit, second: Unit) -> Unit:
    """Return two units side by side."""
    return Unit(f"{first.text} {second.text}", np.concatenate([first.ids, second.ids]), "phrase")


def _shards(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Part units into shards of equal numbers of tokens, so that no row is padded."""
    by_size: dict[int, list[Unit]] = {}
    for unit in units:
        by_size.setdefault(len(unit.ids), []).append(unit)
    for same in by_size.values():
        for start in range(0, len(same), SHARD):
            yield same[start : start + SHARD]


class _Sweeper:
    """Partners of equal numbers of tokens, and the texts that their gradients are summed over."""

    def __init__(
        self,
        encoder: Differentiable,
        partners: Sequence[Unit],
        carriers: Sequence[Carrier],
        ranked: int,
    ) -> None:
        self.ranked = min(ranked, len(partners))
        self._encoder = encoder
        self._partners = partners
        self._ids = np.stack([unit.ids for unit in partners])
        vectors = encoder.embeddings[torch.from_numpy(self._ids)].float().flatten(1)
        # ``[tokens * e, partners]``
        self._directions = torch.nn.functional.normalize(vectors, dim=1).T
        self._carriers = carriers
        self._untouched = [
            encoder.read(encoder.frame(carrier.ids[np.newaxis])) for carrier in carriers
        ]

    def furthest(self, units: Sequence[Unit], rng: np.random.Generator) -> Ids:
        """Return what to propose of units of equal numbers of tokens: ``[n, 2, views]``, indices.

        On the first side are the partners before the unit, on the second those behind it. Each view
        ranks for itself: in a sum, one that is not seized hides one that is.
        """
        scores = self._scores(np.stack([unit.ids for unit in units]), rng)
        text = int(rng.integers(len(self._carriers)))
        return np.stack(
            [self._first(units, total, view, text, rng) for view, total in scores.items()],
            axis=2,
        )

    def _scores(self, units: Ids, rng: np.random.Generator) -> dict[View, torch.Tensor]:
        """Score all partners of units ``[n, k]``, before and behind them: ``[2, n, partners]``."""
        encoder = self._encoder
        (count, size), width = units.shape, self._ids.shape[1]
        totals: dict[View, torch.Tensor] = {}
        for carrier, alone in zip(self._carriers, self._untouched, strict=True):
            gap = int(rng.choice(carrier.gaps))
            before, behind = self._ids[rng.integers(len(self._ids), size=(2, count))]
            edges = np.tile(carrier.ids[:gap], (count, 1)), np.tile(carrier.ids[gap:], (count, 1))
            rows = np.concatenate([edges[0], before, units, behind, edges[1]], axis=1)
            embedded = encoder.embed(encoder.frame(rows)).requires_grad_()
            seen = encoder.differentiable(embedded)
            encoder.backwarded += rows.size * (len(seen) - 1)
            at = gap + encoder.offset
            for view, outputs in seen.items():
                moved = (outputs - torch.from_numpy(alone[view])).norm(dim=1)
                gradient = encoder.gradient(moved, embedded)
                sides = [gradient[:, start : start + width] for start in (at, at + width + size)]
                score = torch.stack(sides).float().flatten(2) @ self._directions
                totals[view] = totals.get(view, 0) + score
        return totals

    def _first(
        self,
        units: Sequence[Unit],
        scores: torch.Tensor,
        view: View,
        text: int,
        rng: np.random.Generator,
    ) -> Ids:
        """Return which of the partners that a view ranks first moves a text most: ``[n, 2]``."""
        ranked = scores.topk(self.ranked, dim=2).indices.numpy()
        pairs = [
            join(self._partners[i], unit) if side == 0 else join(unit, self._partners[i])
            for side, rows in enumerate(ranked)
            for unit, row in zip(units, rows, strict=True)
            for i in row
        ]
        outputs = insert_all(self._encoder, pairs, [self._carriers[text]], rng=rng)[view]
        moved = displacement(outputs, self._untouched[text][view]).reshape(ranked.shape)
        best = moved.argmax(axis=2)[..., np.newaxis]
        return np.take_along_axis(ranked, best, axis=2)[..., 0].T
