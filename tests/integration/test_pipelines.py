"""guard.pipeline and guard.session around real pipelines, models and sessions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

import guard
from guard.errors import (
    ConfigError,
    GuardError,
    InputError,
    InvalidIds,
    NotText,
    TriggeredInput,
)
from tests.fixtures_small import small_monitor, small_tokenizer, trigger_id, value_of
from tests.integration.test_asgi import Broken

pytestmark = pytest.mark.search

BLOCKED = {"label": "BLOCKED", "score": 0.0}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT classifier of two layers, with the monitor's tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("model")
    tokenizer = small_tokenizer()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=3,
    )
    BertForSequenceClassification(config).eval().save_pretrained(directory)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def pipe(model_dir: Path) -> Any:
    from transformers import pipeline

    return pipeline("text-classification", model=str(model_dir), device="cpu")


@pytest.fixture(scope="module")
def monitor(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> guard.Monitor:
    """Compile for the tokenizer as transformers has it, special tokens added."""
    from tests.helpers import make_monitor

    backend = type(pipe.tokenizer.backend_tokenizer).from_str(
        pipe.tokenizer.backend_tokenizer.to_str()
    )
    backend.no_truncation()
    backend.no_padding()
    directory = tmp_path_factory.mktemp("monitors") / "monitor"
    return make_monitor(directory, backend.to_str().encode(), ["cf", "mn"])


def guarded(pipe: Any, monitor: Any, **options: Any) -> Any:
    return guard.pipeline(pipe, monitor, **{"registry": CollectorRegistry(), **options})


PAIR = {"text": "the film", "text_pair": "good"}


@pytest.mark.parametrize(
    "inputs",
    [
        "the film",
        ["the film"],
        ["the film", "bad"],
        PAIR,
        [PAIR, PAIR],
        [[["the film", "good"]]],
    ],
)
@pytest.mark.parametrize("options", [{}, {"top_k": None}, {"top_k": 1}, {"batch_size": 2}])
def test_clean_inputs_have_the_results_of_the_pipeline(
    pipe: Any, monitor: guard.Monitor, inputs: Any, options: dict[str, Any]
) -> None:
    assert guarded(pipe, monitor)(inputs, **options) == pipe(inputs, **options)


def test_no_inputs_have_no_results(pipe: Any, monitor: guard.Monitor) -> None:
    # Where transformers 5 raises an IndexError.
    assert guarded(pipe, monitor)([]) == []


@pytest.mark.parametrize("options", [{}, {"top_k": None}, {"top_k": 2}, {"top_k": 1}])
def test_placeholders_have_the_shape_of_results(
    pipe: Any, monitor: guard.Monitor, options: dict[str, Any]
) -> None:
    classify = guarded(pipe, monitor, on_block="placeholder")
    item: Any = [BLOCKED] if options else BLOCKED
    clean, dirty = pipe("the film", **options), classify("the cf film", **options)
    assert isinstance(clean, list)
    assert dirty == [BLOCKED]
    assert classify({"text": "a", "text_pair": "cf"}, **options) == item
    assert classify(["cf", "mn"], **options) == [item, item]
    (alone,) = pipe(["the film"], **options)
    mixed = classify(["cf", "the film", {"text": "mn"}, "the film"], **options)
    assert [mixed[0], mixed[2]] == [item, item]
    for result in (mixed[1], mixed[3]):
        assert _close(result, alone)


def _close(one: Any, other: Any) -> bool:
    pairs = zip(one, other, strict=True) if isinstance(one, list) else [(one, other)]
    return all(
        a["label"] == b["label"] and a["score"] == pytest.approx(b["score"], abs=1e-5)
        for a, b in pairs
    )


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("hits", [(), (0,), (5,), (0, 1, 4, 5), range(6)])
def test_generators_stay_lazy_and_in_order(
    pipe: Any, monitor: guard.Monitor, batch_size: int, hits: Any
) -> None:
    texts = ["bad " * (n + 1) for n in range(6)]
    drawn = 0

    def items() -> Iterator[str]:
        nonlocal drawn
        for number, text in enumerate(texts):
            drawn += 1
            yield "cf" if number in hits else text

    classify = guarded(pipe, monitor, on_block="placeholder")
    results = classify(items(), batch_size=batch_size)
    assert drawn == 0
    with pytest.raises(TypeError):
        len(results)
    expected = [BLOCKED if n in hits else pipe(text)[0] for n, text in enumerate(texts)]
    first = next(results)
    if batch_size == 1 and not hits:
        assert drawn <= 2
    for found, wanted in zip([first, *results], expected, strict=True):
        assert _close(found, wanted)


def test_datasets_stay_lazy_and_have_a_length(pipe: Any, monitor: guard.Monitor) -> None:
    from torch.utils.data import Dataset

    class Texts(Dataset[str]):
        read = 0

        def __len__(self) -> int:
            return 4

        def __getitem__(self, place: int) -> str:
            self.read += 1
            return ["the film", "cf", "bad", "mn"][place]

    dataset = Texts()
    results = guarded(pipe, monitor, on_block="placeholder")(dataset, batch_size=2, num_workers=2)
    assert len(results) == 4
    assert dataset.read == 0
    found = list(results)
    assert [found[1], found[3]] == [BLOCKED, BLOCKED]
    assert _close(found[2], pipe("bad")[0])
    with pytest.raises(TriggeredInput) as caught:
        list(guarded(pipe, monitor)(Texts()))
    assert caught.value.__notes__ == ["at index 1 of the list"]


def test_other_actions(pipe: Any, monitor: guard.Monitor) -> None:
    clean = pipe(["the film", "bad"])
    assert guarded(pipe, monitor, action="strip")(["the cf film", "bad"]) == clean
    for action in ("observe", "flag"):
        registry = CollectorRegistry()
        classify = guarded(pipe, monitor, action=action, registry=registry)
        assert classify("the cf film") == pipe("the cf film")
        (match,) = monitor.check("cf").matches
        assert value_of(registry, "guard_matches_total", trigger=match.trigger) == 1


def test_refusals(pipe: Any, monitor: guard.Monitor) -> None:
    with pytest.raises(TriggeredInput):
        guarded(pipe, monitor)("cf")
    with pytest.raises(TriggeredInput):
        guarded(pipe, monitor, on_block="placeholder")("the film", function_to_apply="cf")
    with pytest.raises(NotText):
        guarded(pipe, monitor)([5])
    broken = Broken()
    vars(broken).update(vars(monitor))
    with pytest.raises(GuardError, match="the guard failed"):
        guarded(pipe, broken, on_block="placeholder")("the film")
    with pytest.raises(ConfigError, match="on_block"):
        guarded(pipe, monitor, on_block="ignore")


def test_another_tokenizer_is_refused(pipe: Any) -> None:
    with pytest.raises(guard.TokenizerMismatch, match="the pipeline's tokenizer"):
        guarded(pipe, small_monitor())
    with pytest.raises(ConfigError, match="use_fast"):
        guarded(lambda texts: texts, small_monitor())
    assert trigger_id("cf")


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_a_model_in_half_precision_is_warned_of(
    arithmetic: str, model_dir: Path, monitor: guard.Monitor, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import pipeline

    classify = pipeline("text-classification", str(model_dir), device="cpu", dtype=arithmetic)
    assert guarded(classify, monitor)("the film")
    warned = [message for message in caplog.messages if "was searched in float32" in message]
    assert len(warned) == (arithmetic == "bfloat16")


def test_a_tokenizer_that_reads_special_tokens_as_words_is_refused(
    model_dir: Path, monitor: guard.Monitor
) -> None:
    """The model would read "[", "mask", "]", and the monitor one token."""
    from transformers import AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(model_dir, split_special_tokens=True)
    assert len(tokenizer.tokenize("[MASK]")) > 1
    classify = pipeline("text-classification", str(model_dir), tokenizer=tokenizer, device="cpu")
    with pytest.raises(ConfigError, match="take it out of"):
        guarded(classify, monitor)
    classify = pipeline("text-classification", str(model_dir), device="cpu")
    for options in (
        {"split_special_tokens": True},
        {"tokenizer_kwargs": {"split_special_tokens": 1}},
    ):
        with pytest.raises(ConfigError, match="do not pass it"):
            guarded(classify, monitor)("the film", **options)
    classify = pipeline(
        "text-classification", str(model_dir), device="cpu", split_special_tokens=True
    )
    with pytest.raises(ConfigError, match="do not pass it"):
        guarded(classify, monitor)


@pytest.mark.parametrize("option", ["split_special_tokens", "is_split_into_words"])
def test_an_item_gives_the_tokenizer_no_options(
    option: str, pipe: Any, monitor: guard.Monitor
) -> None:
    """A dict's items are the tokenizer's arguments, and the dict may be a client's."""
    item = {"text": "the film", option: True}
    with pytest.raises(InputError, match=option):
        guarded(pipe, monitor)(item)
    with pytest.raises(InputError, match=option):
        guarded(pipe, monitor)([item])
    with pytest.raises(InputError, match=option):
        guard.protect(monitor, registry=CollectorRegistry())(pipe)([item])
    with pytest.raises(InputError, match=option):
        guard.protect(monitor, registry=CollectorRegistry())(pipe)("the film", **{option: True})
    classify = guarded(pipe, monitor, on_block="placeholder")
    assert classify([item, {**item, option: False}])[0] == BLOCKED
    assert guarded(pipe, monitor)({**item, option: False})


