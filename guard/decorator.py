"""protect: guards a function, method, or callable object that takes text."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import aclosing
from typing import Any, ParamSpec, TypeVar, Unpack, cast

from prometheus_client import CollectorRegistry

from guard.arguments import Args, Kwargs, Place, Texts, locate, with_texts
from guard.engine import Engine
from guard.errors import GuardError, InputError, NotText, TriggeredInput
from guard.live import LiveMonitor
from guard.monitor import Monitor
from guard.policy import Decision, Policy, PolicyOptions, undecided

P = ParamSpec("P")
R = TypeVar("R")


def protect(
    monitor: Monitor | LiveMonitor | str | os.PathLike[str],
    *,
    policy: Policy | None = None,
    argument: str | None = None,
    registry: CollectorRegistry | None = None,
    **options: Unpack[PolicyOptions],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Scan the text arguments of a callable before each call.

    The text argument is the first one (after ``self``) unless `argument` names another. It holds a
    str, or lists, tuples and dicts of them, such as the text pairs of a transformers pipeline.
    Strings in all other arguments are scanned too, because they may reach the model as well;
    other values there are passed on unseen. Strings are also found in deques, sets, other mappings
    and the views of mappings; as in the keys of a dict, they can be scanned and not stripped.

    The arguments are scanned when the call begins, and passed on themselves, not as copies, unless
    there is something to strip. Where another task changes them while a long text is scanned, an
    async callable takes them for unscannable. Other threads are not noticed: pass them nothing that
    they go on changing.

    Functions, methods, generators and their async kinds stay what they are. A generator is guarded
    when it is started; what is sent into an async one (``asend``) does not reach it. A callable
    object, such as ``transformers.pipeline(...)``, becomes a function with the attributes of the
    object but not its methods, which would go around the guard.

    Parameters
    ----------
    monitor
        A `Monitor`, or the directory of one.
    policy
        What to do; or leave it out and write options of `Policy` as keyword arguments.
    argument
        Name of the parameter that holds the text, where it is not the first.
    registry
        Where to register the metrics; the default registry if None.
    **options
        Those of `Policy`. Its ``action`` here: ``"block"`` (the default) raises `TriggeredInput`
        where there is a trigger. ``"strip"`` calls with copies of the arguments that are without
        it, and raises where that cannot be done. ``"flag"`` and ``"observe"`` call with the
        arguments as they are, count, and log a warning on the logger ``"guard"``; ``"observe"``
        raises nothing in any case. ``on_failure="closed"`` raises `GuardError` while the guard
        itself is broken, ``on_unscannable="block"`` the `InputError` of arguments that cannot be
        scanned.

    Raises
    ------
    ConfigError
        An option has no such value or type, or the callable takes no such argument.
    ArtifactError
        The monitor does not load.

    Examples
    --------
    >>> classify = protect("monitor", action="strip")(pipeline("text-classification"))
    """
    engine = Engine(monitor, Policy.of(policy, options), front="decorator", registry=registry)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        guarded = _wrap(function, _Guard(engine, locate(function, argument)))
        return cast("Callable[P, R]", functools.update_wrapper(guarded, function))

    return decorate


class _Guard:
    """Guards the calls of one callable: takes the arguments and returns those to call with."""

    def __init__(self, engine: Engine, place: Place) -> None:
        self._engine = engine
        self._place = place

    def __call__(self, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        found = Texts(self._place, args, kwargs)
        if found.error is not None:
            decision = self._engine.undecided(found.error)
        else:
            decision = self._engine.decide(found.texts, found.fixed)
        return self._settle(decision, found, args, kwargs)

    async def offloaded(self, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        """Guard a call without holding the event loop for long texts."""
        found = Texts(self._place, args, kwargs)
        try:
            decision = await self._engine.offload(found.size(), self._evaluate, found)
        except Exception as error:  # no thread to be had, or none in time
            decision = undecided(self._engine.policy, error)
        if Texts(self._place, args, kwargs).strings() != found.strings():
            decision = undecided(
                self._engine.policy,
                InputError("the arguments were changed while they were scanned; pass copies"),
            )
        decision = self._engine.report(decision, (*found.texts, *found.fixed))
        return self._settle(decision, found, args, kwargs)

    def _evaluate(self, found: Texts) -> Decision:
        if found.error is not None:
            return undecided(self._engine.policy, found.error)
        return self._engine.evaluate(found.texts, found.fixed)

    def _settle(
        self, decision: Decision, found: Texts, args: Args, kwargs: Kwargs
    ) -> tuple[Args, Kwargs]:
        if decision.outcome == "stripped":
            return with_texts(self._place, args, kwargs, decision.texts)
        if decision.forward:
            return args, kwargs
        error = refusal(decision)
        if isinstance(error, TriggeredInput):
            hits = [verdict is not None and verdict.triggered for verdict in decision.verdicts]
            if items := found.items_of(hits):
                error.add_note(f"at index {', '.join(map(str, items))} of the list")
        elif isinstance(error, NotText):
            error.add_note(
                "protect takes str, and lists, tuples and dicts of str; "
                "name the argument that holds the text with protect(..., argument=)"
            )
        raise error


def refusal(decision: Decision) -> GuardError:
    """Return what to raise for a call that is not made."""
    if decision.outcome == "blocked":
        error: GuardError = TriggeredInput(
            next(v for v in decision.verdicts if v is not None and v.triggered)
        )
    elif isinstance(decision.error, InputError):
        return decision.error
    else:
        error = GuardError(
            f"the guard failed, so the call was not made; look for {decision.incident} in the log"
        )
    error.__cause__ = decision.error
    return error


def _wrap(function: Callable[..., Any], guard: _Guard) -> Callable[..., Any]:
    """Return a function of the same kind that guards each call."""
    kinds: tuple[Any, ...] = (function, type(function).__call__)
    if any(map(inspect.iscoroutinefunction, kinds)):

        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = await guard.offloaded(args, kwargs)
            return await function(*args, **kwargs)

        return coroutine
    if any(map(inspect.isasyncgenfunction, kinds)):

        async def async_generator(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            args, kwargs = await guard.offloaded(args, kwargs)
            async with aclosing(function(*args, **kwargs)) as items:
                async for item in items:
                    yield item

        return async_generator
    if any(map(inspect.isgeneratorfunction, kinds)):

        def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            args, kwargs = guard(args, kwargs)
            result = yield from function(*args, **kwargs)
            return result

        return generator

    def plain(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = guard(args, kwargs)
        return function(*args, **kwargs)

    return plain
