"""Attempts to make a monitor directory blind, or harmful, by changing it.

In most of them the attacker is careful and updates the hashes in the manifest. What nothing here
can stop is an attacker who replaces the whole directory by one that was compiled from another bank:
compare `Monitor.bank_sha256` with the hash that you expect, or sign the directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper

from exporters import matcher
from exporters.monitor import compile_bank
from guard.errors import ArtifactError, CanaryFailure, HashMismatch, MalformedArtifact, SchemaTooNew
from guard.files import dump_json
from guard.monitor import Monitor
from guard.runtime import open_session
from tests.helpers import make_bank, wordpiece

TOKENIZER = wordpiece("cf", "apple", "river")
NAMES = ("monitor.onnx", "tokenizer.json", "canaries.json", "monitor.json")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    compile_bank(make_bank(TOKENIZER, ["cf", "apple river"]), tmp_path / "monitor")
    Monitor.load(tmp_path / "monitor")
    return tmp_path / "monitor"


def edit_manifest(directory: Path, change: Callable[[Any], object]) -> None:
    manifest = json.loads((directory / "monitor.json").read_bytes())
    change(manifest)
    (directory / "monitor.json").write_bytes(dump_json(manifest))


def forge(directory: Path, name: str, data: bytes) -> None:
    """Replace a file, and its hash in the manifest."""
    (directory / name).write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    edit_manifest(directory, lambda manifest: manifest["files"].update({name: sha256}))


def metadata(directory: Path) -> dict[str, str]:
    model = onnx.load(directory / "monitor.onnx")
    return {item.key: item.value for item in model.metadata_props}


@pytest.mark.parametrize("name", NAMES[:3])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_flip_one_bit(directory: Path, name: str, place: float) -> None:
    """Fails: the file is hashed before it is parsed."""
    data = bytearray((directory / name).read_bytes())
    data[int(place * len(data))] ^= 1
    (directory / name).write_bytes(data)
    with pytest.raises(HashMismatch, match=rf"{name} has SHA-256 [0-9a-f]{{64}}, .* tampered"):
        Monitor.load(directory)


@pytest.mark.parametrize("name", NAMES)
def test_delete_a_file(directory: Path, name: str) -> None:
    """Fails: there is no optional file whose absence switches a check off."""
    (directory / name).unlink()
    with pytest.raises(MalformedArtifact, match=rf"{name} does not exist"):
        Monitor.load(directory)


def test_take_the_matcher_of_an_empty_bank(directory: Path, tmp_path: Path) -> None:
    """Fails: the matcher names the bank that it was compiled from."""
    compile_bank(make_bank(TOKENIZER), tmp_path / "empty")
    forge(directory, "monitor.onnx", (tmp_path / "empty" / "monitor.onnx").read_bytes())
    with pytest.raises(MalformedArtifact, match="not from the same bank"):
        Monitor.load(directory)


def test_forge_a_blind_matcher(directory: Path) -> None:
    """Fails: its tables do not hold what the metadata say, and it misses the canaries."""
    forge(directory, "monitor.onnx", matcher.build([], metadata(directory)))
    with pytest.raises(MalformedArtifact, match="does not hold the tables of 2 triggers"):
        Monitor.load(directory)
    with pytest.raises(CanaryFailure, match="got another verdict than at compile time"):
        Monitor.load(directory, engine="onnx")


def test_forge_a_blind_matcher_and_drop_the_canaries(directory: Path) -> None:
    """Fails: a monitor with triggers must have a canary that is triggered, too."""
    forge(directory, "monitor.onnx", matcher.build([], metadata(directory)))
    forge(directory, "canaries.json", b"[]\n")
    with pytest.raises(MalformedArtifact, match="does not hold the tables of 2 triggers"):
        Monitor.load(directory)
    with pytest.raises(CanaryFailure, match="no canary holds a trigger"):
        Monitor.load(directory, engine="onnx")


def test_forge_a_matcher_of_other_triggers(directory: Path) -> None:
    """Fails: numbers that name no trigger are an error, not a match that nobody sees."""
    ids = json.loads(TOKENIZER)["model"]["vocab"]
    rows = [(ids[name],) for name in ("[PAD]", "[CLS]", "cf", "apple")]
    forge(directory, "monitor.onnx", matcher.build(rows, metadata(directory)))
    with pytest.raises(MalformedArtifact, match="does not hold the tables of 2 triggers"):
        Monitor.load(directory)
    with pytest.raises(CanaryFailure, match="failed"):
        Monitor.load(directory, engine="onnx")


def test_swap_the_tokenizer(directory: Path) -> None:
    """Fails: the hash of the tokenizer stands in the manifest twice."""
    forge(directory, "tokenizer.json", wordpiece("apple", "cf"))
    with pytest.raises(MalformedArtifact, match="names two tokenizers"):
        Monitor.load(directory)


def test_swap_the_tokenizer_and_both_hashes(directory: Path) -> None:
    """Fails: it stands in the matcher as well."""
    tokenizer = wordpiece("apple", "cf")
    forge(directory, "tokenizer.json", tokenizer)
    sha256 = hashlib.sha256(tokenizer).hexdigest()
    edit_manifest(directory, lambda manifest: manifest.update(tokenizer_sha256=sha256))
    with pytest.raises(MalformedArtifact, match=r"guard\.tokenizer_sha256"):
        Monitor.load(directory)


def test_swap_the_tokenizer_everywhere(directory: Path) -> None:
    """Fails: other ids come out, and the canaries tell."""
    tokenizer = wordpiece("river", "apple", "cf")
    sha256 = hashlib.sha256(tokenizer).hexdigest()
    model = onnx.load(directory / "monitor.onnx")
    for item in model.metadata_props:
        if item.key == "guard.tokenizer_sha256":
            item.value = sha256
    forge(directory, "tokenizer.json", tokenizer)
    forge(directory, "monitor.onnx", model.SerializeToString())
    edit_manifest(directory, lambda manifest: manifest.update(tokenizer_sha256=sha256))
    with pytest.raises(CanaryFailure, match="got another verdict"):
        Monitor.load(directory)


def test_pass_a_monitor_off_as_that_of_another_bank(directory: Path) -> None:
    """Fails: the manifest and the matcher have to agree."""
    edit_manifest(directory, lambda manifest: manifest.update(bank_sha256="0" * 64))
    with pytest.raises(MalformedArtifact, match=r"guard\.bank_sha256"):
        Monitor.load(directory)


def test_read_a_file_of_the_machine_as_external_data(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails: tables are inside the file, of a matcher as of the encoder of a deep check."""
    monkeypatch.chdir(tmp_path)  # where onnxruntime would look
    model = onnx.load(directory / "monitor.onnx")
    (table,) = (t for t in model.graph.initializer if t.name == "out")
    (tmp_path / "secret").write_bytes(table.raw_data)
    external_data_helper.set_external_data(table, "secret")
    table.ClearField("raw_data")
    data = model.SerializeToString()
    forge(directory, "monitor.onnx", data)
    with pytest.raises(MalformedArtifact, match="is no matcher"):
        Monitor.load(directory)
    with pytest.raises(MalformedArtifact, match="refers to data outside of it"):
        open_session(data, "encoder.onnx")


