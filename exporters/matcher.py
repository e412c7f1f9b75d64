"""The ONNX graph that finds n-grams of token ids: a double-array trie, walked from every place.

Walking takes some seven nodes a step, and a node costs about a microsecond whatever is in it. Most
texts hold nothing, so one ``TfIdfVectorizer``, which knows all n-grams as one feature, counts them
first, and the trie is the branch of an ``If`` that only texts with a hit reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
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
        # By the row, so that what a row gets does not depend on the others, and what is found at
        # load in a row of its own is known to be counted.
        longest = node("Max", ends, "longest")
        counted = node("Cast", ["hits"], "counted", to=onnx.TensorProto.BOOL)
        match = node("Where", [counted, longest, table("none", 0)], "match")
    node("Gather", [table("lengths", array.lengths), match], "length")

    def values(name: str, kind: int = onnx.TensorProto.INT32) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, ["batch", "sequence"])

    outputs = [values("match"), values("length")]
    if array.depth > 1:
        nodes = _where_any(ngrams, helper.make_graph(nodes, "walk", [], outputs))
    graph = helper.make_graph(
        nodes, "matcher", [values("input_ids", onnx.TensorProto.INT64)], outputs, tables
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


def _where_any(ngrams: Sequence[tuple[int, ...]], walk: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes that run a graph where there is any n-gram, and give zeros elsewhere."""
    pool = list(chain.from_iterable(ngrams))
    depth = len(ngrams[-1])
    sizes = [sum(len(ngram) * (len(ngram) == n) for ngram in ngrams) for n in range(1, depth + 1)]
    starts = [0, *accumulate(sizes)][:depth]
    count = helper.make_node(
        "TfIdfVectorizer",
        ["input_ids"],
        ["hits"],
        mode="TF",
        min_gram_length=1,
        max_gram_length=depth,
        max_skip_count=0,
        ngram_counts=starts,
        ngram_indexes=[0] * len(ngrams),  # all of them are one feature
        pool_int64s=pool,
    )
    zero = helper.make_tensor("zero", onnx.TensorProto.INT32, [1], [0])
    nothing = [
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["no_match"], value=zero),
        helper.make_node("Identity", ["no_match"], ["no_length"]),
    ]
    none = [
        helper.make_tensor_value_info(name, onnx.TensorProto.INT32, ["batch", "sequence"])
        for name in ("no_match", "no_length")
    ]
    return [
        count,
        helper.make_node("ReduceMax", ["hits"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["any"], to=onnx.TensorProto.BOOL),
        helper.make_node(
            "If",
            ["any"],
            ["match", "length"],
            then_branch=walk,
            else_branch=helper.make_graph(nothing, "nothing", [], none),
        ),
    ]
