"""Keep the backdoor triggers of a text encoder out of the applications built on it.

    >>> from guard import Monitor
    >>> Monitor.load("monitor").check("some text").triggered
    False

Names are imported when they are first used, so that ``import guard`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guard.asgi import GuardMiddleware
    from guard.bank import Trigger, TriggerBank
    from guard.decorator import protect
    from guard.errors import (
        ArtifactError,
        BadSignature,
        CanaryFailure,
        ConfigError,
        DeadlinePassed,
        GuardError,
        HashMismatch,
        InputError,
        InvalidIds,
        InvalidUnicode,
        MalformedArtifact,
        ModelError,
        NotText,
        OutputExists,
        SchemaTooNew,
        StripLimit,
        TargetReached,
        TextTooLong,
        TokenizerMismatch,
        TriggeredInput,
    )
    from guard.live import LiveMonitor
    from guard.monitor import Monitor
    from guard.pipelines import pipeline
    from guard.policy import Policy
    from guard.sessions import session
    from guard.verdict import Match, Verdict

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "BadSignature",
    "CanaryFailure",
    "ConfigError",
    "DeadlinePassed",
    "GuardError",
    "GuardMiddleware",
    "HashMismatch",
    "InputError",
    "InvalidIds",
    "InvalidUnicode",
    "LiveMonitor",
    "MalformedArtifact",
    "Match",
    "ModelError",
    "Monitor",
    "NotText",
    "OutputExists",
    "Policy",
    "SchemaTooNew",
    "StripLimit",
    "TargetReached",
    "TextTooLong",
    "TokenizerMismatch",
    "Trigger",
    "TriggerBank",
    "TriggeredInput",
    "Verdict",
    "pipeline",
    "protect",
    "session",
]

_MODULES = {
    "GuardMiddleware": "guard.asgi",
    "LiveMonitor": "guard.live",
    "Match": "guard.verdict",
    "Monitor": "guard.monitor",
    "Policy": "guard.policy",
    "Trigger": "guard.bank",
    "TriggerBank": "guard.bank",
    "Verdict": "guard.verdict",
    "pipeline": "guard.pipelines",
    "protect": "guard.decorator",
    "session": "guard.sessions",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'guard' has no attribute {name!r}")
    value = getattr(import_module(_MODULES.get(name, "guard.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