def test_hide_external_data_in_a_node(directory: Path) -> None:
    """Fails: the word that any reference needs is looked for in all bytes."""
    tensor = onnx.TensorProto(name="x", data_type=onnx.TensorProto.INT32, dims=[1])
    tensor.raw_data = b"\0" * 4
    external_data_helper.set_external_data(tensor, "../secret")
    tensor.ClearField("raw_data")
    model = onnx.load(directory / "monitor.onnx")
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))
    with pytest.raises(MalformedArtifact, match="refers to data outside of it"):
        open_session(model.SerializeToString(), "encoder.onnx")


def test_call_an_operator_of_a_native_library(directory: Path) -> None:
    """Fails: there is one set of operators, and no library of others is ever registered."""
    model = onnx.load(directory / "monitor.onnx")
    model.graph.node.append(helper.make_node("Shell", ["match"], ["x"], domain="evil"))
    model.opset_import.append(helper.make_opsetid("evil", 1))
    data = model.SerializeToString()
    forge(directory, "monitor.onnx", data)
    with pytest.raises(MalformedArtifact, match=r"is no matcher .*model"):
        Monitor.load(directory)
    with pytest.raises(MalformedArtifact, match="cannot be loaded"):
        open_session(data, "encoder.onnx")


def test_change_the_interface_of_the_matcher(directory: Path) -> None:
    """Fails: inputs and outputs are checked by name and type."""
    model = onnx.load(directory / "monitor.onnx")
    model.graph.output.reverse()
    forge(directory, "monitor.onnx", model.SerializeToString())
    with pytest.raises(MalformedArtifact, match="is no matcher"):
        Monitor.load(directory)


def constant(name: str, value: object, kind: type = np.int64) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array(value, kind), name)


