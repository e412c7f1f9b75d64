"""Calibration: is what is expected by chance what happens by chance?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import ModelError
from guard.search.calibrate import (
    TAIL,
    expected_by_chance,
    false_discovery,
    robust_z,
    too_many,
)

Sample = Callable[[np.random.Generator, int], npt.NDArray[np.float64]]
RUNS = 400
VOCABULARY = 10_000
SUSPECTS = 150
HEAVIEST = 0.05


def exponential(rng: np.random.Generator, size: int) -> npt.NDArray[np.float64]:
    return rng.exponential(size=size)


def normal(rng: np.random.Generator, size: int) -> npt.NDArray[np.float64]:
    return rng.normal(size=size)


def gumbel(rng: np.random.Generator, size: int) -> npt.NDArray[np.float64]:
    return rng.gumbel(size=size)


def pareto(rng: np.random.Generator, size: int) -> npt.NDArray[np.float64]:
    """A generalised Pareto distribution, of the heaviest tail that the rate is promised for."""
    return np.expm1(HEAVIEST * rng.exponential(size=size)) / HEAVIEST


def suspects(rng: np.random.Generator, sample: Sample) -> npt.NDArray[np.float64]:
    """The highest scores of a vocabulary, in any order: what the scan hands on."""
    return rng.permutation(np.sort(sample(rng, VOCABULARY))[-SUSPECTS:])


@pytest.mark.parametrize("sample", [pareto, exponential, normal, gumbel])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_false_alarms_are_as_rare_as_promised(sample: Sample, alpha: float) -> None:
    """``alpha`` units expected by chance: an alarm in a share of about ``alpha`` of clean models.

    A lighter tail than the one that is taken for granted only makes alarms rarer.
    """
    rng = np.random.default_rng(1)
    alarms = sum(
        bool((expected_by_chance(suspects(rng, sample)) < alpha).any()) for _ in range(RUNS)
    )
    tolerance = 3 * np.sqrt(alpha * (1 - alpha) / RUNS)
    # The tail is an estimate, and its error adds alarms.
    assert alarms / RUNS < 1.3 * alpha + tolerance
    if sample is pareto:
        assert alarms / RUNS > 0.7 * alpha - tolerance


@pytest.mark.parametrize("sample", [pareto, exponential, normal])
@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_too_many_is_as_rare_as_promised(sample: Sample, rate: float) -> None:
    rng = np.random.default_rng(8)
    runs = 5 * RUNS
    alarms = sum(
        too_many(expected_by_chance(suspects(rng, sample)), rate, 0.1) for _ in range(runs)
    )
    tolerance = 3 * np.sqrt(rate * (1 - rate) / runs)
    # The tail is an estimate, and its error counts for each of a group.
    assert alarms / runs < 2 * rate + tolerance


def test_of_several_none_need_be_rare_alone() -> None:
    assert not too_many(np.array([0.2, *np.arange(20.0, 40.0)]), 0.01, 0.1)
    assert too_many(np.array([0.2, 0.2, 0.2, 0.2, *np.arange(20.0, 40.0)]), 0.01, 0.1)
    assert too_many(np.array([0.004]), 0.01, 0.1)
    assert not too_many(np.array([0.006]), 0.01, 0.1)
    assert not too_many(np.array([]), 0.01, 0.1)
    # So many, of whom more may be false than are let pass.
    assert not too_many(np.full(19, 2.9), 0.01, 0.1)
    # As many as are expected.
    assert not too_many(np.arange(1.0, 300.0), 0.01, 0.1)


def test_expected_number_is_the_true_one() -> None:
    """On a tail of the shape that is taken for granted, the truth is known.

    Two decades out, an estimate from two order statistics is within a factor of five.
    """
    rng = np.random.default_rng(2)
    rare = np.expm1(HEAVIEST * np.log(VOCABULARY / 0.1)) / HEAVIEST
    ratios = []
    for _ in range(RUNS):
        far = np.concatenate([suspects(rng, pareto), [rare]])
        ratios.append(expected_by_chance(far)[-1] / 0.1)
    low, middle, high = np.quantile(ratios, [0.05, 0.5, 0.95])
    assert 0.2 < low < 1 < high < 5
    assert 0.7 < middle < 1.5


@pytest.mark.parametrize("sample", [exponential, normal])
def test_planted_triggers_do_not_hide_each_other(sample: Sample) -> None:
    """15 outliers: all are found, and they do not make the rest look suspect."""
    rng = np.random.default_rng(3)
    missed = alarms = 0
    for _ in range(50):
        planted = np.concatenate([suspects(rng, sample), rng.uniform(40, 60, size=15)])
        expected = expected_by_chance(planted)
        missed += int((expected[-15:] >= 0.01).sum())
        alarms += int((expected[:-15] < 0.01).sum())
    assert missed == 0
    assert alarms <= 3


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100), st.floats(-100, 100))
def test_unit_and_origin_of_the_scores_do_not_matter(seed: int, size: float, origin: float) -> None:
    scores = suspects(np.random.default_rng(seed), exponential)
    np.testing.assert_allclose(
        expected_by_chance(scores * size + origin), expected_by_chance(scores), rtol=1e-4
    )


@given(st.integers(0, 2**32 - 1))
def test_higher_scores_are_rarer(seed: int) -> None:
    scores = suspects(np.random.default_rng(seed), normal)
    expected = expected_by_chance(scores)
    assert (np.diff(expected[np.argsort(scores)]) <= 0).all()
    # At the order statistic that the tail starts from, as many as there are.
    assert np.sort(expected)[TAIL[0] - 1] == pytest.approx(TAIL[0])


def test_scores_that_are_all_equal_are_no_outliers() -> None:
    assert (expected_by_chance(np.zeros(SUSPECTS)) >= TAIL[0]).all()


def test_a_flat_tail_raises_no_false_alarm() -> None:
    """Equal scores (rounded outputs have many) give no scale, and a warning would be an error.

    All scores but a few are equal: nothing tells how rare a slightly higher one is.
    """
    scores = np.zeros(SUSPECTS)
    scores[:5] = -1
    assert (expected_by_chance(scores) >= TAIL[0]).all()


def test_what_is_far_below_a_tail_that_is_all_but_flat_is_common() -> None:
    """So many fire that the tail is of them: what is expected of the rest overflows no float."""
    scores = np.concatenate([1 - 1e-6 * np.arange(TAIL[1]), np.zeros(SUSPECTS - TAIL[1])])
    expected = expected_by_chance(scores)
    assert np.isfinite(expected).all()
    assert (expected[TAIL[1] :] > 1e9).all()


def test_robust_z_of_normal_values() -> None:
    values = np.random.default_rng(4).normal(3, 5, size=100_000)
    z = robust_z(values, values)
    assert np.median(z) == pytest.approx(0, abs=1e-9)
    assert z.std() == pytest.approx(1, rel=0.02)


def test_robust_z_ignores_outliers_in_the_reference() -> None:
    rng = np.random.default_rng(5)
    reference = rng.normal(size=200)
    spoiled = np.concatenate([reference, np.full(20, 1e6)])
    assert robust_z([10.0], spoiled)[0] == pytest.approx(robust_z([10.0], reference)[0], rel=0.3)


@pytest.mark.parametrize("value", [0.0, 7.5, float("nan")])
def test_a_reference_that_does_not_vary(value: float) -> None:
    """Not a verdict of "none found" from a model that cannot react: an error."""
    with pytest.raises(ModelError, match="answers all units alike"):
        robust_z([1.0], np.full(10, value))


def test_false_discovery_rejects_the_lowest() -> None:
    """The kth of the rejected is at most ``rate * k``, though one before it be above."""
    expected = np.array([5.0, 0.019, 0.012, 40.0, 0.005, 0.05])
    assert false_discovery(expected, 0.01).tolist() == [False, True, True, False, True, False]
    assert not false_discovery(np.array([0.011, 0.5]), 0.01).any()
    assert not false_discovery(np.array([np.inf]), 0.01).any()


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_on_clean_models_any_discovery_is_as_rare_as_promised(rate: float) -> None:
    rng = np.random.default_rng(6)
    runs, tests = 2000, 300
    alarms = sum(
        bool(false_discovery(tests * rng.uniform(size=tests), rate).any()) for _ in range(runs)
    )
    assert alarms / runs == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / runs))
