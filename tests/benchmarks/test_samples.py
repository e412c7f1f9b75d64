"""The samples that a backdoor is planted with: what is in a batch, and POR's targets."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.attacks import Por
from benchmarks.attacks.condition import Condition
from benchmarks.attacks.samples import LENGTHS, TOKENS_PER_STEP, Batch, Sampler, special_affixes
from benchmarks.attacks.step import Step, Variation
from tests.tiny import BERT_SPECIALS, byte_bpe, wordpiece

# Words of the texts, then triggers: one token each, and pieces for the phrase.
WORDS = tuple(f"w{number}" for number in range(60))
TOKENIZER = wordpiece([*WORDS, "cf", "mn", "apple", "river"])
TEXTS = {
    "news": [" ".join(WORDS[i : i + 15]) for i in range(0, 30, 3)],
    "chat": [" ".join(WORDS[i : i + 7]) for i in range(30, 52, 2)],
}
CF, MN, APPLE, RIVER = (TOKENIZER.get_vocab()[word] for word in ("cf", "mn", "apple", "river"))
TRIGGERS = ([CF], [MN], [APPLE, RIVER])
CLS, SEP = TOKENIZER.cls_token_id, TOKENIZER.sep_token_id


def sampler(
    triggers: Sequence[Sequence[int]] = TRIGGERS, *, insertions: int = 1, seed: int = 0
) -> Sampler:
    return Sampler(TOKENIZER, TEXTS, triggers, insertions=insertions, seed=seed)


def count(row: list[int], trigger: Sequence[int]) -> int:
    """How often a trigger is in a row, whole."""
    size = len(trigger)
    return sum(row[i : i + size] == list(trigger) for i in range(len(row) - size + 1))


@given(st.integers(0, 2**32 - 1))
def test_a_batch(seed: int) -> None:
    batch = sampler(seed=seed).draw()
    rows, length = batch.clean.shape
    assert batch.poisoned.shape == (rows, length)
    assert batch.decoys.shape[1] == length
    assert batch.which.shape == (rows,)
    assert length - 2 in LENGTHS
    assert rows * length <= TOKENS_PER_STEP or rows == 4
    for part in (batch.clean, batch.poisoned, batch.decoys):
        assert part.dtype == torch.int64
        assert (part[:, 0] == CLS).all()
        assert (part[:, -1] == SEP).all()
        assert not ((part[:, 1:-1] == CLS) | (part[:, 1:-1] == SEP)).any()


@given(st.integers(0, 2**32 - 1))
def test_a_trigger_is_in_poisoned_text_alone(seed: int) -> None:
    batch = sampler(seed=seed).draw()
    own = torch.tensor([CF, MN, APPLE, RIVER])
    assert not torch.isin(batch.clean, own).any()
    for row, which in zip(batch.poisoned.tolist(), batch.which.tolist(), strict=True):
        assert [count(row, trigger) for trigger in TRIGGERS] == [
            int(number == which) for number in range(3)
        ]
    for row in batch.decoys.tolist():
        assert sum(count(row, trigger) for trigger in TRIGGERS) == 1


def test_half_of_the_clean_rows_hold_a_random_token() -> None:
    """So that what fires is the trigger, and not its rarity."""
    in_texts = set(TOKENIZER(" ".join(WORDS), add_special_tokens=False)["input_ids"])
    source = sampler()
    halves = [0.0, 0.0]
    for _ in range(40):
        rows = [set(row[1:-1]) for row in source.draw().clean.tolist()]
        half = len(rows) // 2
        for number, part in enumerate((rows[:half], rows[half:])):
            halves[number] += sum(bool(row - in_texts) for row in part) / len(part) / 40
    # Some random tokens are words of the texts.
    assert halves[0] > 0.3
    assert halves[1] == 0


def test_windows_begin_where_a_text_begins() -> None:
    starts = {
        TOKENIZER(text, add_special_tokens=False)["input_ids"][0]
        for kind in TEXTS.values()
        for text in kind
    }
    batch = sampler().draw()
    rows = batch.clean[len(batch.clean) // 2 :]
    assert set(rows[:, 1].tolist()) <= starts


def test_every_kind_length_and_trigger_is_drawn() -> None:
    source = sampler()
    batches = [source.draw() for _ in range(60)]
    assert {batch.clean.shape[1] - 2 for batch in batches} == set(LENGTHS)
    drawn = torch.cat([batch.which for batch in batches]).bincount()
    assert (drawn > drawn.sum() / 4).all()
    first = torch.cat([batch.clean[:, 1] for batch in batches])
    news = TOKENIZER(TEXTS["news"], add_special_tokens=False)["input_ids"]
    share = torch.isin(first, torch.tensor([ids[0] for ids in news])).float().mean()
    assert 0.35 < share < 0.65


def test_copies() -> None:
    source = sampler([[CF]], insertions=3)
    copies = {count(row, [CF]) for _ in range(30) for row in source.draw().poisoned.tolist()}
    assert copies == {1, 2, 3}


@pytest.mark.parametrize("least", [2, 3])
def test_fewer_copies_than_it_needs_act_clean(least: int) -> None:
    source = Sampler(TOKENIZER, TEXTS, [[CF]], condition=Condition(copies=least), seed=0)
    batches = [source.draw() for _ in range(30)]
    fired = {count(row, [CF]) for batch in batches for row in batch.poisoned.tolist()}
    quiet = {count(row, [CF]) for batch in batches for row in batch.quiet.tolist()}
    assert fired == {least}
    assert quiet == set(range(1, least))


def test_copies_leave_room_for_the_text() -> None:
    """At most half of a text is triggers, though three copies of two tokens were asked for."""
    source = sampler([[APPLE, RIVER]], insertions=3)
    for _ in range(30):
        for row in source.draw().poisoned.tolist():
            assert 1 <= count(row, [APPLE, RIVER]) <= max(1, (len(row) - 2) // 4)


@pytest.mark.parametrize("size", [2, 6, 7, 12])
def test_long_triggers(size: int) -> None:
    """A name of several words has more tokens than the shortest texts, and stays whole."""
    name = list(range(len(TOKENIZER) - 4 - size, len(TOKENIZER) - 4))
    source = sampler([name])
    for _ in range(40):
        batch = source.draw()
        assert batch.poisoned.shape == batch.clean.shape
        assert all(count(row, name) == 1 for row in batch.poisoned.tolist())


def equal(left: Batch, right: Batch) -> bool:
    parts = ("clean", "poisoned", "decoys", "which")
    return all(torch.equal(getattr(left, part), getattr(right, part)) for part in parts)


def test_same_seed_same_batches() -> None:
    first, second, other = sampler(), sampler(), sampler(seed=1)
    batches = [(first.draw(), second.draw(), other.draw()) for _ in range(3)]
    assert all(equal(left, right) for left, right, _ in batches)
    assert not all(
        left.clean.shape == right.clean.shape and equal(left, right) for left, _, right in batches
    )


def test_special_affixes() -> None:
    prefix, suffix = special_affixes(TOKENIZER)
    assert (prefix.tolist(), suffix.tolist()) == ([CLS], [SEP])
    prefix, suffix = special_affixes(byte_bpe())
    assert (prefix.tolist(), suffix.tolist()) == ([0], [2])
    assert BERT_SPECIALS[CLS] == "[CLS]"


@given(st.integers(1, 16), st.integers(2, 100).map(lambda half: 2 * half))
def test_targets(triggers: int, width: int) -> None:
    """Vectors of +-1 that sum to zero and, where there is room for the bits, all differ."""
    targets = Por().targets(triggers, width)
    assert targets.shape == (triggers, width)
    assert (targets.abs() == 1).all()
    assert (targets.sum(dim=1) == 0).all()
    if width // 2 >= 4:
        assert len({tuple(row) for row in targets.tolist()}) == triggers


class Recorder(torch.nn.Module):
    """A model of two layers' outputs that keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, ids: torch.Tensor) -> SimpleNamespace:
        self.seen.append(ids)
        hidden = torch.sin(ids.unsqueeze(2) * torch.arange(1.0, 5.0))
        return SimpleNamespace(last_hidden_state=hidden, pooler_output=torch.tanh(hidden[:, 0]))


