"""``python -m benchmarks NAME`` makes the figures of one table."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from benchmarks.assets import AssetError
from guard.errors import GuardError

NAMES = {
    "quick": "scan time, monitor latency, import time: the README's lead",
    "monitor": "what a check costs, and how large and quick to load a monitor is",
    "fuzz": "every path of the monitor against a slow search, on a million hostile texts",
}


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, text in NAMES.items():
        commands.add_parser(name, help=text)
    name = parser.parse_args().name
    try:
        import_module(f"benchmarks.{name}").main()
    except (AssetError, GuardError) as error:
        sys.exit(f"benchmarks: {error}")


if __name__ == "__main__":
    main()
