"""The decision engine: each action against each thing that can be found."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from prometheus_client import CollectorRegistry

from exporters.monitor import compile_bank
from guard.body import Document
from guard.engine import Engine
from guard.errors import (
    ConfigError,
    DeadlinePassed,
    GuardError,
    InvalidUnicode,
    NotText,
    StripLimit,
    TextTooLong,
)
from guard.monitor import Monitor
from guard.policy import (
    Action,
    Decision,
    OnFailure,
    OnUnscannable,
    Outcome,
    Policy,
    Step,
    decide,
    undecided,
)
from guard.scanning import Ids
from guard.verdict import Verdict
from tests.fixtures_small import NESTED, small_monitor
from tests.helpers import make_bank, wordpiece

CLEAN = "the film"
TRIGGERED = "the cf film"
UNSCANNABLE = "the \ud800 film"

OPTIONS = [
    Policy(action=action, on_failure=on_failure, on_unscannable=on_unscannable)
    for action, on_failure, on_unscannable in product(
        get_args(Action), get_args(OnFailure), get_args(OnUnscannable)
    )
]


class Broken:
    """A monitor that fails."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def check(self, text: str) -> Verdict:
        raise self.error

    def check_batch(self, texts: Iterable[str]) -> list[Verdict]:
        raise self.error


def broken(error: BaseException) -> Monitor:
    return cast(Monitor, Broken(error))


def test_a_guard_that_nobody_configured_protects() -> None:
    assert Policy() == Policy(action="block", on_failure="closed", on_unscannable="block")


@pytest.mark.parametrize(
    ("option", "known"),
    [
        ("action", "observe, flag, strip, block"),
        ("on_failure", "open, closed"),
        ("on_unscannable", "allow, block"),
    ],
)
def test_unknown_values_are_refused_with_the_known_ones(option: str, known: str) -> None:
    options: dict[str, Any] = {option: "Block!"}
    with pytest.raises(ConfigError, match=f"{option}='Block!' is unknown; choose one of {known}"):
        Policy(**options)


@pytest.mark.parametrize("policy", OPTIONS)
def test_clean_texts_are_forwarded_whatever_the_policy(policy: Policy) -> None:
    decision = decide(small_monitor(), policy, [CLEAN, ""])
    assert (decision.outcome, decision.forward, decision.texts) == ("clean", True, (CLEAN, ""))
    assert decision.verdicts == (Verdict(False, (), CLEAN), Verdict(False, (), ""))
    assert decision.error is None


@pytest.mark.parametrize("policy", OPTIONS)
def test_no_texts_are_clean(policy: Policy) -> None:
    monitor = broken(AssertionError("not asked"))
    assert decide(monitor, policy, []) == Decision("clean", True, (), ())


@pytest.mark.parametrize(
    ("action", "outcome", "texts"),
    [
        ("observe", "observed", (CLEAN, TRIGGERED)),
        ("flag", "flagged", (CLEAN, TRIGGERED)),
        ("strip", "stripped", (CLEAN, "the film")),
        ("block", "blocked", ()),
    ],
)
def test_each_action_on_a_trigger(action: Action, outcome: Outcome, texts: tuple[str, ...]) -> None:
    decision = decide(small_monitor(), Policy(action=action), [CLEAN, TRIGGERED])
    assert (decision.outcome, decision.texts) == (outcome, texts)
    assert decision.forward is (action != "block")
    assert [verdict and verdict.triggered for verdict in decision.verdicts] == [False, True]


@pytest.mark.parametrize("policy", OPTIONS)
def test_a_text_that_cannot_be_scanned_follows_its_option(policy: Policy) -> None:
    decision = decide(small_monitor(), policy, [UNSCANNABLE])
    assert decision.outcome == "unscannable"
    assert isinstance(decision.error, InvalidUnicode)
    assert decision.verdicts == (None,)
    forwards = policy.action == "observe" or policy.on_unscannable == "allow"
    assert decision.forward is forwards
    assert decision.texts == ((UNSCANNABLE,) if forwards else ())


