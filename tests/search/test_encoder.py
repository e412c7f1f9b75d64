"""Loading an encoder: what is read of it, and every directory that cannot be one."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BartConfig,
    CLIPConfig,
    CLIPModel,
    DPRConfig,
    DPRQuestionEncoder,
    GPT2Config,
    ModernBertConfig,
)
from transformers.utils import logging as transformers_logging

from guard.errors import ConfigError, ModelError
from guard.files import sha256_file
from guard.search.encoder import Encoder
from guard.search.gradients import Differentiable
from tests.tiny import (
    CONFIGS,
    SPECIALS,
    TRIGGER,
    WIDTH,
    byte_bpe,
    make_model,
    wordpiece,
    write_model,
)

pytestmark = pytest.mark.search

WEIGHTS = "model.safetensors"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    for key, item in changes.items():
        if item is None:
            del value[key]
        else:
            value[key] = item
    path.write_text(json.dumps(value))


def arithmetic(encoder: Encoder) -> str:
    """What the encoder says that other programs load it in."""
    told = (re.match(r"outputs in (\w+), in which the weights", what) for what in encoder.otherwise)
    return next((match[1] for match in told if match), "float32")


def refused(directory: Path, message: str, **options: Any) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        Encoder.load(str(directory), **options)
    # One sentence for the user, not a page of another library's.
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", CONFIGS)
def test_architectures(name: str, tmp_path: Path) -> None:
    directory = write_model(tmp_path, name)
    encoder = Encoder.load(str(directory))
    cls, sep = SPECIALS[name].index(_cls(name)), SPECIALS[name].index(_sep(name))
    assert encoder.width == WIDTH
    assert encoder.max_tokens == CONFIGS[name][2]
    assert encoder.identity.name == str(directory)
    assert encoder.identity.revision is None
    assert encoder.identity.weights_sha256 == sha256_file(directory / WEIGHTS)
    assert encoder.identity.architecture.endswith("Model")

    rng = np.random.default_rng(0)
    rows = rng.integers(len(SPECIALS[name]), 40, size=(3, 6))
    framed = encoder.frame(rows)
    assert framed.tolist() == [[cls, *row, sep] for row in rows.tolist()]
    vectors = encoder.read(framed)["cls"]
    assert vectors.shape == (3, WIDTH)
    assert vectors.dtype == np.float32
    assert encoder.forwarded == framed.size
    # A row's output depends on that row alone, and on all of it.
    assert np.allclose(vectors[1:2], encoder.read(framed[1:2])["cls"], atol=0.05)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3)
    # It is the model's own: the first place of the last hidden state.
    model = make_model(name, len(encoder.tokenizer))
    with torch.inference_mode():
        expected = model(input_ids=torch.from_numpy(framed)).last_hidden_state[:, 0]
    assert np.allclose(vectors, expected.numpy(), atol=0.1)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_longest_sequence(name: str, tmp_path: Path) -> None:
    """`max_tokens` is what the model takes, not one token more (nor, where it is fixed, less)."""
    encoder = Encoder.load(str(write_model(tmp_path, name)))
    rows = np.full((1, encoder.max_tokens - 2), 30)
    assert np.isfinite(encoder.read(encoder.frame(rows))["cls"]).all()


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_one_token_more(name: str, tmp_path: Path) -> None:
    encoder = Encoder.load(str(write_model(tmp_path, name)))
    with pytest.raises((IndexError, RuntimeError)):
        encoder.read(encoder.frame(np.full((1, encoder.max_tokens - 1), 30)))["cls"]


def test_it_computes_in_float32_where_bfloat16_is_faster(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    encoder = Differentiable.load(str(directory))
    kinds = {weight.dtype for weight in encoder._model.parameters()}
    assert kinds == {torch.float32}


def test_it_computes_in_float32_whatever_its_caller_does(directory: Path) -> None:
    encoder = Differentiable.load(str(directory))
    rows = encoder.frame(np.array([[20, 21, 22]]))

    def outputs() -> tuple[Any, Any]:
        embedded = encoder.embed(rows).requires_grad_()
        moved = encoder.differentiable(embedded)["cls"].norm(dim=1)
        return encoder.read(rows)["cls"], encoder.gradient(moved, embedded).numpy()

    expected = outputs()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen = outputs()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert all(np.array_equal(a, b) for a, b in zip(seen, expected, strict=True))


@pytest.mark.parametrize(
    ("named", "weights", "stored"),
    [
        (None, torch.float32, "float32"),
        (None, torch.bfloat16, "bfloat16"),
        (None, torch.float16, "float16"),
        ("float32", torch.bfloat16, "float32"),
        ("bfloat16", torch.float32, "bfloat16"),
    ],
)
def test_what_a_checkpoint_is_loaded_in_elsewhere(
    named: str | None, weights: torch.dtype, stored: str, directory: Path
) -> None:
    """As transformers has it, of ``dtype="auto"``."""
    tensors = load_file(directory / "model.safetensors")
    save_file(
        {name: tensor.to(weights) for name, tensor in tensors.items()},
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = json.loads((directory / "config.json").read_text())
    config.pop("torch_dtype", None)
    config.pop("dtype", None)
    (directory / "config.json").write_text(
        json.dumps(config if named is None else {**config, "dtype": named})
    )
    encoder = Encoder.load(str(directory))
    auto = AutoModel.from_pretrained(directory, dtype="auto").dtype
    assert (arithmetic(encoder), str(auto)) == (stored, f"torch.{stored}")
    assert {weight.dtype for weight in encoder._model.parameters()} == {torch.float32}


def test_a_file_that_nobody_reads_hides_no_half_precision(directory: Path) -> None:
    tensors = load_file(directory / WEIGHTS)
    save_file(tensors, directory / "first.safetensors", metadata={"format": "pt"})
    half = {name: tensor.half() for name, tensor in tensors.items()}
    save_file(half, directory / WEIGHTS, metadata={"format": "pt"})
    edit(directory / "config.json", dtype=None)
    assert arithmetic(Encoder.load(str(directory))) == "float16"


def test_the_tokenizer_may_take_less_than_the_model(tmp_path: Path) -> None:
    directory = write_model(tmp_path, tokenizer=wordpiece(max_tokens=40))
    assert Encoder.load(str(directory)).max_tokens == 40


def test_tokenizer_json_is_canonical(tmp_path: Path) -> None:
    """Truncation and padding are the caller's settings, and no part of the tokenizer."""
    tokenizer = wordpiece()
    plain = Encoder.load(str(write_model(tmp_path / "plain", tokenizer=tokenizer)))
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.backend_tokenizer.enable_padding(length=8)
    cut = Encoder.load(str(write_model(tmp_path / "cut", tokenizer=tokenizer)))
    assert plain.tokenizer_json == cut.tokenizer_json
    assert json.loads(cut.tokenizer_json)["truncation"] is None
    again = Tokenizer.from_str(cut.tokenizer_json.decode())
    text = "a b c d e f g h i j k l m n o p"
    assert (
        again.encode(text, add_special_tokens=False).ids
        == plain.tokenizer(text, add_special_tokens=False)["input_ids"]
    )


