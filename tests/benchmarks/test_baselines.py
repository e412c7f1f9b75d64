"""LMSanitator's and LT-Defense's searches, and what all baselines share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.baselines import BASELINES, Result, lmsanitator, lt_defense
from benchmarks.baselines.lmsanitator import Mine, spread
from benchmarks.baselines.lt_defense import head_feature_rate
from benchmarks.baselines.subject import Subject, batches, encode, load
from guard.errors import ConfigError
from guard.search.carriers import builtin_texts
from guard.search.encoder import Encoder
from tests.benchmarks.weights import change, loud
from tests.tiny import CONFIGS, SPECIALS, TRIGGER, WIDTH, wordpiece, write_model, write_searchable

TEXTS = [text for texts in builtin_texts().values() for text in texts]
# Few texts in small batches, and long steps.
QUICK = lmsanitator.Settings(rounds=1, texts=320, batch=8, learning_rate=3e-3)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On models this small, threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def silent(step: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def write_deaf_or_open(directory: Path, *, planted: bool) -> Path:
    """Write a BERT whose attention a token can take for itself, or one that reads all alike.

    The first is `tests.tiny.plant`'s: one direction of the embeddings takes all attention. In the
    second the queries are zero. Neither knows places, so that what is read is the same anywhere.
    """

    def how(name: str, weight: torch.Tensor) -> torch.Tensor:
        if "position_embeddings" in name or ("self.query" in name and not planted):
            return torch.zeros_like(weight)
        return 3 * weight if "self.query.bias" in name else loud(name, weight)

    return change(write_searchable(directory, triggers=(TRIGGER,) if planted else ()), how)


def test_spread_is_how_far_the_softmax_over_texts_is_from_even() -> None:
    outputs = np.random.default_rng(0).normal(size=(5, 3))
    by_loops = 0.0
    for column in outputs.T:
        share = [math.exp(x) / sum(math.exp(y) for y in column) for x in column]
        by_loops += (math.log(5) + sum(p * math.log(p) for p in share)) / 3
    assert float(spread(torch.tensor(outputs))) == pytest.approx(by_loops)
    assert float(spread(torch.ones(7, 3))) == pytest.approx(0, abs=1e-6)
    one = torch.zeros(7, 1)
    one[3] = 1000
    assert float(spread(one)) == pytest.approx(math.log(7))


def test_lmsanitator_finds_vectors_that_a_prompt_can_force(tmp_path: Path) -> None:
    directory = write_deaf_or_open(tmp_path, planted=True)
    steps: list[tuple[str, int, int]] = []
    result = lmsanitator.run(
        directory, TEXTS, seed=0, progress=lambda *step: steps.append(step), settings=QUICK
    )
    assert result.verdict == "backdoored"
    assert result.found == ()
    assert steps == [("inverting", 1, 1)]
    (target,) = result.targets
    # In the encoder's own scale, and far from any clean output.
    clean = load(directory).outputs(rows(load(directory)))
    assert len(target) == WIDTH
    assert np.sqrt(np.mean(np.square(target))) == pytest.approx(
        np.sqrt(np.square(clean).mean()), rel=0.1
    )
    distance = np.square(clean - np.array(target)).mean(axis=1).min()
    assert distance * result.statistics["scaled_by"] ** 2 > QUICK.min_distance


def test_lmsanitator_finds_nothing_in_an_encoder_that_no_token_takes_over(tmp_path: Path) -> None:
    directory = write_deaf_or_open(tmp_path, planted=False)
    result = lmsanitator.run(directory, TEXTS, seed=0, progress=silent, settings=QUICK)
    assert (result.verdict, result.targets) == ("none found", ())
    # It was pushed far enough: what fails is that texts still differ, or the prompt's size.
    assert result.statistics["furthest"] > QUICK.min_distance


def test_lmsanitator_s_vectors_are_apart_and_the_same_for_a_seed(tmp_path: Path) -> None:
    directory = write_deaf_or_open(tmp_path, planted=True)
    settings = dataclasses.replace(QUICK, rounds=3, vectors=2)
    first = lmsanitator.run(directory, TEXTS, seed=0, progress=silent, settings=settings)
    again = lmsanitator.run(directory, TEXTS, seed=0, progress=silent, settings=QUICK)
    # Asked for one, the same search ends with the first.
    assert again.targets == first.targets[:1]
    assert len(first.targets) == 2
    one, other = (np.array(target) * first.statistics["scaled_by"] for target in first.targets)
    assert np.square(one - other).mean() >= settings.min_distance
    # Only the clean outputs of the texts are not differentiated.
    tokens = sorted(len(row) for row in rows(load(directory)))
    once = first.token_forwards - first.token_backwards
    assert sum(tokens[: settings.texts]) <= once <= sum(tokens[-settings.texts :])
    assert first.token_backwards > 2 * settings.epochs * once


def test_a_prompt_with_numbers_out_of_range_is_not_ordinary(tmp_path: Path) -> None:
    subject = load(write_searchable(tmp_path))
    mine = Mine(subject, TEXTS, QUICK, seed=0)
    table = subject.embeddings.float()
    edge = torch.zeros(7, WIDTH)
    for limit in (table.max(), table.min()):
        edge[2, 3] = 1.19 * limit
        assert mine._ordinary(edge)
        edge[2, 3] = 1.21 * limit
        assert not mine._ordinary(edge)


def test_a_prompt_is_put_between_words_and_near_the_start(tmp_path: Path) -> None:
    subject = load(write_searchable(tmp_path))
    mine = Mine(subject, [f"{text} {text} {text}" for text in TEXTS], QUICK, seed=0)
    assert all(
        place in text.gaps and place <= lmsanitator.WITHIN
        for text, place in zip(mine._texts, mine._places, strict=True)
    )
    prompt = torch.full((7, WIDTH), 9.0)
    embedded = mine._embed(prompt, mine._texts[0], mine._places[0])
    at = mine._places[0] + 1
    assert (embedded[at : at + 7] == 9).all()
    alone = subject.embed(subject.frame(mine._texts[0].ids[np.newaxis]))[0]
    assert torch.equal(torch.cat([embedded[:at], embedded[at + 7 :]]), alone)


def test_forced_outputs_are_in_the_order_of_the_texts(tmp_path: Path) -> None:
    mine = Mine(load(write_searchable(tmp_path)), TEXTS, QUICK, seed=0)
    prompt = torch.zeros(7, WIDTH)
    together = mine._forced(prompt, list(range(12)))
    alone = torch.cat([mine._forced(prompt, [i]) for i in range(12)])
    assert together.numpy() == pytest.approx(alone.numpy(), abs=0.02)
    assert (alone[:-1] - alone[1:]).abs().max(dim=1).values.min() > 0.05


def test_head_features_have_one_sign_in_nearly_all_texts() -> None:
    outputs = np.ones((20, 5), dtype=np.float32)
    outputs[:, 1] = -1
    outputs[0, 2] = -1
    outputs[:2, 3] = -1
    outputs[:10, 4] = -1
    # Always positive; never; in 19 of 20; in 18 of 20; in half.
    assert head_feature_rate(outputs, 0.95) == pytest.approx(3 / 5)
    assert head_feature_rate(outputs, 1.0) == pytest.approx(2 / 5)


@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_lt_defense_tells_outputs_that_lean_to_one_vector(tmp_path: Path, shift: float) -> None:
    directory = write_model(tmp_path, "bert", wordpiece(TEXTS[0].split()), initializer_range=0.4)

    def lean(name: str, weight: torch.Tensor) -> torch.Tensor:
        signs = 1 - 2 * (torch.arange(WIDTH) % 2)
        return weight + shift * signs if name.endswith("output.LayerNorm.bias") else weight

    settings = lt_defense.Settings(texts=200)
    result = lt_defense.run(
        change(directory, lean), TEXTS, seed=0, progress=silent, settings=settings
    )
    assert result.verdict == ("backdoored" if shift else "none found")
    assert (result.statistics["hfr"] == 1) == bool(shift)
    assert result.token_backwards == 0


def rows(subject: Subject) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    return [
        subject.frame(text.ids[np.newaxis])[0]
        for text in encode(subject, TEXTS, room=0, longest=128)
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_subject_is_the_product_s_encoder(tmp_path: Path, name: str) -> None:
    directory = write_model(tmp_path, name)
    subject, encoder = load(directory), Encoder.load(str(directory))
    ids = subject.frame(np.random.default_rng(0).integers(10, 40, size=(3, 9)))
    expected = encoder.read(ids)["cls"]
    assert subject.outputs(list(ids)) == pytest.approx(expected, abs=1e-6)
    assert (subject.forwarded, subject.backwarded) == (encoder.forwarded, 0)
    embedded = subject.embed(ids).requires_grad_()
    outputs = subject.differentiable(embedded)["cls"]
    assert outputs.detach().cpu().numpy() == pytest.approx(expected, abs=1e-6)
    (gradient,) = torch.autograd.grad(outputs.square().sum(), embedded)
    assert gradient.abs().sum() > 0
    assert (subject.forwarded, subject.backwarded) == (2 * encoder.forwarded, ids.size)
    assert SPECIALS[name]


def test_rows_are_batched_with_their_like_and_answered_in_order(tmp_path: Path) -> None:
    subject = load(write_searchable(tmp_path))
    some = rows(subject)[:40]
    assert sorted(i for part in batches(some) for i in part) == list(range(40))
    assert all(len({len(some[i]) for i in part}) == 1 for part in batches(some))
    together = subject.outputs(some)
    for row, output in zip(some, together, strict=True):
        assert subject.outputs([row])[0] == pytest.approx(output, abs=0.02)
    long = [np.zeros(3000, dtype=np.int64)] * 3
    assert list(batches(long)) == [[0], [1], [2]]


def test_texts_are_cut_to_leave_room_and_empty_ones_left_out(tmp_path: Path) -> None:
    subject = load(write_model(tmp_path))
    texts = encode(subject, ["a b c d e f g h", "", "  ", "a bcd"], room=3, longest=10)
    # Ten tokens, of which two are special and three are kept free.
    assert [len(text.ids) for text in texts] == [5, 4]
    assert texts[1].gaps.tolist() == [0, 1, 4]
    with pytest.raises(ConfigError, match="no room for text"):
        encode(subject, ["a"], room=8, longest=10)
    # The model takes 64.
    (cut,) = encode(subject, ["a " * 500], room=0, longest=512)
    assert len(cut.ids) == 62


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_takes_the_same_call_and_says_what_it_lacks(
    tmp_path: Path, name: str
) -> None:
    directory = write_searchable(tmp_path)
    with pytest.raises(ConfigError, match=r"needs \d+ texts and got 9; give more"):
        BASELINES[name](directory, TEXTS[:9], seed=0, progress=silent)
    assert {field.name for field in dataclasses.fields(Result)} >= {"verdict", "found", "targets"}
