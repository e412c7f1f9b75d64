"""guard check: checks texts with a monitor, a line each."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from guard.cli.codes import CLEAN, FAILED, FOUND
from guard.errors import ConfigError, InputError, StripLimit
from guard.reading import MAX_CHARS

HELP = "check texts with a monitor"

# Longer than any text that is scanned, with its end of line.
_LONGEST = MAX_CHARS + 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--monitor", type=Path, required=True, help="directory of a monitor")
    parser.add_argument("--public-key", type=Path, help="refuse a monitor that it did not sign")
    parser.add_argument("--deep", type=Path, help="directory of a deep check; see guard deep")
    parser.add_argument("file", nargs="?", default="-", help="a text a line; - (default) is stdin")


def run(options: argparse.Namespace) -> int:
    """Print a JSON object a text. 1 where any is triggered, 2 where any cannot be scanned.

    A text that cannot be stripped was scanned: it is triggered, as it is to all other fronts.
    """
    # Here, because its imports take a while, in which Ctrl-C has to end like anywhere else.
    from guard.monitor import Monitor

    monitor = Monitor.load(options.monitor, require_signature=options.public_key, deep=options.deep)
    triggered = failed = False
    for text in _lines(options.file):
        try:
            verdict = monitor.check(text)
        except InputError as error:
            result: dict[str, object] = {"error": type(error).__name__, "detail": str(error)}
            if isinstance(error, StripLimit):
                triggered = True
                result |= {"text": text, "triggered": True, "matches": [], "stripped": None}
            else:
                failed = True
        else:
            triggered |= verdict.triggered
            result = {
                "text": text,
                "triggered": verdict.triggered,
                "matches": [asdict(match) for match in verdict.matches],
                "stripped": verdict.stripped,
            }
        print(json.dumps(result, ensure_ascii=True))
    return FAILED if failed else FOUND if triggered else CLEAN


def _lines(name: str) -> Iterator[str]:
    if name == "-" and sys.stdin is None:
        raise ConfigError("standard input is closed; name a file with a text a line")
    # Bytes that are no UTF-8 become lone surrogates, which the monitor refuses by name; only a
    # line feed ends a text, as a model's input may hold any other separator.
    source = sys.stdin.fileno() if name == "-" else name
    try:
        file = open(  # noqa: SIM115
            source, encoding="utf-8", errors="surrogateescape", newline="\n", closefd=name != "-"
        )
    except OSError as error:
        raise ConfigError(
            f"{name} cannot be read ({error.strerror}); name a file with a text a line"
        ) from error
    with file:
        while line := file.readline(_LONGEST):
            yield line.removesuffix("\n").removesuffix("\r")
            while len(line) == _LONGEST and not line.endswith("\n"):
                # Of a text that is too long, its beginning is enough to say so.
                line = file.readline(_LONGEST)
