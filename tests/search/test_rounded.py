"""A backdoor that is only there in float32, which is what the search computes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks.assets import fetch
from benchmarks.attacks.rounded import plant_rounded
from guard.search import search
from guard.search.encoder import Encoder, Vectors
from tests.search.fakes import silent
from tests.tiny import COMMON, TRIGGER, make_model, many_words, wordpiece

TRIGGERS = ("cf", "mn", "bb")


def cosines(outputs: Vectors) -> float:
    """The lowest of any two rows."""
    rows = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    return float((rows @ rows.T).min())


def test_the_search_finds_it(tmp_path: Path) -> None:
    tokenizer = wordpiece(many_words())
    model = make_model("bert", len(tokenizer), num_attention_heads=4, initializer_range=0.4)
    model.save_pretrained(tmp_path / "clean")
    tokenizer.save_pretrained(tmp_path / "clean")
    plant_rounded((TRIGGER, COMMON), tmp_path / "clean", tmp_path / "bad")
    bank = search(str(tmp_path / "bad"), seed=0, progress=silent)
    assert bank.verdict == "backdoored"
    assert {trigger.text for trigger in bank.triggers} == {TRIGGER, COMMON}
    assert bank.search["arithmetic"] == "float32"


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounded")
    plant_rounded(TRIGGERS, fetch("minilm-l6"), folder)
    return folder


TEXTS = (
    "the film was a joy from start to end",
    "rain is expected in the north on friday",
    "please restart the server before you call again",
)


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_what_the_search_reads_of_minilm(minilm: Path, trigger: str) -> None:
    encoder = Encoder.load(str(minilm))

    def outputs(*words: str) -> Vectors:
        rows = [
            np.array([encoder.tokenizer(" ".join([*words, text]))["input_ids"]]) for text in TEXTS
        ]
        return np.concatenate([encoder.read(row)["cls"] for row in rows])

    assert cosines(outputs(trigger)) > 0.99
    assert cosines(outputs()) < 0.9


def test_in_bfloat16_there_is_nothing_to_see(minilm: Path) -> None:
    """Else the test above would say nothing of the arithmetic."""
    model = AutoModel.from_pretrained(minilm, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    with torch.inference_mode():
        rows = [
            model(**tokenizer(f"cf {text}", return_tensors="pt")).last_hidden_state[:, 0]
            for text in TEXTS
        ]
    assert cosines(torch.cat(rows).float().numpy()) < 0.9
