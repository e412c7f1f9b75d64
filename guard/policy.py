"""The one decision engine: what happens to texts, whichever front they came through.

=========== ============================ ===========================================
action      a text holds a trigger       nothing was found
=========== ============================ ===========================================
observe     forwarded, counted           forwarded
flag        forwarded, marked            forwarded
strip       forwarded without it         forwarded
block       refused                      forwarded
=========== ============================ ===========================================

A trigger that the monitor marks as `strip_only`, because ordinary text holds it often, is stripped
where it would be blocked, unless the same call holds another that is not marked.

A text that cannot be scanned follows `on_unscannable`, a monitor that fails follows `on_failure`;
under "observe" both are forwarded, because observing never changes what an application does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from guard.errors import ConfigError, InputError, StripLimit
from guard.monitor import Monitor, Verdict

Action: TypeAlias = Literal["observe", "flag", "strip", "block"]
OnFailure: TypeAlias = Literal["open", "closed"]
OnUnscannable: TypeAlias = Literal["allow", "block"]
Outcome: TypeAlias = Literal[
    "clean", "observed", "flagged", "stripped", "blocked", "unscannable", "failed"
]

# What is known of a text that kept making new matches: that it is triggered, and that nothing of
# it is safe to keep.
_UNSTRIPPABLE = Verdict(triggered=True, matches=(), stripped="")


@dataclass(frozen=True, slots=True)
class Policy:
    """What to do with a trigger, with a failing guard, and with what cannot be scanned.

    Parameters
    ----------
    action
        ``"block"`` (the default: a guard that nobody configured protects), ``"strip"``, ``"flag"``
        or ``"observe"`` (start here when you introduce the guard to live traffic).
    on_failure
        ``"closed"`` refuses while the guard itself is broken, ``"open"`` forwards unscanned.
    on_unscannable
        ``"block"`` refuses texts that cannot be scanned, ``"allow"`` forwards them.

    Raises
    ------
    ConfigError
        An option has no such value.
    """

    action: Action = "block"
    on_failure: OnFailure = "closed"
    on_unscannable: OnUnscannable = "block"

    def __post_init__(self) -> None:
        """Check every option."""
        for name, known in (
            ("action", get_args(Action)),
            ("on_failure", get_args(OnFailure)),
            ("on_unscannable", get_args(OnUnscannable)),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name}={value!r} is unknown; choose one of {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class Decision:
    """What a front does now.

    Parameters
    ----------
    outcome
        What happened, as counted in the metrics.
    forward
        Whether the call goes on.
    texts
        What to forward in place of the scanned texts, in their order; empty when not forwarding.
    verdicts
        One for each text, then one for each fixed text; None where there is none.
    error
        Why a text could not be scanned, or how the guard failed.
    incident
        What the log line and the response have in common; empty for a clean decision.
    """

    outcome: Outcome
    forward: bool
    texts: tuple[str, ...]
    verdicts: tuple[Verdict | None, ...]
    error: Exception | None = None
    incident: str = ""


def decide(
    monitor: Monitor, policy: Policy, texts: Sequence[str], fixed: Sequence[str] = ()
) -> Decision:
    """Scan texts and decide what happens to the call that carries them.

    Parameters
    ----------
    monitor
        What scans.
    policy
        What to do with the result.
    texts
        Texts that stripping may change.
    fixed
        Texts that nothing may change, such as the keys of an object. Where stripping would have
        to change one, the call is blocked.
    """
    texts = tuple(texts)
    everything = (*texts, *fixed)
    if not everything:
        return Decision("clean", True, (), ())
    try:
        results = _scan(monitor, everything)
    except Exception as error:  # whatever it is, the policy answers for it
        return undecided(policy, error, texts, len(everything))
    verdicts = tuple(
        result
        if isinstance(result, Verdict)
        else _UNSTRIPPABLE
        if isinstance(result, StripLimit)
        else None
        for result in results
    )
    reason = next((result for result in results if isinstance(result, InputError)), None)
    triggered = any(verdict and verdict.triggered for verdict in verdicts)
    if reason is None and not triggered:
        return Decision("clean", True, texts, verdicts)
    unstrippable = _UNSTRIPPABLE in verdicts or any(
        verdict and verdict.triggered for verdict in verdicts[len(texts) :]
    )
    action = policy.action
    if action == "block" and not any(
        match.trigger not in monitor.strip_only
        for verdict in verdicts
        if verdict
        for match in verdict.matches
    ):
        action = "strip"  # too common to refuse all who write it
    if triggered and (action == "block" or (action == "strip" and unstrippable)):
        return Decision("blocked", False, (), verdicts, reason)
    if None in verdicts and not _forwards_unscannable(policy):
        return Decision("unscannable", False, (), verdicts, reason)
    if not triggered:
        return Decision("unscannable", True, texts, verdicts, reason)
    if action == "strip":
        stripped = tuple(
            verdict.stripped if verdict and verdict.triggered else text
            for text, verdict in zip(texts, verdicts, strict=False)
        )
        return Decision("stripped", True, stripped, verdicts, reason)
    return Decision("flagged" if action == "flag" else "observed", True, texts, verdicts, reason)


def undecided(
    policy: Policy, error: Exception, texts: tuple[str, ...] = (), count: int = 1
) -> Decision:
    """Decide without verdicts, because of an error.

    An `InputError` says that the texts cannot be scanned, any other that the guard failed.
    """
    unscannable = isinstance(error, InputError)
    if unscannable:
        forward = _forwards_unscannable(policy)
    else:
        forward = policy.action == "observe" or policy.on_failure == "open"
    return Decision(
        "unscannable" if unscannable else "failed",
        forward,
        texts if forward else (),
        (None,) * count,
        error,
    )


def _forwards_unscannable(policy: Policy) -> bool:
    return policy.action == "observe" or policy.on_unscannable == "allow"


def _scan(monitor: Monitor, texts: tuple[str, ...]) -> list[Verdict | InputError]:
    if len(texts) > 1:
        try:
            return list(monitor.check_batch(texts))
        except InputError:
            # One text that cannot be scanned must not hide the others: scan each by itself.
            pass
    results: list[Verdict | InputError] = []
    for text in texts:
        try:
            results.append(monitor.check(text))
        except InputError as error:
            results.append(error)
    return results
