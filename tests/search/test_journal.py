"""A search that was cut short goes on, and its bank is the one it would have been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from guard.search.encoder import Ids
from guard.search.journal import Arrays, Journal, begin
from tests.search.fakes import FakeEncoder


def measured(encoder: FakeEncoder, rng: np.random.Generator) -> Arrays:
    encoder.forwarded += 7
    return {"drawn": rng.random(3), "held": np.array([True, False])}


def run(
    directory: Path | None,
    names: list[str],
    calls: list[str],
    over: Sequence[Ids] = (),
    weights: str = "0" * 64,
) -> tuple[list[Arrays], int]:
    encoder = FakeEncoder()
    encoder.identity = replace(encoder.identity, weights_sha256=weights)
    journal = Journal(encoder, 5, directory)

    def measure(name: str) -> Arrays:
        def once(rng: np.random.Generator) -> Arrays:
            calls.append(name)
            return measured(encoder, rng)

        return journal.shard(name, over, once)

    return [measure(name) for name in names], encoder.forwarded


def same(first: list[Arrays], second: list[Arrays]) -> bool:
    return all(
        a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )


def test_what_was_measured_is_read_back(tmp_path: Path) -> None:
    """The random numbers, the types and the cost are those of one that was never cut short."""
    names = ["tokens scan 0 0", "tokens scan 0 512", "tokens verdict 0"]
    whole, cost = run(None, names, [])
    calls: list[str] = []
    run(tmp_path, names[:2], calls)
    again, resumed_cost = run(tmp_path, names, calls)
    assert calls == names
    assert same(again, whole)
    assert resumed_cost == cost
    assert again[0]["held"].dtype == np.bool_
    assert not same(whole[:1], whole[1:2])


def test_what_was_measured_of_other_units_is_measured_again(tmp_path: Path) -> None:
    """What comes late in a search depends on what came before: a name alone says not enough."""
    calls: list[str] = []
    for ids in ([1, 2], [1, 2], [1, 3]):
        run(tmp_path, ["a"], calls, [np.array(ids)])
    assert calls == ["a", "a"]
    run(tmp_path, ["a"], calls, [np.array([1]), np.array([3])])
    assert len(calls) == 3


def test_what_was_measured_of_another_model_is_measured_again(tmp_path: Path) -> None:
    calls: list[str] = []
    for weights in ("0" * 64, "0" * 64, "1" * 64):
        run(tmp_path, ["a"], calls, [np.array([1])], weights)
    assert calls == ["a", "a"]


@pytest.mark.parametrize("data", [b"", b"PK", b"no archive"])
def test_a_damaged_shard_is_measured_again(data: bytes, tmp_path: Path) -> None:
    whole, cost = run(tmp_path, ["a"], [])
    (tmp_path / "a.npz").write_bytes(data)
    calls: list[str] = []
    again, resumed_cost = run(tmp_path, ["a"], calls)
    assert calls == ["a"]
    assert same(again, whole)
    assert resumed_cost == cost


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", drawn=np.array([{"x": 1}], dtype=object))
    calls: list[str] = []
    run(tmp_path, ["a"], calls)
    assert calls == ["a"]


def test_no_half_written_shard_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object, **arrays: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("numpy.savez", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, ["a"], [])
    assert not (tmp_path / "a.npz").exists()


def test_begin(tmp_path: Path) -> None:
    path, key = tmp_path / "scan", {"model": "m"}
    assert begin(path, key, asked=None, fresh={"seed": 1, "plan": "p"}) == {"seed": 1, "plan": "p"}
    (path / "shard").touch()
    # The same search, whose seed nobody asks for: it goes on with its own.
    assert begin(path, key, asked=None, fresh={"seed": 2, "plan": "q"})["seed"] == 1
    assert begin(path, key, asked=1, fresh={"seed": 1, "plan": "q"})["plan"] == "p"
    assert (path / "shard").exists()
    # Another seed, and another model.
    assert begin(path, key, asked=2, fresh={"seed": 2, "plan": "q"})["seed"] == 2
    assert not (path / "shard").exists()
    assert begin(path, {"model": "n"}, asked=None, fresh={"seed": 3, "plan": ""})["seed"] == 3


@pytest.mark.parametrize("data", [b"", b"\0" * 64, b"{"])
def test_a_damaged_journal_is_begun_anew(data: bytes, tmp_path: Path) -> None:
    path, key = tmp_path / "scan", {"model": "m"}
    begin(path, key, asked=None, fresh={"seed": 1})
    (path / "shard").touch()
    (path / "search.json").write_bytes(data)
    assert begin(path, key, asked=None, fresh={"seed": 2}) == {"seed": 2}
    assert not (path / "shard").exists()
    assert begin(path, key, asked=None, fresh={"seed": 3}) == {"seed": 2}
