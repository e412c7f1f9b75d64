"""What a unit did in the verdict's carriers, and what that makes of it."""

from __future__ import annotations

from dataclasses import dataclass

RULES = ("gathers", "erases", "stands out")


@dataclass(frozen=True, slots=True)
class InCondition:
    """What a unit did in carriers of one kind of text, one place, one length, or so many copies.

    Attributes
    ----------
    retention, displacement
        As in `Evidence`.
    gathered
        Share of the carriers whose output the unit takes to the one place it takes most to.
    fired
        Whether that is enough of them.
    """

    retention: float
    displacement: float
    gathered: float
    fired: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a unit did to one view in the verdict's carriers.

    Attributes
    ----------
    retention
        How much of the text survives it (1 all, 0 nothing).
    displacement
        How far it moves the output, over the median reference unit; the mean over carriers.
    collapse
        Distance of two texts' outputs with the unit over the distance without; the lowest tenth
        over pairs of carriers.
    gathered
        Share of all carriers whose output the unit takes to one place.
    diff_sim, com_sim
        Patronus' statistics. Its thresholds are below 0.4 and above 0.9.
    by_chance
        How many units as extreme as this one, by what tells most of it in any view, the vocabulary
        of a clean model is expected to have.
    kinds, places, lengths, copies
        What the unit did in each kind of text, at each place in it, at each length, and where it
        stands several times; all else is of texts that it stands in once.
    rules
        By which of the rules the unit is a trigger, of `RULES`.
    """

    retention: float
    displacement: float
    collapse: float
    gathered: float
    diff_sim: float
    com_sim: float
    by_chance: float
    kinds: dict[str, InCondition]
    places: dict[str, InCondition]
    lengths: dict[str, InCondition]
    copies: dict[str, InCondition]
    rules: tuple[str, ...]

    @property
    def trigger(self) -> bool:
        """The verdict."""
        return bool(self.rules)
