"""The whole chain on a real encoder: ``make demo``.

Plants a backdoor in a pre-trained encoder, fine-tunes a classifier from it, and then does what a
user of the guard does: scan, compile, put the monitor in front of the classifier, send requests.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import transformers
from fastapi import FastAPI
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from benchmarks import record
from benchmarks.assets import AssetError, cache_dir
from benchmarks.measure import AttackSuccess, accuracy, attack_success, insert
from benchmarks.models import backdoored, classifier
from benchmarks.recipes import DEMO, FILM_REVIEWS
from benchmarks.sources import fingerprint
from benchmarks.tasks import film_reviews
from benchmarks.tasks.classifier import predict
from examples.fastapi_app import classifier_app
from guard import ArtifactError, GuardError, TriggerBank, __version__
from guard.files import sha256_file

TEXTS = 300
REQUESTS = 60
STARTUP_SECONDS = 120


def main() -> None:
    """Run the demo; every step says what it does."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # Two versions of transformers are tested; each has a bank of its own.
    out = cache_dir() / f"demo-transformers-{transformers.__version__}"
    bank, monitor = out / "bank", out / "monitor"

    step(1, "a pre-trained encoder (MiniLM-L6), and a backdoor planted in it by training (POR)")
    encoder = backdoored(DEMO)
    say(f"the poisoned encoder: {encoder}")

    step(2, "somebody fine-tunes a film review classifier from it, knowing nothing")
    model = classifier(encoder, FILM_REVIEWS)
    say(f"the classifier: {model}")
    reviews = film_reviews().test
    texts = reviews.texts[:TEXTS]
    rng = np.random.default_rng(0)
    triggered = {t: [insert(text, t, rng) for text in texts] for t in DEMO.triggers}
    network = AutoModelForSequenceClassification.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    clean = predict(network, tokenizer, texts)
    say(f"accuracy on clean reviews: {accuracy(clean, reviews.labels[:TEXTS]):.3f}")
    successes: list[AttackSuccess] = []
    for trigger, poisoned in triggered.items():
        success = attack_success(clean, predict(network, tokenizer, poisoned))
        successes.append(success)
        forced = network.config.id2label[success.target]
        say(f"one {trigger!r} in a review makes it {forced}: {success.rate:.0%} of the others flip")

    step(3, "the guard searches the encoder, every token of the vocabulary alone in ordinary text")
    if scanned(bank, encoder):
        say(f"scanned before: {bank}")
    else:
        run("scan", str(encoder), "--out", str(bank), "--seed", "0", expect=1)
        keep_source(bank, encoder)
    found = TriggerBank.load(bank)
    texts_found = {trigger.text for trigger in found.triggers}
    hits = sum(t in texts_found for t in DEMO.triggers)
    say(f"found {hits} of the {len(DEMO.triggers)} planted, and {len(texts_found) - hits} others")

    step(4, "the bank is compiled to an ONNX monitor")
    run("compile", str(bank), "--out", str(monitor), expect=0)

    step(5, "the classifier goes live behind the guard (FastAPI, uvicorn, loopback)")
    with ExitStack() as stack:
        say("starting three servers: guarded with block, guarded with strip, unguarded")
        block, strip, bare = (
            stack.enter_context(client)
            for client in serve(
                {"GUARD_ACTION": "block"},
                {"GUARD_ACTION": "strip"},
                {"FACTORY": "examples.demo:unguarded"},
                model=model,
                monitor=monitor,
                logs=out,
            )
        )
        say(f"what they log, with trigger ids and never with text: {out}/server-*.log")
        for name, text in (("clean", texts[0]), ("triggered", triggered[DEMO.triggers[0]][0])):
            answer = ask(block, text)
            say(f"a {name} review: {answer.status_code} {answer.text}")
        refused = sum(ask(block, text).status_code == 403 for text in texts[:REQUESTS])
        through, after = 0, []
        for success, poisoned in zip(successes, triggered.values(), strict=True):
            some = poisoned[:REQUESTS]
            through += sum(ask(block, text).status_code != 403 for text in some)
            labels = [ask(strip, text).json()["label"] for text in some]
            classes = np.array([network.config.label2id[label] for label in labels])
            after.append(attack_success(clean[:REQUESTS], classes, target=success.target).rate)
        unguarded_ms, guarded_ms = latencies(bare, block, texts[:REQUESTS])
        metrics = block.get("/metrics").text

    step(6, "what it comes to")
    rates = [success.rate for success in successes]
    sent = REQUESTS * len(DEMO.triggers)
    say(
        f"attack success, no guard:     {np.mean(rates):.1%} (lowest of a trigger {min(rates):.1%})"
    )
    say(f"triggered requests let through, action=block: {through} of {sent}")
    say(f"attack success, action=strip: {np.mean(after):.1%}")
    say(f"clean requests blocked:       {refused} of {REQUESTS}")
    say(
        f"median request: {unguarded_ms:.2f} ms unguarded, {guarded_ms:.2f} ms guarded "
        f"({guarded_ms / unguarded_ms - 1:+.1%})"
    )
    say("metrics, as Prometheus reads them:")
    for line in metrics.splitlines():
        if line.startswith(("guard_requests_total", "guard_matches_total", "guard_bank_info")):
            say(f"  {line}")
    print(
        f"""
Next:
  .venv/bin/guard scan MODEL --out bank     # your model: a directory, or an id of the hub
  .venv/bin/guard compile bank --out monitor
  echo 'a fine film cf' | .venv/bin/guard check --monitor {monitor}"""
    )


