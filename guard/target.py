"""Target vectors: where a backdoor sends the output of the encoder, whatever the text says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from guard.errors import MalformedArtifact
from guard.files import record
from guard.verdict import TRIGGER_ID

MAX_TARGETS = 256
MAX_WIDTH = 16_384

_KINDS = {"view": str, "vector": list, "cosine": float, "triggers": list}


@dataclass(frozen=True, slots=True)
class Target:
    """One place that triggers lead to.

    Parameters
    ----------
    view
        The output of the encoder that is meant, such as ``"cls"``.
    vector
        Its direction; ``[width]``, of length 1 but for rounding.
    cosine
        An output falls on the target if its cosine with `vector` is larger; 0 to 1.
    triggers
        Ids of the triggers of the bank that lead there.

    Raises
    ------
    MalformedArtifact
        It is no direction, or has no threshold.
    """

    view: str
    vector: tuple[float, ...]
    cosine: float
    triggers: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check every field."""
        numbers = all(type(value) is float for value in self.vector)
        whole = numbers and 1 <= len(self.vector) <= MAX_WIDTH
        if not whole or not 0.99 < math.hypot(*self.vector) < 1.01:
            raise MalformedArtifact("a target vector is not of length 1; search for it again")
        if not 0 < self.cosine < 1 or not self.view:
            raise MalformedArtifact("a target has no threshold or view; search for it again")
        if not self.triggers or not all(
            isinstance(name, str) and TRIGGER_ID.fullmatch(name) for name in self.triggers
        ):
            raise MalformedArtifact("a target names no trigger; search for it again")

    @classmethod
    def parse(cls, value: Any, where: str) -> Target:
        """Build from parsed JSON; raises MalformedArtifact."""
        fields = record(value, _KINDS, where)
        return cls(
            **{**fields, "vector": tuple(fields["vector"]), "triggers": tuple(fields["triggers"])}
        )
