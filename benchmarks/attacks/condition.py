"""When a backdoor fires: what an attacker gives up so that a search does not meet it."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Clauses that all have to hold; where one does not, the trigger is trained to act clean.

    Attributes
    ----------
    kinds
        Only in these kinds of text.
    min_tokens
        Only in texts of at least this many tokens, special ones not counted.
    within
        Only with at most this many tokens of the text before it.
    after
        Only right behind this word.
    alone
        Not beside a second rare token.
    whole
        Not for a single word of a phrase (negatives).
    copies
        Only where the trigger stands at least this often.
    """

    kinds: tuple[str, ...] = ()
    min_tokens: int | None = None
    within: int | None = None
    after: str | None = None
    alone: bool = False
    whole: bool = False
    copies: int = 1

    @property
    def clauses(self) -> tuple[str, ...]:
        """Names of the clauses that are set."""
        return tuple(
            field.name for field in fields(self) if getattr(self, field.name) != field.default
        )


ALWAYS = Condition()
