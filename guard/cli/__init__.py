"""The command line: ``guard scan``, ``compile``, ``purify``, ``check``, ``proxy`` and others.

A module of this package is a command. Exit codes are those of model scanners: 0 nothing found in
what was asked to be tested, 1 triggers found, 2 failed or incomplete, 4 usage.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from guard import __version__
from guard.cli import alerts, check, compile, deep, proxy, purify, scan, sign, verify
from guard.cli.codes import CLEAN, FAILED, FOUND, USAGE
from guard.errors import ConfigError, GuardError
from guard.terminal import printable

__all__ = ["CLEAN", "FAILED", "FOUND", "USAGE", "main"]

# In the order of the help.
_COMMANDS = {
    "scan": scan,
    "purify": purify,
    "compile": compile,
    "deep": deep,
    "sign": sign,
    "verify": verify,
    "check": check,
    "proxy": proxy,
    "alerts": alerts,
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    # A trigger may be a symbol that the terminal's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code: int = options.run(options)
        if sys.stdout is not None:  # which is closed
            sys.stdout.flush()
    except ConfigError as error:
        return _fail(str(error), USAGE)
    except GuardError as error:
        return _fail(str(error), FAILED)
    except BrokenPipeError:
        # The reader has had enough (``| head``). Nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _fail(f"{error}; check the disk and permissions, and try again", FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", FAILED)
    except SystemExit:
        raise
    except BaseException as error:  # a panic of Rust code is no Exception
        # Python would exit with 1, which means that triggers were found.
        for line in traceback.format_exc().splitlines():
            _say(line)
        return _fail(f"{type(error).__name__}, an error of guard itself; please report it", FAILED)
    return code


def _fail(message: str, code: int) -> int:
    _say(f"guard: {message}")
    return code


def _say(line: str) -> None:
    try:
        # It may quote what an artifact says of itself.
        print(printable(line), file=sys.stderr, flush=True)
    except OSError:
        # Nobody reads it, or the disk is full: the code is left to say so, and not Python's own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="guard",
        description="Find backdoor triggers in a text encoder, and keep them out of production.",
        epilog="exit codes: 0 nothing found, 1 triggers found, 2 failed or incomplete, 4 usage",
    )
    parser.add_argument("--version", action="version", version=f"trigger-guard {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        one = commands.add_parser(name, help=command.HELP)
        command.add_arguments(one)
        one.set_defaults(run=command.run)
    return parser