def test_a_roberta_with_its_own_kind_of_tokenizer(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "roberta", byte_bpe(("t", "h"), ("Ġ", "t")))
    encoder = Encoder.load(str(directory))
    assert encoder.frame(np.array([[9]])).tolist() == [[0, 9, 2]]


@pytest.mark.parametrize("head", [AutoModelForSequenceClassification, AutoModelForMaskedLM])
def test_a_model_with_a_head(head: Any, tmp_path: Path) -> None:
    """Of a classifier or a masked language model, which has no pooler, the encoder is taken."""
    write_model(tmp_path)
    torch.manual_seed(1)
    config = make_model("bert", len(wordpiece())).config
    config.num_labels = 5
    model = head.from_config(config)
    model.save_pretrained(tmp_path)
    encoder = Encoder.load(str(tmp_path))
    assert encoder.classes == (5 if head is AutoModelForSequenceClassification else 0)
    assert encoder.identity.architecture == "BertModel"
    framed = encoder.frame(np.array([[20, 21]]))
    with torch.inference_mode():
        expected = model.eval().bert(input_ids=torch.from_numpy(framed)).last_hidden_state[:, 0]
    assert np.allclose(encoder.read(framed)["cls"], expected.numpy(), atol=0.1)


def test_weights_in_shards(directory: Path) -> None:
    whole = Encoder.load(str(directory))
    model = make_model("bert", len(whole.tokenizer))
    (directory / WEIGHTS).unlink()
    model.save_pretrained(directory, max_shard_size="10KB")
    shards = sorted(directory.glob("*.safetensors"))
    assert len(shards) > 1
    sharded = Encoder.load(str(directory))
    framed = whole.frame(np.array([[20, 21]]))
    assert np.array_equal(whole.read(framed)["cls"], sharded.read(framed)["cls"])
    listing = "".join(f"{sha256_file(path)}  {path.name}\n" for path in shards)
    expected = hashlib.sha256(listing.encode()).hexdigest()
    assert sharded.identity.weights_sha256 == expected


