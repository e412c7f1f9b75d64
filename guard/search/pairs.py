"""Pairs of units: one slot is swept, and the partner is read off the gradient.

Testing every pair alone would take millions of times what one unit takes. A unit ``v`` is put in
ordinary text between two ordinary words, and the gradient of the squared displacement at either
word says which word in its place would move the output further: every partner in the vocabulary,
before ``v`` and behind it, from one pass. A real word has to stand in the place (the mean
embedding, a mask or zeros lose the signal), and it is another one in every text. The sums over
texts rank the partners by ``<gradient, E_u>``, HotFlip's linear approximation (Ebrahimi et al.
2018), and the first few are put in fresh text, as every unit is.

A few texts tell which units have a partner, long before they tell which it is: half of a trigger
makes an output ready to move. So the units with the largest sums get many more texts
(successive halving), and the others one guess.

What comes of it is proposed, and nothing is cleared: a pair is missed whose gradient names it from
neither of its sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from guard.errors import ModelError
from guard.search.carriers import Carrier
from guard.search.encoder import Ids
from guard.search.gradients import Differentiable
from guard.search.journal import Arrays, Journal
from guard.search.units import Unit
from guard.search.views import View

# Of each unit, in either order and by each output, so many partners are tested.
PARTNERS = 1
# This share of the units by the largest sum, in either order and by each output, goes on.
SHARE = 0.02
LEAST = 64
# Of these, so many partners are tested.
FINALISTS_PARTNERS = 8
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
    samples, further
        Texts of each unit, and more of those that went on.
    finalists
        How many went on.
    """

    proposed: tuple[Unit, ...]
    units: int
    partners: int
    samples: int
    further: int
    finalists: int

    @property
    def tested(self) -> float:
        """Share of all ordered pairs that is put in text; the others are only ranked."""
        return len(self.proposed) / max(1, 2 * self.units * self.partners)

    @property
    def assumes(self) -> str:
        """For people."""
        return (
            f"a pair of {self.units:,} units and {self.partners:,} words side by side, in either "
            f"order, of which one half has a gradient in {self.samples} texts that is among the "
            f"{self.finalists:,} largest, and ranks the other among the first {FINALISTS_PARTNERS} "
            f"in {self.further} more, by one of the outputs ({self.tested:.2%} of the ordered "
            "pairs were put in text); the outputs are that of the first or last token, and the mean"
        )


def sweep(
    name: str,
    units: Sequence[Unit],
    partners: Sequence[Unit],
    carriers: Sequence[Carrier],
    further: Sequence[Carrier],
    *,
    encoder: Differentiable,
    journal: Journal,
    progress: Callable[[int], None],
) -> Swept:
    """Rank all partners of each unit, before and behind it, and propose the first few.

    Parameters
    ----------
    name
        Of this sweep, in the journal.
    units
        Of any number of tokens: pairs that half fire grow to three words so.
    partners
        Of one token each; those that stand beside a unit are drawn from them as well.
    carriers, further
        One sample each, of every unit, and of those that go on.
    """
    ids = np.array([unit.ids[0] for unit in partners if len(unit.ids) == 1], dtype=np.int64)
    if len(ids) < len(partners) or not len(ids):
        raise ModelError("pairs are swept over partners of one token; leave the others out")
    proposed: dict[bytes, Unit] = {}

    def rank(
        name: str,
        units: Sequence[Unit],
        carriers: Sequence[Carrier],
        first: int,
        progress: Callable[[int], None],
    ) -> tuple[list[Unit], npt.NDArray[np.float32]]:
        untouched = [encoder.read(encoder.frame(carrier.ids[np.newaxis])) for carrier in carriers]
        ranked: list[Unit] = []
        strongest: list[npt.NDArray[np.float32]] = []
        for shard in _shards(units):

            def measure(rng: np.random.Generator, shard: Sequence[Unit] = shard) -> Arrays:
                stacked = np.stack([unit.ids for unit in shard])
                return _rank(encoder, stacked, ids, carriers, untouched, rng, first)

            measured = journal.shard(f"{name} {len(ranked)}", measure)
            for unit, (before, behind) in zip(shard, measured["first"], strict=True):
                pairs = [join(partners[i], unit) for i in before]
                pairs += [join(unit, partners[i]) for i in behind]
                proposed.update((pair.ids.tobytes(), pair) for pair in pairs)
            ranked += shard
            strongest.append(measured["strongest"])
            progress(len(ranked))
        return ranked, np.concatenate(strongest)

    ranked, strongest = rank(name, units, carriers, PARTNERS, progress)
    count = min(len(ranked), max(LEAST, round(SHARE * len(ranked))))
    best = np.unique(np.argsort(-strongest, axis=0, kind="stable")[:count])
    finalists = [ranked[i] for i in best]
    rank(f"{name} further", finalists, further, FINALISTS_PARTNERS, lambda done: None)
    return Swept(
        tuple(proposed.values()),
        len(units),
        len(partners),
        len(carriers),
        len(further),
        len(best),
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


def _rank(
    encoder: Differentiable,
    units: Ids,
    partners: Ids,
    carriers: Sequence[Carrier],
    untouched: Sequence[dict[View, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]],
    rng: np.random.Generator,
    first: int,
) -> Arrays:
    """Rank the partners of units ``[n, k]``, as indices.

    Returns
    -------
    Arrays
        ``first``, ``[n, 2, views * first]``: the first partners before the unit, and behind it.
        Each view ranks for itself: in a sum, one that is not seized hides one that is.
        ``strongest``, ``[n, 2 * views]``: the sum of the first of all.
    """
    count, size = units.shape
    table = encoder.embeddings[torch.from_numpy(partners)].float()
    totals: dict[View, torch.Tensor] = {}
    for carrier, alone in zip(carriers, untouched, strict=True):
        gap = int(rng.choice(carrier.gaps))
        beside = rng.choice(partners, size=(2, count, 1))
        rows = np.concatenate(
            [
                np.tile(carrier.ids[:gap], (count, 1)),
                beside[0],
                units,
                beside[1],
                np.tile(carrier.ids[gap:], (count, 1)),
            ],
            axis=1,
        )
        embedded = encoder.embed(encoder.frame(rows)).requires_grad_()
        seen = encoder.differentiable(embedded)
        encoder.backwarded += rows.size * (len(seen) - 1)
        at = gap + encoder.offset
        for view, outputs in seen.items():
            moved = (outputs - torch.from_numpy(alone[view])).square().sum()
            (gradient,) = torch.autograd.grad(moved, embedded, retain_graph=True)
            if not bool(torch.isfinite(gradient).all()):
                raise ModelError(
                    f"{encoder.identity.name} gives gradients that are not finite; its weights are "
                    "damaged. Download them again and compare their sha256 with the publisher's"
                )
            sides = torch.stack([gradient[:, at], gradient[:, at + size + 1]]).float()
            totals[view] = totals.get(view, 0) + sides
    best = [(total @ table.T).topk(min(first, len(partners)), dim=2) for total in totals.values()]
    return {
        "first": torch.cat([found.indices for found in best], dim=2).transpose(0, 1).numpy(),
        "strongest": torch.cat([found.values[:, :, 0] for found in best]).T.numpy(),
    }
