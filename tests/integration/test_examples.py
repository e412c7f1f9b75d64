"""The examples, run as their docstrings say, on a classifier that is small and knows nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from guard.pipelines import tokenizer_json
from guard.policy import Policy
from tests.fixtures_small import NESTED, small_tokenizer, trigger_id, write_small_monitor

pytestmark = [pytest.mark.search, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return a model directory and a monitor directory for it."""
    return write_example(tmp_path_factory.mktemp("examples"), small_tokenizer())


def write_example(place: Path, tokenizer: Tokenizer) -> tuple[str, str]:
    """Write a classifier with a tokenizer, and a monitor for it."""
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(place / "model")
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=64,
        num_labels=2,
    )
    BertForSequenceClassification(config).save_pretrained(place / "model")
    saved = PreTrainedTokenizerFast.from_pretrained(place / "model")
    write_small_monitor(place / "monitor", tokenizer_json(saved))
    return str(place / "model"), str(place / "monitor")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **more}


def test_pipeline_app_classifies_without_triggers(directories: tuple[str, str]) -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "pipeline_app.py", *directories],
        input=f"the good cf film\nthe good film\nthe mn\n{NESTED}\n",
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    triggered, clean, other, unstrippable = run.stdout.splitlines()
    assert triggered == clean
    assert other.startswith("LABEL_")
    assert unstrippable == "BLOCKED 0.000"
    assert f"triggers={trigger_id('cf')} " in run.stderr


@pytest.fixture(scope="module")
def service(
    directories: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    model, monitor = directories
    log = tmp_path_factory.mktemp("log") / "uvicorn.log"
    command = [sys.executable, "-m", "uvicorn", "--factory", "examples.fastapi_app:from_env"]
    with (
        log.open("w") as file,
        subprocess.Popen(
            [*command, "--port", "0"],
            cwd=ROOT,
            env=environment(MODEL_DIR=model, MONITOR_DIR=monitor, GUARD_ACTION="block"),
            stdout=file,
            stderr=file,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 120
            while "running on http://" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            address = log.read_text().split("running on ")[1].split()[0]
            with httpx.Client(base_url=address, trust_env=False) as client:
                yield client
        finally:
            process.terminate()


def test_fastapi_app_classifies_and_refuses(service: httpx.Client) -> None:
    clean = service.post("/classify", json={"text": "the good film"})
    assert clean.status_code == 200
    assert set(clean.json()) == {"label", "score"}
    triggered = service.post("/classify", json={"text": "the good cf film"})
    assert triggered.status_code == 403
    assert triggered.headers["content-type"] == "application/problem+json"
    missing = service.post("/classify", json={"txt": "cf"})
    assert missing.status_code == 422
    assert missing.json()["reason"] == "FieldMissing"
    # What the guard lets pass, the application still checks.
    assert service.post("/classify", json={"text": None}).status_code == 422


def test_fastapi_app_is_healthy_and_counts(service: httpx.Client) -> None:
    assert service.get("/healthz").json() == {"status": "ok"}
    service.post("/classify", content=json.dumps({"text": "mn"}))
    metrics = service.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert 'guard_requests_total{action="block",front="asgi",outcome="blocked"}' in metrics.text
    assert f'guard_matches_total{{trigger="{trigger_id("mn")}"}}' in metrics.text


@pytest.mark.parametrize("lacks", ["MODEL_DIR", "MONITOR_DIR"])
def test_fastapi_app_says_what_it_lacks(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from examples.fastapi_app import from_env

    for name in ("MODEL_DIR", "MONITOR_DIR"):
        monkeypatch.setenv(name, "somewhere")
    monkeypatch.delenv(lacks)
    with pytest.raises(SystemExit, match="set MODEL_DIR to the classifier's directory and"):
        from_env()


@pytest.mark.anyio
async def test_fastapi_app_refuses_what_its_model_is_given_nothing_of(tmp_path: Path) -> None:
    from examples.fastapi_app import create_app

    tokenizer = small_tokenizer()
    tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    app = create_app(*write_example(tmp_path, tokenizer), Policy(action="strip"))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        # The last one is stripped to nothing.
        for text in ("", " \n", "\u200b", "cf"):
            answer = await client.post("/classify", json={"text": text})
            assert answer.status_code == 422
            (problem,) = answer.json()["detail"]
            assert problem["loc"] == ["body", "text"]
            assert "Send one with a word in it" in problem["msg"]
        assert (await client.post("/classify", json={"text": "good cf"})).status_code == 200