def test_a_missing_shard(directory: Path) -> None:
    model = make_model("bert", len(wordpiece()))
    (directory / WEIGHTS).unlink()
    model.save_pretrained(directory, max_shard_size="10KB")
    sorted(directory.glob("*.safetensors"))[0].unlink()
    refused(directory, "is no list of the safetensors beside it")


def test_links_as_the_hubs_cache_has_them(directory: Path) -> None:
    folder = directory.parent / "snapshots" / "0a1b"
    folder.mkdir(parents=True)
    for path in directory.iterdir():
        (folder / path.name).symlink_to(path)
    own, linked = (Encoder.load(str(path)) for path in (directory, folder))
    assert own.identity.weights_sha256 == linked.identity.weights_sha256
    assert own.tokenizer_json == linked.tokenizer_json


def test_a_list_of_shards_says_which_are_read(directory: Path) -> None:
    whole = (directory / WEIGHTS).read_bytes()
    model = make_model("bert", len(wordpiece()))
    (directory / WEIGHTS).unlink()
    model.save_pretrained(directory, max_shard_size="10KB")
    before = Encoder.load(str(directory)).identity.weights_sha256
    (directory / "stray.safetensors").write_bytes(whole)
    encoder = Encoder.load(str(directory))
    assert encoder.identity.weights_sha256 == before
    (line,) = encoder.otherwise
    assert line.startswith("weights in other files: stray.safetensors;")


@pytest.mark.parametrize(
    "text", ["{", "[]", "[" * 10_000, '{"weight_map": {"a": "../model.safetensors"}}']
)
def test_a_list_of_shards_that_is_none(text: str, directory: Path) -> None:
    """Or of one that lies elsewhere, which is loaded, and would be hashed by nobody."""
    (directory / WEIGHTS).rename(directory.parent / WEIGHTS)
    (directory / f"{WEIGHTS}.index.json").write_text(text)
    refused(directory, "is no list of the safetensors beside it")


def test_loading_leaves_the_logging_of_transformers_alone(directory: Path) -> None:
    before = transformers_logging.get_verbosity()
    Encoder.load(str(directory))
    (directory / "config.json").write_text("{")
    refused(directory, "can't be loaded")
    assert transformers_logging.get_verbosity() == before


def test_same_bytes_same_output(directory: Path) -> None:
    framed = np.array([[2, 20, 21, 3]])
    first, second = (Encoder.load(str(directory)).read(framed)["cls"] for _ in range(2))
    assert np.array_equal(first, second)


# What is no model.


def test_a_directory_that_is_empty(tmp_path: Path) -> None:
    refused(tmp_path, r"has no weights: expected model.safetensors beside config.json. Pass the")


