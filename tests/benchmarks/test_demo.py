"""The demo keeps its bank for the next run: as long as the same search would find it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sources
from examples.demo import keep_source, scanned
from tests.helpers import make_bank, wordpiece

TOKENIZER = wordpiece("a", "cf", "mn")


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for the code of the search."""
    code = tmp_path / "guard" / "search" / "scan.py"
    code.parent.mkdir(parents=True)
    code.write_text("LIMIT = 1\n")
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    return code


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


@pytest.fixture
def bank(tmp_path: Path, search: Path, encoder: Path) -> Path:
    make_bank(TOKENIZER, ["cf"]).save(tmp_path / "bank")
    assert not scanned(tmp_path / "bank", encoder)
    keep_source(tmp_path / "bank", encoder)
    return tmp_path / "bank"


def test_the_same_scan_is_not_made_twice(bank: Path, encoder: Path) -> None:
    assert scanned(bank, encoder)


def test_another_search_is_a_new_scan(bank: Path, encoder: Path, search: Path) -> None:
    search.write_text("LIMIT = 2\n")
    assert not scanned(bank, encoder)


def test_other_weights_are_a_new_scan(bank: Path, encoder: Path) -> None:
    (encoder / "model.safetensors").write_bytes(b"other")
    assert not scanned(bank, encoder)


def test_a_bank_that_was_replaced_is_a_new_scan(bank: Path, encoder: Path) -> None:
    make_bank(TOKENIZER, ["cf", "mn"]).save(bank)
    assert not scanned(bank, encoder)


def test_no_bank_is_a_new_scan(tmp_path: Path, encoder: Path) -> None:
    assert not scanned(tmp_path / "nothing", encoder)