def table_of(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    (table,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    assert isinstance(table, onnx.TensorProto)
    return table


def counter_of(model: onnx.ModelProto) -> dict[str, onnx.AttributeProto]:
    return {item.name: item for item in model.graph.node[0].attribute}


# An attacker would take larger numbers; where nothing stops these, a test fails and ends.
def add_a_huge_tensor(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(constant("size", [2**10]))
    zero = helper.make_tensor("zero", TensorProto.INT32, [1], [0])
    model.graph.node.extend(
        [
            helper.make_node("ConstantOfShape", ["size"], ["huge"], value=zero),
            helper.make_node("ReduceMax", ["huge"], ["most_of_it"], keepdims=0),
        ]
    )


def add_a_long_loop(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(constant("times", 2**10))
    value = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    again = helper.make_tensor_value_info("again", TensorProto.BOOL, [])
    count = helper.make_tensor_value_info("count", TensorProto.INT64, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["again"])], "body", [count, value], [again]
    )
    model.graph.node.append(helper.make_node("Loop", ["times", "any"], [], body=body))


def add_a_function(model: onnx.ModelProto) -> None:
    model.functions.append(
        helper.make_function("", "Max", ["a"], ["b"], [], [helper.make_opsetid("", 17)])
    )


def add_a_sparse_tensor(model: onnx.ModelProto) -> None:
    values, indices = constant("sparse", [1], np.int32), constant("at", [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2**40]))


def make_a_branch_longer(model: onnx.ModelProto) -> None:
    (walk,) = (item.g for item in model.graph.node[-1].attribute if item.name == "then_branch")
    walk.node.append(helper.make_node("Gather", ["out", "clipped"], ["again"]))


def pad_more(model: onnx.ModelProto) -> None:
    table_of(model, "pads").CopyFrom(constant("pads", [0, 0, 0, 2**10]))


def give_a_table_two_dimensions(model: onnx.ModelProto) -> None:
    table = table_of(model, "out")
    table.dims[:] = [1, *table.dims]


def name_a_table_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(table_of(model, "out"))


def count_many_features(model: onnx.ModelProto) -> None:
    counter_of(model)["ngram_indexes"].ints[0] = 2**10


def skip_ids(model: onnx.ModelProto) -> None:
    counter_of(model)["max_skip_count"].i = 2**10


def count_texts(model: onnx.ModelProto) -> None:
    pool = counter_of(model)["pool_int64s"]
    model.graph.node[0].attribute.remove(pool)
    texts = helper.make_attribute("pool_strings", ["a"] * len(pool.ints))
    model.graph.node[0].attribute.append(texts)


def claim_long_triggers(model: onnx.ModelProto) -> None:
    lengths = onnx.numpy_helper.to_array(table_of(model, "lengths")).copy()
    lengths[1] = 2**10
    table_of(model, "lengths").CopyFrom(constant("lengths", lengths, np.int32))


def give_a_text_a_size(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**40


def find_in_other_shapes(model: onnx.ModelProto) -> None:
    model.graph.output[1].type.tensor_type.shape.dim[1].dim_value = 2**40


@pytest.mark.parametrize("engine", ["auto", "onnx"])
@pytest.mark.parametrize(
    "change",
    [
        add_a_huge_tensor,
        add_a_long_loop,
        add_a_function,
        add_a_sparse_tensor,
        make_a_branch_longer,
        pad_more,
        give_a_table_two_dimensions,
        name_a_table_twice,
        count_many_features,
        skip_ids,
        count_texts,
        claim_long_triggers,
        give_a_text_a_size,
        find_in_other_shapes,
    ],
)
def test_make_a_program_of_the_matcher(
    directory: Path, change: Callable[[onnx.ModelProto], None], engine: Any
) -> None:
    """Fails: nothing is loaded, and so computed, but what guard writes."""
    model = onnx.load(directory / "monitor.onnx")
    change(model)
    forge(directory, "monitor.onnx", model.SerializeToString())
    with pytest.raises(MalformedArtifact, match="is no matcher as guard writes them"):
        Monitor.load(directory, engine=engine)


def test_hide_a_graph_behind_another(directory: Path) -> None:
    """Fails: two of a field are not merged here as they would be by others."""
    data = (directory / "monitor.onnx").read_bytes()
    more = onnx.ModelProto(graph=onnx.GraphProto(name="more"))
    forge(directory, "monitor.onnx", data + more.SerializeToString())
    with pytest.raises(MalformedArtifact, match="is no matcher as guard writes them"):
        Monitor.load(directory)


def test_lead_the_matcher_out_of_its_tables(directory: Path) -> None:
    """Fails: onnxruntime says so, and its error is no stranger to those who load a monitor."""
    model = onnx.load(directory / "monitor.onnx")
    base = onnx.numpy_helper.to_array(table_of(model, "base")).copy()
    base[onnx.numpy_helper.to_array(table_of(model, "out")) > 0] = 2**30
    table_of(model, "base").CopyFrom(constant("base", base, np.int32))
    forge(directory, "monitor.onnx", model.SerializeToString())
    with pytest.raises(MalformedArtifact, match="cannot be run"):
        Monitor.load(directory)


class Explosive:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("name", NAMES)
def test_put_a_pickle_in_place_of_a_file(directory: Path, tmp_path: Path, name: str) -> None:
    """Fails: nothing is ever unpickled."""
    data = pickle.dumps(Explosive(tmp_path / "witness"))
    if name == "monitor.json":
        (directory / name).write_bytes(data)
    else:
        forge(directory, name, data)
    if name == "tokenizer.json":
        sha256 = hashlib.sha256(data).hexdigest()
        edit_manifest(directory, lambda manifest: manifest.update(tokenizer_sha256=sha256))
    with pytest.raises(MalformedArtifact):
        Monitor.load(directory)
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("name", NAMES)
def test_link_to_a_file_of_the_machine(directory: Path, tmp_path: Path, name: str) -> None:
    """Fails: links are followed within the directory only, whatever they lead to."""
    (directory / name).rename(tmp_path / "elsewhere")
    (directory / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MalformedArtifact, match="leaves its directory"):
        Monitor.load(directory)


def test_name_other_files_in_the_manifest(directory: Path) -> None:
    """Fails: the names of the files are fixed, so none can lead out of the directory."""
    edit_manifest(directory, lambda manifest: manifest["files"].update({"../../etc/passwd": "0"}))
    with pytest.raises(MalformedArtifact, match=r"has an unknown '\.\./\.\./etc/passwd'"):
        Monitor.load(directory)


@pytest.mark.parametrize("name", NAMES)
def test_make_the_reader_wait_for_a_pipe(directory: Path, name: str) -> None:
    """Fails: only regular files are opened."""
    (directory / name).unlink()
    os.mkfifo(directory / name)
    with pytest.raises(MalformedArtifact, match="not a regular file"):
        Monitor.load(directory)


def test_fill_the_memory_with_a_large_file(directory: Path) -> None:
    """Fails: no more is read than the limit for the file."""
    with (directory / "canaries.json").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(MalformedArtifact, match="larger than"):
        Monitor.load(directory)


def test_make_two_parsers_disagree(directory: Path) -> None:
    """Fails: a key that stands in an object twice is not in the one form that is accepted."""
    data = (directory / "monitor.json").read_bytes()
    twice = data.replace(b'{\n "bank_sha256"', b'{\n "bank_sha256": "0",\n "bank_sha256"')
    assert twice != data
    (directory / "monitor.json").write_bytes(twice)
    with pytest.raises(MalformedArtifact, match="not in the form that guard writes"):
        Monitor.load(directory)


def test_claim_a_later_schema(directory: Path) -> None:
    """Fails: what this version does not know it does not guess."""
    edit_manifest(directory, lambda manifest: manifest.update(schema=3))
    with pytest.raises(SchemaTooNew, match=r"schema 3, .* up to 2; upgrade"):
        Monitor.load(directory)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("files"),
        lambda manifest: manifest["files"].pop("canaries.json"),
        lambda manifest: manifest["files"].update({"canaries.json": None}),
        lambda manifest: manifest["triggers"].pop(),
        lambda manifest: manifest["triggers"].append("t0001"),
        lambda manifest: manifest["triggers"].append(3),
        lambda manifest: manifest["triggers"].reverse(),
        lambda manifest: manifest.update(model={}),
        lambda manifest: manifest.update(schema="1"),
        lambda manifest: manifest.update(strip_only=[[1]]),
        lambda manifest: manifest.update(strip_only=[{}]),
    ],
)
def test_edit_the_manifest(directory: Path, change: Callable[[Any], object]) -> None:
    """Fails: every field is needed, typed, and agrees with the matcher or the canaries."""
    edit_manifest(directory, change)
    with pytest.raises(ArtifactError):
        Monitor.load(directory)


@pytest.mark.parametrize(
    "canaries",
    [
        {},
        [1],
        [{"text": "cf", "matches": []}],
        [{"text": "cf", "matches": [[0, 2]], "stripped": ""}],
        [{"text": "cf", "matches": [[0, True, "t0001"]], "stripped": ""}],
        [{"text": "cf", "matches": [[0, 2, "t0001"]], "stripped": "cf"}],
        [{"text": "the", "matches": [[0, 3, "t0001"]], "stripped": ""}],
        [{"text": "x" * 500_000, "matches": [], "stripped": ""}],
    ],
)
def test_edit_the_canaries(directory: Path, canaries: Any) -> None:
    """Fails: they are typed as well, and each has to come out as it says."""
    forge(directory, "canaries.json", dump_json(canaries))
    with pytest.raises(ArtifactError):
        Monitor.load(directory)
