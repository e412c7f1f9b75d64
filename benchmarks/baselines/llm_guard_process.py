"""Runs llm-guard's BanSubstrings in its own environment, which has none of our packages."""

import json
import sys
import time


def main() -> None:
    """Answer like ``benchmarks.rivals``."""
    import logging

    import structlog
    from llm_guard.input_scanners.ban_substrings import BanSubstrings

    # It logs a line for each match, which is not what is to be timed.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    kind, file = sys.argv[1:]
    with open(file, encoding="utf-8") as source:
        given = json.load(source)
    scanner = BanSubstrings(given["triggers"], match_type="word" if kind == "words" else "str")

    def detect(text: str) -> bool:
        _, valid, _ = scanner.scan(text)
        return not valid

    detect(given["clean"][0])
    started = time.perf_counter()
    clean = [detect(text) for text in given["clean"]]
    seconds = (time.perf_counter() - started) / len(clean)
    kinds = ("triggered", "hard", "disguised")
    answers = {kind: [detect(text) for text in given[kind]] for kind in kinds}
    print(json.dumps({"clean": clean, **answers, "seconds": seconds}))


if __name__ == "__main__":
    main()
