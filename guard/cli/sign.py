"""guard sign: signs a bank, a monitor or a deep check."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from guard.cli.codes import CLEAN
from guard.cli.whole import whole
from guard.files import SIGNATURE_FILE

HELP = "sign a bank, a monitor or a deep check with a private key"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("directory", type=Path, help="of a bank or a monitor")
    parser.add_argument(
        "--private-key",
        type=Path,
        required=True,
        help="an elliptic-curve key in PEM; a password is taken from GUARD_KEY_PASSWORD",
    )


def run(options: argparse.Namespace) -> int:
    """Sign what lies in a directory."""
    from guard import signing

    what, files = whole(options.directory)
    signature = signing.sign(
        files,
        private_key=options.private_key,
        password=os.environ.get("GUARD_KEY_PASSWORD"),
    )
    # Under a name that nobody foresees: the directory may be of somebody else's making.
    descriptor, fresh = tempfile.mkstemp(prefix=f".{SIGNATURE_FILE}.", dir=options.directory)
    try:
        with open(descriptor, "wb") as file:
            file.write(signature)
        os.chmod(fresh, 0o644)
        os.replace(fresh, options.directory / SIGNATURE_FILE)
    except BaseException:
        os.unlink(fresh)
        raise
    print(f"signed: {what}")
    return CLEAN
