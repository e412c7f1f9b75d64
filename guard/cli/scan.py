"""guard scan: searches a model and writes its trigger bank."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guard.bank import BANK_FILE, BANK_LIMITS, TriggerBank
from guard.cli.codes import CODES
from guard.cli.extras import extra
from guard.cli.kernels import keep_few_kernels
from guard.cli.seed import seed
from guard.cli.state import under_way
from guard.errors import GuardError, ModelError
from guard.files import check_apart, check_output
from guard.terminal import Progress

HELP = "search a model for triggers and write a bank"

_STDOUT, _STDERR = 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("model", help="a directory that save_pretrained() wrote, or a hub id")
    parser.add_argument("--out", type=Path, required=True, help="directory for the trigger bank")
    parser.add_argument("--revision", help="commit, branch or tag of a hub id")
    parser.add_argument(
        "--texts",
        type=Path,
        help="your own text, a passage a line, as one more kind of text to test units in",
    )
    parser.add_argument(
        "--words",
        type=Path,
        help="your own words and phrases to test besides, one a line",
    )
    parser.add_argument(
        "--budget",
        type=_budget,
        default="fast",
        metavar="fast|standard|thorough|SECONDS",
        help="fast (default): every token, in three texts, and 30,000 words of several tokens and "
        "strings of up to three letters or four digits, in two; standard: tokens and words in "
        "texts of every kind, and 220,000 more words in two; thorough: in texts of every length, "
        "and pairs of words; or the best for so many seconds",
    )
    parser.add_argument(
        "--seed", type=seed, help="same seed, same bank; by default drawn at random"
    )
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="load pickled weights if there are no safetensors; they can run code",
    )
    parser.add_argument("--json", action="store_true", help="print the bank as JSON on stdout")


def run(options: argparse.Namespace) -> int:
    """Search, save the bank and say what is in it."""
    # Found out before minutes of work, not after.
    check_apart(options.out, options.model)
    check_output(options.out, BANK_LIMITS, owner=BANK_FILE)
    keep_few_kernels()
    with extra("the search", "search"):
        from guard.search import search
        from guard.search.journal import discard
    resume = _resume(options.out)
    earlier = resume.exists()
    with under_way(options.out, lambda: [resume] if resume.exists() else []) as kept:
        try:
            with Progress() as progress, _stdout_is_ours():
                bank = search(
                    options.model,
                    revision=options.revision,
                    texts=options.texts,
                    words=options.words,
                    budget=options.budget,
                    seed=options.seed,
                    allow_pickle=options.allow_pickle,
                    resume=resume,
                    progress=progress,
                )
        except KeyboardInterrupt:
            if not (kept and resume.exists()):
                raise
            raise GuardError(
                f"incomplete: interrupted. The same command goes on from here; {resume} holds what "
                "was measured"
            ) from None
        except ModelError:
            # There is nothing to go on with; but of another model, or for want of a network, there
            # may have been.
            if not earlier:
                discard(resume)
            raise
        report = bank.dump().decode().rstrip() if options.json else _summary(bank)
        try:
            bank.save(options.out)
        except BaseException:
            # What took minutes to find is told even where it cannot be kept.
            print(report, flush=True)
            raise
        discard(resume)
    print(report if options.json else f"{report}\nbank: {options.out}")
    return CODES[bank.verdict]


@contextmanager
def _stdout_is_ours() -> Iterator[None]:
    """Have what libraries print go to standard error: the other one may be read as JSON.

    Rust code prints there of a vocabulary with holes, past what Python calls standard output.
    """
    if sys.stdout is None or sys.stderr is None:  # which is closed
        yield
        return
    sys.stdout.flush()
    with os.fdopen(os.dup(_STDOUT), "wb") as own:
        os.dup2(_STDERR, _STDOUT)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(own.fileno(), _STDOUT)


def _budget(value: str) -> str | float:
    if value in ("fast", "standard", "thorough"):
        return value
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < 1e7:
        raise argparse.ArgumentTypeError(
            f"{value!r} is neither fast, standard nor thorough, nor a number of seconds from 1 on"
        )
    return seconds


def _resume(out: Path) -> Path:
    """Return where a scan keeps what it has measured until it is done: beside its bank."""
    out = out.absolute()
    return out.with_name(f".{out.name}.scan")


def _summary(bank: TriggerBank) -> str:
    lines = [f"{bank.verdict}: {len(bank.triggers)} triggers in {bank.model.name}"]
    for trigger in bank.triggers:
        statistics: Any = trigger.statistics
        told, where = statistics, ""
        for family, name in statistics["acts_in"].items():
            told, where = statistics[family][name], f" ({family}: {name})"
        fired = sum(kind["fired"] for kind in statistics["kinds"].values())
        lines.append(
            f"  {trigger.id}  {trigger.text!r} ({trigger.kind}): keeps {told['retention']:.2f} of "
            f"the text{where}, moves it {told['displacement']:.1f} times as far as the median "
            f"unit, fired in {fired} of {len(statistics['kinds'])} kinds of text; output: "
            f"{trigger.view}, target {statistics['target']}"
        )
        predictions = trigger.statistics.get("predictions")
        if isinstance(predictions, dict) and predictions["changed"] is not None:
            lines[-1] += (
                f"; {predictions['changed']:.0%} of {predictions['texts']} texts that the "
                f"classifier calls otherwise become {predictions['label']!r}"
            )
    lines += [f"{name}: {bank.search[name]}" for name in ("budget", "seed")]
    lines.append(f"tested: {bank.coverage['summary']}")
    lines.append(f"assumes: {bank.coverage['assumes']}")
    lines += [f"not tested: {what}" for what in bank.coverage["not_tested"]]  # type: ignore[union-attr]
    return "\n".join(lines)
