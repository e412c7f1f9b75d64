"""The ONNX graph that finds n-grams of token ids: a double-array trie, walked from every place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike
from onnx import helper, numpy_helper

from exporters import trie

# Old enough for every onnxruntime that is supported.
_OPSET = 17
_IR_VERSION = 8

_DEAD = -1  # the state of sequences that no n-gram starts with; as an index, the last slot


def build(ngrams: Sequence[tuple[int, ...]], metadata: Mapping[str, str]) -> bytes:
    """Build the graph.

    Its input ``input_ids`` is int64 [batch, sequence] and may hold any value. Its outputs are int32
    [batch, sequence]: ``match`` is the number of the longest n-gram that starts at a place, or 0;
    ``length`` is how many ids that n-gram has. The number of nodes depends on the longest n-gram
    only, and tables are inside the file.

    Parameters
    ----------
    ngrams
        Numbered from 1, shorter ones first; see `exporters.trie.build`.
    metadata
        Kept in the model's ``metadata_props``.
    """
    array = trie.build(ngrams)
    nodes: list[onnx.NodeProto] = []
    tables: list[onnx.TensorProto] = []

    def table(name: str, value: ArrayLike, dtype: DTypeLike = np.int32) -> str:
        tables.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    out = table("out", array.out)
    # An id below 0 or from `limit` on is in no n-gram; clipped, it still leads nowhere.
    bounds = [table("lowest", _DEAD, np.int64), table("limit", array.limit, np.int64)]
    clipped = node("Clip", ["input_ids", *bounds], "clipped")
    match = node("Gather", [out, clipped], "match" if array.depth <= 1 else "ends_1")
    if array.depth > 1:
        state = node("Cast", [clipped], "state_1", to=onnx.TensorProto.INT32)
        more = array.depth - 1
        base, check = table("base", array.base), table("check", array.check)
        dead = table("dead", _DEAD)
        # A sequence that is at its end goes on with ids that lead nowhere.
        pads = table("pads", [0, 0, 0, more], np.int64)
        padded = node("Pad", [state, pads, dead], "padded")
        axis = table("axis", [1], np.int64)
        ends = [match]
        for step in range(1, array.depth):
            first = table(f"first_{step}", [step], np.int64)
            last = table(f"last_{step}", [step - more or np.iinfo(np.int64).max], np.int64)
            following = node("Slice", [padded, first, last, axis], f"following_{step}")
            bases = node("Gather", [base, state], f"bases_{step}")
            slots = node("Add", [bases, following], f"slots_{step}")
            checks = node("Gather", [check, slots], f"checks_{step}")
            valid = node("Equal", [checks, state], f"valid_{step}")
            state = node("Where", [valid, slots, dead], f"state_{step + 1}")
            ends.append(node("Gather", [out, state], f"ends_{step + 1}"))
        match = node("Max", ends, "match")
    node("Gather", [table("lengths", array.lengths), match], "length")

    def values(name: str, kind: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, ["batch", "sequence"])

    graph = helper.make_graph(
        nodes,
        "matcher",
        [values("input_ids", onnx.TensorProto.INT64)],
        [values("match", onnx.TensorProto.INT32), values("length", onnx.TensorProto.INT32)],
        tables,
    )
    model = helper.make_model(
        graph,
        producer_name="trigger-guard",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
