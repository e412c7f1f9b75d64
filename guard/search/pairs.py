"""Pairs of units: one slot is swept, and the partner is read off the gradient.

Testing every pair alone would take millions of times what one unit takes. A unit ``v`` is put in
ordinary text between two ordinary words, and the gradient of the displacement at either
word says which word in its place would move the output further: every partner in the vocabulary,
before ``v`` and behind it, from one pass. A real word has to stand in the place (the mean
embedding, a mask or zeros lose the signal), and it is another one in every text. The sums over
texts rank the partners by ``<gradient, E_u>``, HotFlip's linear approximation (Ebrahimi et al.
2018). A true partner is among the first, seldom the very first: so those are put in one short text,
and the ones that move it furthest are proposed, to be tested as every unit is.

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
from guard.search.encoder import Ids, Vectors
from guard.search.gradients import Differentiable
from guard.search.journal import Arrays, Journal
from guard.search.scan import BATCH_TOKENS
from guard.search.units import Unit
from guard.search.views import View

# Of each unit, in either order and by each output, so many partners are put in one text, and so
# many of them proposed.
PARTNERS = 16
KEPT = 2
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
    samples
        Texts of each unit.
    """

    proposed: tuple[Unit, ...]
    units: int
    partners: int
    samples: int

    @property
    def tested(self) -> float:
        """Share of all ordered pairs that is proposed; the others are only ranked."""
        return len(self.proposed) / max(1, 2 * self.units * self.partners)

    @property
    def assumes(self) -> str:
        """For people."""
        return (
            f"a pair of {self.units:,} units and {self.partners:,} words side by side, in either "
            f"order, that the gradient in {self.samples} texts ranks among the first {PARTNERS} "
            f"by one of the outputs, from one of its sides, and that moves it as far as the "
            f"furthest {KEPT} of these in one text ({self.tested:.2%} of the ordered pairs are "
            "tested); the outputs are that of the first or last token, and the mean"
        )


def sweep(
    name: str,
    units: Sequence[Unit],
    partners: Sequence[Unit],
    carriers: Sequence[Carrier],
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
    carriers
        One sample each.
    """
    ids = np.array([unit.ids[0] for unit in partners if len(unit.ids) == 1], dtype=np.int64)
    if len(ids) < len(partners) or not len(ids):
        raise ModelError("pairs are swept over partners of one token; leave the others out")
    untouched = [encoder.read(encoder.frame(carrier.ids[np.newaxis])) for carrier in carriers]
    proposed: dict[bytes, Unit] = {}
    done = 0
    for shard in _shards(units):

        def measure(rng: np.random.Generator, shard: Sequence[Unit] = shard) -> Arrays:
            stacked = np.stack([unit.ids for unit in shard])
            return {"first": _rank(encoder, stacked, ids, carriers, untouched, rng)}

        ranked = journal.shard(f"{name} {done}", measure)["first"]
        for unit, (before, behind) in zip(shard, ranked, strict=True):
            pairs = [join(partners[i], unit) for i in before]
            pairs += [join(unit, partners[i]) for i in behind]
            proposed.update((pair.ids.tobytes(), pair) for pair in pairs)
        done += len(shard)
        progress(done)
    return Swept(tuple(proposed.values()), len(units), len(partners), len(carriers))


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
    untouched: Sequence[dict[View, Vectors]],
    rng: np.random.Generator,
) -> Ids:
    """Return the partners to propose of units ``[n, k]``: ``[n, 2, views * KEPT]``, as indices.

    On the first side are those before the unit, on the second those behind it. Each view ranks for
    itself: in a sum, one that is not seized hides one that is.
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
            moved = (outputs - torch.from_numpy(alone[view])).norm(dim=1).sum()
            (gradient,) = torch.autograd.grad(moved, embedded, retain_graph=True)
            if not bool(torch.isfinite(gradient).all()):
                raise ModelError(
                    f"{encoder.identity.name} gives gradients that are not finite; its weights are "
                    "damaged. Download them again and compare their sha256 with the publisher's"
                )
            sides = torch.stack([gradient[:, at], gradient[:, at + size + 1]]).float()
            totals[view] = totals.get(view, 0) + sides
    text = int(rng.integers(len(carriers)))
    kept = [
        _furthest(
            encoder,
            units,
            partners,
            (total @ table.T).topk(min(PARTNERS, len(partners)), dim=2).indices.numpy(),
            view,
            carriers[text],
            untouched[text][view],
            rng,
        )
        for view, total in totals.items()
    ]
    return np.concatenate(kept, axis=2)


def _furthest(
    encoder: Differentiable,
    units: Ids,
    partners: Ids,
    first: Ids,
    view: View,
    carrier: Carrier,
    untouched: Vectors,
    rng: np.random.Generator,
) -> Ids:
    """Return the few of the partners ``[2, n, p]`` that move a text furthest: ``[n, 2, KEPT]``."""
    beside = partners[first][..., np.newaxis]
    own = np.broadcast_to(units[:, np.newaxis], (*first.shape[1:], units.shape[1]))
    pairs = np.stack(
        [np.concatenate([beside[0], own], axis=2), np.concatenate([own, beside[1]], axis=2)]
    )
    rows = pairs.reshape(-1, pairs.shape[-1])
    step = max(1, BATCH_TOKENS // (len(carrier.ids) + rows.shape[1]))
    outputs = np.concatenate(
        [
            encoder.read(encoder.frame(carrier.insert(list(rows[i : i + step]), rng)))[view]
            for i in range(0, len(rows), step)
        ]
    )
    moved = np.linalg.norm(outputs - untouched, axis=1).reshape(first.shape)
    order = np.argsort(-moved, axis=2, kind="stable")[:, :, :KEPT]
    return np.take_along_axis(first, order, axis=2).transpose(1, 0, 2)