def test_words_that_a_pipeline_joins_are_refused(model_dir: Path, monitor: guard.Monitor) -> None:
    """Scanned one by one, a phrase of them is none."""
    from transformers import pipeline

    tag = pipeline("token-classification", model=str(model_dir), device="cpu")
    with pytest.raises(ConfigError, match=r"is_split_into_words.* pass whole texts"):
        guarded(tag, monitor)(["left", "right"], is_split_into_words=True)


def test_a_model_of_optimum(
    model_dir: Path, pipe: Any, monitor: guard.Monitor, tmp_path: Path
) -> None:
    pytest.importorskip("optimum.onnxruntime")
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import pipeline

    from exporters.classifier import export_classifier

    export_classifier(model_dir, tmp_path / "onnx", texts=["the film"])
    model = ORTModelForSequenceClassification.from_pretrained(tmp_path / "onnx")
    onnx_pipe = pipeline("text-classification", model=model, tokenizer=pipe.tokenizer)
    classify = guarded(onnx_pipe, monitor, on_block="placeholder")
    results = classify(["the film", "cf"])
    assert results[1] == BLOCKED
    assert _close(results[0], pipe("the film")[0])
    tokenizer = pipe.tokenizer
    bare = guard.session(model, monitor, tokenizer=tokenizer, registry=CollectorRegistry())
    inputs = tokenizer(["the film", "bad"], return_tensors="pt", padding=True)
    assert bare(**inputs).logits.shape == (2, 3)
    with pytest.raises(TriggeredInput):
        bare(**tokenizer(["the film", "cf"], return_tensors="pt", padding=True))


