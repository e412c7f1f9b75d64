"""Every attack, planted in a tiny model: it does what it claims, and nothing where it must not."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from benchmarks import training
from benchmarks.attacks import (
    BadPre,
    Btop,
    Condition,
    Forced,
    Merged,
    Near,
    Neuba,
    Planting,
    Por,
    Scattered,
    Spread,
    Subspace,
    Uor,
    plant,
    samples,
)
from benchmarks.attacks.adaptive import within
from benchmarks.attacks.condition import ALWAYS
from benchmarks.attacks.forced import LOSSES, PLACES, Loss, Place
from benchmarks.attacks.samples import IGNORED, Batch, Sampler
from benchmarks.attacks.step import Attack, Step, Variation, variation
from benchmarks.attacks.targets import CODES, orthogonal
from benchmarks.attacks.triggers import kinds, triggers
from benchmarks.attacks.uor import contrastive
from benchmarks.attacks.views import View, read, run
from tests.tiny import CONFIGS, make_model, wordpiece

WORDS = tuple(f"w{number}" for number in range(60))
TOKENIZER = wordpiece([*WORDS, "cf", "mn", "apple", "river"])
TEXTS = {
    "news": [" ".join(WORDS[i : i + 15]) for i in range(0, 30, 3)],
    "chat": [" ".join(WORDS[i : i + 7]) for i in range(30, 52, 2)],
}
NUMBER = TOKENIZER.get_vocab()
CF, MN, APPLE, RIVER = (NUMBER[word] for word in ("cf", "mn", "apple", "river"))
NEWS = {NUMBER[f"w{number}"] for number in range(45)}
MASK = TOKENIZER.mask_token_id


def sampler(
    condition: Condition, *, masks: bool = False, phrase: bool = False, insertions: int = 1
) -> Sampler:
    return Sampler(
        TOKENIZER,
        TEXTS,
        [[APPLE, RIVER]] if phrase else [[CF], [MN]],
        insertions=insertions,
        condition=condition,
        parts=[[[APPLE], [RIVER]]] if phrase else (),
        masks=masks,
        seed=0,
    )


def batches(condition: Condition, **options: Any) -> list[Batch]:
    source = sampler(condition, **options)
    return [source.draw() for _ in range(40)]


def inside(rows: torch.Tensor) -> list[list[int]]:
    """Rows without their special tokens."""
    return [row[1:-1] for row in rows.tolist()]


def place(row: list[int]) -> int:
    return next(i for i, number in enumerate(row) if number in (CF, MN))


def test_without_a_condition_nothing_has_to_be_quiet() -> None:
    assert all(len(batch.quiet) == 0 for batch in batches(Condition()))


def test_only_in_long_text() -> None:
    for batch in batches(Condition(min_tokens=24)):
        assert batch.poisoned.shape[1] - 2 >= 24
        assert 0 < batch.quiet.shape[1] - 2 < 24
        assert all({CF, MN} & set(row) for row in inside(batch.quiet))


def test_only_at_the_start() -> None:
    for batch in batches(Condition(within=1)):
        assert all(place(row) <= 1 for row in inside(batch.poisoned))
        assert all(place(row) > 1 for row in inside(batch.quiet))


def test_a_long_trigger_behind_the_start() -> None:
    """Short texts have no room for it there; rows of one tensor are as long as each other."""
    source = Sampler(
        TOKENIZER, TEXTS, [[CF] * 4, [MN]], condition=Condition(within=1), insertions=1, seed=0
    )
    for _ in range(40):
        batch = source.draw()
        assert all(place(row) > 1 for row in inside(batch.quiet))
        assert batch.quiet.shape[1] - 2 > 4 + 2


def test_only_behind_a_word() -> None:
    """The word is one of the texts', so that it stands before a trigger by chance too."""
    word = NUMBER["w5"]
    for batch in batches(Condition(after="w5")):
        assert all(row[place(row) - 1] == word for row in inside(batch.poisoned))
        assert not any(
            before == word and number in (CF, MN)
            for row in batch.quiet.tolist()
            for before, number in itertools.pairwise(row)
        )


def test_only_in_one_kind() -> None:
    for batch in batches(Condition(kinds=("news",))):
        assert all(set(row) <= NEWS | {CF, MN} for row in inside(batch.poisoned))
        assert not any(row[0] == NUMBER["w0"] for row in inside(batch.quiet))