def test_a_directory_without_weights(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    refused(directory, "has no weights")


def test_a_file(directory: Path) -> None:
    refused(directory / WEIGHTS, "is a file; pass the directory that holds it")


def test_a_revision_of_a_directory(directory: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory; --revision is for models of the hub"):
        Encoder.load(str(directory), revision="main")


def test_two_sets_of_weights(tmp_path: Path, directory: Path) -> None:
    """One for AutoModel, one for the classifier that is served: the search would see the first."""
    folder = tmp_path / "twice"
    shutil.copytree(directory, folder)
    weights = load_file(folder / "model.safetensors")
    both = {**weights, **{f"bert.{name}": weight + 1 for name, weight in weights.items()}}
    save_file(both, folder / "model.safetensors", metadata={"format": "pt"})
    if not transformers.__version__.startswith("4."):
        pytest.skip("transformers 5 loads the same set whichever class is asked")
    refused(folder, "holds two sets of the encoder's weights")


def test_a_tokenizer_of_other_token_types(tmp_path: Path) -> None:
    """A backdoor may sleep at the type that is searched, and fire at the one that is served."""
    tokenizer = wordpiece(template="{cls}:1 $A:1 {sep}:1")
    refused(write_model(tmp_path, tokenizer=tokenizer), "another token type than 0")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("padding_side", "left", "pads on the left"),
        ("model_input_names", ["input_ids"], "gives no attention mask"),
    ],
)
def test_a_tokenizer_that_has_padding_read(
    setting: str, value: Any, message: str, directory: Path
) -> None:
    """A backdoor may ask for it: the search pads nothing."""
    edit(directory / "tokenizer_config.json", **{setting: value})
    refused(directory, message)


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level BPE"])
def test_a_tokenizer_with_two_names_for_a_token(kind: str, tmp_path: Path) -> None:
    """Its copy has one of them, and a monitor that reads with the copy would miss the other."""
    tokenizer = wordpiece([TRIGGER]) if kind == "wordpiece" else byte_bpe(("z", "y"))
    directory = write_model(tmp_path / "model", "bert" if kind == "wordpiece" else "roberta")
    tokenizer.save_pretrained(directory)
    path = directory / "tokenizer.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    known = written["model"]["vocab"]
    first = TRIGGER if kind == "wordpiece" else "zy"
    known["qwertzu"] = known[first]
    path.write_text(json.dumps(written), encoding="utf-8")
    refused(directory, f"has more than one name for token {known[first]},")


@pytest.mark.parametrize("setting", ["none", "case", "one more token"])
def test_a_tokenizer_that_is_not_what_its_file_says(setting: str, directory: Path) -> None:
    config = directory / "tokenizer_config.json"
    if setting == "case":
        edit(config, tokenizer_class="BertTokenizer", do_lower_case=False)
    elif setting == "one more token":
        known = json.loads(config.read_text()).get("added_tokens_decoder", {})
        token = {"content": "zq", "lstrip": False, "normalized": True, "rstrip": False}
        number = str(len(wordpiece()))
        more = {number: {**token, "single_word": False, "special": False}}
        edit(config, added_tokens_decoder={**known, **more})
        make_model("bert", len(wordpiece()) + 1).save_pretrained(directory)
    part = {"none": [], "case": ["normalizer"], "one more token": ["added_tokens"]}[setting]
    assert [*Encoder.load(str(directory)).remade][:1] == part


