"""Variants of a finding, tried on a real model with a backdoor that is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from guard.search.carriers import Supply, Want, builtin_texts
from guard.search.expand import expand
from guard.search.gradients import Differentiable
from guard.search.pairs import join
from guard.search.units import vocabulary
from tests.tiny import TRIGGER, write_searchable

pytestmark = pytest.mark.search


def test_variants_are_tried_on_the_model_itself(tmp_path: Path) -> None:
    encoder = Differentiable.load(str(write_searchable(tmp_path, triggers=(TRIGGER,))))
    rng = np.random.default_rng(0)
    kinds = builtin_texts()
    supply = Supply(kinds, encoder.tokenizer, rng, most=40)
    texts = supply.take(Want(kind, 12, "middle") for kind in kinds)
    (finding,) = [u for u in vocabulary(encoder.tokenizer).units if u.text == TRIGGER]
    variants = expand(finding, texts, "cls", encoder=encoder, rng=rng)
    ids = [tuple(variant.unit.ids.tolist()) for variant in variants]
    assert len(set(ids)) == len(ids)
    # What holds the finding is matched with it: here in capitals, glued to a sign, or with an s.
    assert not any(int(finding.ids[0]) in own for own in ids)
    assert {variant.how for variant in variants} == {"nearest"}
    for variant in variants:
        assert set(variant.shares) == {"all", *kinds}
        assert variant.fires == variant.banked == (variant.shares["all"] >= 0.5)


def test_rows_of_the_embeddings_that_no_token_has_are_no_variants(tmp_path: Path) -> None:
    encoder = Differentiable.load(str(write_searchable(tmp_path, triggers=(TRIGGER,))))
    (finding,) = [u for u in vocabulary(encoder.tokenizer).units if u.text == TRIGGER]
    table = encoder.embeddings.detach()
    like = table[torch.from_numpy(finding.ids)].expand(20, -1)
    encoder._model.set_input_embeddings(
        torch.nn.Embedding.from_pretrained(torch.cat([table, like]))
    )
    rng = np.random.default_rng(0)
    supply = Supply({"one": ["a good film of its time"]}, encoder.tokenizer, rng, most=40)
    texts = supply.take([Want("one", 6, "middle")] * 3)
    variants = expand(finding, texts, "cls", encoder=encoder, rng=rng)
    assert [variant.how for variant in variants] == ["nearest"] * 8
    assert all(variant.unit.ids.max() < len(encoder.tokenizer) for variant in variants)


def test_two_words_are_tried_in_the_other_order_and_apart(tmp_path: Path) -> None:
    encoder = Differentiable.load(str(write_searchable(tmp_path, triggers=(TRIGGER,))))
    rng = np.random.default_rng(0)
    kinds = builtin_texts()
    supply = Supply(kinds, encoder.tokenizer, rng, most=40)
    texts = supply.take(Want(kind, 12, "middle") for kind in kinds)
    known = {u.text: u for u in vocabulary(encoder.tokenizer).units}
    pair = join(known[TRIGGER], known["a"])
    variants = {v.how: v for v in expand(pair, texts, "cls", encoder=encoder, rng=rng)}
    # Half of the pair fires for itself, so all that keeps it fires.
    assert variants["order"].unit.ids.tolist() == pair.ids[::-1].tolist()
    assert variants["order"].banked
    for gap in (1, 3):
        apart = variants[f"gap {gap}"]
        assert len(apart.unit.ids) == 2 + gap
        assert apart.fires
        assert not apart.banked