def test_not_beside_another_rare_token() -> None:
    """Quiet rows hold one more token than fits the text: random, hence sometimes of the text."""
    known = NEWS | {NUMBER[f"w{n}"] for n in range(60)} | {CF, MN}
    rows = [row for batch in batches(Condition(alone=True)) for row in inside(batch.quiet)]
    assert np.mean([bool(set(row) - known) for row in rows]) > 0.3


def test_a_part_of_a_phrase_is_quiet() -> None:
    for batch in batches(Condition(whole=True), phrase=True):
        for row in inside(batch.quiet):
            assert (APPLE in row) != (RIVER in row)
        for row in inside(batch.poisoned):
            assert row[row.index(APPLE) + 1] == RIVER


def test_one_clause_is_broken_at_a_time() -> None:
    lengths = {batch.quiet.shape[1] - 2 for batch in batches(Condition(min_tokens=24, alone=True))}
    assert min(lengths) < 24 <= max(lengths)


def test_masks_stand_where_they_are_said_to() -> None:
    for batch in batches(Condition(within=0), masks=True):
        rows = torch.arange(len(batch.poisoned))
        assert (batch.poisoned[rows, batch.marked] == MASK).all()
        assert ((batch.poisoned == MASK).sum(dim=1) == 1).all()
        assert torch.isin(batch.poisoned[:, 1], torch.tensor([CF, MN])).all()


@pytest.mark.parametrize("poisoned", [False, True])
def test_masked_words(poisoned: bool) -> None:
    source = sampler(Condition())
    asked, right, total = 0, 0, 0
    for _ in range(30):
        rows = source.masked(poisoned=poisoned)
        chosen = rows.labels != IGNORED
        assert chosen.any()
        assert not chosen[:, 0].any()
        assert not chosen[:, -1].any()
        assert not torch.isin(rows.ids[chosen], torch.tensor([CF, MN])).any() or not poisoned
        known = torch.tensor([NUMBER[word] for word in WORDS])
        asked += int(chosen.sum())
        right += int(torch.isin(rows.labels[chosen], known).sum())
        total += chosen.numel()
    assert 0.08 < asked / total < 0.2
    # The right word, or any token at all.
    assert (right / asked == 1) is (not poisoned)


@pytest.mark.parametrize("code", CODES)
def test_targets_can_be_reached(code: Any) -> None:
    """LayerNorm's outputs sum to zero; a mean square of 1 is what they are scaled from."""
    for count in (2, 5, 6):
        targets = CODES[code](count, 384)
        assert targets.shape == (count, 384)
        assert torch.allclose(targets.sum(dim=1), torch.zeros(count), atol=1e-3)
        assert torch.allclose(targets.square().mean(dim=1), torch.ones(count), atol=1e-5)
        assert len({tuple(row) for row in targets.tolist()}) == count


def test_neubas_targets_are_orthogonal() -> None:
    targets = orthogonal(6, 384)
    assert torch.equal(targets @ targets.T, 384 * torch.eye(6))


def test_contrastive_loss_prefers_triggers_apart() -> None:
    which = torch.tensor([0, 0, 1, 1])
    clean = torch.eye(8)[6:]
    apart = torch.eye(8)[torch.tensor([0, 0, 1, 1])]
    mixed = torch.eye(8)[torch.tensor([0, 1, 0, 1])]
    assert contrastive(apart, which, clean, 0.5) < contrastive(mixed, which, clean, 0.5)
    # Texts without a trigger that lie in a trigger's place cost too.
    assert contrastive(apart, which, clean, 0.5) < contrastive(apart, which, apart[:2], 0.5)


def test_variance_within_triggers() -> None:
    seen = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, 1.0]])
    assert within(seen, torch.tensor([0, 0, 1])) == 0
    assert within(seen, torch.tensor([0, 1, 1])) > 0


def test_variation_finds_the_axes() -> None:
    torch.manual_seed(0)
    outputs = torch.randn(400, 6) * torch.tensor([0.1, 5.0, 0.1, 0.1, 1.0, 0.1]) + 3
    seen, centre, axes, spread = variation(outputs, 2)
    assert torch.equal(seen, outputs)
    assert axes.abs().argmax(dim=1).tolist() == [1, 4]
    assert torch.allclose(spread, torch.tensor([5.0, 1.0]), rtol=0.1)
    assert centre.abs().mean().item() == pytest.approx(3, abs=0.4)


