"""session: guards what takes token ids, an ONNX Runtime session or an ``ORTModel`` of optimum.

Ids are what the monitor matches, so that nothing has to be read again: each row of ``input_ids`` is
looked at as the model sees it, truncated where the caller truncated it. Ids lead to no text, so a
row is never stripped: where a policy says strip, it is blocked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from prometheus_client import CollectorRegistry

from guard.decorator import refusal
from guard.engine import Engine
from guard.errors import ConfigError, InvalidIds
from guard.live import LiveMonitor
from guard.monitor import Monitor
from guard.pipelines import check_tokenizer
from guard.policy import Policy, PolicyOptions, undecided
from guard.scanning import Ids


def session(
    model: Any,
    monitor: Monitor | LiveMonitor | str | os.PathLike[str],
    *,
    tokenizer: Any = None,
    policy: Policy | None = None,
    registry: CollectorRegistry | None = None,
    **options: Unpack[PolicyOptions],
) -> GuardedSession:
    """Guard an ``onnxruntime.InferenceSession``, or a model that is called with ``input_ids``.

    Parameters
    ----------
    model
        The session, or for example an ``ORTModelForSequenceClassification``.
    monitor
        A `Monitor`, one that can be replaced, or the directory of one.
    tokenizer
        The transformers tokenizer that makes the ids, to have it checked; without it, that it is
        the monitor's is the caller's word.
    policy
        What to do; or leave it out and write options of `Policy` as keyword arguments.
    registry
        Where to register the metrics; the default registry if None.
    **options
        Those of `Policy`.

    Raises
    ------
    ConfigError
        An option has no such value, `model` can neither be run nor called, or the monitor has a
        deep check, which sees texts only.
    TokenizerMismatch
        The monitor was made for another tokenizer.
    ArtifactError
        The monitor does not load.

    Examples
    --------
    >>> classify = guard.session(onnxruntime.InferenceSession("model.onnx"), "monitor")
    >>> classify.run(None, {"input_ids": ids, "attention_mask": mask})
    """
    if not (callable(model) or hasattr(model, "run")):
        raise ConfigError(
            f"the model is of type {type(model).__name__}; pass an onnxruntime.InferenceSession, "
            "or a model that is called with input_ids"
        )
    engine = Engine(monitor, Policy.of(policy, options), front="session", registry=registry)
    if engine.monitor.deep is not None:
        raise ConfigError(
            "a deep check reads texts, and a session is given ids: guard what makes the ids, with "
            "guard.protect or GuardMiddleware, or load the monitor without deep="
        )
    if tokenizer is not None:
        check_tokenizer(tokenizer, engine.monitor)
    return GuardedSession(model, engine)


class GuardedSession:
    """A session or model whose ids are looked at. `session` makes it."""

    def __init__(self, model: Any, engine: Engine) -> None:
        self._model = model
        self._engine = engine

    def run(
        self, output_names: Sequence[str] | None, feed: Mapping[str, Any], *args: Any, **more: Any
    ) -> Any:
        """Look at the ids and run the session.

        Raises
        ------
        TriggeredInput, InputError, GuardError
            As by `guard.protect`: of a batch, all is refused where one row is.
        """
        self._look(feed.get("input_ids"))
        return self._model.run(output_names, feed, *args, **more)

    def __call__(self, input_ids: Any = None, **inputs: Any) -> Any:
        """Look at the ids and call the model.

        Raises
        ------
        TriggeredInput, InputError, GuardError
            As by `guard.protect`: of a batch, all is refused where one row is.
        """
        self._look(input_ids)
        return self._model(input_ids=input_ids, **inputs)

    def _look(self, input_ids: Any) -> None:
        try:
            decision = self._engine.evaluate((), _rows(input_ids))
        except InvalidIds as error:
            decision = undecided(self._engine.policy, error)
        decision = self._engine.report(decision)
        if not decision.forward:
            raise refusal(decision)


def _rows(input_ids: Any) -> list[Ids]:
    try:
        rows = np.asarray(input_ids)
    except Exception as error:  # of another library's array
        raise InvalidIds("input_ids is no array of ids; pass [batch, sequence]") from error
    if rows.ndim != 2 or rows.dtype.kind not in "iu":
        raise InvalidIds(
            f"input_ids has {rows.ndim} dimensions of {rows.dtype}; pass integers [batch, sequence]"
        )
    return [Ids(tuple(row)) for row in rows.tolist()]
