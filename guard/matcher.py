"""The graph of ``monitor.onnx`` as `exporters.matcher` writes it: no other one is run.

A graph is a program, and one node more in it can take all memory, or never end. So all of it but
the contents of its tables has to be what guard writes, to the byte: what is expected is written
here as a protocol buffer, and compared.
"""

from __future__ import annotations

import re
from itertools import accumulate

import numpy as np

from guard.bank import MAX_TRIGGER_IDS
from guard.errors import MalformedArtifact
from guard.manifest import ONNX_FILE
from guard.protobuf import content_of, fields_of, grouped, message
from guard.tables import TABLES, Table

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_OPSETS = 7, 8
_MODEL_FIELDS = {1, 2, _MODEL_GRAPH, _MODEL_OPSETS, 14}  # and versions, producer, metadata
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 5, 11, 12
_GRAPH_FIELDS = {_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT}
_NODE_INPUT, _NODE_OUTPUT, _NODE_KIND, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_TYPE = 1, 20
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_INT32, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 5, 8, 9
# Types of a tensor.
_INT32, _INT64, _BOOL = 6, 7, 9
# Fields of an attribute by its type, which has a number as well.
_INT, _STRING, _TENSOR, _GRAPH, _INTS = (3, 2), (4, 3), (5, 4), (6, 5), (8, 7)


def check_graph(onnx: bytes) -> None:
    """Refuse a graph that guard does not write.

    Parameters
    ----------
    onnx
        The bytes of ``monitor.onnx``.

    Raises
    ------
    MalformedArtifact
        It has other nodes, constants, inputs, outputs or operator sets.
    """
    try:
        _check(onnx)
    except (IndexError, KeyError, ValueError) as error:
        raise MalformedArtifact(
            f"{ONNX_FILE} is no matcher as guard writes them ({error}); compile anew"
        ) from error