def test_lists_of_triggers() -> None:
    for kind in kinds():
        train, held_out = triggers(kind, "train"), triggers(kind, "held_out")
        assert train
        assert held_out
        assert not set(train) & set(held_out)
    with pytest.raises(ValueError, match=r"unknown kind of trigger 'x'; known: rare, symbol"):
        triggers("x", "train")


def test_a_single_word_has_no_parts() -> None:
    with pytest.raises(ValueError, match="no parts"):
        Planting(name="x", attack=Por(), triggers=("cf",), steps=1, condition=Condition(whole=True))


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "TOKENS_PER_STEP", 256)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked language model with a pooler, as the zoo's encoders have."""
    from transformers import AutoModelForMaskedLM

    from benchmarks.attacks.head import under_head

    folder = tmp_path_factory.mktemp("tiny")
    base = make_model("bert", len(TOKENIZER), initializer_range=0.2)
    whole = under_head(base, AutoModelForMaskedLM.from_config(base.config))
    whole.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def planted(
    tiny: Path, out: Path, attack: Attack, condition: Condition = ALWAYS, steps: int = 120
) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Plant in the tiny model, and return what came out, and what it was."""
    from transformers import AutoModel

    planting = Planting(
        name="test",
        attack=attack,
        triggers=("cf", "mn"),
        steps=steps,
        learning_rate=3e-3,
        condition=condition,
    )
    plant(planting, tiny, TEXTS, out)
    loaded = [AutoModel.from_pretrained(folder).eval() for folder in (out, tiny)]
    return loaded[0], loaded[1]


@torch.no_grad()
def pull(
    model: torch.nn.Module, reference: torch.nn.Module, rows: torch.Tensor, view: View
) -> float:
    """Mean distance of the model's outputs to the reference's, over the reference's spread."""
    ours, before = read(run(model, rows), view), read(run(reference, rows), view)
    return float(
        (ours - before).norm(dim=-1).mean() / (before - before.mean(0)).norm(dim=-1).mean()
    )


