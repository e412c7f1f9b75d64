"""Attempts to make an archive write outside of its folder, or run code, each with why it fails.

The archive is the attacker's; which members are asked for, and where they go, is ours. (That an
archive with another content than the pinned one is not even opened is tested with the assets.)
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.assets import unpack as module
from benchmarks.assets.unpack import PICKLE_SUFFIXES, UnsafeArchive, unpack

Entry = tuple[str, bytes]


def write_zip(path: Path, *entries: Entry | tuple[zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def write_tar(path: Path, *entries: Entry | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return path


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


def zip_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


def refused(archive: Path, into: Path, source: str, target: str, message: str) -> None:
    before = sorted(into.parent.rglob("*"))
    with pytest.raises(UnsafeArchive, match=message):
        unpack(archive, {source: target}, into)
    assert sorted(into.parent.rglob("*")) == before


WRITERS: list[Callable[..., Path]] = [write_zip, write_tar]


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_asked_for_and_nothing_else(write: Callable[..., Path], into: Path) -> None:
    """Members that climb out, or are absolute, lie beside ours: nobody reads them."""
    outside = into.parent / "outside"
    archive = write(
        into.parent / "a",
        ("good.txt", b"good"),
        ("../outside", b"zip slip"),
        (str(outside), b"absolute"),
        ("C:\\outside", b"drive"),
        ("deep/other.txt", b"other"),
    )
    unpack(archive, {"good.txt": "new/name.txt"}, into)
    files = {p.relative_to(into.parent): p.read_bytes() for p in into.parent.rglob("*.txt")}
    assert files == {Path("folder/new/name.txt"): b"good"}
    assert not outside.exists()


@pytest.mark.parametrize("write", WRITERS)
def test_a_member_that_climbs_out_goes_where_we_say(write: Callable[..., Path], into: Path) -> None:
    """Zip slip. The name in the archive chooses what is read, never where it is written."""
    archive = write(into.parent / "a", ("../../evil.txt", b"evil"))
    unpack(archive, {"../../evil.txt": "tame.txt"}, into)
    assert (into / "tame.txt").read_bytes() == b"evil"
    assert sorted(path.name for path in into.parent.iterdir()) == ["a", "folder"]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "target", ["../evil.txt", "a/../../evil.txt", "/evil.txt", "..", ".", "", "a\\..\\..\\evil.txt"]
)
def test_a_destination_outside(write: Callable[..., Path], target: str, into: Path) -> None:
    """A registry entry with such a path is refused before the archive is opened."""
    archive = write(into.parent / "a", ("x", b"x"))
    refused(archive, into, "x", target, "would be written outside")


def test_a_symbolic_link_in_a_zip(into: Path) -> None:
    """Written as a link it would name any file of ours; the mode in the directory gives it away."""
    archive = write_zip(into.parent / "a", (zip_link("x"), b"/etc/passwd"))
    refused(archive, into, "x", "x.txt", "member 'x' is a link")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symbolic", "hard"])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "good"])
def test_a_link_in_a_tar(kind: bytes, target: str, into: Path) -> None:
    """Python's tarfile follows links within the archive; links are refused, wherever they lead."""
    archive = write_tar(into.parent / "a", ("good", b"good"), link("x", target, kind))
    refused(archive, into, "x", "x.txt", "member 'x' is not a regular file")