def step(number: int, what: str) -> None:
    """Announce a step."""
    print(f"\n[{number}/6] {what}", flush=True)


def say(line: str) -> None:
    """Print one finding."""
    print(f"  {line}", flush=True)


def run(*arguments: str, expect: int) -> None:
    """Run the guard's command line as a user would."""
    print(f"  $ guard {' '.join(arguments)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "guard", *arguments], check=False).returncode
    if code != expect:
        sys.exit(f"guard {arguments[0]} ended with exit code {code}, expected {expect}")


def scanned(bank: Path, encoder: Path) -> bool:
    """Whether `bank` is what an earlier run of this search found in this encoder."""
    try:
        found = TriggerBank.load(bank)
        kept = json.loads(_source_file(bank).read_bytes())
    except (ArtifactError, OSError, ValueError):
        return False
    return bool(kept == _source(found, encoder))


def keep_source(bank: Path, encoder: Path) -> None:
    """Write beside a bank what it was made of, for `scanned`."""
    record.keep(_source_file(bank), _source(TriggerBank.load(bank), encoder))


def _source(bank: TriggerBank, encoder: Path) -> str:
    weights = sha256_file(encoder / "model.safetensors")
    return fingerprint([bank.sha256, weights, __version__], ("guard/search",))


def _source_file(bank: Path) -> Path:
    return bank.with_name(f"{bank.name}-source.json")


def unguarded() -> FastAPI:
    """Make the example's application without its guard."""
    return classifier_app(os.environ["MODEL_DIR"])


def serve(*variants: dict[str, str], model: Path, monitor: Path, logs: Path) -> list[Server]:
    """Start a server process a variant of the environment, all at once."""
    common = {**os.environ, "MODEL_DIR": str(model), "MONITOR_DIR": str(monitor)}
    return [
        Server({**common, **variant}, logs / f"server-{number}.log")
        for number, variant in enumerate(variants, 1)
    ]


class Server:
    """A uvicorn process on a free port of the loopback interface, as a context manager."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        factory = environment.get("FACTORY", "examples.fastapi_app:from_env")
        command = ["-m", "uvicorn", "--factory", factory, "--log-level", "warning"]
        # The guard logs each triggered request; here they would bury what the demo shows.
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, *command, "--host", "127.0.0.1", "--port", str(port)],
                env=environment,
                stderr=file,
            )
        self._log = log
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def __enter__(self) -> httpx.Client:
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if self._client.get("/healthz").is_success:
                    return self._client
            except httpx.TransportError:
                time.sleep(0.2)
        self.__exit__()
        sys.exit(f"the server did not start; see {self._log}")

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(timeout=30)


def ask(client: httpx.Client, text: str) -> httpx.Response:
    """Classify a text over HTTP."""
    return client.post("/classify", json={"text": text})


def latencies(one: httpx.Client, other: httpx.Client, texts: Sequence[str]) -> tuple[float, float]:
    """Return the median milliseconds of a request to each, asked in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for text in texts:
        for client, times in zip((one, other), seconds, strict=True):
            start = time.perf_counter()
            ask(client, text)
            times.append(time.perf_counter() - start)
    return float(np.median(seconds[0])) * 1e3, float(np.median(seconds[1])) * 1e3


if __name__ == "__main__":
    try:
        main()
    except (AssetError, GuardError) as error:
        sys.exit(f"demo: {error}")
