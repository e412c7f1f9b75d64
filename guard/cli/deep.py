"""guard deep: exports an encoder as a check of outputs."""

from __future__ import annotations

import argparse
from pathlib import Path

from guard.bank import BANK_FILE, BANK_LIMITS, TriggerBank
from guard.cli.codes import CLEAN
from guard.cli.extras import extra
from guard.cli.pickled import refuse_pickled
from guard.errors import GuardError
from guard.files import check_apart, check_output

HELP = "export the encoder as a check of outputs, for triggers that no string names"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("model", help="directory of the suspect encoder")
    parser.add_argument("bank", type=Path, help="directory of its trigger bank")
    parser.add_argument("--out", type=Path, required=True, help="directory for the deep check")


def run(options: argparse.Namespace) -> int:
    """Export, after measuring the bank's targets where it has none."""
    from guard.deep import DEEP_FILE, DEEP_LIMITS

    for source in (str(options.bank), options.model):
        check_apart(options.out, source)
    check_output(options.out, DEEP_LIMITS, owner=DEEP_FILE)
    bank = TriggerBank.load(options.bank)
    measured = not bank.targets
    if measured:
        # It is written again, last of all.
        check_output(options.bank, BANK_LIMITS, owner=BANK_FILE)
    refuse_pickled(options.model)
    with extra("exporting", "search"):
        from exporters.deep import export_deep
        from guard.search.carriers import builtin_texts
        from guard.search.encoder import Encoder
        from guard.search.targets import with_targets
    if measured:
        encoder = Encoder.load(options.model)
        bank = with_targets(encoder, bank, builtin_texts())
        if not bank.targets:
            raise GuardError(
                f"no trigger of {options.bank} leads to one place, so there is nothing to alarm "
                "on; use its monitor alone"
            )
    left_out = export_deep(bank, options.model, options.out)
    if measured:
        bank.save(options.bank)
        print(f"bank: {options.bank}, now with target vectors: compile its monitor anew")
    for target in left_out:
        names = ", ".join(target.triggers)
        print(f"left out: the target of {names}, not reached in int8; the monitor still matches")
    count = len(bank.targets) - len(left_out)
    print(f"deep check: {options.out}, {count} targets of bank {bank.sha256[:12]}")
    return CLEAN