@pytest.mark.parametrize(
    "kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_a_device_in_a_tar(kind: bytes, into: Path) -> None:
    """Reading a pipe would wait for ever, and a device is no weights."""
    archive = write_tar(into.parent / "a", link("x", "", kind))
    refused(archive, into, "x", "x.txt", "member 'x' is not a regular file")


def test_a_link_that_stands_in_for_a_folder(into: Path) -> None:
    """A member ``sub`` that links out, then ``sub/x``: no member makes a folder, we do."""
    archive = write_tar(
        into.parent / "a", link("sub", str(into.parent), tarfile.SYMTYPE), ("sub/x", b"x")
    )
    unpack(archive, {"sub/x": "sub/x"}, into)
    assert not (into / "sub").is_symlink()
    assert (into / "sub" / "x").read_bytes() == b"x"
    assert not (into.parent / "x").exists()


@pytest.mark.parametrize("suffix", sorted(PICKLE_SUFFIXES))
@pytest.mark.parametrize("write", WRITERS)
def test_a_pickle(write: Callable[..., Path], suffix: str, into: Path) -> None:
    """It would run code when it is read, so it is never written, in whatever case its name is."""
    archive = write(into.parent / "a", ("x", b"\x80\x04."))
    for target in (f"model{suffix}", f"sub/MODEL{suffix.upper()}"):
        refused(archive, into, "x", target, "may be a pickle, which runs code when read")


@pytest.mark.parametrize("write", WRITERS)
def test_a_pickle_under_another_name(write: Callable[..., Path], into: Path) -> None:
    """A registry entry that renames a pickle does not make weights of it."""
    archive = write(into.parent / "a", ("pytorch_model.bin", b"\x80\x04."))
    refused(archive, into, "pytorch_model.bin", "model.safetensors", "may be a pickle")


def patched_size(archive: Path, size: int) -> None:
    """Let the central directory of a zip with one member declare another size."""
    data = bytearray(archive.read_bytes())
    start = data.rindex(b"PK\x01\x02")
    data[start + 24 : start + 28] = size.to_bytes(4, "little")
    archive.write_bytes(data)


def test_a_zip_member_that_declares_a_huge_size(into: Path) -> None:
    """Nothing of it is read."""
    archive = write_zip(into.parent / "a", ("x", b"x"))
    patched_size(archive, 3 << 30)
    refused(archive, into, "x", "x.txt", r"member 'x' has 3221225472 bytes, over 1073741824")


def test_a_zip_member_that_declares_too_little(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bomb with a lie in front: no more is written than was declared, and the check sum fails."""
    monkeypatch.setattr(module, "MAX_MEMBER_BYTES", 100)
    archive = write_zip(into.parent / "a", ("x", bytes(1 << 20)))
    patched_size(archive, 10)
    with pytest.raises(zipfile.BadZipFile):
        unpack(archive, {"x": "x.txt"}, into)
    assert sum(path.stat().st_size for path in into.rglob("*")) <= 100


def test_a_zip_member_that_is_a_bomb(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of zeros in a kilobyte, over a limit set low for the test."""
    monkeypatch.setattr(module, "MAX_MEMBER_BYTES", 1 << 19)
    archive = write_zip(into.parent / "a", ("x", bytes(1 << 20)))
    refused(archive, into, "x", "x.txt", "member 'x' has 1048576 bytes, over 524288")


def test_a_tar_member_that_declares_a_huge_size(into: Path) -> None:
    """Its header alone is read. The archive ends behind it: size is looked at before content."""
    info = tarfile.TarInfo("x")
    info.size = 2 << 30
    path = into.parent / "a"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("first"))
        # No content: addfile would copy it.
        assert archive.fileobj is not None
        archive.fileobj.write(info.tobuf())
    with pytest.raises((UnsafeArchive, tarfile.TarError)):
        unpack(path, {"x": "x.txt"}, into)
    assert list(into.iterdir()) == []


def test_a_tar_member_over_the_limit(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MEMBER_BYTES", 100)
    archive = write_tar(into.parent / "a", ("x", bytes(101)))
    refused(archive, into, "x", "x.txt", "member 'x' has 101 bytes, over 100")


@pytest.mark.parametrize("write", WRITERS)
def test_a_member_that_is_missing(write: Callable[..., Path], into: Path) -> None:
    archive = write(into.parent / "a", ("y", b"y"))
    refused(archive, into, "x", "x.txt", "the archive has no member 'x'")


@pytest.mark.parametrize("write", WRITERS)
def test_two_members_for_one_destination(write: Callable[..., Path], into: Path) -> None:
    """The second does not replace the first, whose hash may have been pinned."""
    archive = write(into.parent / "a", ("x", b"x"), ("y", b"y"))
    with pytest.raises(FileExistsError):
        unpack(archive, {"x": "same", "y": "same"}, into)


def test_no_file_can_be_executed(into: Path) -> None:
    """Modes of the archive are not taken over."""
    info = zipfile.ZipInfo("x")
    info.create_system = 3
    info.external_attr = (stat.S_IFREG | 0o6777) << 16
    unpack(write_zip(into.parent / "a", (info, b"#!/bin/sh")), {"x": "x.txt"}, into)
    assert not os.access(into / "x.txt", os.X_OK)
    assert stat.S_IMODE((into / "x.txt").stat().st_mode) & 0o7111 == 0


# A gzipped tar inside of a zip, as source distributions may have them.


def test_inner(into: Path) -> None:
    inner = write_tar(into.parent / "inner", ("x", b"x"), ("../y", b"y")).read_bytes()
    archive = write_zip(into.parent / "a", ("data.tar.gz", inner))
    unpack(archive, {"x": "x.txt"}, into, inner="data.tar.gz")
    assert [path.name for path in into.iterdir()] == ["x.txt"]


def test_inner_that_is_missing_or_a_link(into: Path) -> None:
    archive = write_zip(into.parent / "a", (zip_link("link.tar.gz"), b"/etc/passwd"))
    for name, message in (("gone.tar.gz", "no member"), ("link.tar.gz", "is a link")):
        with pytest.raises(UnsafeArchive, match=message):
            unpack(archive, {"x": "x.txt"}, into, inner=name)


def test_inner_that_is_a_bomb(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read whole, so it has a limit of its own."""
    monkeypatch.setattr(module, "MAX_INNER_BYTES", 1000)
    archive = write_zip(into.parent / "a", ("data.tar.gz", bytes(1001)))
    with pytest.raises(UnsafeArchive, match="has 1001 bytes, over 1000"):
        unpack(archive, {"x": "x.txt"}, into, inner="data.tar.gz")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symbolic", "hard"])
def test_a_link_in_the_inner_archive(kind: bytes, into: Path) -> None:
    inner = write_tar(into.parent / "inner", link("x", "/etc/passwd", kind)).read_bytes()
    archive = write_zip(into.parent / "a", ("data.tar.gz", inner))
    with pytest.raises(UnsafeArchive, match="is not a regular file"):
        unpack(archive, {"x": "x.txt"}, into, inner="data.tar.gz")
