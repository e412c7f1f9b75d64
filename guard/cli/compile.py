"""guard compile: compiles a bank to an input monitor."""

from __future__ import annotations

import argparse
from pathlib import Path

from guard.bank import TriggerBank
from guard.cli.codes import CLEAN
from guard.cli.extras import extra
from guard.files import check_output
from guard.manifest import LIMITS, MANIFEST_FILE

HELP = "compile a bank to an input monitor"

# From this share of ordinary texts on, a monitor is a nuisance.
_MUCH = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("bank", type=Path, help="directory of a trigger bank")
    parser.add_argument("--out", type=Path, required=True, help="directory for the monitor")
    parser.add_argument(
        "--max-block-rate",
        type=_share,
        metavar="R",
        help="largest share of ordinary texts to block, such as 0.001; commoner triggers are "
        "stripped where a policy says block",
    )


def run(options: argparse.Namespace) -> int:
    """Compile, and say what blocking its triggers costs."""
    check_output(options.out, LIMITS, owner=MANIFEST_FILE)
    bank = TriggerBank.load(options.bank)
    with extra("compiling", "search"):
        from exporters.monitor import compile_bank
        from exporters.price import TEXT_WORDS, price
    cost = price(bank)
    common = () if options.max_block_rate is None else cost.commoner(options.max_block_rate)
    compile_bank(bank, options.out, strip_only=common)
    if bank.triggers:
        touched = cost.touched()
        blocked = cost.touched(cost.per_word.keys() - set(common))
        print(
            f"ordinary texts of {TEXT_WORDS} words that hold a trigger: {touched:.2%}; that are "
            f"blocked: {blocked:.2%}"
        )
        for trigger in bank.triggers:
            if trigger.id in common:
                print(f"  {trigger.id} is stripped, not blocked: {cost.touched([trigger.id]):.2%}")
        if touched > _MUCH:
            print("stripping changes that many ordinary texts: better purify the model")
    print(f"monitor: {options.out}, {len(bank.triggers)} triggers of bank {bank.sha256[:12]}")
    return CLEAN


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share from 0 to 1")
    return value
