"""Refusals as problem details (RFC 9457): why, and never which text."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from guard.body import UnreadableBody
from guard.errors import TextTooLong
from guard.metrics import kind_of
from guard.policy import Decision

RETRY_AFTER_SECONDS = 5


async def refuse(
    decision: Decision,
    scope: MutableMapping[str, Any],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    *,
    unread: bool,
) -> None:
    """Answer a request that is not forwarded; `unread` where not all of its body was received."""
    status, problem = describe(decision)
    body = json.dumps(problem).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if status == 503:
        headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
    if unread and scope.get("http_version") in ("1.0", "1.1"):
        # What is left of the body must not be taken for the next request on this connection.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def describe(decision: Decision) -> tuple[int, dict[str, object]]:
    """Return the status and the problem document of a refusal."""
    error = decision.error
    problem: dict[str, object]
    if decision.outcome == "blocked":
        status, problem = (
            403,
            {
                "type": "urn:trigger-guard:problem:blocked",
                "title": "Refused because of its text",
                "detail": "A text in this request is not allowed here. Rephrase it, or quote the "
                "instance to the operator if this looks wrong.",
            },
        )
    elif decision.outcome == "unscannable" and error is not None:
        default = 413 if isinstance(error, TextTooLong) else 400
        status = error.status if isinstance(error, UnreadableBody) else default
        problem = {
            "type": "urn:trigger-guard:problem:unscannable",
            "title": "The request cannot be scanned",
            "detail": str(error),
            "reason": kind_of(error),
        }
    else:
        status, problem = (
            503,
            {
                "type": "urn:trigger-guard:problem:unavailable",
                "title": "The guard is not available",
                "detail": "The guard in front of this service failed, so the request was not "
                "forwarded. Try again later, and quote the instance to the operator.",
            },
        )
    return status, {**problem, "status": status, "instance": decision.incident}
