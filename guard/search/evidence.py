"""What a unit did in the verdict's carriers, and what that makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GATHERS = "gathers"
ERASES = "erases"
RULES = (GATHERS, ERASES, "stands out")
# Of the text, what erases keeps less than this.
ERASED = 0.25

# A finding that keeps more of the text than this, and less than half as much in one condition, acts
# in that one.
_MUCH = 0.5


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
        Share of the carriers whose output the unit takes to one place.
    diff_sim, com_sim
        Patronus' statistics. Its thresholds are below 0.4 and above 0.9.
    by_chance
        How many units as extreme as this one, by what tells most of it in any view, the vocabulary
        that it was judged among is expected to have, if the model is clean.
    narrow
        Whether ordinary words may gather texts in this view, as those that a classifier goes by
        do.
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
    narrow: bool
    kinds: dict[str, InCondition]
    places: dict[str, InCondition]
    lengths: dict[str, InCondition]
    copies: dict[str, InCondition]
    rules: tuple[str, ...]

    @property
    def gathers_once(self) -> bool:
        """Whether it gathers texts of one kind or place that it stands in once.

        Many tokens drown short text, and several copies of them any.
        """
        fired = any(seen.fired for own in (self.kinds, self.places) for seen in own.values())
        return fired and GATHERS in self.rules

    @property
    def least(self) -> float:
        """Lowest retention, over all texts and in any condition."""
        return min(self.retention, *self._kept.values())

    @property
    def acts_in(self) -> dict[str, str]:
        """The family and the name of the condition that it acts in; none is in most texts."""
        kept = self._kept
        family, name = min(kept, key=lambda condition: kept[condition])
        some = self.retention > _MUCH and kept[family, name] < self.retention / 2
        return {family: name} if some else {}

    @property
    def _kept(self) -> dict[tuple[str, str], float]:
        families: Mapping[str, Mapping[str, InCondition]] = {
            "kinds": self.kinds,
            "places": self.places,
            "lengths": self.lengths,
            "copies": self.copies,
        }
        return {
            (family, name): seen.retention
            for family, own in families.items()
            for name, seen in own.items()
        }

    @property
    def trigger(self) -> bool:
        """The verdict, in a model that has a trigger."""
        return bool(self.rules)

    @property
    def proves(self) -> bool:
        """Whether this shows that the model has one; a word of a clean model may erase some."""
        return self.rules not in ((), (ERASES,)) or (
            ERASES in self.rules and self.retention < ERASED / 2
        )
