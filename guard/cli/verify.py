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
    what, files = whole(options.directory)
    if options.public_key is not None:
        from guard import signing

        signer = signing.verify(files, options.directory, public_key=options.public_key)
        signed = f"signed by key {signer[:16]}"
    elif (options.directory / SIGNATURE_FILE).exists():
        signed = "signed by a key that was not checked: name it with --public-key"
    else:
        signed = "not signed"
    print(f"whole: {what}; {signed}")
    return CLEAN
