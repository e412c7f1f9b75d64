"""Programs of Debian's that no Python package has, unpacked into the cache where they are missing.

Nothing is installed on the machine, and no service is started.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from benchmarks.assets import AssetError, cache_dir


def programs(names: Sequence[str], packages: Sequence[str]) -> dict[str, str]:
    """Return the paths of programs, by name.

    Parameters
    ----------
    names
        The programs.
    packages
        What holds them, and those of their libraries that a small system lacks.

    Raises
    ------
    AssetError
        They are not here and cannot be had.
    """
    unpacked = cache_dir() / "debian"
    path = os.pathsep.join((os.environ["PATH"], str(unpacked / "usr" / "bin")))
    if not all(shutil.which(name, path=path) for name in names):
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise AssetError(f"no apt-get here: install {' and '.join(names)} to run this")
        unpacked.mkdir(parents=True, exist_ok=True)
        download = ["apt-get", "-qq", "download", *packages]
        if subprocess.run(download, cwd=unpacked, check=False).returncode and os.geteuid() == 0:
            # A fresh machine has no lists yet.
            subprocess.run(["apt-get", "-qq", "update"], check=True)
            subprocess.run(download, cwd=unpacked, check=True)
        for package in unpacked.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
            package.unlink()
    found = {name: where for name in names if (where := shutil.which(name, path=path))}
    if missing := [name for name in names if name not in found]:
        raise AssetError(f"{' and '.join(missing)} cannot be had: install {' and '.join(packages)}")
    return found


def libraries() -> str:
    """Return the LD_LIBRARY_PATH of what was unpacked."""
    return os.pathsep.join(map(str, (cache_dir() / "debian" / "usr" / "lib").glob("*-linux-gnu*")))
