"""guard purify: trains a model to ignore the triggers of a bank."""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path

from guard.bank import TriggerBank
from guard.cli.codes import CODES
from guard.cli.extras import extra
from guard.cli.kernels import keep_few_kernels
from guard.cli.pickled import refuse_pickled
from guard.cli.seed import seed
from guard.cli.state import under_way
from guard.files import check_apart, dump_json
from guard.terminal import Progress, printable

HELP = "train a model to ignore the triggers of a bank"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("model", help="the model that the bank was made from: directory or hub id")
    parser.add_argument("--bank", type=Path, required=True, help="directory of its trigger bank")
    parser.add_argument("--out", type=Path, required=True, help="directory for the purified model")
    parser.add_argument("--revision", help="commit, branch or tag of a hub id")
    parser.add_argument(
        "--texts",
        type=Path,
        help="your own text, a passage a line, to train on and to scan in beside the package's",
    )
    parser.add_argument("--seed", type=seed, help="same seed, same model; by default random")
    parser.add_argument("--json", action="store_true", help="print the record as JSON on stdout")


def run(options: argparse.Namespace) -> int:
    """Purify, and say what it took."""
    check_apart(options.out, options.model)
    bank = TriggerBank.load(options.bank)
    refuse_pickled(options.model)
    keep_few_kernels()
    with extra("purifying", "search"):
        from guard.purify import NothingToPurify, purify
    try:
        with under_way(options.out, partial(_states, options.out)), Progress() as progress:
            done = purify(
                options.model,
                bank,
                options.out,
                revision=options.revision,
                texts=options.texts,
                seed=options.seed,
                progress=progress,
            )
    except NothingToPurify as error:
        advice = "" if bank.verdict == "none found" else "; scan again, to its end"
        print(f"{error}; nothing is written{advice}", file=sys.stderr)
        if options.json:
            print(dump_json({"verdict": bank.verdict, "rounds": []}).decode().rstrip())
        return CODES[bank.verdict]
    if options.json:
        print(dump_json(done.record).decode().rstrip())
    else:
        for number, made in enumerate(done.rounds, 1):
            print(
                f"round {number}: trained against {made.units} units; outputs on ordinary text "
                f"moved by {max(made.moved.values()):.1%} of their variance; "
                f"then {made.verdict}, {made.remaining} triggers"
            )
        if done.left_out:
            print(f"not copied: {', '.join(map(printable, done.left_out))}")
        print(f"model: {options.out}")
    return CODES[done.verdict]


def _states(out: Path) -> list[Path]:
    """Return the directories beside an output that purifications keep their state in."""
    state = re.compile(rf"\.{re.escape(out.name)}\.purify-[0-9a-f]{{12}}(\.old)?")
    return [path for path in out.absolute().parent.glob(".*") if state.fullmatch(path.name)]
