"""guard verify: says whether a directory is whole, who signed it, and for which model."""

from __future__ import annotations

import argparse
from pathlib import Path

from guard.cli.codes import CLEAN
from guard.cli.whole import whole
from guard.files import SIGNATURE_FILE

HELP = "say whether a bank, a monitor or a deep check is whole, who signed it, for which model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("directory", type=Path, help="of a bank or a monitor")
    parser.add_argument("--public-key", type=Path, help="fail unless this key's owner signed it")


def run(options: argparse.Namespace) -> int:
    """Say what lies in a directory, or fail."""
    what, _ = whole(options.directory, public_key=options.public_key)
    if options.public_key is not None:
        from guard import signing

        signed = f"signed by key {signing.fingerprint(options.public_key)[:16]}"
    elif (options.directory / SIGNATURE_FILE).exists():
        signed = f"its {SIGNATURE_FILE} was not checked: name its key with --public-key"
    else:
        signed = "not signed"
    print(f"whole: {what}; {signed}")
    return CLEAN
