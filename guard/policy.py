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

A text that cannot be scanned follows `on_unscannable`; a monitor that fails or passes its deadline
follows `on_failure`. Under "observe" both are forwarded, because observing never changes what an
application does; what "block" would have done is logged.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Literal, TypeAlias, TypedDict, get_args

from guard.errors import ConfigError, InputError, StripLimit
from guard.monitor import Monitor
from guard.reading import MAX_CHARS
from guard.scanning import Ids, scan
from guard.settings import read_environment, read_toml
from guard.verdict import Verdict

Action: TypeAlias = Literal["observe", "flag", "strip", "block"]
OnFailure: TypeAlias = Literal["open", "closed"]
OnUnscannable: TypeAlias = Literal["allow", "block"]
Outcome: TypeAlias = Literal[
    "clean", "observed", "flagged", "stripped", "blocked", "unscannable", "failed"
]
Step: TypeAlias = Literal["forward", "strip", "refuse"]

# What is known of a text that kept making new matches: that it is triggered, and that nothing of
# it is safe to keep.
_UNSTRIPPABLE = Verdict(triggered=True, matches=(), stripped="")

MAX_BODY = 2**20


class PolicyOptions(TypedDict, total=False):
    """The options of `Policy`, as keyword arguments of the fronts."""

    action: Action
    on_failure: OnFailure
    on_unscannable: OnUnscannable
    deadline: float | None
    max_body: int
    max_text: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What to do with a trigger, with a failing guard, and with what cannot be scanned.

    Parameters
    ----------
    action
        ``"block"`` (the default: a guard that nobody configured protects), ``"strip"``, ``"flag"``
        or ``"observe"`` (start here when you introduce the guard to live traffic).
    on_failure
        ``"closed"`` refuses while the guard itself is broken, ``"open"`` forwards unscanned. Each
        call that is forwarded so is counted in ``guard_unscanned_total`` and logged.
    on_unscannable
        ``"block"`` refuses texts that cannot be scanned, ``"allow"`` forwards them, counted and
        logged likewise.
    deadline
        Seconds that a scan may take, with its wait for a thread; beyond that the guard counts as
        failed. It is looked at between texts, and a single text is bounded by `max_text`, so that a
        synchronous call ends soon after it, an asynchronous one at it. None for no deadline.
    max_body
        Bytes that are read at most of a request's body, inflated, or of a WebSocket message.
    max_text
        Characters that one text may have; longer ones cannot be scanned. At most what the monitor
        scans, 1,048,576.

    Raises
    ------
    ConfigError
        An option has no such value.
    """

    action: Action = "block"
    on_failure: OnFailure = "closed"
    on_unscannable: OnUnscannable = "block"
    deadline: float | None = None
    max_body: int = MAX_BODY
    max_text: int = MAX_CHARS

    def __post_init__(self) -> None:
        """Check every option."""
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name}={value!r} is unknown; choose one of {', '.join(known)}")
        if type(self.max_body) is not int or self.max_body < 1:
            raise ConfigError(
                f"max_body={self.max_body!r} is no number of bytes; set it to 1 or more"
            )
        if type(self.max_text) is not int or not 1 <= self.max_text <= MAX_CHARS:
            raise ConfigError(
                f"max_text={self.max_text!r} is no number of characters; set it to 1 to {MAX_CHARS}"
            )
        if self.deadline is not None and not (
            type(self.deadline) in (int, float) and 0 < self.deadline < math.inf
        ):
            raise ConfigError(
                f"deadline={self.deadline!r} is no time; set it to seconds above 0, or to None"
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Policy:
        """Read ``GUARD_ACTION``, ``GUARD_ON_FAILURE``, ``GUARD_DEADLINE`` and so on.

        What is not set, or empty, has its default.

        Raises
        ------
        ConfigError
            A variable has no such value.
        """
        return read_environment(cls, environ)

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Policy:
        """Read the table ``[guard]`` of a TOML file; what it leaves out has its default.

        Raises
        ------
        ConfigError
            The file cannot be read, is no TOML, has no such table, or the table has another key or
            value than the options of `Policy`.
        """
        return read_toml(cls, path)

    @classmethod
    def of(cls, policy: Policy | None, options: PolicyOptions) -> Policy:
        """Return the policy that a front was given, whole or by options.

        Raises
        ------
        ConfigError
            Both were given, or an option has no such value.
        """
        if policy is None:
            return cls(**options)
        if not isinstance(policy, cls):
            raise ConfigError(
                f"policy={policy!r} is no guard.Policy; Policy.from_toml(path) reads a file"
            )
        if options:
            raise ConfigError(
                f"policy is given, and {', '.join(options)} beside it; "
                "set them in the policy: dataclasses.replace(policy, ...)"
            )
        return policy


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "action": get_args(Action),
    "on_failure": get_args(OnFailure),
    "on_unscannable": get_args(OnUnscannable),
}


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
    seconds
        How long it took to scan and decide; None where nothing was scanned.
    would
        Under "observe", what the same policy with "block" would have done to a call that is not
        clean; else None.
    bank
        SHA-256 of the bank whose monitor decided; empty for a clean decision, and where nothing
        was scanned.
    """

    outcome: Outcome
    forward: bool
    texts: tuple[str, ...]
    verdicts: tuple[Verdict | None, ...]
    error: Exception | None = None
    incident: str = ""
    seconds: float | None = field(default=None, compare=False)
    would: Step | None = None
    bank: str = field(default="", compare=False)