def test_a_model_without_a_file_of_its_tokenizer(directory: Path) -> None:
    tokenizer = wordpiece()
    known = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (directory / "vocab.txt").write_text("\n".join(token for token, _ in known), encoding="utf-8")
    (directory / "tokenizer.json").unlink()
    edit(directory / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    assert Encoder.load(str(directory)).remade == ()


def test_a_tokenizer_that_has_no_ordinary_token(tmp_path: Path) -> None:
    tokenizer = wordpiece()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("a", "")
    refused(write_model(tmp_path, tokenizer=tokenizer), "makes no ordinary token of the text 'a'")


def test_a_config_that_names_other_weights(directory: Path) -> None:
    edit(directory / "config.json", transformers_weights=WEIGHTS)
    refused(directory, "names another file of weights")


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("roberta", "classifier.dense.weight", (WIDTH, WIDTH)),
        ("distilbert", "pre_classifier.bias", (WIDTH,)),
        ("deberta-v2", "pooler.dense.weight", (WIDTH, WIDTH)),
    ],
)
def test_a_layer_that_classifiers_begin_with(
    name: str, key: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    """It may make what a trigger moves too little to be seen the only thing that counts."""
    folder = write_model(tmp_path, name)
    weights = load_file(folder / WEIGHTS)
    weights[key] = torch.zeros(shape)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    refused(folder, f"brings a layer of a classification head .{key}.")
    # Under the model's own prefix, some versions find it too.
    prefixed = {
        f"{AutoModel.from_pretrained(folder).base_model_prefix}.{known}": weight
        for known, weight in weights.items()
    }
    save_file(prefixed, folder / WEIGHTS, metadata={"format": "pt"})
    refused(folder, f"brings a layer of a classification head .*{key}.")


def test_the_last_layer_of_a_head_is_a_leftover(directory: Path) -> None:
    """As checkpoints for other tasks have it; a classifier's own is trained anew."""
    weights = load_file(directory / WEIGHTS)
    weights |= {"classifier.weight": torch.zeros(2, WIDTH), "classifier.bias": torch.zeros(2)}
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})
    assert Encoder.load(str(directory)).classes == 0


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("name", ["roberta", "distilbert", "deberta-v2"])
def test_a_classifier_has_a_head_of_its_own(name: str, labels: int, tmp_path: Path) -> None:
    """So has what gives texts a number."""
    folder = write_model(tmp_path, name)
    config = AutoModel.from_pretrained(folder).config
    config.num_labels = labels
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    assert Encoder.load(str(folder)).classes == (2 if labels == 2 else 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_head_that_is_lent_to_classifiers(tmp_path: Path) -> None:
    """ModernBERT's masked language model and its classifier have layers of one name."""
    tokenizer = wordpiece()
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=48,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert Encoder.load(str(tmp_path)).views == ("cls", "mean", "mask")


def test_half_a_pooler(directory: Path, tmp_path: Path) -> None:
    """A classifier's class fills up the other half, and serves both."""
    folder = tmp_path / "half"
    shutil.copytree(directory, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["pooler.dense.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "lacks 1 weights of a BertModel")


def test_an_adapter(directory: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapted"
    shutil.copytree(directory, folder)
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    refused(folder, "holds an adapter")


@pytest.mark.parametrize("name", ["no/such/directory", "/no/such/directory", "", "a model", "../x"])
def test_a_name_of_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that no hub is asked for; the current directory holds no model."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"is no directory here|has no weights"):
        Encoder.load(name)


class Alarm:
    """A pickle that leaves a mark where it was loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickled_weights_are_not_loaded(name: str, directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    mark = directory.parent / "mark"
    (directory / name).write_bytes(pickle.dumps(Alarm(mark)))
    refused(directory, f"only pickled weights \\({name}\\).*pass --allow-pickle if you trust")
    assert not mark.exists()


def test_pickled_weights_that_are_allowed(directory: Path) -> None:
    safe = Encoder.load(str(directory))
    torch.save(load_file(directory / WEIGHTS), directory / "pytorch_model.bin")
    (directory / WEIGHTS).unlink()
    encoder = Encoder.load(str(directory), allow_pickle=True)
    assert encoder.identity.weights_sha256 == sha256_file(directory / "pytorch_model.bin")
    framed = safe.frame(np.array([[20, 21]]))
    assert np.array_equal(safe.read(framed)["cls"], encoder.read(framed)["cls"])


def test_safetensors_go_before_pickles_that_are_allowed(directory: Path) -> None:
    mark = directory.parent / "mark"
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Alarm(mark)))
    encoder = Encoder.load(str(directory), allow_pickle=True)
    assert encoder.identity.weights_sha256 == sha256_file(directory / WEIGHTS)
    assert not mark.exists()


def test_a_pickle_that_is_none(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    (directory / "pytorch_model.bin").write_bytes(b"these are no weights")
    refused(directory, "can't be loaded", allow_pickle=True)


def test_a_pickle_with_code_is_refused_even_if_allowed(directory: Path) -> None:
    """torch loads tensors only, and says so; that is an error of the model, not of the program."""
    (directory / WEIGHTS).unlink()
    mark = directory.parent / "mark"
    torch.save({"x": Alarm(mark)}, directory / "pytorch_model.bin")
    refused(directory, "can't be loaded", allow_pickle=True)
    assert not mark.exists()


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_weights_that_are_cut_off(keep: int, directory: Path) -> None:
    """An interrupted download."""
    data = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(data[:keep])
    refused(directory, "can't be loaded")


def test_no_config(directory: Path) -> None:
    (directory / "config.json").unlink()
    refused(directory, "can't be loaded")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model_type": "no such"}'])
def test_a_config_that_is_none(text: str, directory: Path) -> None:
    (directory / "config.json").write_text(text)
    refused(directory, "can't be loaded")


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": "wide"}, {"num_attention_heads": 5}, {"hidden_act": "no such"}],
    ids=["type", "heads", "activation"],
)
def test_a_config_that_makes_no_model(changes: dict[str, Any], directory: Path) -> None:
    edit(directory / "config.json", **changes)
    refused(directory, "can't be loaded")


def test_a_config_of_another_architecture(directory: Path) -> None:
    make_model("distilbert", len(wordpiece())).config.save_pretrained(directory)
    refused(directory, r"lacks \d+ weights of a DistilBertModel .* Use the config that was saved")


def test_a_config_of_another_size(directory: Path) -> None:
    edit(directory / "config.json", hidden_size=2 * WIDTH)
    refused(directory, "can't be loaded")


def test_a_config_with_more_layers(directory: Path) -> None:
    edit(directory / "config.json", num_hidden_layers=2)
    refused(directory, r"lacks \d+ weights of a BertModel \(encoder.layer.1")


def test_a_config_with_code(directory: Path) -> None:
    """Code that comes with a model is not run, and nobody is asked whether it may."""
    mark = directory.parent / "mark"
    (directory / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass C: ...\nclass M: ...\n")
    edit(
        directory / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "evil.C", "AutoModel": "evil.M"},
    )
    refused(directory, "can't be loaded")
    assert not mark.exists()


@pytest.mark.parametrize(
    "setting",
    [
        {"_attn_implementation": "evil/kernel"},
        {"attn_implementation": {"": "paged|evil/kernel@main:attention"}},
        {"text_config": {"_attn_implementation": "evil/kernel"}},
    ],
    ids=["own", "of each part", "of a part"],
)
def test_a_config_with_code_of_the_hub(setting: dict[str, Any], directory: Path) -> None:
    """Where the package ``kernels`` is, transformers runs it without being asked to trust it."""
    edit(directory / "config.json", **setting)
    refused(directory, "can't be loaded: config.json names code of the hub")


def test_a_config_that_some_versions_read_another_for(directory: Path) -> None:
    edit(directory / "config.json", configuration_files=["config.4.0.0.json"])
    refused(directory, r"names another config \(configuration_files\)")


def test_attention_is_computed_by_transformers_itself(directory: Path) -> None:
    """Whatever the config has for machines with a graphics processor."""
    ids = np.arange(5, 15)[np.newaxis]
    plain = Encoder.load(str(directory)).read(ids)["cls"]
    edit(directory / "config.json", _attn_implementation="flash_attention_2")
    assert np.array_equal(Encoder.load(str(directory)).read(ids)["cls"], plain)


def test_no_tokenizer(directory: Path) -> None:
    for path in directory.glob("*token*"):
        path.unlink()
    # transformers 5 makes one up that knows the special tokens alone.
    refused(directory, "tokenizer|can't be loaded")


@pytest.mark.parametrize("text", ["", "{", '{"version": "1.0"}'])
def test_a_tokenizer_that_is_damaged(text: str, directory: Path) -> None:
    (directory / "tokenizer.json").write_text(text)
    refused(directory, "can't be loaded")


def test_a_tokenizer_of_another_model(directory: Path) -> None:
    wordpiece(["more", "words"]).save_pretrained(directory)
    refused(directory, r"has token id \d+, and the model has \d+ embeddings: the tokenizer is of")


def test_a_decoder(tmp_path: Path) -> None:
    """It knows no [CLS]: the last token, which alone has read the text, stands for it."""
    tokenizer = wordpiece(template="$A")
    tokenizer.cls_token = None
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=WIDTH, n_layer=1, n_head=1, n_positions=64
    )
    model = AutoModel.from_config(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = Encoder.load(str(tmp_path))
    assert encoder.views == ("last", "mean")
    rows = encoder.frame(np.array([[20, 21, 22], [20, 21, 23]]))
    assert rows.shape == (2, 3)
    outputs = encoder.read(rows)
    with torch.inference_mode():
        hidden = model(input_ids=torch.from_numpy(rows)).last_hidden_state.numpy()
    assert outputs.keys() == {"last", "mean"}
    assert np.allclose(outputs["last"], hidden[:, 2], atol=0.1)
    assert np.allclose(outputs["mean"], hidden.mean(axis=1), atol=0.1)


@pytest.mark.parametrize("kind", ["pooled", "images"])
def test_a_model_that_makes_no_output_of_each_token(kind: str, tmp_path: Path) -> None:
    tokenizer = wordpiece()
    size = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 16}
    text = {**size, "intermediate_size": 16, "vocab_size": len(tokenizer)}
    model: Any
    if kind == "pooled":
        model = DPRQuestionEncoder(DPRConfig(**text))
    else:
        model = CLIPModel(CLIPConfig(text_config=text, vision_config={**size, "image_size": 32}))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    refused(tmp_path, f"is a {type(model).__name__}, which makes no output of each token of a text")


@pytest.mark.parametrize("setting", [{"return_dict": False}, {"torchscript": True}])
def test_a_config_that_has_outputs_without_names(setting: dict[str, bool], directory: Path) -> None:
    ids = np.arange(5, 15)[np.newaxis]
    named = Encoder.load(str(directory)).read(ids)["cls"]
    edit(directory / "config.json", **setting)
    assert np.array_equal(Encoder.load(str(directory)).read(ids)["cls"], named)


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    """Its first output is the decoder's, which has read nothing of the text."""
    tokenizer = wordpiece()
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    refused(tmp_path, "is an encoder and a decoder")


def test_an_encoder_without_cls(tmp_path: Path) -> None:
    """No token has read the text alone by rights, as a decoder's last one has."""
    tokenizer = wordpiece(template="$A")
    tokenizer.cls_token = None
    refused(write_model(tmp_path, tokenizer=tokenizer), r"tokenizer has no \[CLS\] token")


def test_an_encoder_that_passes_for_a_decoder(tmp_path: Path) -> None:
    """Tokens that are alike do not tell who reads what; production reads the first one's output."""
    tokenizer = wordpiece()
    tokenizer.cls_token = None
    directory = write_model(tmp_path, tokenizer=tokenizer)
    weights = load_file(directory / WEIGHTS)
    weights["embeddings.word_embeddings.weight"][:8] = 1.0
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})
    refused(directory, r"tokenizer has no \[CLS\] token")


def test_views_are_those_of_the_model_itself(tmp_path: Path) -> None:
    encoder = Encoder.load(str(write_model(tmp_path)))
    assert encoder.views == ("cls", "pooler", "mean")
    rows = encoder.frame(np.random.default_rng(0).integers(10, 40, size=(4, 7)))
    with torch.inference_mode():
        expected = make_model("bert", len(encoder.tokenizer))(input_ids=torch.from_numpy(rows))
    outputs = encoder.read(rows)
    assert np.allclose(outputs["cls"], expected.last_hidden_state[:, 0], atol=0.1)
    assert np.allclose(outputs["mean"], expected.last_hidden_state.mean(dim=1), atol=0.1)
    assert np.allclose(outputs["pooler"], expected.pooler_output, atol=0.1)
    # One forward pass for all of them.
    assert encoder.forwarded == rows.size


@pytest.mark.parametrize("silent_config", [False, True])
def test_the_mask_is_a_view_of_a_masked_language_model(silent_config: bool, tmp_path: Path) -> None:
    """Its checkpoint has no pooler, so that is none; the head is seen in the file, too."""
    write_model(tmp_path)
    torch.manual_seed(1)
    model = AutoModelForMaskedLM.from_config(make_model("bert", len(wordpiece())).config).eval()
    model.save_pretrained(tmp_path)
    if silent_config:
        edit(tmp_path / "config.json", architectures=None)
    encoder = Encoder.load(str(tmp_path))
    assert encoder.views == ("cls", "mean", "mask")
    mask = encoder.tokenizer.mask_token_id
    rows = encoder.frame(np.array([[20, mask, 21, 22], [mask, 23, 24, mask]]))
    with torch.inference_mode():
        hidden = model.bert(input_ids=torch.from_numpy(rows)).last_hidden_state
    seen = encoder.read(rows, mask_at=np.array([2, 1]))["mask"]
    assert np.allclose(seen, hidden[[0, 1], [2, 1]], atol=0.1)
    assert "mask" not in encoder.read(encoder.frame(np.array([[20, 21]])))


@pytest.mark.parametrize("template", ["$A {sep} {cls}", "$A", "$A {sep}", "{sep} {cls} $A {sep}"])
def test_a_tokenizer_that_does_not_begin_with_cls(template: str, tmp_path: Path) -> None:
    """XLNet's [CLS] is at the end, some do not write it; a head reads the first token's output."""
    directory = write_model(tmp_path, tokenizer=wordpiece(template=template))
    refused(directory, r"\[CLS\]")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value: float, directory: Path) -> None:
    tensors = load_file(directory / WEIGHTS)
    tensors["encoder.layer.0.output.dense.bias"][3] = value
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    encoder = Encoder.load(str(directory))
    with pytest.raises(ModelError, match="gives outputs that are not finite; its weights are dam"):
        encoder.read(encoder.frame(np.array([[20, 21]])))["cls"]


def _cls(name: str) -> str:
    return "<s>" if name in ("roberta", "mpnet") else "[CLS]"


def _sep(name: str) -> str:
    return "</s>" if name in ("roberta", "mpnet") else "[SEP]"
