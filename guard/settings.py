"""Options as operators write them: in the environment, or in a TOML file."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from guard.errors import ConfigError, GuardError
from guard.files import read_bounded

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Options = TypeVar("Options", bound=DataclassInstance)

PREFIX = "GUARD_"
TABLE = "guard"
_MAX_BYTES = 64 * 1024
# As near to an option's name is no other variable of this package.
_ALMOST = 0.8


def read_environment(kind: type[Options], environ: Mapping[str, str]) -> Options:
    """Make options of the variables that are named like them; what is not set has its default.

    Raises
    ------
    ConfigError
        A variable has no such value, or is named almost like an option: a misspelt one would else
        leave the default in force, and nobody would know.
    """
    found: dict[str, Any] = {}
    known = [option.name for option in fields(kind)]
    for variable in environ:
        name = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX) and name not in known:
            for meant in get_close_matches(name, known, n=1, cutoff=_ALMOST):
                raise ConfigError(
                    f"the environment variable {variable} is no option; "
                    f"{PREFIX}{meant.upper()} is: correct or remove it"
                )
    for option in fields(kind):
        variable = f"{PREFIX}{option.name.upper()}"
        if not (value := environ.get(variable, "").strip()):
            continue
        try:
            found[option.name] = value if isinstance(option.default, str) else _number(value)
            kind(**found)
        except (ConfigError, ValueError) as error:
            reason = error if isinstance(error, ConfigError) else f"{value!r} is no number"
            raise ConfigError(f"the environment variable {variable}: {reason}") from None
    return kind(**found)


def read_toml(kind: type[Options], path: str | os.PathLike[str]) -> Options:
    """Make options of the table ``[guard]`` of a file; what it leaves out has its default.

    Raises
    ------
    ConfigError
        The file cannot be read, is no TOML, has no such table, or the table has another key or
        value than the options.
    """
    try:
        document = tomllib.loads(read_bounded(Path(path), _MAX_BYTES).decode())
    except (GuardError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no policy ({error}); write a TOML file") from error
    table = document.get(TABLE)
    if not isinstance(table, dict):
        raise ConfigError(f"{path} has no table [{TABLE}]; write the options below that line")
    known = {option.name for option in fields(kind)}
    if unknown := sorted(table.keys() - known):
        raise ConfigError(
            f"{path} sets {', '.join(unknown)}, which is no option; "
            f"those of [{TABLE}] are {', '.join(sorted(known))}"
        )
    try:
        return kind(**table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _number(value: str) -> float:
    return int(value) if value.isdecimal() else float(value)
