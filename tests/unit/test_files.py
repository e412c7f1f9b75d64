"""Directories that appear whole, bounded reads, canonical JSON."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import ArtifactError, MalformedArtifact, OutputExists, SchemaTooNew
from guard.files import (
    check_output,
    check_schema,
    dump_json,
    parse_json,
    read_bounded,
    record,
    sha256_file,
    write_directory,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abé\n"), inner),
    max_leaves=10,
)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_sha256_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 10**6)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc" * 10**6).hexdigest()


def test_write_makes_parents_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    write_directory(target, {"m": b"1", "n": b"2"}, owner="m")
    assert contents(target) == {"m": b"1", "n": b"2"}
    assert list(target.parent.iterdir()) == [target]


def test_write_into_an_empty_directory(tmp_path: Path) -> None:
    write_directory(tmp_path, {"m": b"1"}, owner="m")
    assert contents(tmp_path) == {"m": b"1"}


def test_write_replaces_all_of_an_earlier_output(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write_directory(target, {"m": b"1", "n": b"2"}, owner="m")
    write_directory(target, {"m": b"3", "n": b"4"}, owner="m")
    assert contents(target) == {"m": b"3", "n": b"4"}
    assert list(tmp_path.iterdir()) == [target]


def test_an_output_that_was_closed_to_others_stays_closed(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write_directory(target, {"m": b"1", "n": b"2"}, owner="m")
    target.chmod(0o700)
    (target / "m").chmod(0o640)
    write_directory(target, {"m": b"3", "n": b"2"}, owner="m")
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert stat.S_IMODE((target / "m").stat().st_mode) == 0o640
    assert contents(target) == {"m": b"3", "n": b"2"}


def test_write_through_a_link_replaces_what_it_leads_to(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    write_directory(real, {"m": b"1"}, owner="m")
    link.symlink_to(real, target_is_directory=True)
    write_directory(link, {"m": b"2"}, owner="m")
    assert link.is_symlink()
    assert contents(real) == {"m": b"2"}


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ({"thesis.txt": b"!"}, "not written by guard"),
        ({"m": b"1", "thesis.txt": b"!"}, r"thesis\.txt, which would be lost"),
    ],
)
def test_write_refuses_to_lose_other_files(
    tmp_path: Path, present: dict[str, bytes], message: str
) -> None:
    for name, data in present.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(OutputExists, match=message):
        write_directory(tmp_path, {"m": b"2"}, owner="m")
    assert contents(tmp_path) == present


def test_write_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"!")
    with pytest.raises(OutputExists, match="no directory"):
        write_directory(tmp_path / "out", {"m": b"2"}, owner="m")
    assert (tmp_path / "out").read_bytes() == b"!"


@pytest.mark.parametrize("name", ["out", "a/b/out", "there", "link"])
def test_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "elsewhere" / "real").mkdir(parents=True)
    (tmp_path / "link").symlink_to("elsewhere/real", target_is_directory=True)
    check_output(tmp_path / name, ["m"], owner="m")
    tried: list[Path] = []

    def fail(path: str, mode: int = 0o777) -> None:
        tried.append(Path(path).parent)
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", fail)
    with pytest.raises(ArtifactError, match=r"Read-only.*choose another output") as caught:
        check_output(tmp_path / name, ["m"], owner="m")
    assert str(tmp_path / name) in str(caught.value)
    assert tried == [tmp_path / "elsewhere" if name == "link" else tmp_path]


def test_trying_to_write_leaves_nothing(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "out", ["m"], owner="m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["write_bytes", "rename"])
def test_a_write_that_fails_leaves_the_earlier_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    target = tmp_path / "out"
    write_directory(target, {"m": b"1"}, owner="m")
    real = getattr(Path, failing)

    def fail(self: Path, argument: object) -> object:
        if ".new-" in str(self):
            raise OSError("disk full")
        return real(self, argument)

    monkeypatch.setattr(Path, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        write_directory(target, {"m": b"2"}, owner="m")
    assert contents(target) == {"m": b"1"}
    with pytest.raises(OSError, match="disk full"):
        write_directory(tmp_path / "other", {"m": b"2"}, owner="m")
    assert list(tmp_path.iterdir()) == [target]


def test_an_interruption_between_two_names_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a"
    write_directory(target, {"m": b"1"}, owner="m")
    rename = Path.rename

    def interrupted(path: Path, to: Path) -> Path:
        if path == target:
            rename(path, to)
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_directory(target, {"m": b"2"}, owner="m")
    assert contents(target) == {"m": b"1"}
    assert list(tmp_path.iterdir()) == [target]


def test_a_mount_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a container's volume: it cannot be renamed, and what took minutes would be lost."""
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(OutputExists, match="choose a directory in it"):
        check_output(tmp_path, ["m"], owner="m")
    check_output(tmp_path / "a", ["m"], owner="m")


