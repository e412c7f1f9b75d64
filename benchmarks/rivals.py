"""What a user would pick instead of the monitor, on the same texts, in a process each.

``python -m benchmarks.rivals NAME FILE`` runs one of them on the texts in a JSON file, and prints
what it said of each and how long it took. `benchmarks.monitor` runs them all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks import near
from benchmarks.assets import cache_dir
from benchmarks.measure import insert
from benchmarks.tasks import film_reviews
from guard.files import Json
from guard.runtime import load_tokenizer

SEED = 0
FALSE_ALARMS = 0.05
# Texts of each kind (held out, clean, triggered): as many as take minutes at most.
COUNTS: Mapping[str, int] = {
    "monitor": 400,
    "blocklist, substrings": 400,
    "blocklist, words": 400,
    "llm-guard BanSubstrings, substrings": 400,
    "llm-guard BanSubstrings, words": 400,
    "STRIP": 40,
    "ONION": 16,
}
_LLM_GUARD = "llm-guard==0.3.16"
_INSTALL_SECONDS = 300
_SCRIPT = Path(__file__).parent / "baselines" / "llm_guard_process.py"


def measure(classifier: Path, monitor: Path, triggers: Sequence[str]) -> dict[str, Json]:
    """Run all; where one cannot be had, the reason stands in its place.

    Parameters
    ----------
    classifier
        Folder of the model that STRIP asks.
    monitor
        Directory of a monitor that knows the triggers.
    triggers
        What is planted, and what blocklists are given.
    """
    reviews = film_reviews().test.texts
    rng = np.random.default_rng(SEED)
    results: dict[str, Json] = {}
    tokenizer = load_tokenizer((classifier / "tokenizer.json").read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        for name, count in COUNTS.items():
            held_out, clean = reviews[:count], reviews[count : 2 * count]
            given = {
                "classifier": str(classifier),
                "monitor": str(monitor),
                "triggers": list(triggers),
                "pool": list(reviews[-200:]),
                "held_out": list(held_out),
                "clean": list(clean),
                "triggered": [
                    insert(text, triggers[i % len(triggers)], rng) for i, text in enumerate(clean)
                ],
                "hard": near.hard_negatives(tokenizer, triggers, clean, SEED)[:count],
                "disguised": near.disguised(tokenizer, triggers, clean, SEED)[:count],
            }
            file = Path(scratch) / "texts.json"
            file.write_text(json.dumps(given), encoding="utf-8")
            results[name] = figures = _run(name, file)
            print(f"{name}: {figures}", flush=True)
    return results


def render(results: Mapping[str, Any]) -> list[str]:
    """Render the lines of a table."""
    lines = [
        "| | texts of each kind | triggered | in disguise | clean | near variants | microseconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, figures in results.items():
        if "missing" in figures:
            lines.append(f"| {name} | not measured: {figures['missing']} | | | | | |")
            continue
        shares = " | ".join(
            f"{figures[kind]:.1%}" for kind in ("triggered", "disguised", "clean", "hard")
        )
        lines.append(f"| {name} | {figures['texts']} | {shares} | {figures['us']:,.1f} |")
    return lines


def _run(name: str, file: Path) -> dict[str, Json]:
    command = [sys.executable, "-m", "benchmarks.rivals", name, str(file)]
    if name.startswith("llm-guard"):
        python = _llm_guard()
        if python is None:
            return {"missing": f"{_LLM_GUARD} did not install"}
        command = [str(python), str(_SCRIPT), name.rsplit(" ", 1)[-1], str(file)]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    if done.returncode:
        return {"missing": f"it failed with exit code {done.returncode}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {
        "texts": len(answer["clean"]),
        **{kind: round(fmean(answer[kind]), 4) for kind in near.KINDS},
        "us": round(1e6 * answer["seconds"], 1),
    }


def _llm_guard() -> Path | None:
    """Return a Python that has llm-guard, installing it into an environment of its own.

    It sees the packages of this one, for torch from the default index is several GB of CUDA, and
    has its own of all that it pins otherwise (transformers 4.51, presidio, spaCy).
    """
    folder = cache_dir() / _LLM_GUARD.replace("==", "-")
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return python
    venv.create(folder, with_pip=True, clear=True)
    # The path of this environment, which is where torch lies.
    (site,) = folder.glob("lib/python*/site-packages")
    paths = [path for path in sys.path if path.endswith("-packages")]
    (site / "ours.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
    torch = f"torch=={version('torch').partition('+')[0]}"
    try:
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", _LLM_GUARD, torch],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=_INSTALL_SECONDS,
        )
    except subprocess.SubprocessError:
        return None
    ready.touch()
    return python


def _monitor(given: Mapping[str, Any]) -> Callable[[str], bool]:
    from guard import Monitor

    check = Monitor.load(given["monitor"]).check
    return lambda text: check(text).triggered


def _blocklist(given: Mapping[str, Any], words: bool) -> Callable[[str], bool]:
    import re

    lowered = [trigger.lower() for trigger in given["triggers"]]
    if words:
        pattern = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in lowered))
        return lambda text: pattern.search(text.lower()) is not None
    return lambda text: any(word in text.lower() for word in lowered)


def _scored(score: Callable[[str], float], held_out: Sequence[str]) -> Callable[[str], bool]:
    from benchmarks.baselines.detector import threshold_at

    threshold = threshold_at(FALSE_ALARMS, [score(text) for text in held_out])
    return lambda text: score(text) > threshold


def _strip(given: Mapping[str, Any]) -> Callable[[str], bool]:
    from benchmarks.baselines.strip import Strip, probabilities

    strip = Strip(classify=probabilities(Path(given["classifier"])), clean=given["pool"])
    return _scored(strip.score, given["held_out"])


def _onion(given: Mapping[str, Any]) -> Callable[[str], bool]:
    from benchmarks.baselines.onion import Onion, language_model
    from benchmarks.encoders.causal import smollm2

    return _scored(Onion(language_model(smollm2())).score, given["held_out"])


_DETECTORS: Mapping[str, Callable[[Mapping[str, Any]], Callable[[str], bool]]] = {
    "monitor": _monitor,
    "blocklist, substrings": lambda given: _blocklist(given, words=False),
    "blocklist, words": lambda given: _blocklist(given, words=True),
    "STRIP": _strip,
    "ONION": _onion,
}


def main() -> None:
    """Answer for one detector."""
    name, file = sys.argv[1:]
    if name in ("STRIP", "ONION"):
        import torch

        torch.set_num_threads(1)
    given = json.loads(Path(file).read_text(encoding="utf-8"))
    detect = _DETECTORS[name](given)
    detect(given["clean"][0])
    started = time.perf_counter()
    clean = [detect(text) for text in given["clean"]]
    seconds = (time.perf_counter() - started) / len(clean)
    answers = {kind: [detect(text) for text in given[kind]] for kind in near.KINDS[1:]}
    print(json.dumps({"clean": clean, **answers, "seconds": seconds}))


if __name__ == "__main__":
    main()
