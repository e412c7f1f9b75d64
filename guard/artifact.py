"""The files of a bank, a monitor or a deep check: read once, and not used before verified.

What is verified, hashed and used are the same bytes, whatever becomes of the directory meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from guard.files import read_bounded


def read_artifact(
    directory: Path, limits: Mapping[str, int], *, public_key: str | PathLike[str] | None = None
) -> dict[str, bytes]:
    """Read files of a directory.

    Parameters
    ----------
    limits
        The most bytes of each, by name.
    public_key
        A file in PEM, whose owner has to have signed them.

    Raises
    ------
    ArtifactError
        `MalformedArtifact`: one is missing or too large; `BadSignature`: it is not signed by that
        key.
    """
    files = {name: read_bounded(directory / name, limit) for name, limit in limits.items()}
    if public_key is not None:
        from guard import signing  # an extra

        signing.verify(files, directory, public_key=Path(public_key))
    return files