def test_read_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bounded(tmp_path / "x", 5) == b"12345"
    with pytest.raises(MalformedArtifact, match="larger than 4 bytes"):
        read_bounded(tmp_path / "x", 4)


def test_read_of_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, message in {
        "missing": "does not exist",
        "pipe": "not a regular file",
        "loop": "cannot be read",
        ".": "not a regular file",
        "bad\0name": "cannot be read",
    }.items():
        with pytest.raises(MalformedArtifact, match=message):
            read_bounded(tmp_path / name, 5)


def test_read_follows_links_within_the_directory_only(tmp_path: Path) -> None:
    """Kubernetes mounts a file as a link to ..data/file, and ..data as a link as well."""
    mount = tmp_path / "mount"
    (mount / "..2024").mkdir(parents=True)
    (mount / "..2024" / "x").write_bytes(b"1")
    (mount / "..data").symlink_to("..2024")
    (mount / "x").symlink_to("..data/x")
    assert read_bounded(mount / "x", 5) == b"1"
    (tmp_path / "secret").write_bytes(b"2")
    (mount / "y").symlink_to("../secret")
    with pytest.raises(MalformedArtifact, match="leaves its directory"):
        read_bounded(mount / "y", 5)


@given(json_values)
def test_json_round_trip(value: object) -> None:
    data = dump_json(value)  # type: ignore[arg-type]
    assert parse_json(data, "x") == value
    assert dump_json(parse_json(data, "x")) == data


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_json_that_others_could_not_read_is_not_written(value: float | str) -> None:
    with pytest.raises(MalformedArtifact, match="cannot be kept as JSON"):
        dump_json({"x": value})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b'{"a": 1}',
        b'{\n "a": 1,\n "a": 1\n}\n',
        b'{\n "a": 1\n}',
        b'{\r\n "a": 1\r\n}\r\n',
        b'{\n "b": 1,\n "a": 1\n}\n',
        b'{\n "a": NaN\n}\n',
        b'{\n "a": 1e999\n}\n',
        b'{\n "a": "\\ud800"\n}\n',
        b"[" * 100_000 + b"]" * 100_000,
        b'"' + b"1" * 5_000,
        b"1" * 5_000 + b"\n",
    ],
)
def test_json_has_one_form(data: bytes) -> None:
    with pytest.raises(MalformedArtifact, match=r"^x\.json is (no|not)"):
        parse_json(data, "x.json")


def test_schema() -> None:
    check_schema({"schema": 2}, 2, "x.json")
    with pytest.raises(SchemaTooNew, match=r"schema 3, .* up to 2; upgrade trigger-guard"):
        check_schema({"schema": 3}, 2, "x.json")
    bad: list[object] = [{}, [], {"schema": 0}, {"schema": "1"}, {"schema": True}, {"schema": 1.0}]
    for value in bad:
        with pytest.raises(MalformedArtifact, match="no schema version"):
            check_schema(value, 2, "x.json")


def test_record() -> None:
    kinds = {"a": int, "b": str | None}
    good = {"a": 1, "b": None}
    assert record(good, kinds, "x") == good
    bad: dict[str, object] = {
        "is no object": [],
        "has no 'a'": {"b": None},
        "has an unknown 'c'": {**good, "c": 1},
        "'a' has the wrong type": {**good, "a": True},
        "'b' has the wrong type": {**good, "b": 1},
    }
    for message, value in bad.items():
        with pytest.raises(MalformedArtifact, match=message):
            record(value, kinds, "x")


def test_canonical_form_is_stable() -> None:
    """Hashes of banks depend on these bytes: they may not change within a schema."""
    assert dump_json({"b": [1, 0.5, None], "a": "é≈"}) == (
        '{\n "a": "é≈",\n "b": [\n  1,\n  0.5,\n  null\n ]\n}\n'.encode()
    )
    assert json.loads(dump_json({})) == {}