def decide(
    monitor: Monitor, policy: Policy, texts: Sequence[str], fixed: Sequence[str | Ids] = ()
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
        Texts that nothing may change, such as the keys of an object, or the ids of texts. Where
        stripping would have to change one, the call is blocked.
    """
    start = perf_counter()
    texts = tuple(texts)
    everything: tuple[str | Ids, ...] = (*texts, *fixed)
    if not everything:
        return Decision("clean", True, (), (), seconds=perf_counter() - start)
    try:
        results = scan(monitor, everything, deadline=policy.deadline, max_text=policy.max_text)
    except Exception as error:  # whatever it is, the policy answers for it
        decision = undecided(policy, error, texts, len(everything))
        return replace(decision, seconds=perf_counter() - start)
    verdicts = tuple(
        [
            result
            if isinstance(result, Verdict)
            else _UNSTRIPPABLE
            if isinstance(result, StripLimit)
            else None
            for result in results
        ]
    )
    if None not in verdicts and not _triggered(verdicts):
        return Decision("clean", True, texts, verdicts, seconds=perf_counter() - start)
    reason = next((result for result in results if isinstance(result, InputError)), None)
    decision = _settle(monitor, policy, texts, verdicts, reason)
    return replace(decision, seconds=perf_counter() - start)


def _settle(
    monitor: Monitor,
    policy: Policy,
    texts: tuple[str, ...],
    verdicts: tuple[Verdict | None, ...],
    reason: InputError | None,
) -> Decision:
    """Decide by verdicts that are not all clean."""
    if policy.action == "observe":
        blocking = _settle(monitor, replace(policy, action="block"), texts, verdicts, reason)
        outcome: Outcome = "observed" if _triggered(verdicts) else "unscannable"
        return Decision(outcome, True, texts, verdicts, reason, would=_step(blocking))
    triggered = _triggered(verdicts)
    unstrippable = _UNSTRIPPABLE in verdicts or _triggered(verdicts[len(texts) :])
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
    return Decision("flagged", True, texts, verdicts, reason)


def _triggered(verdicts: Iterable[Verdict | None]) -> bool:
    return any(verdict is not None and verdict.triggered for verdict in verdicts)


def _step(decision: Decision) -> Step:
    if not decision.forward:
        return "refuse"
    return "strip" if decision.outcome == "stripped" else "forward"


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
    decision = Decision(
        "unscannable" if unscannable else "failed",
        forward,
        texts if forward else (),
        (None,) * count,
        error,
    )
    if policy.action != "observe":
        return decision
    return replace(decision, would=_step(undecided(replace(policy, action="block"), error)))


def _forwards_unscannable(policy: Policy) -> bool:
    return policy.action == "observe" or policy.on_unscannable == "allow"
