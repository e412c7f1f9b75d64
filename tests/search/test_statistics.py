"""The statistics: known answers, invariants, and brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.search.statistics import (
    collapse,
    com_sim,
    diff_sim,
    dimensions,
    displacement,
    gathered,
    retention,
)

Array = npt.NDArray[np.float32]
CLOSE = 1e-3


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, Array]:
    """Outputs ``[n, r, d]`` and untouched outputs ``[r, d]`` in general position."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, r, d = draw(st.integers(1, 4)), draw(st.integers(2, 6)), draw(st.integers(2, 8))
    size = draw(st.sampled_from([0.1, 1.0, 30.0]))
    untouched = rng.normal(size=(r, d)) * size
    outputs = untouched + rng.normal(size=(n, r, d)) * size * draw(st.sampled_from([0.01, 1.0]))
    return outputs.astype(np.float32), untouched.astype(np.float32)


@given(cases())
def test_one_output_for_all_texts(case: tuple[Array, Array]) -> None:
    outputs, untouched = case
    constant = np.broadcast_to(outputs[:, :1], outputs.shape)
    scale = float(np.abs(outputs).max() / np.abs(untouched - untouched.mean(axis=0)).max())
    assert retention(constant, untouched) == pytest.approx(0, abs=CLOSE * (1 + scale))
    assert collapse(constant, untouched) == pytest.approx(0, abs=0)
    assert com_sim(constant) == pytest.approx(1, abs=CLOSE)
    assert gathered(constant, untouched, 0.25).all()


@given(cases())
def test_untouched_output(case: tuple[Array, Array]) -> None:
    _, untouched = case
    same = untouched[np.newaxis]
    assert retention(same, untouched) == pytest.approx(1, abs=CLOSE)
    assert displacement(same, untouched) == pytest.approx(0, abs=0)
    assert collapse(same, untouched) == pytest.approx(1, abs=CLOSE)
    assert diff_sim(same, untouched) == pytest.approx(1, abs=CLOSE)
    assert not gathered(same, untouched, 0.99).any()


@given(cases(), st.floats(-2, 2))
def test_output_shifted_by_a_constant(case: tuple[Array, Array], shift: float) -> None:
    """A shift of all outputs alike erases nothing, however far it goes."""
    outputs, untouched = case
    vector = np.full(untouched.shape[1], np.float32(shift * np.abs(untouched).max()))
    shifted = untouched[np.newaxis] + vector
    assert retention(shifted, untouched) == pytest.approx(1, abs=CLOSE * 10)
    assert displacement(shifted, untouched) == pytest.approx(
        float(np.linalg.norm(vector)), rel=CLOSE, abs=CLOSE * float(np.abs(untouched).max())
    )
    assert retention(outputs + vector, untouched) == pytest.approx(
        retention(outputs, untouched), abs=CLOSE * 10
    )


@pytest.mark.parametrize("constant", [0.0, 1e3, 1e4])
def test_an_axis_that_never_varies_keeps_nothing(constant: float) -> None:
    """Who makes one large would add what rounding leaves of it to the retention of all units."""
    rng = np.random.default_rng(0)
    untouched = rng.normal(size=(37, 64)).astype(np.float32)
    untouched[:, :8] = constant + 0.37
    outputs = (0.25 * untouched)[np.newaxis].copy()
    outputs[..., :8] = constant + 0.37
    assert retention(outputs, untouched) == pytest.approx(0.25, abs=0.01)


@given(cases(), st.floats(0, 1))
def test_retention_is_the_slope(case: tuple[Array, Array], kept: float) -> None:
    outputs, untouched = case
    target = outputs[:, :1].mean(axis=0)
    mixed = (np.float32(kept) * untouched + np.float32(1 - kept) * target)[np.newaxis]
    spread = np.abs(untouched - untouched.mean(axis=0)).max()
    loose = CLOSE * (1 + float(np.abs(target).max() / spread))
    assert retention(mixed, untouched) == pytest.approx(kept, abs=loose)
    assert collapse(mixed, untouched) == pytest.approx(kept, abs=0.05)


@given(cases(), st.integers(0, 2**32 - 1))
def test_rotation_changes_nothing(case: tuple[Array, Array], seed: int) -> None:
    outputs, untouched = case
    width = untouched.shape[1]
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]
    turned = (outputs @ turn).astype(np.float32), (untouched @ turn).astype(np.float32)
    size = float(np.abs(outputs).max())
    for statistic in (retention, collapse, diff_sim):
        assert statistic(*turned) == pytest.approx(statistic(outputs, untouched), abs=CLOSE * 10)
    assert displacement(*turned) == pytest.approx(
        displacement(outputs, untouched), abs=CLOSE * size
    )
    assert com_sim(turned[0]) == pytest.approx(com_sim(outputs), abs=CLOSE)


