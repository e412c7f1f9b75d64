"""A fuzzer that is guided by the coverage of the guard's own code; `benchmarks.fuzz` runs it.

``python -m benchmarks.fuzzing.guided RUNS SEED`` ends with libFuzzer's line of coverage, or with
the text that the ways to a verdict disagree on.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["guard"]):
    # First: what is imported before is not seen.
    import guard.automaton
    import guard.monitor
    import guard.prefilter
    import guard.runtime
    import guard.strip  # noqa: F401

from benchmarks.fuzzing.subjects import TOKENIZERS, Subject, subject
from benchmarks.fuzzing.texts import PARTS

_MAX_PIECES = 40


def main() -> None:
    """Fuzz until the runs are over; libFuzzer then ends the process."""
    runs, seed = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        subjects = [
            subject(make(), Path(scratch) / str(number))
            for number, make in enumerate(TOKENIZERS.values())
        ]
        options = {
            "runs": runs,
            "seed": seed,
            "max_len": 256,
            "len_control": 0,  # long inputs from the start
            "rss_limit_mb": 0,  # tokenizers and their filters are large
            "artifact_prefix": f"{scratch}/",
        }
        atheris.Setup(
            [sys.argv[0], *(f"-{name}={value}" for name, value in options.items())],
            lambda data: _try(subjects, data),
        )
        atheris.Fuzz()


def _try(subjects: list[Subject], data: bytes) -> None:
    """Read bytes as a choice of a tokenizer, and of parts and free characters in turn."""
    source = atheris.FuzzedDataProvider(data)
    tried = subjects[source.ConsumeIntInRange(0, len(subjects) - 1)]
    pieces: list[str] = []
    while source.remaining_bytes() and len(pieces) < _MAX_PIECES:
        number = source.ConsumeIntInRange(0, len(PARTS) + 15)
        if number < len(PARTS):
            pieces.append(PARTS[number])
        else:
            pieces.append(source.ConsumeUnicodeNoSurrogates(number - len(PARTS)))
    text = "".join(pieces)
    verdict, _ = tried.try_text(text, thorough=True)
    if verdict is not None:
        tried.try_truncated(text, verdict, 1 + len(data) % 32)


if __name__ == "__main__":
    main()