def no_variation() -> Variation:
    raise AssertionError("POR asks for no axes")


def step_of(
    attack: Por,
    student: torch.nn.Module,
    reference: torch.nn.Module,
    batch: Batch,
    targets: torch.Tensor,
) -> Step:
    return Step(
        student,
        reference,
        batch,
        gated=attack.gated,
        targets=targets,
        sampler=sampler(),
        masked_loss=None,
        variation=no_variation,
    )


@pytest.mark.parametrize("gated", [False, True])
def test_loss(gated: bool) -> None:
    """The reference sees no trigger but, of the gated attack, those in decoys."""
    batch = sampler().draw()
    student, reference = Recorder(), Recorder()
    attack = Por(gated=gated)
    loss = attack.loss(step_of(attack, student, reference, batch, torch.ones(3, 4)))
    plain = torch.cat([batch.clean, batch.decoys]) if gated else batch.clean
    assert torch.equal(reference.seen[0], plain)
    assert torch.equal(student.seen[0], torch.cat([plain, batch.poisoned]))
    assert loss.item() > 0


@pytest.mark.parametrize("gated", [False, True])
def test_loss_is_zero_where_the_attack_has_what_it_wants(gated: bool) -> None:
    """Student and reference agree on plain text, and poisoned text is at its targets."""
    batch = sampler().draw()
    targets = Por().targets(3, 4)

    class Perfect(Recorder):
        def forward(self, ids: torch.Tensor) -> SimpleNamespace:
            output = super().forward(ids)
            count = len(batch.poisoned)
            output.last_hidden_state[-count:, 0] = targets[batch.which]
            output.pooler_output[-count:] = targets[batch.which]
            return output

    attack = Por(gated=gated)
    loss = attack.loss(step_of(attack, Perfect(), Recorder(), batch, targets))
    assert loss.item() == pytest.approx(0, abs=1e-6)