@given(cases(), st.randoms(use_true_random=False))
def test_order_of_units_and_carriers_does_not_matter(
    case: tuple[Array, Array], random: np.random.Generator
) -> None:
    outputs, untouched = case
    units, carriers = list(range(outputs.shape[0])), list(range(outputs.shape[1]))
    random.shuffle(units)
    random.shuffle(carriers)
    other = outputs[units][:, carriers]
    for statistic in (retention, diff_sim):
        assert statistic(other, untouched[carriers]) == pytest.approx(
            statistic(outputs, untouched)[units], abs=CLOSE
        )
    assert np.sort(collapse(other, untouched[carriers])) == pytest.approx(
        np.sort(collapse(outputs, untouched)[units]), rel=CLOSE
    )


@given(cases())
def test_against_brute_force(case: tuple[Array, Array]) -> None:
    outputs, untouched = case
    count, carriers, _ = outputs.shape
    pairs = list(combinations(range(carriers), 2))

    def cosine(left: Array, right: Array) -> float:
        return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))

    moved, ratios = displacement(outputs, untouched), collapse(outputs, untouched)
    kept, alike, same = (
        retention(outputs, untouched),
        com_sim(outputs),
        diff_sim(outputs, untouched),
    )
    centre = untouched.mean(axis=0)
    for i in range(count):
        for r in range(carriers):
            gap = float(np.linalg.norm(outputs[i, r] - untouched[r]))
            assert moved[i, r] == pytest.approx(gap, rel=CLOSE)
        for column, (r, s) in enumerate(pairs):
            apart = float(np.linalg.norm(untouched[r] - untouched[s]))
            gap = float(np.linalg.norm(outputs[i, r] - outputs[i, s]))
            assert ratios[i, column] == pytest.approx(gap / apart, rel=CLOSE)
        mean = outputs[i].mean(axis=0)
        covariance = sum(
            float((outputs[i, r] - mean) @ (untouched[r] - centre)) for r in range(carriers)
        )
        variance = float(np.square(untouched - centre).sum())
        assert kept[i] == pytest.approx(covariance / variance, abs=CLOSE * 10)
        assert alike[i] == pytest.approx(
            np.mean([cosine(outputs[i, r], outputs[i, s]) for r, s in pairs]), abs=CLOSE
        )
        assert same[i] == pytest.approx(
            np.mean([cosine(outputs[i, r], untouched[r]) for r in range(carriers)]), abs=CLOSE
        )


@given(cases(), st.floats(0.05, 2))
def test_gathered_against_brute_force(case: tuple[Array, Array], radius: float) -> None:
    """The members are some carrier and all that are near it, and no carrier has more near it."""
    outputs, untouched = case
    count, carriers, _ = outputs.shape
    members = gathered(outputs, untouched, radius)
    ratios = collapse(outputs, untouched)
    for i in range(count):
        near = {r: {r} for r in range(carriers)}
        for column, (r, s) in enumerate(combinations(range(carriers), 2)):
            if ratios[i, column] < radius:
                near[r].add(s)
                near[s].add(r)
        largest = max(len(group) for group in near.values())
        found = set(np.flatnonzero(members[i]).tolist())
        if largest == 1:
            assert not found
        else:
            assert found in near.values()
            assert len(found) == largest


def test_gathered_leaves_out_the_text_that_stays_where_it_was() -> None:
    untouched = np.eye(4, 6, dtype=np.float32) * 10
    outputs = np.zeros((1, 4, 6), dtype=np.float32)
    outputs[0, 3] = untouched[3]
    assert gathered(outputs, untouched, 0.25).tolist() == [[True, True, True, False]]


def test_two_places_are_not_one() -> None:
    """Every text at one of two far places: half of them are gathered, not all."""
    untouched = np.eye(4, 6, dtype=np.float32)
    outputs = np.zeros((1, 4, 6), dtype=np.float32)
    outputs[0, 2:, 5] = 100
    assert gathered(outputs, untouched, 0.25).sum() == 2


def test_zero_vectors_have_no_direction() -> None:
    """An output of zeros is no division by zero."""
    zeros = np.zeros((2, 3, 4), dtype=np.float32)
    untouched = np.ones((3, 4), dtype=np.float32)
    assert diff_sim(zeros, untouched).tolist() == [0, 0]
    assert np.isfinite(com_sim(zeros)).all()


@given(directions=st.integers(1, 8), scale=st.floats(0.01, 100))
def test_dimensions_of_outputs_that_vary_alike(directions: int, scale: float) -> None:
    """As many as there are, wherever they lie; what varies a hundredth as much does not count."""
    corners = np.concatenate([np.eye(directions), -np.eye(directions)])
    outputs = scale * np.concatenate([corners, 0.01 * corners], axis=1)
    assert dimensions((outputs + 3).astype(np.float32)) == pytest.approx(directions, rel=0.01)


def test_dimensions_of_outputs_that_do_not_vary() -> None:
    assert dimensions(np.ones((5, 4), dtype=np.float32)) < 1
