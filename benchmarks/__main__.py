"""``python -m benchmarks NAME`` makes the figures of one table."""

from __future__ import annotations

import argparse
import sys

from benchmarks.assets import AssetError
from guard.errors import GuardError


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    commands.add_parser("quick", help="scan time, monitor latency, import time: the README's lead")
    parser.parse_args()
    from benchmarks import quick

    try:
        quick.main()
    except (AssetError, GuardError) as error:
        sys.exit(f"benchmarks: {error}")


if __name__ == "__main__":
    main()