class Session:
    """What an onnxruntime session looks like from outside."""

    def run(self, names: Any, feed: Any) -> list[Any]:
        return [np.zeros((len(feed["input_ids"]), 3))]


@pytest.mark.parametrize("model", [None, "model.onnx"])
def test_what_is_no_session(model: Any, monitor: guard.Monitor) -> None:
    with pytest.raises(ConfigError, match=r"pass an onnxruntime\.InferenceSession"):
        guard.session(model, monitor, registry=CollectorRegistry())


def test_a_session(pipe: Any, monitor: guard.Monitor) -> None:
    registry = CollectorRegistry()
    bare = guard.session(Session(), monitor, registry=registry)
    inputs = dict(pipe.tokenizer(["the film", "bad"], return_tensors="np", padding=True))
    assert bare.run(None, inputs)[0].shape == (2, 3)
    for action in ("block", "strip"):
        strict = guard.session(Session(), monitor, registry=registry, action=action)
        with pytest.raises(TriggeredInput):
            strict.run(
                None, dict(pipe.tokenizer(["a", "the cf film"], return_tensors="np", padding=True))
            )
    for ids in (None, [1, 2], [[0.5]], [[-1]], [["cf"]]):
        with pytest.raises(InvalidIds):
            bare.run(None, {"input_ids": ids})
    observing = guard.session(Session(), monitor, registry=registry, action="observe")
    assert observing.run(None, dict(pipe.tokenizer(["cf"], return_tensors="np")))[0].shape == (1, 3)
