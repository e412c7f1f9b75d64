"""What a command needs and a plain install lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from guard.errors import GuardError


@contextmanager
def extra(what: str, name: str) -> Iterator[None]:
    """Say, where an import fails, which extra of the package brings it."""
    try:
        yield
    except ImportError as error:
        raise GuardError(
            f"{what} needs {error.name}: pip install 'trigger-guard[{name}]'"
        ) from error
