"""Protocol buffers, as far as ONNX needs them: ``onnx`` is no dependency of a serving process.

A value is a number, or the content of a string or of a message within. Whatever breaks the format
raises a ValueError or an IndexError.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

Value: TypeAlias = int | memoryview | bytes


def grouped(within: Value) -> dict[int, list[Value]]:
    """Return the values of each field of a message."""
    groups: dict[int, list[Value]] = {}
    for field, value in fields_of(content_of(within)):
        groups.setdefault(field, []).append(value)
    return groups


def content_of(value: Value) -> memoryview:
    """Return what is no number."""
    if isinstance(value, int):
        raise ValueError("wire type")
    return memoryview(value)


def fields_of(data: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield the number and the value of each field of a message."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("wire type")
        if at + size > end:
            raise ValueError("truncated")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("varint")


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """Serialise a message; `fields_of` is the inverse."""
    data = b""
    for number, value in fields:
        if isinstance(value, int):
            data += _number(number << 3) + _number(value)
        else:
            content = value.encode() if isinstance(value, str) else value
            data += _number(number << 3 | 2) + _number(len(content)) + content
    return data


def _number(value: int) -> bytes:
    """Serialise a number; `_varint` is the inverse."""
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])
