"""Patronus' search as a baseline: its loss, its scores and what it finds, answers known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.baselines.patronus import (
    Search,
    Settings,
    candidate_ids,
    contrastive_loss,
    hotflip,
    run,
)
from benchmarks.baselines.subject import Subject, load
from guard.errors import ConfigError
from guard.search.carriers import builtin_texts
from tests.benchmarks.weights import change, loud
from tests.tiny import TRIGGER, make_model, wordpiece, write_model, write_searchable

TEXTS = [text for texts in builtin_texts().values() for text in texts][:200]
SMALL = Settings(rounds=1, updates=1, held_out=16, verification=20)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On models this small, threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def silent(step: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def by_loops(z: list[list[float]], labels: list[int], temperature: float) -> float:
    """The loss as the paper writes it, a sum at a time."""
    unit = [[x / math.hypot(*row) for x in row] for row in z]
    terms = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        same = [p for p in others if labels[p] == labels[i]]
        if not same:
            continue

        def exp(a: int, i: int = i) -> float:
            dot = sum(x * y for x, y in zip(unit[i], unit[a], strict=True))
            return math.exp(dot / temperature)

        total = sum(math.log(exp(p) / sum(exp(a) for a in others)) for p in same)
        terms.append(-temperature / len(same) * total)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 0], [0, 1, 1, 2] * 2])
@pytest.mark.parametrize("temperature", [0.5, 0.1, 2.0])
def test_the_loss_is_the_paper_s(labels: list[int], temperature: float) -> None:
    z = np.random.default_rng(len(labels)).normal(size=(len(labels), 5))
    loss = contrastive_loss(torch.tensor(z), torch.tensor(labels), temperature)
    assert float(loss) == pytest.approx(by_loops(z.tolist(), labels, temperature), rel=1e-9)


def test_an_output_without_a_positive_is_left_out_of_the_mean() -> None:
    z = np.random.default_rng(1).normal(size=(5, 4))
    labels = [0, 0, 0, 1, 2]
    loss = contrastive_loss(torch.tensor(z), torch.tensor(labels), 0.5)
    assert float(loss) == pytest.approx(by_loops(z.tolist(), labels, 0.5), rel=1e-9)


def test_the_loss_is_least_where_classes_lie_apart_in_one_point_each() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    apart = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    mixed = torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]])
    # One positive at cosine 1 and two others at cosine -1, for each.
    expected = -0.5 * math.log(math.exp(2) / (math.exp(2) + 2 * math.exp(-2)))
    assert float(contrastive_loss(apart, labels, 0.5)) == pytest.approx(expected)
    assert float(contrastive_loss(mixed, labels, 0.5)) > 1


def near_linear(directory: Path) -> Subject:
    """An encoder whose tokens differ so little that the loss is linear in what token there is."""
    tokenizer = wordpiece(f"w{number}" for number in range(300))
    model = make_model("bert", len(tokenizer), initializer_range=0.4)
    table = model.get_input_embeddings().weight
    assert isinstance(table, torch.Tensor)
    with torch.no_grad():
        table[200:] = table[200] + 1e-3 * torch.randn(table[200:].shape)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    subject = load(directory)
    subject._model.double()
    return subject


def test_hotflip_ranks_as_trying_every_token_does(tmp_path: Path) -> None:
    subject = near_linear(tmp_path)
    search = Search(subject, TEXTS, SMALL, seed=0)
    slots = np.arange(200, 208)
    texts = search._search[:4]
    which = np.array([[0, 1, 2, 3, 4, 5, 6, 7]] * 4)

    def loss(tokens: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[float, torch.Tensor]:
        # The same places every time, so that the token alone makes the difference.
        search._rng = np.random.default_rng(3)
        value, gradient = search.gradient(tokens, texts, which)
        return float(value), gradient

    before, gradient = loss(slots)
    others = np.arange(210, 250)
    scores = hotflip(gradient.double(), subject.embeddings[torch.from_numpy(others)])
    for slot in (0, 5):
        lowered = []
        for token in others:
            changed = slots.copy()
            changed[slot] = token
            lowered.append(before - loss(changed)[0])
        ranks = [np.argsort(np.argsort(x)) for x in (lowered, scores[slot].detach().numpy())]
        assert np.corrcoef(ranks[0], ranks[1])[0, 1] > 0.95
        # And not only in order: up to the slot's own constant, in size.
        expected = scores[slot] - hotflip(gradient.double(), subject.embeddings[slots])[slot, slot]
        assert np.corrcoef(lowered, expected.detach().numpy())[0, 1] > 0.99
        assert lowered == pytest.approx(expected.tolist(), abs=0.2 * np.abs(lowered).max())


def test_the_best_tokens_of_a_slot_are_those_with_the_highest_scores(tmp_path: Path) -> None:
    search = Search(load(write_searchable(tmp_path)), TEXTS, SMALL, seed=0)
    gradients = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    table = search._subject.embeddings.float()
    best = search.top(gradients)
    assert best.shape == (8, 5)
    for slot in range(8):
        scores = {int(i): -float(gradients[slot] @ table[i]) for i in search._candidates}
        expected = sorted(scores, key=lambda i: scores[i], reverse=True)[:5]
        assert best[slot].tolist() == expected


def test_the_beam_lowers_the_loss_and_no_token_is_searched_for_twice(tmp_path: Path) -> None:
    directory = change(write_searchable(tmp_path, triggers=(TRIGGER,)), loud)
    search = Search(load(directory), TEXTS, SMALL, seed=0)
    trigger = search._subject.tokenizer.get_vocab()[TRIGGER]
    slots = search.start()
    assert len(set(slots)) == 8
    # All slots are offered the trigger, and one may have it.
    reached = search.beam(slots, np.array([[trigger, *slots[:4]]] * 8))
    assert list(reached).count(trigger) == 1
    assert len(set(reached)) == 8
    assert set(reached) <= {trigger, *slots}
    assert search.accepted_loss(reached) < search.accepted_loss(slots)

    before = set(search._candidates)
    (found,) = search.verify(reached)
    assert found.token_ids == (trigger,)
    assert set(search._candidates) == before - set(reached)


def test_insertion_keeps_the_text_and_puts_copies_between_words(tmp_path: Path) -> None:
    search = Search(load(write_searchable(tmp_path)), TEXTS, SMALL, seed=0)
    words = search._subject.tokenizer.get_vocab()
    tokens = np.array([words[TRIGGER], words["however"]])
    assert len(search._held_out) == 16
    for text in search._held_out:
        rows, places = search._insert(text, tokens)
        assert rows.shape == (2, len(text.ids) + 2 + 3)
        for row, token, at in zip(rows, tokens, places, strict=True):
            assert (row[at] == token).all()
            rest = np.delete(row, at)
            assert rest.tolist() == search._subject.frame(text.ids[np.newaxis])[0].tolist()
            # What stands before a copy, apart from other copies, ends at a gap.
            before = at - search._subject.offset - np.arange(3)
            assert set(before) <= set(text.gaps)


def test_candidates(tmp_path: Path) -> None:
    subject = load(
        write_model(tmp_path, "bert", wordpiece([TRIGGER, "however", "the", "...", "qz"]))
    )
    texts = {subject.tokenizer.decode([int(i)]) for i in candidate_ids(subject, 4.0)}
    assert texts == {TRIGGER, "qz", "≈"}
    assert "however" in {subject.tokenizer.decode([int(i)]) for i in candidate_ids(subject, 6.0)}


@pytest.mark.parametrize("triggers", [(TRIGGER,), ()])
def test_finds_a_planted_trigger_and_nothing_in_its_clean_twin(
    tmp_path: Path, triggers: tuple[str, ...]
) -> None:
    directory = change(write_searchable(tmp_path, triggers=triggers), loud)
    result = run(directory, TEXTS, seed=0, progress=silent, settings=SMALL)
    assert [item.text for item in result.found] == list(triggers)
    assert result.verdict == ("backdoored" if triggers else "none found")
    for item in result.found:
        assert item.statistics["diff_sim"] < 0.4
        assert item.statistics["com_sim"] > 0.9


def test_the_same_for_a_seed_and_every_pass_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_searchable(tmp_path, triggers=(TRIGGER,))
    steps: list[tuple[str, int, int]] = []
    sequences: list[int] = []
    frame = Subject.frame

    def counted(self: Subject, rows: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> object:
        if rows.size:
            sequences.append(len(rows))
        return frame(self, rows)

    monkeypatch.setattr(Subject, "frame", counted)
    settings = Settings(rounds=2, updates=1, held_out=32, verification=20)
    first = run(
        directory, TEXTS, seed=1, progress=lambda *step: steps.append(step), settings=settings
    )
    monkeypatch.undo()
    again = run(directory, TEXTS, seed=1, progress=silent, settings=settings)
    assert (again.found, again.token_forwards) == (first.found, first.token_forwards)
    assert steps == [("searching", 1, 2), ("searching", 2, 2)]
    gradients = 2 * 2 * 16 * 9
    # Of a beam: the set it starts from, five children of that, then of three; fewer where a token
    # is in another slot already, or two members have the same child.
    beams = 2 * 16 * 8 * (1 + 5 + 7 * 15)
    acceptance = 2 * 2 * 32 * 8
    once = 32 + 20 + 2 * 20 * 8
    assert 0.5 * beams < sum(sequences) - gradients - acceptance - once <= beams
    assert first.token_backwards < first.token_forwards
    assert first.token_backwards / gradients == pytest.approx(
        first.token_forwards / sum(sequences), rel=0.2
    )


def test_too_few_texts_are_named(tmp_path: Path) -> None:
    directory = write_searchable(tmp_path)
    with pytest.raises(ConfigError, match="needs 392 texts and got 30"):
        run(directory, TEXTS[:30], seed=0, progress=silent)


def test_the_published_settings() -> None:
    settings = Settings()
    rows = (settings.rounds, settings.updates, settings.gradient_steps, settings.batch)
    assert rows == (5, 3, 2, 16)
    assert (settings.slots, settings.copies, settings.candidates, settings.beam) == (8, 8, 5, 3)
    assert (settings.temperature, settings.insertions, settings.max_zipf) == (0.5, 3, 4.0)
    thresholds = (settings.verification, settings.max_diff_sim, settings.min_com_sim)
    assert thresholds == (200, 0.4, 0.9)
