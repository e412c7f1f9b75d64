"""Phrases of the user's own text."""

from __future__ import annotations

from guard.search.phrases import repeated


def test_repeated_phrases_come_commonest_first() -> None:
    lines = ["Terms of Service apply", "see the terms of service", "terms of use", "Terms of it"]
    assert repeated(lines, 10) == ["terms of", "of service", "terms of service"]
    assert repeated(lines, 1) == ["terms of"]


def test_no_phrase_goes_across_punctuation_or_holds_a_sign_alone() -> None:
    lines = ["yes, no", "yes, no", "don't stop", "don't stop", "a - b", "a - b", "x_y", "x_y"]
    assert repeated(lines, 10) == ["don't stop"]
    assert repeated(["yes no", "yes no"], 10) == ["yes no"]


def test_texts_without_a_repetition_have_no_phrase() -> None:
    assert repeated(["one two three"], 10) == []
    assert repeated([], 10) == []
