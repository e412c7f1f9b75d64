"""Signatures: made, checked, required, refused."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from exporters.monitor import compile_bank
from guard import artifact
from guard.cli import CLEAN, FAILED, FOUND, main
from guard.errors import BadSignature, GuardError
from guard.files import read_bounded
from guard.manifest import LIMITS
from guard.monitor import Monitor
from tests.helpers import make_bank, wordpiece


def write_keys(directory: Path, name: str, password: bytes | None = None) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = directory / f"{name}.pem", directory / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password)
            if password
            else serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path, "ours")


@pytest.fixture
def signed(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    compile_bank(make_bank(wordpiece("cf"), ["cf"]), tmp_path / "monitor")
    assert main(["sign", str(tmp_path / "monitor"), "--private-key", str(keys[0])]) == CLEAN
    return tmp_path / "monitor"


def test_sign_and_verify(
    signed: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert Monitor.load(signed, require_signature=keys[1]).check("cf").triggered
    capsys.readouterr()
    assert main(["verify", str(signed), "--public-key", str(keys[1])]) == CLEAN
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("whole: monitor of bank ")
    assert ", 1 triggers, for 'tiny' (weights 0000000000000000); signed by key " in line
    assert main(["verify", str(signed)]) == CLEAN
    assert "; its model.sig was not checked: name its key" in capsys.readouterr().out


def test_nothing_is_loaded_before_its_signature_is_verified(
    signed: Path,
    keys: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And what is loaded are the bytes that were verified, whatever lies there by then."""
    read: list[str] = []

    def once(path: Path, limit: int) -> bytes:
        read.append(path.name)
        return read_bounded(path, limit)

    monkeypatch.setattr(artifact, "read_bounded", once)
    arguments = ["verify", str(signed), "--public-key", str(keys[1])]
    assert main(arguments) == CLEAN
    assert sorted(read) == sorted(LIMITS)
    (signed / "canaries.json").write_bytes(b"[]\n")
    monkeypatch.setattr(Monitor, "parse", lambda *_: pytest.fail("was loaded"))
    assert main(arguments) == FAILED
    assert "was not made over these files" in capsys.readouterr().err


def test_a_name_cannot_pass_for_what_verify_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "x (weights 3f1c); signed by key 9a1b\x1b[8m\n"
    bank = make_bank(wordpiece("cf"), ["cf"])
    replace(bank, model=replace(bank.model, name=name)).save(tmp_path / "bank")
    assert main(["verify", str(tmp_path / "bank")]) == CLEAN
    (line,) = capsys.readouterr().out.splitlines()
    assert f"for {name!r} (weights 0000000000000000); not signed" in line
    model = replace(bank.model, weights_sha256="3f1c); signed by")
    replace(bank, model=model).save(tmp_path / "bank")
    assert main(["verify", str(tmp_path / "bank")]) == FAILED
    assert "names a SHA-256 that is none" in capsys.readouterr().err


