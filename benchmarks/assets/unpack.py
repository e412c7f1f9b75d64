"""Copy named members out of an untrusted zip or tar archive.

Members are asked for by name, so nothing else in the archive is ever written; what is written goes
to a path that we chose, never to one that the archive names. Links, devices and formats that can
execute code on loading are refused.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO

MAX_MEMBER_BYTES = 1 << 30
MAX_INNER_BYTES = 1 << 28

# Formats that are pickles, or may be: they run code when they are read.
PICKLE_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
)


class UnsafeArchive(Exception):
    """The archive, or what was asked of it, could write outside its folder or run code."""


def unpack(
    archive: Path,
    members: Mapping[str, str],
    into: Path,
    *,
    inner: str | None = None,
    no_pickles: Collection[str] = (),
    folders: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Copy ``members`` (path in the archive -> path below ``into``) out of ``archive``.

    Parameters
    ----------
    archive
        A zip file (wheels are) or a gzipped tar.
    inner
        A gzipped tar inside the zip that holds the members.
    no_pickles
        Members that are called like pickles and are none: a parser of ours reads them.
    folders
        Folder in a tar -> folder below `into`: every ``.txt`` file directly in it is copied.

    Raises
    ------
    UnsafeArchive
        For a destination outside ``into``, a pickle, a link, a member that is missing or longer
        than `MAX_MEMBER_BYTES`.
    """
    targets = {source: _contained(into, target) for source, target in members.items()}
    for source in members:
        if source not in no_pickles:
            _no_pickle(source)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as outer:
            if inner is None:
                _copy_zip(outer, targets)
                return
            # Read whole: a tar inside a zip cannot be sought in. Its size is bounded.
            data = io.BytesIO(outer.read(_zip_info(outer, inner, MAX_INNER_BYTES)))
            with tarfile.open(fileobj=data, mode="r:gz") as tar:
                _copy_tar(tar, targets)
    else:
        with tarfile.open(archive, mode="r:gz") as tar:
            _copy_tar(tar, {**targets, **_listed(tar, folders, into)})


def _listed(tar: tarfile.TarFile, folders: Mapping[str, str], into: Path) -> dict[str, Path]:
    """Return the text files of some folders of an archive, and where each goes."""
    listed: dict[str, Path] = {}
    if folders:
        for info in tar.getmembers():
            folder, _, name = info.name.rpartition("/")
            if folder in folders and name.endswith(".txt") and info.isreg():
                listed[info.name] = _contained(into, f"{folders[folder]}/{name}")
        for folder, target in folders.items():
            if not any(path.parent == into / target for path in listed.values()):
                raise UnsafeArchive(f"the archive has no texts in {folder!r}")
    return listed


def _contained(into: Path, target: str) -> Path:
    path = PurePosixPath(target)
    if path.is_absolute() or ".." in path.parts or "\\" in target or not path.parts:
        raise UnsafeArchive(f"{target!r} would be written outside {into}; name a relative path")
    _no_pickle(target)
    return into / path


def _no_pickle(name: str) -> None:
    if PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES:
        raise UnsafeArchive(f"{name!r} may be a pickle, which runs code when read; use safetensors")


def _copy_zip(archive: zipfile.ZipFile, targets: Mapping[str, Path]) -> None:
    for source, target in targets.items():
        with archive.open(_zip_info(archive, source, MAX_MEMBER_BYTES)) as stream:
            _write(stream, target)


def _zip_info(archive: zipfile.ZipFile, name: str, limit: int) -> zipfile.ZipInfo:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise UnsafeArchive(f"the archive has no member {name!r}") from None
    # The high half of external_attr is the Unix mode: 0o120000 marks a symbolic link.
    if (info.external_attr >> 16) & 0o170000 == 0o120000:
        raise UnsafeArchive(f"member {name!r} is a link")
    if info.file_size > limit:
        raise UnsafeArchive(f"member {name!r} has {info.file_size} bytes, over {limit}")
    return info


def _copy_tar(archive: tarfile.TarFile, targets: Mapping[str, Path]) -> None:
    for source, target in targets.items():
        try:
            info = archive.getmember(source)
        except KeyError:
            raise UnsafeArchive(f"the archive has no member {source!r}") from None
        stream = archive.extractfile(info) if info.isreg() else None
        if stream is None:
            raise UnsafeArchive(f"member {source!r} is not a regular file")
        if info.size > MAX_MEMBER_BYTES:
            raise UnsafeArchive(f"member {source!r} has {info.size} bytes, over {MAX_MEMBER_BYTES}")
        with stream:
            _write(stream, target)


def _write(stream: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as out:
        shutil.copyfileobj(stream, out, 1 << 20)
