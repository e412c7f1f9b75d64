"""Files: hashes, bounded reads, directories that appear whole, and one canonical JSON."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, TypeAlias, cast

from guard.errors import (
    ArtifactError,
    ConfigError,
    MalformedArtifact,
    OutputExists,
    SchemaTooNew,
)

# Beside the files of an artifact; a new artifact in their place makes it worthless.
SIGNATURE_FILE = "model.sig"

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file of any size, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    A symbolic link is followed only within the file's own directory (that is how Kubernetes mounts
    a ConfigMap), so that an artifact cannot name files elsewhere on the machine.

    Raises
    ------
    MalformedArtifact
        The file is missing, unreadable, too large, no regular file, or links out of its directory.
    """
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(path.parent.resolve()):
            raise MalformedArtifact(
                f"{path} is a link that leaves its directory; copy the file to its place instead"
            )
        # Looked at before it is opened: opening a pipe would wait for its writer.
        if not stat.S_ISREG(real.stat().st_mode):
            raise MalformedArtifact(f"{path} is not a regular file; write the directory anew")
        with real.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise MalformedArtifact(
            f"{path} does not exist; check the path, or write the directory anew"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:  # loops of links, NUL in a name
        raise MalformedArtifact(
            f"{path} cannot be read ({error}); check its permissions"
        ) from error
    if len(data) > limit:
        raise MalformedArtifact(f"{path} is larger than {limit} bytes; it was not written by guard")
    return data


def write_directory(target: Path, files: Mapping[str, bytes], *, owner: str) -> None:
    """Write a directory of files such that it appears whole or not at all.

    Parameters
    ----------
    target
        The directory. An earlier one of ours is replaced; parents are made.
    files
        Contents by plain file name.
    owner
        The name of the file that marks an existing directory as ours, such as ``"bank.json"``.

    Raises
    ------
    OutputExists
        `target` exists, and is neither empty nor an earlier output that holds nothing else.
    ArtifactError
        The directory that `target` is to be in cannot be written to.
    """
    with new_directory(target, files, owner=owner) as fresh:
        for name, data in files.items():
            (fresh / name).write_bytes(data)


@contextmanager
def new_directory(target: Path, names: Iterable[str], *, owner: str) -> Iterator[Path]:
    """Give a directory to fill, which takes the place of `target` if nothing is raised meanwhile.

    Parameters
    ----------
    names
        What will be in it.
    target, owner
        As in `write_directory`, which see for what it raises.
    """
    target = target.resolve()
    check_output(target, names, owner=owner)
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = secrets.token_hex(4)
    fresh = target.with_name(f".{target.name}.new-{suffix}")
    stale = target.with_name(f".{target.name}.old-{suffix}")
    try:
        # Closed to others while it is filled, where the earlier one is.
        fresh.mkdir(target.stat().st_mode & 0o777 | 0o700 if target.exists() else 0o777)
        yield fresh
        for path in (fresh, *fresh.rglob("*")):
            if (earlier := target / path.relative_to(fresh)).exists():
                shutil.copymode(earlier, path)
        try:
            if target.exists():
                target.rename(stale)
            fresh.rename(target)
        except BaseException:  # an interruption between the two included
            if stale.exists() and not target.exists():
                stale.rename(target)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(stale, ignore_errors=True)


def check_apart(target: Path, source: str) -> None:
    """Refuse to write inside of what is read: what lies there may be of its author.

    Parameters
    ----------
    source
        A directory, or the name of something else.

    Raises
    ------
    ConfigError
        The target is the directory, or inside of it.
    """
    folder = Path(source)
    if folder.is_dir() and target.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{target} is inside {source}, whose author could have left there what would be taken "
            "for an earlier run of yours; choose an output beside it"
        )


def check_output(target: Path, names: Iterable[str], *, owner: str) -> None:
    """Refuse what `write_directory` would refuse: to be called before long work.

    Parameters
    ----------
    target
        The directory that is to be written.
    names
        The files that will be in it.
    owner
        The one that marks a directory as ours.

    Raises
    ------
    OutputExists, ArtifactError
        As in `write_directory`.
    """
    if os.path.lexists(target):
        if os.path.ismount(target):
            raise OutputExists(
                f"{target} is mounted, and cannot be replaced as a whole; choose a directory in it"
            )
        _check_ours(target, names, owner)
        above = target.resolve().parent
    else:
        above = next(path for path in target.absolute().parents if os.path.lexists(path))
        if not above.is_dir():
            raise OutputExists(f"{above} exists and is no directory; choose another output")
    try:
        # Only the attempt tells: permissions know nothing of read-only and full file systems.
        with tempfile.TemporaryDirectory(dir=above, prefix=".guard-"):
            pass
    except OSError as error:
        raise ArtifactError(
            f"{target} cannot be written, because no directory can be made in {above} "
            f"({error.strerror}); check its permissions and disk, or choose another output"
        ) from error