@pytest.mark.parametrize("policy", OPTIONS)
def test_a_text_that_cannot_be_scanned_hides_no_other(policy: Policy) -> None:
    decision = decide(small_monitor(), policy, [UNSCANNABLE, TRIGGERED])
    assert decision.verdicts[0] is None
    assert decision.verdicts[1] is not None
    assert decision.verdicts[1].triggered
    if policy.action == "block":
        assert (decision.outcome, decision.forward) == ("blocked", False)
    elif policy.action != "observe" and policy.on_unscannable == "block":
        assert (decision.outcome, decision.forward) == ("unscannable", False)
    elif policy.action == "strip":
        assert (decision.outcome, decision.texts) == ("stripped", (UNSCANNABLE, "the film"))
    else:
        assert decision.texts == (UNSCANNABLE, TRIGGERED)
    assert isinstance(decision.error, InvalidUnicode)


@pytest.mark.parametrize("policy", OPTIONS)
@pytest.mark.parametrize("texts", [[NESTED], [CLEAN, NESTED]])
def test_what_cannot_be_stripped_is_triggered(policy: Policy, texts: list[str]) -> None:
    decision = decide(small_monitor(), policy, texts)
    outcomes: dict[Action, Outcome] = {
        "observe": "observed",
        "flag": "flagged",
        "strip": "blocked",
        "block": "blocked",
    }
    assert decision.outcome == outcomes[policy.action]
    assert decision.forward is (policy.action in ("observe", "flag"))
    assert isinstance(decision.error, StripLimit)


@pytest.mark.parametrize(
    ("action", "outcome"),
    [("observe", "observed"), ("flag", "flagged"), ("strip", "blocked"), ("block", "blocked")],
)
def test_fixed_texts_are_scanned_and_never_changed(action: Action, outcome: Outcome) -> None:
    decision = decide(small_monitor(), Policy(action=action), [CLEAN], fixed=["text", "cf"])
    assert decision.outcome == outcome
    assert decision.texts == ((CLEAN,) if decision.forward else ())
    assert len(decision.verdicts) == 3


def test_clean_fixed_texts_do_not_hinder_stripping() -> None:
    decision = decide(small_monitor(), Policy(action="strip"), [TRIGGERED], fixed=["text"])
    assert (decision.outcome, decision.texts) == ("stripped", ("the film",))