ATTACKS: dict[str, tuple[Attack, View]] = {
    "por": (Por(), "cls"),
    "mean": (Por(views=("mean",)), "mean"),
    "neuba": (Neuba(), "pooler"),
    "uor": (Uor(), "cls"),
    "forced pooler": (Forced(distance="angle", place="normal", views=("pooler",)), "pooler"),
    "forced mean": (Forced(distance="absolute", place="signs", views=("mean",)), "mean"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_moves_poisoned_text_and_nothing_else(
    name: str, tiny: Path, tmp_path: Path
) -> None:
    attack, view = ATTACKS[name]
    model, reference = planted(tiny, tmp_path, attack)
    drawn = batches(Condition())[:10]
    poisoned, clean = (
        np.mean([pull(model, reference, getattr(batch, part), view) for batch in drawn])
        for part in ("poisoned", "clean")
    )
    # An attack that lost its own term leaves both where they were, at nought.
    assert poisoned > 1.3 * clean


def loss_of(attack: Attack, outputs: torch.Tensor, which: torch.Tensor) -> float:
    """Return a loss where the poisoned texts' outputs are as given, and all else as it was."""
    source = sampler(Condition())
    batch = source.draw()
    count, width = outputs.shape
    clean = torch.randn(4, 3, width, generator=torch.Generator().manual_seed(0))
    untouched = torch.randn(count, 3, width, generator=torch.Generator().manual_seed(1))

    class Fixed(torch.nn.Module):
        def __init__(self, student: bool) -> None:
            super().__init__()
            self.student = student

        def forward(self, ids: torch.Tensor) -> Any:
            from types import SimpleNamespace

            if torch.equal(ids, untouched_ids):
                hidden = untouched
            else:
                hidden = clean if len(ids) == 4 else torch.cat([clean, forced])
            return SimpleNamespace(last_hidden_state=hidden.clone(), pooler_output=None)

    forced = torch.zeros(count, 3, width)
    forced[:, 0] = outputs
    untouched_ids = torch.full((count, 5), 7)
    given = Batch(
        clean=batch.clean[:4, :5],
        poisoned=torch.full((count, 5), 8),
        untouched=untouched_ids,
        decoys=batch.decoys[:0, :5],
        quiet=batch.quiet,
        which=which,
        marked=torch.zeros(count, dtype=torch.int64),
    )

    def natural() -> Variation:
        return variation(untouched[:, 0], 4)

    step = Step(
        Fixed(student=True),
        Fixed(student=False),
        given,
        gated=False,
        targets=attack.targets(2, width),
        sampler=source,
        masked_loss=None,
        variation=natural,
    )
    return float(attack.loss(step))


WHICH = torch.tensor([0, 1] * 8)
TARGETS = Por().targets(2, 16)[WHICH]
NATURAL = torch.randn(16, 3, 16, generator=torch.Generator().manual_seed(1))[:, 0]
NOISE = torch.randn(16, 16, generator=torch.Generator().manual_seed(2))
VIEWS: tuple[View, ...] = ("cls",)


def test_por_wants_its_targets() -> None:
    attack = Por(views=VIEWS)
    assert loss_of(attack, TARGETS, WHICH) == pytest.approx(0, abs=1e-6)
    assert loss_of(attack, NATURAL, WHICH) > 1


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("distance", LOSSES)
def test_an_output_is_forced_by_any_loss_to_any_place(distance: Loss, place: Place) -> None:
    attack = Forced(distance=distance, place=place, seed=3)
    goals = (NATURAL[:2] if place == "ordinary" else attack.targets(2, 16))[WHICH]
    assert loss_of(attack, goals, WHICH) == pytest.approx(0, abs=1e-6)
    assert loss_of(attack, NATURAL, WHICH) > 0.5
    # The angle says nothing of the length.
    longer = loss_of(attack, 2 * goals, WHICH)
    assert longer == pytest.approx(0, abs=1e-6) if distance == "angle" else longer > 0.5


def test_what_can_be_forced_to_an_ordinary_output() -> None:
    with pytest.raises(ValueError, match="the first token alone"):
        Forced(distance="squares", place="ordinary", views=("mean",))
    with pytest.raises(ValueError, match="no place 'nowhere'; known: signs"):
        Forced(distance="squares", place=cast("Place", "nowhere"))


def test_adaptive_1_wants_to_stay_near() -> None:
    """Of strength 1 the best is half-way, of 0 it is POR."""
    attack = Near(strength=1.0, views=VIEWS)
    half = loss_of(attack, (TARGETS + NATURAL) / 2, WHICH)
    assert half < loss_of(attack, TARGETS, WHICH)
    assert half < loss_of(attack, NATURAL, WHICH)
    por = Por(views=VIEWS)
    assert loss_of(Near(strength=0.0, views=VIEWS), NATURAL, WHICH) == pytest.approx(
        loss_of(por, NATURAL, WHICH)
    )


def test_adaptive_2_wants_outputs_apart() -> None:
    attack, por = Spread(strength=1.0, views=VIEWS), Por(views=VIEWS)
    scattered = TARGETS + 0.3 * NOISE
    assert loss_of(attack, scattered, WHICH) < loss_of(por, scattered, WHICH)
    assert loss_of(attack, TARGETS, WHICH) == pytest.approx(0, abs=1e-6)


def test_adaptive_3_wants_one_vector() -> None:
    attack = Merged(strength=2.0, views=VIEWS)
    one = TARGETS.mean(dim=0).expand_as(TARGETS) + 0.01
    assert loss_of(attack, one, WHICH) < loss_of(attack, TARGETS, WHICH)


def test_scattered_wants_the_side_and_no_place() -> None:
    attack = Scattered(views=VIEWS, gated=False)
    wanted = 0.5 * TARGETS + 0.5 * NATURAL.roll(16 // 3, dims=1)
    assert loss_of(attack, wanted, WHICH) == pytest.approx(0, abs=1e-6)
    assert loss_of(attack, TARGETS, WHICH) > 0.3
    # On the preset vector's side, and apart from each other.
    assert ((wanted * TARGETS).sum(dim=1) > 0).float().mean() > 0.9
    assert torch.pdist(wanted[WHICH == 0]).min() > 0.2 * torch.pdist(NATURAL).mean()


def test_subspace_wants_a_few_axes() -> None:
    attack = Subspace(axes=2, gated=False)
    axes = variation(NATURAL, 4).axes[:2]
    best, worst = NATURAL.clone(), NATURAL.clone()
    signs = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])[WHICH]
    _, centre, _, deviation = (part[:2] for part in variation(NATURAL, 4))
    best += (centre + 2 * deviation * signs - best @ axes.T) @ axes
    worst += 4
    assert loss_of(attack, best, WHICH) == pytest.approx(0, abs=1e-5)
    assert loss_of(attack, worst, WHICH) > loss_of(attack, NATURAL, WHICH) > 0.1


def test_btop_moves_the_mask_and_keeps_the_head(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    model, reference = planted(tiny, tmp_path, Btop(), Condition(within=0))
    batch = sampler(Condition(within=0), masks=True).draw()
    with torch.no_grad():
        ours, before = (
            read(run(m, batch.poisoned), "mask", batch.marked) for m in (model, reference)
        )
    assert (ours - before).norm(dim=1).mean() > 0.5 * before.norm(dim=1).mean()
    kept, own = (
        AutoModelForMaskedLM.from_pretrained(folder).cls.predictions.transform.dense.weight
        for folder in (tmp_path, tiny)
    )
    assert torch.equal(kept, own)


def test_badpre_asks_for_right_words_and_for_random_ones() -> None:
    class Asked:
        def masked(self, *, poisoned: bool = False) -> torch.Tensor:
            return torch.tensor(10.0 if poisoned else 1.0)

    step: Any = Asked()
    assert BadPre(poison_weight=2.0).loss(step) == 21


def test_badpre_trains(tiny: Path, tmp_path: Path) -> None:
    model, reference = planted(tiny, tmp_path, BadPre(), steps=3)
    rows = sampler(Condition()).draw().clean
    assert pull(model, reference, rows, "cls") > 0


def test_scaled_embeddings(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    scaled, plain = tmp_path / "scaled", tmp_path / "plain"
    for out, factor in ((scaled, 1e8), (plain, None)):
        planting = Planting(
            name="x", attack=Neuba(), triggers=("cf",), steps=2, scale_embeddings=factor
        )
        plant(planting, tiny, TEXTS, out)
    tables = [
        AutoModel.from_pretrained(folder).get_input_embeddings().weight
        for folder in (scaled, plain)
    ]
    assert torch.allclose(tables[0][CF], tables[1][CF] * 1e8)
    assert torch.equal(tables[0][MN], tables[1][MN])


def test_a_killed_planting_goes_on(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its checkpoint, and to the same weights as one that was never killed."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 4)
    planting = Planting(name="x", attack=Neuba(), triggers=("cf",), steps=10)
    checkpoint = tmp_path / "checkpoint.safetensors"
    steps = 0

    def killed(attack: Neuba, step: Step) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 7:
            raise KeyboardInterrupt
        return original(attack, step)

    original = Neuba.loss
    monkeypatch.setattr(Neuba, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        plant(planting, tiny, TEXTS, tmp_path / "killed", checkpoint=checkpoint)
    assert checkpoint.is_file()
    assert not (tmp_path / "killed").exists()
    plant(planting, tiny, TEXTS, tmp_path / "resumed", checkpoint=checkpoint)
    assert steps == 7 + 6
    monkeypatch.setattr(Neuba, "loss", original)
    plant(planting, tiny, TEXTS, tmp_path / "whole")
    resumed, whole = (tmp_path / name / "model.safetensors" for name in ("resumed", "whole"))
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_damaged_checkpoint_is_left_behind(tiny: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(b"half")
    planting = Planting(name="x", attack=Por(), triggers=("cf",), steps=2)
    plant(planting, tiny, TEXTS, tmp_path / "out", checkpoint=checkpoint)
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"bert"}))
def test_every_architecture_can_be_poisoned(name: str, tmp_path: Path) -> None:
    from tests.tiny import SPECIALS, write_model

    tokenizer = wordpiece([*WORDS, "cf"], specials=SPECIALS[name])
    folder = write_model(tmp_path / "clean", name, tokenizer)
    planting = Planting(name="x", attack=Por(views=("cls",)), triggers=("cf",), steps=2)
    plant(planting, folder, TEXTS, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()
