"""Which kinds of text a scan's groups meet."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from guard.search.carriers import builtin_texts
from guard.search.plan import FAST, FURTHER, GROUPS, Plan
from guard.search.texts import MASKED_SCAN, Texts
from tests.search.fakes import FakeEncoder
from tests.tiny import many_words, wordpiece

pytestmark = pytest.mark.search


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "no masks"])
@pytest.mark.parametrize("plan", [FAST, FURTHER], ids=["tokens", "words"])
def test_over_all_groups_no_kind_is_met_less_often_than_another(plan: Plan, masks: bool) -> None:
    """What a mask's texts take of the turns would leave words four kinds of ten."""
    encoder = FakeEncoder()
    encoder.tokenizer = wordpiece(many_words())
    if masks:
        encoder.views = ("cls", "mask")
    kinds = builtin_texts()
    texts = Texts(encoder, kinds, FAST, np.random.default_rng(0))
    met: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for _ in range(GROUPS):
        for carrier in texts.of_scan(plan):
            met[carrier.want.masked][carrier.want.kind] += 1
    each = GROUPS * len(plan.lengths) // len(kinds)
    assert met[False] == dict.fromkeys(kinds, each)
    masked = GROUPS * len(MASKED_SCAN) // len(kinds) if masks else 0
    assert met[True] == {kind: masked for kind in kinds if masked}
