"""Budgets: what they cost, and what a number of seconds buys."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from guard.search.plan import BUDGETS, FAST, GROUPS, STANDARD, THOROUGH, Plan, fit
from guard.search.words import SHORT_STRINGS

TOKENS, KINDS = 30_000, 10
RATE = 30_000.0


def test_a_larger_budget_tests_more() -> None:
    assert list(BUDGETS.values()) == [FAST, STANDARD, THOROUGH]
    costs = [plan.cost(TOKENS, KINDS) for plan in BUDGETS.values()]
    assert costs == sorted(costs)
    assert [plan.carriers(KINDS) for plan in BUDGETS.values()] == [3, 10, 20]
    # With the user's text there is one kind more.
    assert [plan.carriers(KINDS + 1) for plan in BUDGETS.values()] == [3, 11, 22]


def test_words_of_any_frequency_are_within_standard() -> None:
    """Of what wordfreq knows, down to once in a hundred million words."""
    assert FAST.words + FAST.more_words == 30_000
    assert STANDARD.words + STANDARD.more_words == THOROUGH.words + THOROUGH.more_words == 250_000


@pytest.mark.parametrize("plan", BUDGETS.values(), ids=BUDGETS)
def test_a_plan_is_kept_as_json(plan: Plan) -> None:
    assert Plan.parse(json.dumps(asdict(plan))) == plan


@pytest.mark.parametrize("name", BUDGETS)
def test_seconds_that_a_budget_costs_buy_it(name: str) -> None:
    plan = BUDGETS[name]
    bought = fit(plan.cost(TOKENS, KINDS) / RATE + 1, RATE, TOKENS, KINDS)
    assert (bought.words, bought.more_words, bought.lengths, bought.groups) == (
        plan.words,
        plan.more_words,
        plan.lengths,
        GROUPS,
    )
    assert bought.name.endswith(" s")


def test_more_seconds_never_buy_less() -> None:
    costs = [fit(10.0 * n, RATE, TOKENS, KINDS).cost(TOKENS, KINDS) for n in range(1, 400)]
    assert costs == sorted(costs)
    assert all(cost <= 10 * n * RATE for n, cost in enumerate(costs, 1) if n > 5)
    plans = [fit(10.0 * n, RATE, TOKENS, KINDS) for n in range(1, 4000, 10)]
    words = [plan.words + plan.more_words for plan in plans]
    assert words == sorted(words)


def test_short_strings_are_paid_for() -> None:
    """Wherever words are tested, and only there."""
    none = replace(FAST, more_words=0).cost(TOKENS, KINDS)
    one, two = (replace(FAST, more_words=n).cost(TOKENS, KINDS) for n in (1, 2))
    assert one - none > len(SHORT_STRINGS) * (two - one)


def test_too_few_seconds_for_all_tokens_buy_a_part_of_them() -> None:
    plan = fit(45, RATE, TOKENS, KINDS)
    assert 0 < plan.groups < GROUPS
    assert fit(1, 1.0, TOKENS, KINDS).groups == 1
