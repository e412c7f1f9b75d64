"""The argument ``--seed``."""

from __future__ import annotations

import argparse


def seed(value: str) -> int:
    """Read a seed, or raise what argparse reports."""
    try:
        number = int(value)
    except ValueError:
        number = -1
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{value!r} is no integer from 0 to {2**32 - 1}")
    return number
