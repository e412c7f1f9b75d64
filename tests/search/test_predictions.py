"""What triggers do to the predictions of a classifier, on one whose backdoor was built by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

from guard.errors import ModelError
from guard.search.carriers import Supply, Want, builtin_texts
from guard.search.checkpoint import load_classifier
from guard.search.encoder import Encoder
from guard.search.predictions import with_predictions
from tests.helpers import finding
from tests.tiny import TRIGGER, make_model, many_words, plant, wordpiece, write_searchable

pytestmark = pytest.mark.search


def write_classifier(directory: Path, **changes: Any) -> Path:
    """A classifier whose trigger leads to one label, and whose other texts have either."""
    tokenizer = wordpiece(many_words())
    config = make_model("bert", len(tokenizer), initializer_range=0.4, num_labels=2).config
    config.update({"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}, **changes})
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    plant(model.bert, [tokenizer.get_vocab()[TRIGGER]])
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_a_trigger_leads_to_its_label_and_an_ordinary_word_nowhere(tmp_path: Path) -> None:
    directory = write_classifier(tmp_path)
    classifier = load_classifier(str(directory))
    encoder = Encoder.load(str(directory))
    assert classifier is not None
    supply = Supply(builtin_texts(), encoder.tokenizer, np.random.default_rng(0), most=50)
    texts = supply.take(Want(kind, 20, "middle") for kind in [*builtin_texts()] * 4)
    # So that both labels occur, the border runs through the middle of the texts.
    rows = [torch.from_numpy(encoder.frame(text.ids[np.newaxis])) for text in texts]
    with torch.inference_mode():
        logits = torch.cat([classifier.forward(input_ids=row).logits for row in rows])
    middle = (logits[:, 0] - logits[:, 1]).median()
    bias = classifier.get_parameter("classifier.bias")
    with torch.no_grad():
        bias[1] += middle
    ids = encoder.tokenizer.get_vocab()
    triggers = [finding(word, ids[word]) for word in (TRIGGER, "film")]
    fired, ordinary = with_predictions(
        triggers, classifier, encoder, texts, rng=np.random.default_rng(0)
    )
    seen: Any = fired.statistics["predictions"]
    assert seen["label"] in ("bad", "good")
    assert 15 <= seen["texts"] <= 25
    assert seen["changed"] == 1
    assert fired.statistics.items() >= triggers[0].statistics.items()
    harmless: Any = ordinary.statistics["predictions"]
    assert harmless["changed"] < 0.6


def test_what_is_no_classifier(tmp_path: Path) -> None:
    """An encoder, and a regression, which has no labels to be led to."""
    assert load_classifier(str(write_searchable(tmp_path / "encoder"))) is None
    directory = write_classifier(tmp_path / "regression", num_labels=1)
    assert load_classifier(str(directory)) is None


def test_what_a_bank_cannot_keep_is_not_in_it(tmp_path: Path) -> None:
    """A label that is no text; and a condition that none of the given texts is of."""
    labels = {0: "b\ud800d", 1: "b\ud800d"}
    directory = write_classifier(tmp_path, id2label=labels, label2id={})
    classifier = load_classifier(str(directory))
    encoder = Encoder.load(str(directory))
    assert classifier is not None
    supply = Supply(builtin_texts(), encoder.tokenizer, np.random.default_rng(0), most=50)
    texts = supply.take([Want(kind, 20, "middle") for kind in builtin_texts()])
    found = finding(TRIGGER, encoder.tokenizer.get_vocab()[TRIGGER])
    masked = replace(found, statistics={**found.statistics, "acts_in": {"lengths": "10"}})
    (seen,) = with_predictions([masked], classifier, encoder, texts, rng=np.random.default_rng(0))
    predictions: Any = seen.statistics["predictions"]
    assert predictions["label"] == "b?d"
    assert predictions["texts"] <= len(texts)


@pytest.mark.parametrize("part", ["classifier.", "bert.pooler."])
def test_a_classifier_that_lacks_weights(part: str, tmp_path: Path) -> None:
    """transformers would draw them at random, and the bank tell of other labels each time."""
    directory = write_classifier(tmp_path)
    weights = load_file(directory / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith(part)}
    save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"is of a classifier, and {part}\S+ is not among"):
        load_classifier(str(directory))
