"""exporters.classifier: a real classifier exported, and its certificate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from prometheus_client import CollectorRegistry

import guard
from guard.errors import ModelError
from tests.fixtures_small import small_monitor
from tests.integration.test_pipelines import model_dir as model_dir

pytestmark = pytest.mark.search

TEXTS = ["the film", "good " * 20, "bad", "a"]


@pytest.mark.parametrize("exporter", ["optimum", "torch"])
def test_an_exported_classifier_is_certified(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exporter: str
) -> None:
    import exporters.classifier as classifier

    if exporter == "optimum":
        pytest.importorskip("optimum.onnxruntime")
    else:
        monkeypatch.setattr(classifier, "_has_optimum", lambda: False)
    parity = classifier.export_classifier(model_dir, tmp_path / "out", texts=TEXTS)
    assert parity.exporter == exporter
    assert parity.max_difference < 1e-4
    assert parity.same_class == parity.texts == len(TEXTS)
    written = json.loads((tmp_path / "out" / "parity.json").read_bytes())
    assert written["max_difference"] == parity.max_difference
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    ids = np.array([[2, 5, 6, 3]], np.int64)
    feed = {
        node.name: ids if node.name == "input_ids" else np.ones_like(ids) * (node.name[0] == "a")
        for node in session.get_inputs()
    }
    guarded = guard.session(session, small_monitor(), registry=CollectorRegistry())
    assert guarded.run(["logits"], feed)[0].shape == (1, 3)
    feed["input_ids"] = np.array([small_monitor()._tokenizer.encode("a cf film").ids], np.int64)
    feed = {name: np.resize(value, feed["input_ids"].shape) for name, value in feed.items()}
    feed["input_ids"][:] = small_monitor()._tokenizer.encode("a cf film").ids
    with pytest.raises(guard.TriggeredInput):
        guarded.run(["logits"], feed)


@pytest.mark.parametrize("exporter", ["optimum", "torch"])
@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_half_precision_is_exported_in_single(
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exporter: str,
    stored: str,
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    import exporters.classifier as classifier

    if exporter == "optimum":
        pytest.importorskip("optimum.onnxruntime")
    else:
        monkeypatch.setattr(classifier, "_has_optimum", lambda: False)
    shutil.copytree(model_dir, tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(model_dir)
    model.to(getattr(torch, stored)).save_pretrained(tmp_path / "model")
    parity = classifier.export_classifier(tmp_path / "model", tmp_path / "out", texts=TEXTS)
    assert parity.max_difference < 1e-4


def test_an_encoder_is_no_classifier(model_dir: Path, tmp_path: Path) -> None:
    """Of which transformers makes one with a random head."""
    from transformers import AutoModel

    from exporters.classifier import export_classifier

    shutil.copytree(model_dir, tmp_path / "model")
    AutoModel.from_pretrained(model_dir).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"is no classifier, for it has no weights of classifier"):
        export_classifier(tmp_path / "model", tmp_path / "out", texts=TEXTS)
    assert not (tmp_path / "out").exists()


def test_what_is_not_near_enough_is_not_written(model_dir: Path, tmp_path: Path) -> None:
    from exporters.classifier import export_classifier

    with pytest.raises(ModelError, match="differs by"):
        export_classifier(model_dir, tmp_path / "out", texts=TEXTS, tolerance=-1.0)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="no text"):
        export_classifier(model_dir, tmp_path / "out", texts=[])
    with pytest.raises(ModelError, match="no classifier"):
        export_classifier(tmp_path, tmp_path / "out", texts=TEXTS)