def _check_ours(target: Path, names: Iterable[str], owner: str) -> None:
    if not target.is_dir():
        raise OutputExists(f"{target} exists and is no directory; choose another output")
    present = {entry.name for entry in target.iterdir()}
    if present and owner not in present:
        raise OutputExists(
            f"{target} exists and holds no {owner}, so it was not written by guard; "
            "choose another output, or an empty directory"
        )
    if foreign := sorted(present.difference(names, [SIGNATURE_FILE])):
        raise OutputExists(
            f"{target} holds {foreign[0]}, which would be lost; move it away, "
            "or choose another output"
        )


def dump_json(value: Json) -> bytes:
    """Serialise to the one canonical form: sorted keys, UTF-8, one blank of indent, a newline.

    Raises
    ------
    MalformedArtifact
        The value holds NaN, an infinity or a lone surrogate.
    """
    try:
        return _canonical(value)
    except ValueError as error:
        raise MalformedArtifact(
            f"a value cannot be kept as JSON ({type(error).__name__}); "
            "use finite numbers, and text without lone surrogates"
        ) from error


def parse_json(data: bytes, name: str) -> Any:
    """Parse what `dump_json` wrote, and only that: ``dump_json(parse_json(data, name)) == data``.

    One form for one value makes hashes meaningful. It also refuses, without a rule for each, what
    parsers disagree about: duplicate keys, NaN, lone surrogates, line ends.

    Raises
    ------
    MalformedArtifact
        The bytes are anything else. `name` says in the message which file it was.
    """
    try:
        value = json.loads(data.decode("utf-8"))
        canonical = _canonical(value) == data
    except (ValueError, RecursionError) as error:
        raise MalformedArtifact(
            f"{name} is no valid JSON ({type(error).__name__}); write it anew"
        ) from error
    if not canonical:
        raise MalformedArtifact(
            f"{name} is not in the form that guard writes; was it edited, or were its line ends "
            "changed? Write it anew"
        )
    return value


def _canonical(value: Json) -> bytes:
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")


def plain_json(value: Mapping[str, Json], where: str) -> Mapping[str, Json]:
    """Copy to dicts, lists and plain scalars, so that what is loaded equals what was saved.

    Raises
    ------
    MalformedArtifact
        It holds what JSON cannot keep. `where` says in the message which object it was.
    """

    def walk(item: object) -> Json:
        if item is None or isinstance(item, bool):
            return item
        if isinstance(item, str):
            return str(item)
        if isinstance(item, int):
            return int(item)
        if isinstance(item, float) and math.isfinite(item):
            return float(item)
        if isinstance(item, list | tuple):
            return [walk(part) for part in item]
        if isinstance(item, Mapping) and all(isinstance(key, str) for key in item):
            return {str(key): walk(part) for key, part in item.items()}
        raise MalformedArtifact(
            f"{where} holds a {type(item).__name__} that JSON cannot keep; "
            "use finite numbers, strings, lists and objects with string keys"
        )

    try:
        return cast(Mapping[str, Json], walk(value))
    except RecursionError:
        raise MalformedArtifact(f"{where} nests too deeply; use flatter objects") from None


def check_schema(value: Any, supported: int, name: str) -> None:
    """Refuse a parsed file whose schema this version does not read, before looking at the rest.

    Raises
    ------
    SchemaTooNew
        A later version wrote it.
    MalformedArtifact
        It has no usable schema number.
    """
    schema = value.get("schema") if isinstance(value, dict) else None
    if type(schema) is not int or schema < 1:
        raise MalformedArtifact(f"{name} names no schema version; write it anew")
    if schema > supported:
        raise SchemaTooNew(
            f"{name} has schema {schema}, and this version reads up to {supported}; "
            "upgrade trigger-guard"
        )


def record(value: Any, kinds: Mapping[str, type | UnionType], where: str) -> dict[str, Any]:
    """Check that `value` is an object with exactly these keys, each of its kind, and return it.

    Raises
    ------
    MalformedArtifact
        A key is missing, unknown, or of another kind. `where` says which object it was.
    """
    if not isinstance(value, dict):
        raise MalformedArtifact(f"{where} is no object; write the file anew")
    if odd := sorted(value.keys() ^ kinds.keys()):
        problem = "has no" if odd[0] in kinds else "has an unknown"
        raise MalformedArtifact(f"{where} {problem} {odd[0]!r}; write the file anew")
    for key, kind in kinds.items():
        # bool is an int to isinstance, and true is no number here.
        if not isinstance(value[key], kind) or isinstance(value[key], bool):
            raise MalformedArtifact(f"{where}: {key!r} has the wrong type; write the file anew")
    return value
