"""Signatures of banks and monitors, in the format of OpenSSF Model Signing; needs ``signing``.

A hash in a directory finds damage. Only a signature finds somebody who replaces the directory, its
hashes included. What is signed is the set of files that the library reads, by name and content;
other files in the directory are neither signed nor ever read. The bundle is `model_signing`'s own
(a DSSE envelope around an in-toto statement), so its command line verifies it as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from guard.errors import BadSignature, GuardError
from guard.files import SIGNATURE_FILE, read_bounded

try:
    from cryptography.hazmat.primitives import serialization
    from model_signing import hashing, signing, verifying
except ImportError as error:
    raise GuardError(
        f"signatures need {error.name}: pip install 'trigger-guard[signing]'"
    ) from error

_MAX_SIGNATURE_BYTES = 2**20
_MAX_KEY_BYTES = 2**16


def sign(files: Mapping[str, bytes], *, private_key: Path, password: str | None = None) -> bytes:
    """Sign files.

    Parameters
    ----------
    files
        Contents by plain name.
    private_key
        An elliptic-curve key (P-256, P-384 or P-521) in PEM.
    password
        Of the key, where it has one.

    Returns
    -------
    bytes
        The content of ``model.sig``.

    Raises
    ------
    GuardError
        The key cannot be used.
    """
    with TemporaryDirectory() as scratch:
        folder = _written(files, Path(scratch))
        target = Path(scratch) / SIGNATURE_FILE
        try:
            config = signing.Config().use_elliptic_key_signer(
                private_key=private_key,
                # Typed as str, and passed on to a function that takes bytes.
                password=password.encode() if password else None,  # type: ignore[arg-type]
            )
            config.set_hashing_config(_hashing()).sign(folder, target)
        except Exception as error:  # of several libraries
            raise GuardError(
                f"{private_key} cannot sign ({error}); set GUARD_KEY_PASSWORD if it has a "
                "password, and only then, or make a key with: openssl ecparam -genkey -name "
                "prime256v1 -noout"
            ) from error
        return target.read_bytes()


def verify(files: Mapping[str, bytes], directory: Path, *, public_key: Path) -> None:
    """Check that the owner of a key signed files.

    Parameters
    ----------
    files
        Contents by plain name, as they were read and as they will be used: what is verified is not
        read again.
    directory
        Where they are from, and ``model.sig`` is.
    public_key
        In PEM.

    Raises
    ------
    BadSignature
        There is no signature, or not one by this key over these files.
    """
    if not (directory / SIGNATURE_FILE).exists():
        raise BadSignature(f"{directory} is not signed; sign it with: guard sign {directory}")
    signature = read_bounded(directory / SIGNATURE_FILE, _MAX_SIGNATURE_BYTES)
    key = _read_key(public_key)
    with TemporaryDirectory() as scratch:
        folder = _written(files, Path(scratch))
        (Path(scratch) / SIGNATURE_FILE).write_bytes(signature)
        (Path(scratch) / "key").write_bytes(key)
        try:
            config = verifying.Config().use_elliptic_key_verifier(public_key=Path(scratch) / "key")
            # Our own hashing, so that a signature over a part of the files is none.
            config.set_hashing_config(_hashing()).verify(folder, Path(scratch) / SIGNATURE_FILE)
        except Exception as error:  # of several libraries
            raise BadSignature(
                f"{directory / SIGNATURE_FILE} was not made over these files by the owner of "
                f"{public_key}; get the directory from its owner again"
            ) from error


def fingerprint(public_key: Path) -> str:
    """Return the SHA-256 of a public key, in hexadecimal."""
    return hashlib.sha256(_read_key(public_key)).hexdigest()


def _read_key(path: Path) -> bytes:
    """Return a public key in the one form that its hash is taken of."""
    try:
        with path.open("rb") as file:
            key = serialization.load_pem_public_key(file.read(_MAX_KEY_BYTES))
    except Exception as error:
        raise GuardError(f"{path} is no public key in PEM; name another") from error
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _hashing() -> hashing.Config:
    return hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)


def _written(files: Mapping[str, bytes], scratch: Path) -> Path:
    folder = scratch / "artifact"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder
