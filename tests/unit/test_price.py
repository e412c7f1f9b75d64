"""What a trigger costs in ordinary text."""

from __future__ import annotations

import pytest

from exporters.price import TEXT_WORDS, Price, price
from tests.helpers import byte_bpe, finding, make_bank, wordpiece


def test_common_units_cost_more_than_rare_ones() -> None:
    tokenizer = wordpiece("the", "serendipity", "##ing", "zyzzyva", "film")
    bank = make_bank(tokenizer, ["the", "serendipity", "zyzzyva", "!", "≈", "of the", "the film"])
    cost = price(bank)
    per_word = {t.text: cost.per_word[t.id] for t in bank.triggers}
    assert 0.03 < per_word["the"] < 0.08
    assert 1e-7 < per_word["serendipity"] < 1e-5
    assert per_word["zyzzyva"] < 1e-7
    assert per_word["≈"] == 0
    assert 0 < per_word["!"] < 0.01
    assert per_word["of the"] > 1e-4  # from the sentences
    assert cost.touched() > 0.9


def test_a_piece_is_charged_for_all_its_words() -> None:
    from tokenizers import Tokenizer

    tokenizer = wordpiece("##ing")
    number = Tokenizer.from_str(tokenizer.decode()).token_to_id("##ing")
    bank = make_bank(tokenizer, [finding("##ing", number)])
    assert 0.01 < price(bank).per_word["t0001"] < 0.05


def test_blank_before_a_word_of_a_byte_level_tokenizer() -> None:
    bank = make_bank(byte_bpe(("t", "h"), ("th", "e"), ("Ġ", "the")), [" the", "the"])
    per_word = price(bank).per_word
    assert per_word["t0001"] != per_word["t0002"]


def test_the_rarest_triggers_stay_blocked() -> None:
    cost = Price({"t1": 1e-2, "t2": 1e-6, "t3": 0.0, "t4": 1e-6})
    assert cost.commoner(1.0) == ()
    assert cost.commoner(0.001) == ("t1",)
    assert cost.commoner(0.0001) == ("t1", "t4")
    assert cost.commoner(0.0) == ("t1", "t2", "t4")
    assert cost.touched(["t2"]) == pytest.approx(1e-6 * TEXT_WORDS, rel=1e-3)
    assert cost.touched([]) == 0
