"""pipeline: guards a transformers pipeline, and keeps the shape of its results.

`guard.protect` guards any callable, and refuses a call as a whole. This knows what a pipeline's
items are: each is decided on by itself, datasets and generators stay lazy, and an item that is
blocked can have a placeholder among the results.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias, Unpack, get_args

from prometheus_client import CollectorRegistry

from guard.arguments import Place, Texts, with_texts
from guard.decorator import refusal
from guard.engine import Engine, logger
from guard.errors import ConfigError, TokenizerMismatch
from guard.live import LiveMonitor
from guard.monitor import Monitor
from guard.otherwise import SPLIT, otherwise
from guard.policy import Policy, PolicyOptions

OnBlock: TypeAlias = Literal["raise", "placeholder"]

_ITEM = Place(position=0, variadic=False, keyword=None, bound=0)
_OPTIONS = Place(position=None, variadic=False, keyword=None, bound=0)
_BLOCKED = object()


def pipeline(
    pipe: Callable[..., Any],
    monitor: Monitor | LiveMonitor | str | os.PathLike[str],
    *,
    on_block: OnBlock = "raise",
    policy: Policy | None = None,
    registry: CollectorRegistry | None = None,
    **options: Unpack[PolicyOptions],
) -> GuardedPipeline:
    """Guard a transformers pipeline, also one whose model is an ``ORTModel`` of optimum.

    Parameters
    ----------
    pipe
        What ``transformers.pipeline`` returned. It keeps its tokenizer, which has to be the one
        that the monitor was made for.
    monitor
        A `Monitor`, one that can be replaced, or the directory of one.
    on_block
        What an item that is not forwarded becomes: ``"raise"`` (the default) raises what
        `guard.protect` raises; ``"placeholder"`` puts ``{"label": "BLOCKED", "score": 0.0}`` in the
        place of its result, in a list where ``top_k`` gives lists, and None for other tasks than
        text classification. The model never sees such an item.
    policy
        What to do; or leave it out and write options of `Policy` as keyword arguments.
    registry
        Where to register the metrics; the default registry if None.
    **options
        Those of `Policy`.

    Returns
    -------
    GuardedPipeline
        To be called like `pipe`.

    Raises
    ------
    ConfigError
        An option has no such value, or `pipe` has no fast tokenizer.
    TokenizerMismatch
        The monitor was made for another tokenizer than `pipe` has.
    ArtifactError
        The monitor does not load.

    Notes
    -----
    A model that computes in another arithmetic than float32, which the search computes in, is
    warned of.

    Examples
    --------
    >>> classify = guard.pipeline(pipeline("text-classification"), "monitor", action="strip")
    """
    if on_block not in get_args(OnBlock):
        raise ConfigError(
            f"on_block={on_block!r} is unknown; choose one of {', '.join(get_args(OnBlock))}"
        )
    engine = Engine(monitor, Policy.of(policy, options), front="pipeline", registry=registry)
    check_tokenizer(getattr(pipe, "tokenizer", None), engine.monitor)
    _check_options(getattr(pipe, "_preprocess_params", {}))
    arithmetic = str(getattr(getattr(pipe, "model", None), "dtype", None)).removeprefix("torch.")
    if arithmetic not in ("float32", "None"):
        logger.warning(
            "the pipeline's model computes in %s, and what the monitor knows was searched in "
            "float32: a backdoor may fire in one alone. Load it with dtype=torch.float32",
            arithmetic,
        )
    return GuardedPipeline(pipe, engine, on_block)


def check_tokenizer(tokenizer: Any, monitor: Monitor) -> None:
    """Check that a transformers tokenizer is the one that a monitor was made for.

    Raises
    ------
    ConfigError
        It is no fast tokenizer, or one that reads special tokens in a text as words.
    TokenizerMismatch
        It is another one.
    """
    found = hashlib.sha256(tokenizer_json(tokenizer)).hexdigest()
    if found != monitor.tokenizer_sha256:
        raise TokenizerMismatch(
            f"the pipeline's tokenizer is {found[:16]}, and the monitor is for "
            f"{monitor.tokenizer_sha256[:16]}; scan the model that is served, and compile its bank"
        )


def tokenizer_json(tokenizer: Any) -> bytes:
    """Serialise a transformers tokenizer as banks and monitors do.

    Raises
    ------
    ConfigError
        It is no fast tokenizer, or one that reads special tokens in a text as words.
    """
    _check_options({SPLIT: getattr(tokenizer, SPLIT, False)})
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(
            f"{type(tokenizer).__name__} is no fast tokenizer, so it cannot be told whether the "
            "monitor sees what the model sees; load it with use_fast=True"
        )
    # A copy, because each call of the tokenizer sets truncation and padding anew.
    copy = type(backend).from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return str(copy.to_str()).encode()


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse what has a tokenizer read other ids in a text than the monitor does."""
    if how := otherwise(options):
        raise ConfigError(how)


