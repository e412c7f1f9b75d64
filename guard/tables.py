"""Reads the n-grams back out of ``monitor.onnx``, so that a monitor directory needs no second copy.

What was read is put through the graph when a monitor loads, so the two cannot disagree about an
n-gram.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from guard.bank import MAX_TRIGGER_IDS
from guard.errors import MalformedArtifact
from guard.manifest import ONNX_FILE
from guard.protobuf import content_of, fields_of

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 2, 8, 9
_INT32 = 6

TABLES = ("out", "lengths", "base", "check")
Table = NDArray[np.int32]


def ngrams_of(onnx: bytes, count: int) -> list[tuple[int, ...]]:
    """Return the n-grams of a matcher in the order of their numbers.

    Parameters
    ----------
    onnx
        The bytes of ``monitor.onnx``.
    count
        How many n-grams there have to be.

    Raises
    ------
    MalformedArtifact
        The tables are not those of `count` n-grams.
    """
    try:
        rows = _walk(_read(onnx), count)
    except (IndexError, KeyError, ValueError) as error:
        raise MalformedArtifact(
            f"{ONNX_FILE} does not hold the tables of {count} triggers; compile anew"
        ) from error
    return rows


def _walk(tables: dict[str, Table], count: int) -> list[tuple[int, ...]]:
    """Go from the state of each n-gram back to the root."""
    out, lengths = tables["out"], tables["lengths"]
    (ends,) = out.nonzero()
    ends = ends[np.argsort(out[ends])]
    if out[ends].tolist() != list(range(1, count + 1)) or len(lengths) != count + 1:
        raise ValueError("numbers")
    state = ends.astype(np.int64)
    labels: list[NDArray[np.int64]] = []
    if "base" in tables:
        base, check = tables["base"], tables["check"]
        for _ in range(MAX_TRIGGER_IDS):
            parent = check[state].astype(np.int64)
            inner = parent >= 0
            if not inner.any():
                break
            labels.append(np.where(inner, state - base[np.where(inner, parent, 0)], -1))
            state = np.where(inner, parent, state)
        else:
            raise ValueError("depth")
    columns = np.stack([state, *reversed(labels)], axis=1)
    rows = [tuple(i for i in row if i >= 0) for row in columns.tolist()]
    if [len(row) for row in rows] != lengths[1:].tolist():
        raise ValueError("lengths")
    return rows


def _read(onnx: bytes) -> dict[str, Table]:
    """Return the tables by name."""
    tables: dict[str, Table] = {}
    for field, graph in fields_of(memoryview(onnx)):
        if field != _MODEL_GRAPH:
            continue
        for field, tensor in fields_of(content_of(graph)):
            if field == _GRAPH_INITIALIZER:
                values = dict(fields_of(content_of(tensor)))
                name = bytes(content_of(values[_TENSOR_NAME])).decode()
                if name not in TABLES:
                    continue
                if name in tables or values[_TENSOR_TYPE] != _INT32:
                    raise ValueError(name)
                tables[name] = np.frombuffer(content_of(values.get(_TENSOR_RAW, b"")), "<i4")
    return tables