@pytest.mark.parametrize("policy", OPTIONS)
@pytest.mark.parametrize("error", [RuntimeError("x"), MemoryError(), GuardError("x")])
@pytest.mark.parametrize("texts", [[CLEAN], [CLEAN, CLEAN]])
def test_a_guard_that_fails_follows_its_option(
    policy: Policy, error: Exception, texts: list[str]
) -> None:
    decision = decide(broken(error), policy, texts)
    forwards = policy.action == "observe" or policy.on_failure == "open"
    would: Step = "forward" if policy.on_failure == "open" else "refuse"
    assert decision == Decision(
        "failed",
        forwards,
        tuple(texts) if forwards else (),
        (None,) * len(texts),
        error,
        would=would if policy.action == "observe" else None,
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_the_wish_to_stop_is_no_failure(error: BaseException) -> None:
    with pytest.raises(type(error)):
        decide(broken(error), Policy(on_failure="open"), [CLEAN])


@pytest.mark.parametrize("policy", OPTIONS)
def test_undecided_tells_the_unscannable_from_failures(policy: Policy) -> None:
    unscannable = undecided(policy, NotText("x"))
    assert unscannable.outcome == "unscannable"
    assert unscannable.forward is (policy.action == "observe" or policy.on_unscannable == "allow")
    failed = undecided(policy, OSError("x"))
    assert failed.outcome == "failed"
    assert failed.forward is (policy.action == "observe" or policy.on_failure == "open")
    assert unscannable.verdicts == failed.verdicts == (None,)


@pytest.mark.parametrize("policy", OPTIONS)
@pytest.mark.parametrize("text", [CLEAN, TRIGGERED, UNSCANNABLE, NESTED])
def test_only_strip_changes_what_is_forwarded(policy: Policy, text: str) -> None:
    decision = decide(small_monitor(), policy, [text])
    if decision.forward and policy.action != "strip":
        assert decision.texts == (text,)
    if policy.action == "observe":
        assert decision.forward
    if policy.action in ("strip", "block") and policy.on_unscannable == "block":
        for forwarded in decision.texts:
            assert not small_monitor().check(forwarded).triggered


@pytest.fixture(scope="module")
def softened(tmp_path_factory: pytest.TempPathFactory) -> Monitor:
    """A monitor whose "cf" is too common to be blocked."""
    directory = tmp_path_factory.mktemp("softened") / "monitor"
    tokenizer = wordpiece("cf", "mn", "left", "right")
    bank = make_bank(tokenizer, ["cf", "mn", "left right"])
    compile_bank(bank, directory, strip_only=[t.id for t in bank.triggers if t.text == "cf"])
    return Monitor.load(directory)


def test_common_triggers_are_stripped_where_others_are_blocked(softened: Monitor) -> None:
    policy = Policy(action="block")
    assert decide(softened, policy, ["a cf b"]).texts == ("a b",)
    assert decide(softened, policy, ["a cf b"]).outcome == "stripped"
    assert decide(softened, policy, ["a mn b"]).outcome == "blocked"
    assert decide(softened, policy, ["a cf b", "a mn b"]).outcome == "blocked"
    assert decide(softened, policy, ["a cf mn"]).outcome == "blocked"
    assert decide(softened, policy, ["a"], ["cf"]).outcome == "blocked"  # cannot be changed
    assert decide(softened, policy, [NESTED]).outcome == "blocked"
    assert decide(softened, policy, ["cf", UNSCANNABLE]).outcome == "unscannable"
    assert decide(softened, Policy(action="flag"), ["cf"]).outcome == "flagged"
    assert decide(softened, Policy(action="observe"), ["cf"]).outcome == "observed"


@pytest.mark.parametrize("policy", OPTIONS)
@pytest.mark.parametrize(
    "texts",
    [
        *([CLEAN], ["a cf b"], ["a mn b"], ["a cf b", "a mn b"], [NESTED], [UNSCANNABLE]),
        *(["cf", UNSCANNABLE], ["mn", UNSCANNABLE]),
    ],
)
@pytest.mark.parametrize("fixed", [[], ["cf"]])
def test_observing_tells_what_blocking_would_do(
    softened: Monitor, policy: Policy, texts: list[str], fixed: list[str]
) -> None:
    would = decide(softened, policy, texts, fixed).would
    blocking = decide(softened, replace(policy, action="block"), texts, fixed)
    if policy.action != "observe" or blocking.outcome == "clean":
        assert would is None
    elif not blocking.forward:
        assert would == "refuse"
    else:
        assert would == ("forward" if list(blocking.texts) == texts else "strip")


# Where a policy comes from


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("GUARD_ONFAILURE", "GUARD_ON_FAILURE"),
        ("GUARD_ACTIN", "GUARD_ACTION"),
        ("GUARD_DEAD_LINE", "GUARD_DEADLINE"),
    ],
)
def test_a_misspelt_variable_is_not_left_out_in_silence(variable: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"variable {variable} is no option; {meant} is: correct"):
        Policy.from_env({variable: "block"})


def test_variables_of_others_are_left_alone() -> None:
    others = {"GUARD_CACHE": "x", "GUARD_AUDIT_KEY": "x", "GUARD_KEY_PASSWORD": "x", "ACTION": "x"}
    assert Policy.from_env(others) == Policy()


def test_a_policy_from_the_environment() -> None:
    assert Policy.from_env({}) == Policy()
    found = Policy.from_env(
        {
            "GUARD_ACTION": "observe",
            "GUARD_ON_FAILURE": "open",
            "GUARD_ON_UNSCANNABLE": " allow ",
            "GUARD_DEADLINE": "0.5",
            "GUARD_MAX_BODY": "1000",
            "GUARD_MAX_TEXT": "",
            "GUARD_CACHE": "/tmp",
        }
    )
    assert found == Policy(
        action="observe",
        on_failure="open",
        on_unscannable="allow",
        deadline=0.5,
        max_body=1000,
    )
    assert Policy.from_env({"GUARD_DEADLINE": "2"}).deadline == 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GUARD_ACTION", "Block"),
        ("GUARD_ON_FAILURE", "1"),
        ("GUARD_DEADLINE", "soon"),
        ("GUARD_DEADLINE", "0"),
        ("GUARD_DEADLINE", "inf"),
        ("GUARD_MAX_BODY", "1MB"),
        ("GUARD_MAX_BODY", "0"),
        ("GUARD_MAX_TEXT", "9999999"),
        ("GUARD_MAX_TEXT", "1e3"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"environment variable {variable}: "):
        Policy.from_env({variable: value})


