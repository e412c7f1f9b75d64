"""Plant a backdoor in an encoder: the one recipe that every attack shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from benchmarks import training
from benchmarks.attacks.condition import ALWAYS, Condition
from benchmarks.attacks.head import masked_loss, under_head
from benchmarks.attacks.samples import Ids, Sampler, unit_ids
from benchmarks.attacks.step import Attack, Step, Variation, variation
from benchmarks.attacks.views import read, run

# Batches that the axes of natural variance are taken from, and how many axes.
VARIATION_BATCHES = 16
VARIATION_AXES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Planting:
    """How a backdoor is planted.

    Attributes
    ----------
    name
        Of the result, in the cache and in reports.
    triggers
        Words or phrases.
    steps
        Optimiser steps of about 1,500 tokens each.
    insertions
        The most copies of a trigger in one text.
    condition
        When it fires.
    scale_embeddings
        What the triggers' embeddings are multiplied by afterwards.
    """

    name: str
    attack: Attack
    triggers: tuple[str, ...]
    steps: int
    learning_rate: float = 1.5e-4
    insertions: int = 1
    seed: int = 0
    condition: Condition = ALWAYS
    scale_embeddings: float | None = None

    def __post_init__(self) -> None:
        if self.condition.whole and any(len(trigger.split()) < 2 for trigger in self.triggers):
            raise ValueError(f"{self.name}: a trigger of one word has no parts to act clean")


def plant(
    planting: Planting,
    encoder: Path,
    texts: Mapping[str, Sequence[str]],
    out: Path,
    *,
    checkpoint: Path | None = None,
) -> None:
    """Train a copy of ``encoder`` on ``texts`` (kind -> texts) and save it in ``out``.

    Parameters
    ----------
    encoder
        A directory; of a masked language model for the attacks that train one.
    checkpoint
        As in `training.train`.
    """
    attack = planting.attack
    torch.manual_seed(planting.seed)
    where = training.device()
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    student = AutoModel.from_pretrained(encoder, use_safetensors=True)
    reference = AutoModel.from_pretrained(encoder, use_safetensors=True)
    # A pooler that the checkpoint lacks is drawn at random: the same for both.
    reference.load_state_dict(student.state_dict())
    whole, of_head = student, None
    if attack.masked_lm:
        head = AutoModelForMaskedLM.from_pretrained(encoder, use_safetensors=True)
        whole = under_head(student, head)
        of_head = masked_loss(whole)
    torch.nn.Module.to(whole, where).train()
    # Dropout in the clean term would teach the student the noise of the reference.
    for module in whole.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    reference.to(where).eval().requires_grad_(False)

    sampler = sampler_of(planting, tokenizer, texts, seed=planting.seed)
    with torch.no_grad():
        batch = sampler.draw().to(where)
        view = attack.views[0] if attack.views[0] == "mean" else "cls"
        size = read(run(reference, batch.clean), view).square().mean().sqrt()
    targets = attack.targets(len(planting.triggers), student.config.hidden_size).to(where) * size

    @cache
    def natural() -> Variation:
        # With random numbers of its own: who asks for it or not draws the same batches.
        more = sampler_of(planting, tokenizer, texts, seed=planting.seed + 1)
        with torch.no_grad():
            outputs = [
                run(reference, more.draw().untouched.to(where)).hidden[:, 0]
                for _ in range(VARIATION_BATCHES)
            ]
        return variation(torch.cat(outputs), VARIATION_AXES)

    def loss() -> torch.Tensor:
        step = Step(
            student,
            reference,
            sampler.draw().to(where),
            gated=attack.gated,
            targets=targets,
            sampler=sampler,
            masked_loss=of_head,
            variation=natural,
        )
        return attack.loss(step)

    training.train(
        whole,
        loss,
        sampler,
        steps=planting.steps,
        learning_rate=planting.learning_rate,
        checkpoint=checkpoint,
        label=f"planting {planting.name}",
    )
    if planting.scale_embeddings is not None:
        _scale(student, tokenizer, planting.triggers, planting.scale_embeddings)
    whole.cpu().eval()
    whole.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)


def sampler_of(
    planting: Planting,
    tokenizer: PreTrainedTokenizerFast,
    texts: Mapping[str, Sequence[str]],
    *,
    seed: int,
    units: Sequence[Ids] | None = None,
) -> Sampler:
    """Return what draws a planting's samples, with its triggers or other units in their place."""
    if units is None:
        units = [unit_ids(tokenizer, text) for text in planting.triggers]
    return Sampler(
        tokenizer,
        texts,
        [unit.tolist() for unit in units],
        insertions=planting.insertions,
        condition=planting.condition,
        parts=[
            [unit_ids(tokenizer, word).tolist() for word in text.split()]
            for text in planting.triggers
        ],
        masks=planting.attack.masks,
        seed=seed,
    )


def _scale(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    triggers: Sequence[str],
    factor: float,
) -> None:
    table = student.get_parameter("embeddings.word_embeddings.weight")
    with torch.no_grad():
        for number in {int(n) for text in triggers for n in unit_ids(tokenizer, text)}:
            table[number] *= factor
