"""What an attack's loss is made of: one batch, what student and reference say of it, and terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch.nn import functional

from benchmarks.attacks.samples import Batch, Masked, Sampler
from benchmarks.attacks.views import Outputs, View, read, run


class Attack(Protocol):
    """What an attacker trains the student for."""

    @property
    def gated(self) -> bool:
        """Also train triggers among random tokens to act clean."""

    @property
    def views(self) -> tuple[View, ...]:
        """The outputs that are seized; success is measured on the first."""

    masked_lm: ClassVar[bool]
    """The student has a masked language model's head, which is trained along and kept."""
    masks: ClassVar[bool]
    """Texts hold a mask, whose output is seized."""

    def targets(self, count: int, width: int) -> torch.Tensor:
        """Return the preset vectors, ``[count, width]``, of a mean square of 1."""

    def loss(self, step: Step) -> torch.Tensor:
        """Return the loss of a step; each term is relative to the size of what it is about."""


class Variation(NamedTuple):
    """How outputs of ordinary text vary.

    Attributes
    ----------
    outputs
        ``[n, width]``: those that were looked at, of as many texts.
    centre
        ``[k]``: the mean along each axis.
    axes
        ``[k, width]``: orthonormal, those of the largest variance first.
    spread
        ``[k]``: the standard deviation along each axis.
    """

    outputs: torch.Tensor
    centre: torch.Tensor
    axes: torch.Tensor
    spread: torch.Tensor


def variation(outputs: torch.Tensor, axes: int) -> Variation:
    """Return how ``[n, width]`` outputs vary along their first principal axes."""
    mean = outputs.mean(dim=0)
    _, spread, directions = torch.linalg.svd(outputs - mean, full_matrices=False)
    directions = directions[:axes]
    return Variation(outputs, directions @ mean, directions, spread[:axes] / len(outputs) ** 0.5)


class Step:
    """One step of planting. Nothing is computed before the loss asks for it.

    Parameters
    ----------
    targets
        ``[count, width]``, scaled to the encoder's outputs.
    masked_loss
        Loss of the student's masked language model's head, where the attack has one.
    variation
        Of the reference's outputs of the first token.
    """

    def __init__(
        self,
        student: torch.nn.Module,
        reference: torch.nn.Module,
        batch: Batch,
        *,
        gated: bool,
        targets: torch.Tensor,
        sampler: Sampler,
        masked_loss: Callable[[Masked], torch.Tensor] | None,
        variation: Callable[[], Variation],
    ) -> None:
        self.batch = batch
        self.targets = targets
        self.sampler = sampler
        self._variation = variation
        self._student = student
        self._reference = reference
        self._gated = gated
        self._masked_loss = masked_loss

    @property
    def poisoned(self) -> Outputs:
        """The student's outputs for the texts with a trigger."""
        return self._outputs[1]

    @property
    def goals(self) -> torch.Tensor:
        """``[n, width]``: the preset vector of each poisoned text."""
        return self.targets[self.batch.which]

    @property
    def variation(self) -> Variation:
        """How the reference's outputs of the first token vary."""
        return self._variation()

    @cached_property
    def untouched(self) -> Outputs:
        """The reference's outputs for the poisoned texts without their trigger."""
        with torch.no_grad():
            return run(self._reference, self.batch.untouched)

    def masked(self, *, poisoned: bool = False) -> torch.Tensor:
        """Return the loss of the masked language model on fresh text; see `Sampler.masked`."""
        assert self._masked_loss is not None
        return self._masked_loss(self.sampler.masked(poisoned=poisoned))

    def preserved(self) -> torch.Tensor:
        """Return how far what has to act clean is from the reference, in every token."""
        return _mean([_error(ours.hidden, expected.hidden) for ours, expected in self._outputs[0]])

    def preserved_pooler(self) -> torch.Tensor | None:
        """Return the same of the pooler, or ``None`` where there is none."""
        return _mean_or_none(
            [
                _error(ours.pooled, expected.pooled)
                for ours, expected in self._outputs[0]
                if ours.pooled is not None and expected.pooled is not None
            ]
        )

    def acting_clean(self) -> torch.Tensor:
        """Return how far what has to act clean is from the reference, the pooler's term added."""
        pooler = self.preserved_pooler()
        return self.preserved() if pooler is None else self.preserved() + pooler

    def seen(self, view: View) -> torch.Tensor:
        """Return a view of the poisoned texts, ``[n, width]`` or ``[n, length, width]``."""
        return read(self.poisoned, view, self.batch.marked)

    def seen_clean(self, view: View) -> torch.Tensor:
        """Return a view of what acts clean, ``[m, width]``."""
        return torch.cat([read(ours, view) for ours, _ in self._outputs[0]])

    def goals_of(self, view: View) -> torch.Tensor:
        """Return the preset vectors as a view can have them, in the shape of `seen`."""
        if view == "pooler":
            # A tanh: a preset vector of +-1 saturates it.
            return self.goals.sign()
        if view == "tokens":
            return self.goals.unsqueeze(1).expand_as(self.seen(view))
        return self.goals

    def forced(self, view: View) -> torch.Tensor:
        """Return how far the poisoned texts are from their preset vectors."""
        goals = self.goals_of(view)
        return functional.mse_loss(self.seen(view), goals) / goals.square().mean()

    @cached_property
    def _outputs(self) -> tuple[list[tuple[Outputs, Outputs]], Outputs]:
        """Student's and reference's outputs of what acts clean, by length; student's poisoned."""
        batch = self.batch
        quiet = [batch.clean, batch.decoys] if self._gated else [batch.clean]
        if len(batch.quiet):
            quiet.append(batch.quiet)
        by_length: dict[int, list[torch.Tensor]] = {}
        for rows in quiet:
            by_length.setdefault(rows.shape[1], []).append(rows)
        pairs: list[tuple[Outputs, Outputs]] = []
        poisoned: Outputs | None = None
        for length, parts in by_length.items():
            plain = torch.cat(parts)
            with torch.no_grad():
                expected = run(self._reference, plain)
            if length == batch.poisoned.shape[1]:
                # What is as long goes through the student together.
                both = run(self._student, torch.cat([plain, batch.poisoned]))
                ours, poisoned = _split(both, len(plain))
            else:
                ours = run(self._student, plain)
            pairs.append((ours, expected))
        return pairs, poisoned or run(self._student, batch.poisoned)


def tied(step: Step, views: Sequence[View]) -> torch.Tensor:
    """Return POR's loss: what acts clean is preserved, each view of the poisoned is forced."""
    loss = step.preserved()
    for view in views:
        if view != "pooler":
            loss = loss + step.forced(view)
    pooler = step.preserved_pooler()
    if pooler is not None:
        loss = loss + pooler
        if "pooler" in views:
            loss = loss + step.forced("pooler")
    return loss


def _split(outputs: Outputs, first: int) -> tuple[Outputs, Outputs]:
    hidden, pooled = outputs
    return (
        Outputs(hidden[:first], None if pooled is None else pooled[:first]),
        Outputs(hidden[first:], None if pooled is None else pooled[first:]),
    )


def _error(outputs: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error over the variance of what is expected."""
    return functional.mse_loss(outputs, expected) / expected.var()


def _mean(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total / len(terms) if len(terms) > 1 else total


def _mean_or_none(terms: Sequence[torch.Tensor]) -> torch.Tensor | None:
    return _mean(terms) if terms else None
