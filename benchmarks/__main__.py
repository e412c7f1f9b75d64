"""``python -m benchmarks NAME`` makes the figures of one table."""

from __future__ import annotations

import argparse
import errno
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from benchmarks.assets import AssetError, cache_dir
from guard.errors import GuardError

if TYPE_CHECKING:
    from benchmarks.detection.cases import Part

NAMES = {
    "quick": "what a default scan of MiniLM takes and finds, and the import of guard",
    "monitor": "what a check costs, and how large and quick to load a monitor is",
    "fronts": "what the middleware adds to a request, and the requests per second that it costs",
    "memory": "whose the memory is that rises under load",
    "search-cost": "recall of the pair sweep on planted pairs, by the samples spent",
    "pair-search": "pairs through a whole search: what of planted ones is found",
    "climb-search": "climbs through a whole search, by their starts",
    "ablation": "which statistics, views and rules of the search find which triggers alone",
    "directions": "in how many directions outputs differ, which tells classifiers from encoders",
    "rounded": "a backdoor that is only there in float32, and who sees it",
    "calibration": "how near clean encoders come to a false alarm",
    "fuzz": "every path of the monitor against a slow search, on a million hostile texts",
}


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, text in NAMES.items():
        commands.add_parser(name, help=text)
    zoo = commands.add_parser("zoo", help="the models that detection is measured on")
    actions = zoo.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = actions.add_parser("build", help="build what is missing, and say what it achieves")
    build.add_argument("--only", metavar="NAME", help="one model of the zoo")
    actions.add_parser("list", help="name the models, and what those built achieve")
    detection = commands.add_parser("detection", help="what searches find in the zoo's models")
    detection.add_argument("--only", metavar="NAME", help="one model of the zoo")
    detection.add_argument(
        "--search",
        default="fast",
        metavar="NAME",
        help="a budget of guard scan (fast unless told), or a baseline",
    )
    detection.add_argument(
        "--part", choices=("encoder", "classifier"), help="by default, both of each model"
    )
    soak = commands.add_parser("soak", help="mixed traffic at full load against both HTTP fronts")
    soak.add_argument("--minutes", type=float, default=30.0)
    mitigation = commands.add_parser(
        "mitigation", help="attack success and accuracy under every defence"
    )
    mitigation.add_argument("--only", metavar="NAME", help="one model of the table")
    mitigation.add_argument("--task", metavar="NAME", help="one task of the table")
    against = commands.add_parser(
        "mitigation-rivals", help="the product beside other defences, on the same texts in one run"
    )
    against.add_argument("--only", default="bert-tiny-por", metavar="NAME", help="of the table")
    against.add_argument("--task", default="film reviews", metavar="NAME", help="of the table")
    arguments = parser.parse_args()
    try:
        if arguments.name == "detection":
            _detection(arguments.only, arguments.search, arguments.part)
        elif arguments.name == "soak":
            import_module("benchmarks.soak").main(arguments.minutes)
        elif arguments.name == "mitigation":
            import_module("benchmarks.mitigation").run(arguments.only, arguments.task)
        elif arguments.name == "mitigation-rivals":
            import_module("benchmarks.mitigation.rivals").main(arguments.only, arguments.task)
        elif arguments.name != "zoo":
            import_module(f"benchmarks.{arguments.name.replace('-', '_')}").main()
        elif arguments.action == "build":
            _build(arguments.only)
        else:
            _list()
    except (AssetError, GuardError) as error:
        sys.exit(f"benchmarks: {error}")
    except Exception as error:
        if not _disk_is_full(error):
            raise
        sys.exit(
            f"benchmarks: no space is left in {cache_dir()}; nothing half-built was kept. Make "
            "room, or name another place in GUARD_CACHE, and run the same again"
        )


def _disk_is_full(error: Exception) -> bool:
    # Raised by safetensors too, as an exception of its own with the errno in its text.
    return getattr(error, "errno", None) == errno.ENOSPC or f"code: {errno.ENOSPC}," in str(error)


def _build(only: str | None) -> None:
    from benchmarks.zoo import ZOO, build, select

    build(select(ZOO, only))


def _detection(only: str | None, search: str, part: Part | None) -> None:
    from benchmarks.detection import PARTS, run
    from benchmarks.zoo import ZOO, select

    run(ZOO, select(ZOO, only), search, PARTS if part is None else (part,))


def _list() -> None:
    from benchmarks.zoo import ZOO
    from benchmarks.zoo.build import stored

    for entry in ZOO:
        print(stored(entry) or f"{entry.name}: not built")


if __name__ == "__main__":
    main()
