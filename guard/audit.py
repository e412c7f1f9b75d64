"""The audit log: one line of JSON for each decision that is not clean.

It goes to the logger ``"guard.audit"`` at level INFO, so that nothing is written until you ask:

    logging.getLogger("guard.audit").setLevel(logging.INFO)

and give it a handler that writes the bare message. A line has ``time`` (UTC), ``front``,
``action``, ``outcome``, ``forwarded``, ``would`` (under "observe": what "block" would have done,
``"refuse"``, ``"strip"`` or ``"forward"``), ``triggers`` (ids), ``error``, ``incident`` (what the
response quotes), ``bank``, ``texts`` and ``more_texts``. The texts are those that hold a trigger or
cannot be scanned: never they themselves, but their HMAC-SHA256, by which two requests with the same
text are known, and their length. The key is ``GUARD_AUDIT_KEY``, and drawn at random for each
process without it, for a plain hash of a short text is found out by trying.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from guard.metrics import kind_of

if TYPE_CHECKING:
    from guard.policy import Action, Decision

logger = logging.getLogger("guard.audit")

MAX_TEXTS = 8
MAX_TRIGGERS = 32

_key = os.environ.get("GUARD_AUDIT_KEY", "").encode() or secrets.token_bytes(32)


def record(front: str, action: Action, bank: str, decision: Decision, texts: Sequence[str]) -> None:
    """Write the line of one decision about `texts`, in the order of its verdicts.

    `bank` is the SHA-256 of the one that decided.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    suspects = [
        text
        for text, verdict in zip(texts, decision.verdicts, strict=False)
        if verdict is None or verdict.triggered
    ]
    triggers = {m.trigger for v in decision.verdicts if v is not None for m in v.matches}
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "front": front,
        "action": action,
        "outcome": decision.outcome,
        "forwarded": decision.forward,
        "would": decision.would,
        "triggers": sorted(triggers)[:MAX_TRIGGERS],
        "error": None if decision.error is None else kind_of(decision.error),
        "incident": decision.incident,
        "bank": bank,
        "texts": [
            {"hmac_sha256": fingerprint(text), "characters": len(text)}
            for text in suspects[:MAX_TEXTS]
            if isinstance(text, str)
        ],
        "more_texts": max(0, len(suspects) - MAX_TEXTS),
    }
    logger.info("%s", json.dumps(line))


def fingerprint(text: str) -> str:
    """Return the HMAC-SHA256 of a text, in hex; lone surrogates count as what they are."""
    return hmac.new(_key, text.encode("utf-8", "surrogatepass"), "sha256").hexdigest()