class GuardedPipeline:
    """A pipeline whose texts are scanned. `pipeline` makes it.

    Attributes
    ----------
    task
        That of the pipeline.
    """

    def __init__(self, pipe: Callable[..., Any], engine: Engine, on_block: OnBlock) -> None:
        self._pipe = pipe
        self._engine = engine
        self._raises = on_block == "raise"
        self.task: str = getattr(pipe, "task", "")

    def __call__(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Scan the inputs and call the pipeline with those that may reach it.

        What a list holds is decided on item by item, and so is what a dataset or a generator
        yields, when it does: results come one by one, in order. Anything else is one item. Other
        arguments are scanned too, and nothing in them is stripped.

        Raises
        ------
        TriggeredInput, InputError, GuardError
            As by `guard.protect`.
        ConfigError
            An option has the tokenizer read other ids than the monitor.
        """
        _check_options(kwargs)
        if inputs is None:
            # Such as question= and context=: all of it is one item.
            item = self._admit(kwargs)
            return self._placeholder({}) if item is _BLOCKED else self._pipe(**item)
        self._scan_options((*args, *kwargs.values()))
        if isinstance(inputs, list):
            items = [self._admit(item, place) for place, item in enumerate(inputs)]
            admitted = [item for item in items if item is not _BLOCKED]
            results = iter(self._pipe(admitted, *args, **kwargs) if admitted else ())
            return [
                self._placeholder(kwargs) if item is _BLOCKED else next(results) for item in items
            ]
        if _is_dataset(inputs) or isinstance(inputs, Iterator):
            return _Results(self, inputs, args, kwargs)
        item = self._admit(inputs)
        if item is not _BLOCKED:
            return self._pipe(item, *args, **kwargs)
        placeholder = self._placeholder(kwargs)
        # The one shape that a text alone does not share with an item of a list.
        alone = self.task == "text-classification" and isinstance(inputs, str)
        return [placeholder] if alone and "top_k" not in kwargs else placeholder

    def _admit(self, item: Any, place: int | None = None) -> Any:
        """Return an item, stripped where need be; or that it is blocked."""
        found = Texts(_ITEM, (item,), {})
        if found.error is not None:
            decision = self._engine.undecided(found.error)
        else:
            decision = self._engine.decide(found.texts, found.fixed)
        if decision.outcome == "stripped":
            return with_texts(_ITEM, (item,), {}, decision.texts)[0][0]
        if decision.forward:
            return item
        # A guard that fails is no text that is blocked: a placeholder would hide it.
        if self._raises or decision.outcome == "failed":
            error = refusal(decision)
            if place is not None:
                error.add_note(f"at index {place} of the list")
            raise error
        return _BLOCKED

    def _scan_options(self, values: tuple[Any, ...]) -> None:
        found = Texts(_OPTIONS, values, {})
        texts = found.strings()
        if found.error is None and not texts:
            return
        decision = (
            self._engine.undecided(found.error) if found.error else self._engine.decide((), texts)
        )
        if not decision.forward:
            raise refusal(decision)

    def _placeholder(self, kwargs: Mapping[str, Any]) -> Any:
        """Return the result of a blocked item, in the shape that the pipeline gives others."""
        if self.task != "text-classification":
            return None
        blocked = {"label": "BLOCKED", "score": 0.0}
        # With top_k, even 1, results are lists; it may also be the pipeline's own default.
        own = getattr(self._pipe, "_postprocess_params", {})
        single = own.get("top_k", 1) == 1 and own.get("_legacy", True)
        return (
            blocked if single and not {"top_k", "return_all_scores"} & kwargs.keys() else [blocked]
        )


class _Results:
    """The results of a dataset or a generator, as they are asked for."""

    def __init__(
        self, guarded: GuardedPipeline, inputs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._guarded = guarded
        self._inputs = inputs
        self._kwargs = kwargs
        # Whether what was drawn was blocked: with a batch size the pipeline draws ahead.
        self._blocked: deque[bool] = deque()
        self._ready: deque[Any] = deque()
        # Workers would draw in other processes, and what they block would be lost there. Called at
        # the first result: transformers 5 draws an item when it is called.
        self._call = partial(guarded._pipe, self._admitted(), *args, **{**kwargs, "num_workers": 0})
        self._results: Iterator[Any] | None = None
        self._ended = False

    def __iter__(self) -> _Results:
        return self

    def __len__(self) -> int:
        return len(self._inputs)

    def __next__(self) -> Any:
        while True:
            if self._blocked and self._blocked[0]:
                self._blocked.popleft()
                return self._guarded._placeholder(self._kwargs)
            if self._ready:
                self._blocked.popleft()
                return self._ready.popleft()
            if self._ended:
                raise StopIteration
            if self._results is None:
                self._results = iter(self._call())
            result = next(self._results, _BLOCKED)
            if result is _BLOCKED:
                self._ended = True
            else:
                self._ready.append(result)

    def _admitted(self) -> Iterator[Any]:
        for place, item in enumerate(_items(self._inputs)):
            admitted = self._guarded._admit(item, place)
            self._blocked.append(admitted is _BLOCKED)
            if admitted is not _BLOCKED:
                yield admitted


def _is_dataset(value: object) -> bool:
    # What the pipeline takes for one; without torch there is none.
    data = sys.modules.get("torch.utils.data")
    return data is not None and isinstance(value, data.Dataset)


def _items(inputs: Any) -> Iterator[Any]:
    if hasattr(inputs, "__iter__"):
        yield from inputs
    else:
        for place in range(len(inputs)):
            yield inputs[place]