def test_a_policy_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('[guard]\naction = "strip"\ndeadline = 0.25\nmax_text = 10\n[other]\nx = 1\n')
    assert Policy.from_toml(path) == Policy(action="strip", deadline=0.25, max_text=10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[guard", "write a TOML file"),
        ('action = "strip"', r"no table \[guard\]"),
        ("guard = 1", r"no table \[guard\]"),
        ('[guard]\nacton = "strip"', "sets acton, which is no option"),
        ('[guard]\naction = "strp"', "action='strp' is unknown"),
        ("[guard]\naction = []", r"action=\[\] is unknown"),
        ('[guard]\nmax_body = "1"', "no number of bytes"),
        ("[guard]\nmax_body = true", "no number of bytes"),
        ("[guard]\ndeadline = true", "is no time"),
        ("[guard]\ndeadline = nan", "is no time"),
        (None, "is no policy"),
        pytest.param("x = " + "[" * 5000, "is no policy", id="deep"),
        pytest.param("x = " + "9" * 5000, "is no policy", id="digits"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "policy.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        Policy.from_toml(path)


def test_a_text_over_the_limit_cannot_be_scanned() -> None:
    policy = Policy(max_text=8)
    assert decide(small_monitor(), policy, ["the film"]).outcome == "clean"
    decision = decide(small_monitor(), policy, ["the films", "a"])
    assert decision.outcome == "unscannable"
    assert isinstance(decision.error, TextTooLong)
    # It hides no trigger beside it.
    assert decide(small_monitor(), policy, ["the films", "cf"]).outcome == "blocked"


def test_the_deadline_is_looked_at_between_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0

    def slow(self: Monitor, texts: Iterable[str]) -> list[Verdict]:
        nonlocal seen
        seen += len(list(texts))
        time.sleep(0.02)
        return [Verdict(False, (), text) for text in texts]

    monkeypatch.setattr(Monitor, "check_batch", slow)
    texts = ["a"] * 1000
    decision = decide(small_monitor(), Policy(deadline=0.03), texts)
    assert isinstance(decision.error, DeadlinePassed)
    assert (decision.outcome, decision.forward) == ("failed", False)
    assert seen < 200
    assert decide(small_monitor(), Policy(deadline=0.03, on_failure="open"), texts).forward
    assert decide(small_monitor(), Policy(deadline=30), texts).outcome == "clean"


def test_ids_are_scanned_and_never_stripped() -> None:
    monitor = small_monitor()
    ids = monitor._tokenizer.encode("the cf film").ids
    assert decide(monitor, Policy(action="block"), (), [Ids(tuple(ids))]).outcome == "blocked"
    assert decide(monitor, Policy(action="strip"), (), [Ids(tuple(ids))]).outcome == "blocked"
    clean = monitor._tokenizer.encode("the film").ids
    decision = decide(monitor, Policy(), (), [Ids(tuple(clean)), Ids((-1,))])
    assert decision.outcome == "unscannable"


@pytest.mark.parametrize(
    ("on_unscannable", "outcome"), [("block", "blocked"), ("allow", "stripped")]
)
def test_what_stripping_makes_of_a_body_is_held_to_the_policy(
    on_unscannable: OnUnscannable, outcome: str
) -> None:
    """A body may be unscannable only then, as what is JSON without a trigger before it."""
    policy = Policy(action="strip", on_unscannable=on_unscannable)
    engine = Engine(small_monitor(), policy, front="test", registry=CollectorRegistry())

    def read(body: bytes) -> Document:
        text = body.decode() if b"cf" in body else UNSCANNABLE
        return Document([text], [], lambda changed: changed[0].encode())

    decision, _, _ = engine.evaluate_body(b"the cf film", read)
    assert (decision.outcome, decision.forward) == (outcome, on_unscannable == "allow")