def test_check_with_a_signed_monitor(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts").write_text("a cf\n")
    arguments = ["check", "--monitor", str(signed), str(tmp_path / "texts")]
    assert main([*arguments, "--public-key", str(keys[1])]) == FOUND
    (signed / "model.sig").unlink()
    assert main([*arguments, "--public-key", str(keys[1])]) == FAILED
    assert "is not signed" in capsys.readouterr().err


def test_a_moved_directory_stays_signed(
    signed: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    shutil.copytree(signed, tmp_path / "elsewhere" / "other-name")
    Monitor.load(tmp_path / "elsewhere" / "other-name", require_signature=keys[1])


def test_sign_a_bank(
    tmp_path: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_bank(wordpiece("cf"), ["cf"]).save(tmp_path / "bank")
    directory = str(tmp_path / "bank")
    assert main(["verify", directory]) == CLEAN
    assert "not signed" in capsys.readouterr().out
    assert main(["sign", directory, "--private-key", str(keys[0])]) == CLEAN
    assert main(["verify", directory, "--public-key", str(keys[1])]) == CLEAN
    make_bank(wordpiece("cf"), ["cf", "a"]).save(tmp_path / "bank")  # in place of the signed one
    assert main(["verify", directory, "--public-key", str(keys[1])]) == FAILED
    assert "is not signed; sign it with: guard sign" in capsys.readouterr().err


def test_no_link_is_followed(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """The directory may be of somebody else's making, who knows which name is written to."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    for name in (".model.sig.new", "model.sig"):
        (signed / name).unlink(missing_ok=True)
        (signed / name).symlink_to(victim)
    assert main(["sign", str(signed), "--private-key", str(keys[0])]) == CLEAN
    assert victim.read_bytes() == b"mine"
    assert not (signed / "model.sig").is_symlink()
    assert main(["verify", str(signed), "--public-key", str(keys[1])]) == CLEAN


def test_what_is_two_things_is_neither(
    signed: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The signature of a monitor says nothing of the bank that was laid into its directory."""
    make_bank(wordpiece("cf"), ["cf"]).save(signed.parent / "bank")
    (signed / "bank.json").write_bytes((signed.parent / "bank" / "bank.json").read_bytes())
    private, public = map(str, keys)
    for command, *key in (["verify", "--public-key", public], ["sign", "--private-key", private]):
        assert main([command, str(signed), *key]) == FAILED
        assert "holds bank.json and monitor.json" in capsys.readouterr().err


def test_another_key(signed: Path, tmp_path: Path) -> None:
    _, public = write_keys(tmp_path, "theirs")
    with pytest.raises(BadSignature, match="not made over these files by the owner"):
        Monitor.load(signed, require_signature=public)


@pytest.mark.parametrize("name", ["monitor.onnx", "canaries.json", "tokenizer.json"])
def test_a_changed_file(signed: Path, keys: tuple[Path, Path], name: str) -> None:
    (signed / name).write_bytes((signed / name).read_bytes() + b" ")
    with pytest.raises(BadSignature):
        Monitor.load(signed, require_signature=keys[1])


def test_no_signature(signed: Path, keys: tuple[Path, Path]) -> None:
    (signed / "model.sig").unlink()
    with pytest.raises(BadSignature, match="is not signed"):
        Monitor.load(signed, require_signature=keys[1])


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 10_000])
def test_no_bundle(signed: Path, keys: tuple[Path, Path], data: bytes) -> None:
    (signed / "model.sig").write_bytes(data)
    with pytest.raises(BadSignature):
        Monitor.load(signed, require_signature=keys[1])


def test_a_key_with_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = write_keys(tmp_path, "locked", b"secret")
    make_bank(wordpiece("cf"), ["cf"]).save(tmp_path / "bank")
    arguments = ["sign", str(tmp_path / "bank"), "--private-key", str(private)]
    assert main(arguments) == FAILED
    assert "set GUARD_KEY_PASSWORD" in capsys.readouterr().err
    monkeypatch.setenv("GUARD_KEY_PASSWORD", "another")
    assert main(arguments) == FAILED
    error = capsys.readouterr().err
    assert "set GUARD_KEY_PASSWORD" in error
    assert "another" not in error
    monkeypatch.setenv("GUARD_KEY_PASSWORD", "secret")
    assert main(arguments) == CLEAN
    assert main(["verify", str(tmp_path / "bank"), "--public-key", str(public)]) == CLEAN


def test_keys_that_are_none(signed: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    (tmp_path / "text").write_text("no key")
    with pytest.raises(GuardError, match="is no public key in PEM"):
        Monitor.load(signed, require_signature=tmp_path / "text")
    with pytest.raises(GuardError, match="is no public key in PEM"):
        Monitor.load(signed, require_signature=keys[0])


def test_without_the_extra(
    signed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "guard.signing")
    monkeypatch.delattr("guard.signing")
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(GuardError, match=r"pip install 'trigger-guard\[signing\]'"):
        Monitor.load(signed, require_signature=keys[1])
