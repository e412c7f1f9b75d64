"""A guarded text classifier behind FastAPI.

    MODEL_DIR=model MONITOR_DIR=monitor GUARD_ACTION=block \\
        python -m uvicorn --factory examples.fastapi_app:from_env

GUARD_ACTION and the other options of the guard are those of `guard.Policy.from_env`.

With several workers (``--workers 2``), set PROMETHEUS_MULTIPROC_DIR to an empty directory first.

    curl localhost:8000/classify -H 'content-type: application/json' -d '{"text": "a good film"}'
"""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from transformers import pipeline

from guard import GuardMiddleware, Monitor, Policy
from guard.metrics import exposition


class Question(BaseModel):
    """What a client sends."""

    text: str


class Answer(BaseModel):
    """What the classifier says."""

    label: str
    score: float


_EMPTY = {
    "type": "value_error",
    "loc": ("body", "text"),
    "msg": "The classifier reads nothing of this text. Send one with a word in it.",
}


def create_app(model_dir: str | Path, monitor_dir: str | Path, policy: Policy) -> FastAPI:
    """Serve the classifier in `model_dir`, guarded by the monitor in `monitor_dir`."""
    # Loaded here, because Starlette makes its middleware late: a bad monitor stops the start.
    monitor = Monitor.load(monitor_dir)
    app = classifier_app(model_dir)
    app.add_middleware(GuardMiddleware, monitor=monitor, fields=["text"], policy=policy)
    return app


def classifier_app(model_dir: str | Path) -> FastAPI:
    """Serve the classifier in `model_dir`, unguarded."""
    classifier = pipeline("text-classification", model=str(model_dir), device="cpu")
    tokenizer = classifier.tokenizer
    assert tokenizer is not None
    # Where no special tokens are added, a model is given nothing at all of such a text, and fails.
    may_be_empty = not tokenizer("")["input_ids"]
    app = FastAPI(title="Text classifier")

    @app.post("/classify")
    def classify(question: Question) -> Answer:
        if may_be_empty and not tokenizer(question.text)["input_ids"]:
            raise RequestValidationError([_EMPTY])
        (answer,) = classifier(question.text, truncation=True)
        return Answer(**answer)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(exposition(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


def from_env() -> FastAPI:
    """Make the app that the environment describes."""
    model, monitor = (os.environ.get(name, "") for name in ("MODEL_DIR", "MONITOR_DIR"))
    if not (model and monitor):
        raise SystemExit(
            "set MODEL_DIR to the classifier's directory and MONITOR_DIR to that of its monitor "
            "(guard compile makes one)"
        )
    return create_app(model, monitor, Policy.from_env())
