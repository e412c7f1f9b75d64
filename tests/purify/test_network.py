"""A model's views, and its files with other weights in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
)

from guard.errors import ModelError
from guard.purify.loss import Distance
from guard.purify.network import Network
from guard.purify.samples import Batch, Rows
from guard.purify.write import check_files, model_files, write_model
from tests.tiny import CONFIGS, SPECIALS, wordpiece, write_searchable
from tests.tiny import write_model as write_tiny

pytestmark = pytest.mark.search

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
ROWS = Rows(
    torch.tensor([[2, 10, 11, 3], [2, 12, 3, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
)


def write_classifier(directory: Path, labels: int = 3) -> Path:
    tokenizer = wordpiece()
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), num_labels=labels, **SIZES)
    BertForSequenceClassification(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def shifted(network: Network) -> dict[str, torch.Tensor]:
    return {key: weight + 1 for key, weight in network.weights().items()}


def test_views_of_an_encoder(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    views = Network(folder).views(ROWS)
    expected = AutoModel.from_pretrained(folder).eval()(
        input_ids=ROWS.ids, attention_mask=ROWS.mask
    )
    assert set(views) == {"tokens", "cls", "pooler"}
    assert torch.allclose(views["tokens"], expected.last_hidden_state)
    assert torch.equal(views["cls"], views["tokens"][:, 0])
    assert torch.allclose(views["pooler"], expected.pooler_output)


def test_views_of_a_classifier(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    network = Network(folder).trainable()
    views = network.views(ROWS)
    assert set(views) == {"tokens", "cls", "pooler", "logits"}
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    expected = model(input_ids=ROWS.ids, attention_mask=ROWS.mask).logits
    assert torch.allclose(views["logits"], expected)
    views["logits"].sum().backward()
    trained = {n for n, p in network.model.named_parameters() if p.grad is not None}
    assert trained
    assert not any(name.startswith("classifier") for name in trained)


def test_a_pooler_that_is_not_in_the_file_is_no_view(tmp_path: Path) -> None:
    tokenizer = wordpiece()
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **SIZES)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    state = torch.random.get_rng_state()
    network = Network(tmp_path)
    assert set(network.views(ROWS)) == {"tokens", "cls"}
    assert not any("pooler" in key for key in network.weights())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_architecture_is_written_again(name: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", name, wordpiece(specials=SPECIALS[name]))
    out = tmp_path / "out"
    out.mkdir()
    network = Network(folder)
    new = shifted(network)
    write_model(folder, out, new)
    again = Network(out).weights()
    assert (
        again.keys()
        == new.keys()
        >= {key for key in load_file(folder / "model.safetensors") if "position_ids" not in key}
    )
    assert all(torch.equal(again[key], new[key]) for key in new)
    assert [path.name for path in model_files(out)] == [path.name for path in model_files(folder)]


def test_all_else_stays_as_it_was(tmp_path: Path) -> None:
    """Head, configuration and tokenizer; code and pickles are not copied."""
    folder = write_classifier(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling.py").write_bytes(b"code")
    out = tmp_path / "out"
    out.mkdir()
    write_model(folder, out, shifted(Network(folder)))
    before, after = (load_file(path / "model.safetensors") for path in (folder, out))
    assert before.keys() == after.keys()
    for key in before:
        assert torch.equal(before[key], after[key]) == key.startswith("classifier"), key
    for path in model_files(folder):
        if path.suffix != ".safetensors":
            assert (out / path.name).read_bytes() == path.read_bytes()
    assert not {"pytorch_model.bin", "modeling.py"} & {path.name for path in out.iterdir()}


def test_a_masked_language_models_head_stays(tmp_path: Path) -> None:
    tokenizer = wordpiece()
    folder, out = tmp_path / "model", tmp_path / "out"
    out.mkdir()
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **SIZES)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_model(folder, out, shifted(Network(folder)))
    old, new = (AutoModelForMaskedLM.from_pretrained(path) for path in (folder, out))
    name = "predictions.transform.dense.weight"
    assert torch.equal(old.cls.get_parameter(name), new.cls.get_parameter(name))
    table = new.get_input_embeddings().weight
    assert not torch.equal(old.get_input_embeddings().weight, table)


def test_old_names_shards_and_half_precision(tmp_path: Path) -> None:
    folder, out = write_tiny(tmp_path / "model"), tmp_path / "out"
    out.mkdir()
    tensors = {
        f"bert.{key.replace('LayerNorm.weight', 'LayerNorm.gamma')}": tensor.half()
        for key, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_model(folder, out, shifted(Network(folder)))
    written = load_file(out / "model.safetensors")
    assert written.keys() == tensors.keys()
    assert {tensor.dtype for tensor in written.values()} == {torch.float16}
    assert torch.equal(written["bert.embeddings.LayerNorm.gamma"], torch.full((32,), 2.0).half())


@pytest.mark.parametrize("name", ["a.safetensors", "zz.safetensors"])
def test_weights_that_nobody_loads_are_neither_trained_nor_copied(
    name: str, tmp_path: Path
) -> None:
    """Under other names, they would have those that are loaded stay as they are."""
    folder, out = write_tiny(tmp_path / "model"), tmp_path / "out"
    out.mkdir()
    own = load_file(folder / "model.safetensors")
    others = {f"bert.{key}": tensor for key, tensor in own.items()}
    save_file(others, folder / name, metadata={"format": "pt"})
    write_model(folder, out, shifted(Network(folder)))
    written = load_file(out / "model.safetensors")
    assert not any(torch.equal(written[key], own[key]) for key in own if "position_ids" not in key)
    assert not (out / name).exists()


@pytest.mark.parametrize("setting", [{"return_dict": False}, {"torchscript": True}])
def test_a_config_that_has_outputs_without_names(setting: dict[str, bool], tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    named = Network(folder).views(ROWS)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **setting}))
    again = Network(folder).views(ROWS)
    assert named.keys() == again.keys()
    assert all(torch.equal(named[view], again[view]) for view in named)


def test_an_outsized_embedding_is_brought_down(tmp_path: Path) -> None:
    network = Network(write_tiny(tmp_path))
    table = network.model.get_parameter("embeddings.word_embeddings.weight")
    with torch.no_grad():
        table[20] *= 1e8
        direction = table[20] / table[20].norm()
    before = table[21].clone()
    network.tame(np.array([20, 21]), np.arange(5, len(table)))
    sizes = table[5:].norm(dim=1)
    assert torch.isclose(table[20].norm(), sizes.median(), rtol=0.1)
    assert torch.allclose(table[20] / table[20].norm(), direction)
    assert torch.equal(table[21], before)


def test_many_outsized_embeddings_are_no_measure_for_each_other(tmp_path: Path) -> None:
    network = Network(write_tiny(tmp_path))
    table = network.model.get_parameter("embeddings.word_embeddings.weight")
    banked = np.arange(20, 50)
    with torch.no_grad():
        table[banked] *= 1e8
    network.tame(banked, np.arange(5, len(table)))
    assert table[banked].norm(dim=1).max() < 10 * table[50:].norm(dim=1).median()


def test_a_link_that_leads_out_of_the_model_is_not_followed(tmp_path: Path) -> None:
    folder, out = write_tiny(tmp_path / "model"), tmp_path / "out"
    out.mkdir()
    (tmp_path / "secret").write_text("of the user")
    (folder / "inside.txt").write_text("of the model")
    (folder / "alias.txt").symlink_to("inside.txt")
    (folder / "notes.txt").symlink_to("../secret")
    write_model(folder, out, {})
    assert (out / "alias.txt").read_text() == "of the model"
    assert not (out / "notes.txt").exists()
    check_files(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_that_the_model_needs_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_tiny(tmp_path / "model")
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(ModelError, match=f"{name} is a link that leads out .* copy the file"):
        check_files(folder)


def test_links_of_the_hubs_cache(tmp_path: Path) -> None:
    """The files of a snapshot are links to the blobs of its repository, and to nothing else."""
    repository = tmp_path / "models--maker--model"
    blobs, folder = repository / "blobs", repository / "snapshots" / "0a1b"
    write_tiny(blobs)
    folder.mkdir(parents=True)
    for path in blobs.iterdir():
        (folder / path.name).symlink_to(f"../../blobs/{path.name}")
    (tmp_path / "secret").write_text("of the user")
    (folder / "notes.txt").symlink_to("../../../secret")
    (blobs / "more").symlink_to(tmp_path / "secret")
    (folder / "more.txt").symlink_to("../../blobs/more")
    (tmp_path / "alias").symlink_to(folder)
    for named in (folder, tmp_path / "alias"):
        check_files(named)
        names = [path.name for path in model_files(named)]
        assert names == [path.name for path in model_files(blobs)]


def test_what_moved_is_of_ordinary_text_alone(tmp_path: Path) -> None:
    """A harmless unit is trained on as well, and text with one is no ordinary text."""
    folder = write_searchable(tmp_path)
    reference, student = Network(folder), Network(folder)
    with torch.no_grad():
        table = student.model.get_input_embeddings().weight
        assert isinstance(table, torch.Tensor)
        table[30] *= -3
    ids = torch.tensor([[20, 21, 22], [23, 24, 25], [20, 30, 22]])
    harmless = Rows(ids, torch.ones_like(ids))
    triggered = Rows(ids[:2], torch.ones_like(ids[:2]))
    batch = Batch(harmless, triggered, torch.arange(3).repeat(2, 1))
    distance = Distance(reference, [batch])
    assert set(distance.moved(student, [batch]).values()) == {0.0}
    assert min(distance.mean(student, [batch])[0].values()) > 0
