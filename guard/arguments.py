"""Call arguments: where the texts in them are, and the same arguments with other texts."""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set, ValuesView
from dataclasses import dataclass
from types import NoneType
from typing import Any, TypeAlias

from guard.errors import ConfigError, InputError, NotText
from guard.otherwise import otherwise

Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]

_BY_POSITION = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)
_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a callable takes its text.

    Parameters
    ----------
    position
        Which positional argument; None if it is passed by keyword only.
    variadic
        Whether all later positional arguments are text as well.
    keyword
        Its name; None if it is passed by position only.
    bound
        How many arguments come before those that a caller writes: 1 for ``self``.
    """

    position: int | None
    variadic: bool
    keyword: str | None
    bound: int


def locate(function: Callable[..., Any], argument: str | None) -> Place:
    """Find the parameter that takes the text: the one named `argument`, or the first.

    Raises
    ------
    ConfigError
        The callable has no such parameter, or is of a kind that cannot be guarded.
    """
    if isinstance(function, (type, classmethod, staticmethod)):
        raise ConfigError(
            "protect wraps functions, methods and callable objects; decorate the method that takes "
            "the text, and put @protect below @classmethod or @staticmethod"
        )
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # some callables written in C have none
        parameters = [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)]
    bound = int(bool(parameters) and parameters[0].name in ("self", "cls"))
    for position, parameter in enumerate(parameters[bound:], bound):
        if argument is not None and parameter.name != argument:
            continue
        kind = parameter.kind
        return Place(
            position if kind in _BY_POSITION else None,
            kind is parameter.VAR_POSITIONAL,
            parameter.name if kind in _BY_KEYWORD else None,
            bound,
        )
    if argument is not None and any(p.kind is p.VAR_KEYWORD for p in parameters):
        return Place(None, False, argument, bound)
    raise ConfigError(
        f"the callable has no parameter {argument!r}; name the one that takes the text"
        if argument is not None
        else "the callable takes no argument, so there is no text to guard"
    )


class Texts:
    """The texts in the arguments of one call."""

    def __init__(self, place: Place, args: Args, kwargs: Kwargs) -> None:
        self.texts: list[str] = []
        # What stripping cannot change: keys, what is in collections other than dicts, lists and
        # tuples, and values of other types where there should be text, which the monitor refuses.
        self.fixed: list[Any] = []
        # For each of both, its index in the list that was passed, if one was.
        self.items: list[int | None] = []
        self.fixed_items: list[int | None] = []
        self.error: Exception | None = None
        try:
            self._look(place, args, kwargs)
        except RecursionError:
            self.error = NotText("the text argument nests too deeply, or holds itself; flatten it")
        except Exception as error:  # of a collection, such as one that is changed meanwhile
            self.error = error

    def size(self) -> int:
        """Estimate the work of scanning them, in characters; even an empty text is some."""
        return sum(len(text) + 16 for text in self.strings()) + 16 * len(self.fixed)

    def strings(self) -> list[str]:
        """Return all that is text."""
        return self.texts + [value for value in self.fixed if isinstance(value, str)]

    def items_of(self, hits: Sequence[bool]) -> list[int]:
        """Say which items of a list that was passed are hit; `hits` is by texts, then fixed."""
        items = (*self.items, *self.fixed_items)
        return sorted(
            {item for hit, item in zip(hits, items, strict=True) if hit and item is not None}
        )

    def _look(self, place: Place, args: Args, kwargs: Kwargs) -> None:
        _check(kwargs)
        declared = False
        for position, value in enumerate(args[place.bound :], place.bound):
            strict = place.position is not None and (
                position == place.position or (place.variadic and position > place.position)
            )
            declared |= strict
            self._argument(value, strict)
        for name, value in kwargs.items():
            self._argument(value, name == place.keyword)
        if kwargs and place.keyword is None and not declared and not self.texts:
            # None of them can be told to be the text, so all of them are what is refused.
            self._fix(kwargs, None)

    def _argument(self, value: Any, strict: bool) -> None:
        """Collect the strings in an argument; `strict` where it has to be text."""
        if strict and isinstance(value, (list, tuple)):
            for item, below in enumerate(value):
                self._take(below, strict, item)
        else:
            self._take(value, strict, None)

    def _take(self, value: Any, strict: bool, item: int | None, fixed: bool = False) -> None:
        if isinstance(value, str):
            if fixed:
                self._fix(value, item)
            else:
                self.texts.append(value)
                self.items.append(item)
        elif isinstance(value, Mapping):
            _check(value)
            fixed = fixed or not isinstance(value, dict)
            for key, below in value.items():
                self._take(key, False, item, fixed=True)
                # Beside its texts an item may have options, such as top_k.
                is_text = strict and not isinstance(below, (int, float, NoneType))
                self._take(below, is_text, item, fixed)
        elif isinstance(value, (list, tuple, deque, Set, ValuesView)):
            fixed = fixed or not isinstance(value, (list, tuple))
            for below in value:
                self._take(below, strict, item, fixed)
        elif strict:
            self._fix(value, item)

    def _fix(self, value: Any, item: int | None) -> None:
        self.fixed.append(value)
        self.fixed_items.append(item)


def _check(options: Mapping[Any, Any]) -> None:
    """Refuse what the callable, if it is a pipeline, hands to a tokenizer."""
    if how := otherwise(options):
        raise InputError(how)


def with_texts(
    place: Place, args: Args, kwargs: Kwargs, texts: Sequence[str]
) -> tuple[Args, Kwargs]:
    """Return the arguments with `texts` in place of those that `Texts` found in them."""
    rest = iter(texts)
    return (
        (*args[: place.bound], *(_rebuild(value, rest) for value in args[place.bound :])),
        {name: _rebuild(value, rest) for name, value in kwargs.items()},
    )


def _rebuild(value: Any, texts: Iterator[str]) -> Any:
    """Put texts into a copy of a value, in the order in which `Texts` took them."""
    if isinstance(value, str):
        new = next(texts)
        return value if new == value else new
    if isinstance(value, dict):
        pairs = {key: _rebuild(below, texts) for key, below in value.items()}
        if all(pairs[key] is below for key, below in value.items()):
            return value
        changed = copy.copy(value)
        changed.update(pairs)
        return changed
    if isinstance(value, (list, tuple)):
        items = [_rebuild(below, texts) for below in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        if isinstance(value, tuple):
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        changed_list = copy.copy(value)
        changed_list[:] = items
        return changed_list
    return value