def _check(onnx: bytes) -> None:
    model = grouped(onnx)
    opset = message((1, ""), (2, 17))
    if not model.keys() <= _MODEL_FIELDS or model[_MODEL_OPSETS] != [opset]:
        raise ValueError("model")
    (content,) = model[_MODEL_GRAPH]
    graph = grouped(content)
    inputs, outputs = [_values("input_ids", _INT64)], [_values("match"), _values("length")]
    if not graph.keys() <= _GRAPH_FIELDS or graph[_GRAPH_INPUT] != inputs:
        raise ValueError("graph")
    if graph[_GRAPH_OUTPUT] != outputs:
        raise ValueError("outputs")
    tensors = {}
    for tensor in graph[_GRAPH_INITIALIZER]:
        fields = list(fields_of(content_of(tensor)))
        tensors[bytes(content_of(dict(fields)[_TENSOR_NAME])).decode()] = fields
    if len(tensors) != len(graph[_GRAPH_INITIALIZER]):
        raise ValueError("two tables of one name")
    lengths = np.frombuffer(content_of(dict(tensors["lengths"])[_TENSOR_RAW]), "<i4")
    depth = int(lengths[-1])
    if lengths[0] != 0 or (lengths[1:] < lengths[:-1]).any() or depth > MAX_TRIGGER_IDS:
        raise ValueError("lengths")
    constants = _constants(depth)
    for name, fields in tensors.items():
        raw = dict(fields).get(_TENSOR_RAW, b"")
        if name in TABLES:
            shape, kind = [len(content_of(raw)) // 4], _INT32
        elif name == "limit":
            shape, kind = [], _INT64
        else:
            shape, kind, raw = constants[name]
        dims = [(_TENSOR_DIMS, size) for size in shape]
        head = [*dims, (_TENSOR_TYPE, kind), (_TENSOR_NAME, name.encode())]
        if fields != [*head, (_TENSOR_RAW, raw)]:
            raise ValueError(name)
    counter, *rest = graph[_GRAPH_NODE]
    if depth > 1 and rest == _branches(depth):
        _check_counter(content_of(counter), lengths, depth)
    elif [counter, *rest] not in _walks(depth):
        raise ValueError("nodes")


def _constants(depth: int) -> dict[str, tuple[list[int], int, bytes]]:
    """Return shape, type and content of the constants that do not depend on the bank."""
    most = np.iinfo(np.int64).max
    numbers: dict[str, int | list[int]] = {
        "lowest": -1,
        "pads": [0, 0, 0, depth - 1],
        "axis": [1],
        **{f"first_{step}": [step] for step in range(1, depth)},
        **{f"last_{step}": [step - depth + 1 or most] for step in range(1, depth)},
    }
    constants: dict[str, tuple[list[int], int, bytes]] = {
        name: ([], _INT32, np.array(value, "<i4").tobytes())
        for name, value in (("dead", -1), ("none", 0))
    }
    for name, value in numbers.items():
        array = np.array(value, "<i8")
        constants[name] = (list(array.shape), _INT64, array.tobytes())
    return constants


def _walks(depth: int) -> list[list[bytes]]:
    """Return the nodes of a graph that walks the trie at once, as each version wrote them."""
    clip = _node("Clip", "input_ids lowest limit", "clipped")
    cast = _node("Cast", "clipped", "state_1", _attribute("to", _INT, _INT32))
    length = _node("Gather", "lengths match", "length")
    more = depth > 1
    by_id, by_state = (
        _node("Gather", f"out {of}", "ends_1" if more else "match") for of in ("clipped", "state_1")
    )
    rest = [*(_steps(depth, "match") if more else ()), length]
    return [[clip, by_id, *([cast] if more else ()), *rest], [clip, cast, by_state, *rest]]


def _steps(depth: int, output: str) -> list[bytes]:
    """Return the nodes of a walk behind its first id."""
    nodes = [_node("Pad", "state_1 pads dead", "padded")]
    for step in range(1, depth):
        nodes += [
            _node("Slice", f"padded first_{step} last_{step} axis", f"following_{step}"),
            _node("Gather", f"base state_{step}", f"bases_{step}"),
            _node("Add", f"bases_{step} following_{step}", f"slots_{step}"),
            _node("Gather", f"check slots_{step}", f"checks_{step}"),
            _node("Equal", f"checks_{step} state_{step}", f"valid_{step}"),
            _node("Where", f"valid_{step} slots_{step} dead", f"state_{step + 1}"),
            _node("Gather", f"out state_{step + 1}", f"ends_{step + 1}"),
        ]
    ends = " ".join(f"ends_{number}" for number in range(1, depth + 1))
    return [*nodes, _node("Max", ends, output)]


def _branches(depth: int) -> list[bytes]:
    """Return the nodes of a graph that counts n-grams first, behind the one that counts."""
    to_bool = _attribute("to", _INT, _BOOL)
    walk = [
        _node("Clip", "input_ids lowest limit", "clipped"),
        _node("Gather", "out clipped", "ends_1"),
        _node("Cast", "clipped", "state_1", _attribute("to", _INT, _INT32)),
        *_steps(depth, "longest"),
        _node("Cast", "hits", "counted", to_bool),
        _node("Where", "counted longest none", "match"),
        _node("Gather", "lengths match", "length"),
    ]
    zero = message(
        (_TENSOR_DIMS, 1), (_TENSOR_TYPE, _INT32), (_TENSOR_INT32, b"\0"), (_TENSOR_NAME, "zero")
    )
    nothing = [
        _node("Shape", "input_ids", "shape"),
        _node("ConstantOfShape", "shape", "no_match", _attribute("value", _TENSOR, zero)),
        _node("Identity", "no_match", "no_length"),
    ]
    return [
        _node("ReduceMax", "hits", "most", _attribute("keepdims", _INT, 0)),
        _node("Cast", "most", "any", to_bool),
        _node(
            "If",
            "any",
            "match length",
            _attribute("else_branch", _GRAPH, _graph("nothing", nothing, "no_match no_length")),
            _attribute("then_branch", _GRAPH, _graph("walk", walk, "match length")),
        ),
    ]


def _check_counter(node: memoryview, lengths: Table, depth: int) -> None:
    """Refuse a node that counts anything else than n-grams of these lengths, as one feature."""
    sizes = [n * int((lengths == n).sum()) for n in range(1, depth + 1)]
    starts = [0, *accumulate(sizes)][:depth]
    indexes = message((_ATTRIBUTE_NAME, "ngram_indexes"))
    # There are as many as there are triggers: too many to be looked at one by one.
    indexes += bytes([_INTS[0] << 3, 0]) * (len(lengths) - 1)
    expected = [
        _attribute("max_gram_length", _INT, depth),
        _attribute("max_skip_count", _INT, 0),
        _attribute("min_gram_length", _INT, 1),
        _attribute("mode", _STRING, "TF"),
        _attribute("ngram_counts", _INTS, *starts),
        indexes + message((_ATTRIBUTE_TYPE, _INTS[1])),
    ]
    *fields, (field, pool) = fields_of(node)
    names = [(_NODE_INPUT, b"input_ids"), (_NODE_OUTPUT, b"hits")]
    head = [*names, (_NODE_KIND, b"TfIdfVectorizer")]
    if fields != [*head, *((_NODE_ATTRIBUTE, value) for value in expected)]:
        raise ValueError("counter")
    if field != _NODE_ATTRIBUTE or not _POOL.fullmatch(content_of(pool)):
        raise ValueError("pool")


# Any ids, for those that are missed are found out when the n-grams are put through the graph.
_POOL = re.compile(rb"\x0a\x0bpool_int64s(?:\x40[\x80-\xff]*[\x00-\x7f])*\xa0\x01\x07")


def _node(kind: str, inputs: str, outputs: str, *attributes: bytes) -> bytes:
    return message(
        *((_NODE_INPUT, name) for name in inputs.split()),
        *((_NODE_OUTPUT, name) for name in outputs.split()),
        (_NODE_KIND, kind),
        *((_NODE_ATTRIBUTE, attribute) for attribute in attributes),
    )


def _attribute(name: str, kind: tuple[int, int], *values: int | str | bytes) -> bytes:
    fields = ((kind[0], value) for value in values)
    return message((_ATTRIBUTE_NAME, name), *fields, (_ATTRIBUTE_TYPE, kind[1]))


def _graph(name: str, nodes: list[bytes], outputs: str) -> bytes:
    return message(
        *((_GRAPH_NODE, node) for node in nodes),
        (_GRAPH_NAME, name),
        *((_GRAPH_OUTPUT, _values(output)) for output in outputs.split()),
    )


def _values(name: str, kind: int = _INT32) -> bytes:
    """Return the declaration of a tensor [batch, sequence]."""
    shape = message(*((1, message((2, axis))) for axis in ("batch", "sequence")))
    return message((1, name), (2, message((1, message((1, kind), (2, shape))))))
