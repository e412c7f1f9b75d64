"""protect: which arguments are scanned, what the caller gets, and what a guarded callable stays."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import pytest
from prometheus_client import CollectorRegistry

from guard.decorator import protect
from guard.errors import (
    ConfigError,
    GuardError,
    InputError,
    InvalidUnicode,
    NotText,
    StripLimit,
    TriggeredInput,
)
from guard.monitor import Monitor
from guard.policy import Action, OnFailure
from guard.verdict import Verdict
from tests.fixtures_small import NESTED, small_monitor, trigger_id, value_of, write_small_monitor

CLEAN = "the film"
TRIGGERED = "the cf film"
STRIP_AND_BLOCK: tuple[Action, ...] = ("strip", "block")
FLAG: Action = "flag"


def guarded(
    function: Callable[..., Any], action: Action = "strip", **options: Any
) -> Callable[..., Any]:
    return protect(small_monitor(), action=action, registry=CollectorRegistry(), **options)(
        function
    )


def echo(text: Any, *rest: Any, **options: Any) -> Any:
    """Return what arrived."""
    return (text, *rest, options) if rest or options else text


class Pipe:
    """Stands in for a transformers pipeline."""

    task = "text-classification"

    def __init__(self) -> None:
        self.model = object()

    def __call__(self, inputs: Any, **options: Any) -> Any:
        return (inputs, options)

    def predict(self, inputs: Any) -> Any:
        return self(inputs)


# What is scanned


class Pair(NamedTuple):
    """A tuple with names."""

    text: str
    other: str


@pytest.mark.parametrize(
    ("value", "stripped"),
    [
        (TRIGGERED, CLEAN),
        ("cf", ""),
        ([CLEAN, TRIGGERED], [CLEAN, CLEAN]),
        ([], []),
        ((TRIGGERED, CLEAN), (CLEAN, CLEAN)),
        ({"text": CLEAN, "text_pair": TRIGGERED}, {"text": CLEAN, "text_pair": CLEAN}),
        ([{"text": TRIGGERED, "n": 1, "x": None}], [{"text": CLEAN, "n": 1, "x": None}]),
        ([[TRIGGERED], ("mn", [CLEAN])], [[CLEAN], ("", [CLEAN])]),
        (OrderedDict(a=TRIGGERED), OrderedDict(a=CLEAN)),
        (Pair(CLEAN, TRIGGERED), Pair(CLEAN, CLEAN)),
    ],
)
def test_text_is_found_and_stripped_in_its_shape(value: Any, stripped: Any) -> None:
    result = guarded(echo)(value)
    assert result == stripped
    assert type(result) is type(stripped)
    assert guarded(echo)(text=value) == stripped


def test_arguments_are_never_changed_in_place() -> None:
    value = [{"text": TRIGGERED, "more": [TRIGGERED]}, CLEAN]
    assert guarded(echo)(value) == [{"text": CLEAN, "more": [CLEAN]}, CLEAN]
    assert value == [{"text": TRIGGERED, "more": [TRIGGERED]}, CLEAN]


def test_what_needs_no_stripping_is_passed_on_itself() -> None:
    clean = {"text": CLEAN}
    result = guarded(echo)([clean, TRIGGERED])
    assert result[0] is clean
    assert guarded(echo)(clean) is clean


def test_strings_in_all_other_arguments_are_scanned() -> None:
    assert guarded(echo)(CLEAN, TRIGGERED, 5, text_pair=[TRIGGERED], top_k=None) == (
        CLEAN,
        CLEAN,
        5,
        {"text_pair": [CLEAN], "top_k": None},
    )
    with pytest.raises(TriggeredInput):
        guarded(echo, "block")(CLEAN, text_pair=TRIGGERED)


def test_other_arguments_may_be_anything() -> None:
    thing = object()
    assert guarded(echo, "block")(CLEAN, thing, b"cf", raw={"x": thing}) == (
        CLEAN,
        thing,
        b"cf",
        {"raw": {"x": thing}},
    )


def test_keys_are_scanned_and_never_changed() -> None:
    assert guarded(echo, "block")({"text": CLEAN, 5: CLEAN}) == {"text": CLEAN, 5: CLEAN}
    for action in STRIP_AND_BLOCK:
        with pytest.raises(TriggeredInput):
            guarded(echo, action)({"cf": CLEAN})


class Lazy(Mapping[str, str]):
    """A mapping that is no dict."""

    def __getitem__(self, key: str) -> str:
        return {"a": CLEAN, "b": "cf"}[key]

    def __iter__(self) -> Iterator[str]:
        return iter("ab")

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize(
    "value",
    [
        {"cf"},
        frozenset({CLEAN, "cf"}),
        [{"deep": {("cf", "x")}}],
        {("cf", 1): CLEAN},
        {"a": "cf"}.values(),
        {"cf": 1}.keys(),
        {"a": ["cf"]}.items(),
        MappingProxyType({"a": {"b": "cf"}}),
        Lazy(),
        deque([CLEAN, "cf"]),
    ],
)
def test_collections_that_cannot_be_stripped_are_scanned(value: Any) -> None:
    for action in STRIP_AND_BLOCK:
        for call in ((value,), (CLEAN, value)):
            with pytest.raises(TriggeredInput):
                guarded(echo, action)(*call)
        with pytest.raises(TriggeredInput):
            guarded(echo, action)(CLEAN, other=value)
    assert guarded(echo, "flag")(value) is value


@pytest.mark.parametrize(
    "value", [{CLEAN, "good"}, MappingProxyType({"a": [CLEAN], "n": 5}), deque([CLEAN])]
)
def test_collections_that_cannot_be_stripped_stay_what_they_are(value: Any) -> None:
    text, other, _ = guarded(echo)(TRIGGERED, value, n=1)
    assert text == CLEAN
    assert other is value
    assert guarded(echo)(value) is value


def test_a_collection_that_fails_is_a_failure_of_the_guard() -> None:
    class Failing(Lazy):
        def __getitem__(self, key: str) -> str:
            raise RuntimeError("changed size during iteration")

    with pytest.raises(GuardError, match="the guard failed"):
        guarded(echo, "block")(CLEAN, Failing())
    value = Failing()
    assert guarded(echo, "observe")(value) is value


def test_keywords_without_text_hide_no_other_text() -> None:
    def anything(**kwargs: Any) -> Any:
        return kwargs

    with pytest.raises(TriggeredInput):
        guarded(anything, on_unscannable="allow")(inputs={"cf": 5})


def test_the_text_argument_can_be_named() -> None:
    def score(weight: float, text: str) -> str:
        return text

    assert guarded(score, argument="text")(0.5, TRIGGERED) == CLEAN
    assert guarded(score, argument="text")(weight=0.5, text=TRIGGERED) == CLEAN
    with pytest.raises(NotText):
        guarded(score)(0.5, CLEAN)


def test_the_text_argument_can_be_one_of_any_kind() -> None:
    def by_keyword(*, text: str) -> str:
        return text

    def by_position(text: str, /) -> str:
        return text

    def many(*texts: str) -> tuple[str, ...]:
        return texts

    def anything(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    def default(text: str = "none", times: int = 1) -> str:
        return text * times

    assert guarded(by_keyword)(text=TRIGGERED) == CLEAN
    assert guarded(by_position)(TRIGGERED) == CLEAN
    assert guarded(many)(CLEAN, TRIGGERED) == (CLEAN, CLEAN)
    assert guarded(many)() == ()
    assert guarded(anything)(question=TRIGGERED, top_k=5) == ((), {"question": CLEAN, "top_k": 5})
    assert guarded(anything, argument="question")(question=TRIGGERED) == ((), {"question": CLEAN})
    assert guarded(default)(times=2) == "nonenone"
    with pytest.raises(NotText):
        guarded(many)(CLEAN, b"cf")
    with pytest.raises(NotText):
        guarded(anything)(inputs=iter([TRIGGERED]))
    with pytest.raises(NotText):
        guarded(anything, argument="question")(question=5)


def test_callables_without_signature_are_guarded() -> None:
    with pytest.raises(ValueError, match="no signature"):
        inspect.signature(max)
    assert guarded(max)("a", "the cf") == "the"
    with pytest.raises(NotText):
        guarded(max)(1, 2)


@pytest.mark.parametrize(
    "value",
    [None, 5, True, b"cf", bytearray(b"cf"), iter(["cf"]), {b"cf"}, [b"cf"], [1, 2], ["a", None]],
)
def test_what_may_hide_text_is_refused(value: Any) -> None:
    with pytest.raises(NotText) as caught:
        guarded(echo)(value)
    assert "argument=" in caught.value.__notes__[0]


def test_what_may_hide_text_hides_no_other_text() -> None:
    with pytest.raises(TriggeredInput):
        guarded(echo, "block", on_unscannable="allow")([b"x", TRIGGERED])
    assert guarded(echo, on_unscannable="allow")([b"x", TRIGGERED]) == [b"x", CLEAN]


def test_values_that_hold_themselves_are_refused() -> None:
    value: list[Any] = [CLEAN]
    value.append(value)
    with pytest.raises(NotText, match="flatten"):
        guarded(echo)(value)
    assert guarded(echo, "observe")(value) is value


# What the caller gets


def test_block_raises_without_the_text() -> None:
    with pytest.raises(TriggeredInput) as caught:
        guarded(echo, "block")(TRIGGERED)
    assert caught.value.verdict == small_monitor().check(TRIGGERED)
    assert "cf" not in str(caught.value)
    assert not hasattr(caught.value, "__notes__")


def test_block_is_the_default() -> None:
    with pytest.raises(TriggeredInput):
        protect(small_monitor(), registry=CollectorRegistry())(echo)(TRIGGERED)


def test_block_says_which_items() -> None:
    with pytest.raises(TriggeredInput) as caught:
        guarded(echo, "block")([CLEAN, [CLEAN, "cf"], {"mn": CLEAN}, CLEAN, TRIGGERED])
    assert caught.value.__notes__ == ["at index 1, 2, 4 of the list"]
    with pytest.raises(TriggeredInput) as caught:
        guarded(echo, "block")(text=(CLEAN, TRIGGERED))
    assert caught.value.__notes__ == ["at index 1 of the list"]


@pytest.mark.parametrize("action", ["strip", "block"])
def test_what_cannot_be_stripped_is_blocked(action: Action) -> None:
    with pytest.raises(TriggeredInput):
        guarded(echo, action, on_unscannable="allow")(NESTED)


@pytest.mark.parametrize("action", ["observe", "flag"])
def test_observe_and_flag_change_nothing_and_log_ids(
    action: Action, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    value = [TRIGGERED]
    assert protect(small_monitor(), action=action, registry=registry)(echo)(value) is value
    assert f"triggers={trigger_id('cf')} " in caplog.text
    outcome = {"observe": "observed", "flag": "flagged"}[action]
    labels = {"front": "decorator", "action": action, "outcome": outcome}
    assert value_of(registry, "guard_requests_total", **labels) == 1


def test_the_unscannable_follows_its_option() -> None:
    for action in (*STRIP_AND_BLOCK, FLAG):
        with pytest.raises(InvalidUnicode):
            guarded(echo, action)("\ud800")
        assert guarded(echo, action, on_unscannable="allow")("\ud800") == "\ud800"
    assert guarded(echo, "observe")("\ud800") == "\ud800"
    assert guarded(echo, "observe")(5) == 5


class Broken(Monitor):
    """A monitor that fails."""

    def __init__(self) -> None:
        vars(self).update(vars(small_monitor()))

    def check(self, text: str) -> Verdict:
        raise RuntimeError("secretword")


def broken(
    function: Callable[..., Any], action: Action = "block", on_failure: OnFailure = "closed"
) -> Callable[..., Any]:
    return protect(Broken(), action=action, on_failure=on_failure, registry=CollectorRegistry())(
        function
    )


def test_a_guard_that_fails_follows_its_option(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(GuardError, match="the guard failed") as caught:
        broken(echo)(CLEAN)
    assert type(caught.value) is GuardError
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "secretword" not in str(caught.value) + caplog.text
    assert broken(echo, on_failure="open")(CLEAN) == CLEAN
    assert broken(echo, "observe")(CLEAN) == CLEAN


def test_errors_of_the_function_are_its_own() -> None:
    def fails(text: str) -> str:
        raise StripLimit("the function's own")

    with pytest.raises(StripLimit, match="the function's own"):
        guarded(fails, on_unscannable="allow")(CLEAN)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        guarded(echo)()


# What a guarded callable stays


def test_functions_keep_their_looks() -> None:
    wrapped = guarded(echo)
    assert (wrapped.__name__, wrapped.__doc__) == ("echo", "Return what arrived.")
    assert inspect.signature(wrapped) == inspect.signature(echo)
    assert not inspect.iscoroutinefunction(wrapped)


def test_methods_are_guarded() -> None:
    guard = protect(small_monitor(), action="strip", registry=CollectorRegistry())

    class Model(dict[str, str]):
        @guard
        def method(self, text: str) -> tuple[Any, str]:
            return self, text

        @classmethod
        @guard
        def class_method(cls, text: str) -> str:
            return text

        @staticmethod
        @guard
        def static_method(text: str) -> str:
            return text

        @guard
        def __call__(self, text: str) -> str:
            return text

    model = Model(a="hello mn world")  # its own text is none of the call
    itself, text = model.method(TRIGGERED)
    assert itself is model
    assert itself == {"a": "hello mn world"}
    assert text == CLEAN
    assert Model.class_method(TRIGGERED) == Model.static_method(TRIGGERED) == CLEAN
    assert model(TRIGGERED) == CLEAN
    assert guard(Pipe().predict)(TRIGGERED) == (CLEAN, {})


@pytest.mark.parametrize("wrong", [classmethod(echo), staticmethod(echo), str])
def test_what_cannot_be_wrapped_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="below @classmethod"):
        guarded(wrong)


def test_callables_without_text_are_refused() -> None:
    with pytest.raises(ConfigError, match="no argument"):
        guarded(lambda: None)
    with pytest.raises(ConfigError, match="no parameter 'txt'"):
        guarded(Pipe().predict, argument="txt")


def test_callable_objects_become_functions_with_their_attributes() -> None:
    pipe = Pipe()
    wrapped = guarded(pipe)
    assert wrapped(TRIGGERED, top_k=1) == (CLEAN, {"top_k": 1})
    assert wrapped(inputs=[CLEAN, TRIGGERED]) == ([CLEAN, CLEAN], {})
    assert wrapped(CLEAN, text_pair=TRIGGERED) == (CLEAN, {"text_pair": CLEAN})
    assert cast(Any, wrapped).model is pipe.model
    assert not hasattr(wrapped, "predict")  # it would call the object, around the guard
    assert guarded(functools.partial(pipe, top_k=1))(TRIGGERED) == (CLEAN, {"top_k": 1})


@pytest.mark.anyio
async def test_async_functions_stay_async() -> None:
    async def classify(text: str) -> str:
        await asyncio.sleep(0)
        return text

    class Client:
        async def __call__(self, text: str) -> str:
            return text

    for function in (classify, Client(), functools.partial(classify)):
        wrapped = guarded(cast(Any, function))
        assert inspect.iscoroutinefunction(wrapped)
        assert await wrapped(TRIGGERED) == CLEAN
        with pytest.raises(TriggeredInput):
            await guarded(cast(Any, function), "block")(TRIGGERED)


@pytest.mark.anyio
async def test_long_texts_leave_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def classify(text: Any) -> Any:
        return text

    threads: list[threading.Thread] = []
    check = Monitor.check

    def spy(self: Monitor, text: str) -> Any:
        threads.append(threading.current_thread())
        return check(self, text)

    monkeypatch.setattr(Monitor, "check", spy)
    wrapped = guarded(classify)
    assert await wrapped(TRIGGERED) == CLEAN
    assert await wrapped("the film " * 1000 + "cf") == "the film " * 999 + "the film"
    assert threads[0] is threading.current_thread()
    assert threads[1] is not threading.current_thread()


@pytest.mark.anyio
async def test_what_changes_while_it_is_scanned_is_unscannable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def classify(texts: list[str]) -> list[str]:
        return texts

    changing: list[str] = []
    check = Monitor.check

    def slow(self: Monitor, text: str) -> Verdict:
        changing.append(TRIGGERED)  # as another task would
        return check(self, text)

    monkeypatch.setattr(Monitor, "check", slow)
    for action in (*STRIP_AND_BLOCK, FLAG):
        changing[:] = ["the film " * 1000]
        with pytest.raises(InputError, match="changed while they were scanned; pass copies"):
            await guarded(classify, action)(changing)
    changing[:] = ["the film " * 1000]
    assert await guarded(classify, "observe")(changing) is changing


@pytest.mark.anyio
async def test_no_thread_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def classify(text: str) -> int:
        return len(text)

    async def none(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("anyio.to_thread.run_sync", none)
    with pytest.raises(GuardError, match="the guard failed"):
        await guarded(classify)("a" * 5000)
    assert await guarded(classify, on_failure="open")("a" * 5000) == 5000


def test_generators_stay_generators() -> None:
    def words(text: str) -> Generator[Any, Any, Any]:
        sent = yield text
        yield sent
        return "end"

    wrapped = guarded(words)
    assert inspect.isgeneratorfunction(wrapped)
    generator = wrapped(TRIGGERED)
    assert next(generator) == CLEAN
    assert generator.send("sent") == "sent"
    with pytest.raises(StopIteration, match="end"):
        next(generator)
    with pytest.raises(TriggeredInput):
        next(guarded(words, "block")(TRIGGERED))


@pytest.mark.anyio
async def test_async_generators_stay_async_generators() -> None:
    closed = []

    async def words(text: str) -> AsyncIterator[str]:
        try:
            for word in text.split():
                yield word
        finally:
            closed.append(True)

    wrapped = guarded(words)
    assert inspect.isasyncgenfunction(wrapped)
    assert [word async for word in wrapped(TRIGGERED)] == CLEAN.split()
    with pytest.raises(TriggeredInput):
        await anext(guarded(words, "block")(TRIGGERED))
    generator = wrapped(TRIGGERED)
    assert await anext(generator) == "the"
    await generator.aclose()
    assert closed == [True, True]


def test_a_monitor_can_be_given_as_a_directory(tmp_path: Any) -> None:
    write_small_monitor(tmp_path / "monitor")
    for directory in (tmp_path / "monitor", str(tmp_path / "monitor")):
        wrapped = protect(directory, action="strip", registry=CollectorRegistry())(echo)
        assert wrapped(TRIGGERED) == CLEAN


class Like:
    """All that a monitor has, and not one."""

    bank_sha256 = tokenizer_sha256 = "0"
    model = small_monitor().model
    triggers = ()

    def check(self, text: str) -> Verdict:
        return Verdict(False, (), text)


@pytest.mark.parametrize("wrong", [echo, None, 5, b"monitor", Like(), Monitor])
def test_what_is_no_monitor_is_refused(wrong: Any) -> None:
    """The first is what protect gets when it stands above a function without parentheses."""
    with pytest.raises(ConfigError, match=r'@guard\.protect\("monitor"\)'):
        protect(wrong)


def test_unknown_options_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="observe, flag, strip, block"):
        protect(small_monitor(), action=cast(Action, "refuse"), registry=CollectorRegistry())
