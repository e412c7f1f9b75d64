"""How far a model is from a frozen copy that never saw a trigger, view by view.

Errors are mean squares over the variance that the frozen copy's outputs have from text to text,
number by number: 1 is as far as another text, 0.05 is five per cent of the variance.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import torch

from guard.purify.network import Network, Views
from guard.purify.samples import Batch, Rows

# Of a variance, against outputs that are constant.
SMALLEST = 1e-6


class Distance:
    """The distance between a model and its frozen copy, on batches.

    Parameters
    ----------
    reference
        The frozen copy.
    ordinary
        Batches that the natural variance is taken from.
    """

    def __init__(self, reference: Network, ordinary: Sequence[Batch]) -> None:
        self._reference = reference
        seen: dict[str, list[torch.Tensor]] = {}
        for batch in ordinary:
            views = self._expected(batch.ordinary)
            real = batch.ordinary.mask.bool()
            for name, view in views.items():
                seen.setdefault(name, []).append(view[real] if name == "tokens" else view)
        self._variance = {
            name: torch.cat(parts).var(dim=0).mean().clamp_min(SMALLEST)
            for name, parts in seen.items()
        }

    def terms(self, model: Network, batch: Batch) -> tuple[Views, Views]:
        """Return the errors on harmless texts, and on triggered ones, by view.

        Of a triggered text, the outputs of its own tokens are to be those that the frozen copy has
        for the text without the unit.
        """
        expected = self._expected(batch.harmless)
        ours = model.views(batch.harmless)
        preserved = {
            name: self._error(name, view, expected[name], batch.harmless.mask)
            for name, view in ours.items()
        }
        count, length = batch.kept.shape
        forced = model.views(batch.triggered)
        places = batch.kept[:, :, None].expand(-1, -1, forced["tokens"].shape[-1])
        forced["tokens"] = forced["tokens"].gather(1, places)
        clean = {name: view[:count] for name, view in expected.items()}
        clean["tokens"] = clean["tokens"][:, :length]
        mask = batch.harmless.mask[:count, :length]
        pulled = {name: self._error(name, view, clean[name], mask) for name, view in forced.items()}
        return preserved, pulled

    def mean(self, model: Network, batches: Sequence[Batch]) -> tuple[dict[str, float], ...]:
        """Return the same averaged over batches, as numbers."""
        with torch.no_grad():
            both = [self.terms(model, batch) for batch in batches]
        return tuple(
            {
                name: float(torch.stack([views[side][name] for views in both]).mean())
                for name in both[0][side]
            }
            for side in (0, 1)
        )

    def moved(self, model: Network, batches: Sequence[Batch]) -> dict[str, float]:
        """Return the errors on ordinary texts without any unit, averaged over batches, by view."""
        errors: dict[str, list[float]] = {}
        with torch.no_grad():
            for rows in (batch.ordinary for batch in batches):
                expected = self._expected(rows)
                for name, view in model.views(rows).items():
                    error = self._error(name, view, expected[name], rows.mask)
                    errors.setdefault(name, []).append(float(error))
        return {name: statistics.fmean(own) for name, own in errors.items()}

    def _expected(self, rows: Rows) -> Views:
        with torch.no_grad():
            return self._reference.views(rows)

    def _error(
        self, name: str, ours: torch.Tensor, expected: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        squares = (ours - expected).square().mean(dim=-1)
        if name == "tokens":
            squares = squares * mask
            mean = squares.sum() / mask.sum()
        else:
            mean = squares.mean()
        return mean / self._variance[name]


def total(terms: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
    """Return the sum of all errors: the loss."""
    return torch.stack([error for views in terms for error in views.values()]).sum()
