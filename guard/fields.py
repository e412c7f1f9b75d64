"""Where the text is in a JSON body: dotted paths, and JSONPath.

A dotted path such as ``inputs.text`` passes through lists, has to be in every object on its way,
and costs nothing. What starts with ``$`` is JSONPath (RFC 9535), for places that a dotted path
cannot name. It is JSONPath and not JMESPath because a JMESPath query returns values, and a value
that is to be stripped has to be found again in the sender's bytes: JSONPath returns places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import jsonpath

from guard.errors import ConfigError

Tree: TypeAlias = "dict[str, Tree]"
# Keys and indexes from the root of a body.
Place: TypeAlias = tuple[str | int, ...]

_JSONPATH = jsonpath.JSONPathEnvironment(strict=True)


@dataclass(frozen=True, slots=True)
class Fields:
    """Declared places of text: a tree of dotted paths, or JSONPath queries.

    Parameters
    ----------
    tree
        The dotted paths as nested dicts; empty stands for everything below.
    queries
        The JSONPath queries.
    names
        Casefolded names that the queries ask for, each with how they are spelled there.
    """

    tree: Tree
    queries: tuple[jsonpath.JSONPath, ...]
    names: dict[str, frozenset[str]]


def compile_fields(fields: Iterable[str] | None) -> Fields | None:
    """Check and prepare declared places; None stays None and stands for every string.

    Raises
    ------
    ConfigError
        No list of strings, no path at all, a path with an empty step, or no JSONPath.
    """
    if fields is None:
        return None
    if isinstance(fields, str):
        raise ConfigError(f"fields={fields!r} is one string; write fields=[{fields!r}]")
    try:
        paths = list(fields)
        dotted = {path: tuple(path.split(".")) for path in paths if not path.startswith("$")}
    except (TypeError, AttributeError):
        raise ConfigError(
            f"fields={fields!r} is no list of paths; write them like fields=['inputs.text']"
        ) from None
    if not paths:
        raise ConfigError("fields=[] scans nothing; name a field, or leave it out to scan all")
    if len(dotted) not in (0, len(set(paths))):
        raise ConfigError(
            f"fields={paths!r} mixes dotted paths and JSONPath; write all of them as JSONPath, "
            "'$.inputs.text' for 'inputs.text'"
        )
    for path, steps in dotted.items():
        if "" in steps:
            raise ConfigError(f"the field {path!r} has an empty step; write it like 'inputs.text'")
    queries = tuple(_query(path) for path in paths if path.startswith("$"))
    names: dict[str, frozenset[str]] = {}
    for name in (name for query in queries for name in _names(query)):
        names[name.casefold()] = names.get(name.casefold(), frozenset()) | {name}
    return Fields(_tree(dotted.values()), queries, names)


def _tree(paths: Iterable[tuple[str, ...]]) -> Tree:
    # Longest first, so that a field takes the place of the fields below it.
    tree: Tree = {}
    for *way, last in sorted(paths, key=len, reverse=True):
        node = tree
        for step in way:
            node = node.setdefault(step, {})
        node[last] = {}
    return tree


def _query(path: str) -> jsonpath.JSONPath:
    try:
        query = _JSONPATH.compile(path)
    except jsonpath.JSONPathError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"the field {path!r} is no JSONPath ({reason}); write it like '$.inputs[*].text'"
        ) from None
    if not isinstance(query, jsonpath.JSONPath):  # a union, which RFC 9535 does not have
        raise ConfigError(f"the field {path!r} is several queries; list each by itself")
    return query


def _names(query: jsonpath.JSONPath) -> Iterator[str]:
    for segment in query.segments:
        for selector in getattr(segment, "selectors", ()):
            if isinstance(name := getattr(selector, "name", None), str):
                yield name
