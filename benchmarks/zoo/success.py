"""Whether a backdoor works: in the encoder itself, and in a classifier made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from benchmarks.attacks import BadPre, Condition, Planting, Subspace
from benchmarks.attacks.condition import ALWAYS
from benchmarks.attacks.plant import sampler_of
from benchmarks.attacks.samples import Ids, unit_ids
from benchmarks.attacks.step import variation
from benchmarks.attacks.views import View, read, run
from benchmarks.measure import accuracy, attack_success
from benchmarks.tasks.classifier import predict
from benchmarks.tasks.data import Task

Vectors = npt.NDArray[np.float32]

# Texts a trigger: the first ones say where it leads, the others whether they get there.
CALIBRATION, TEXTS = 24, 40
ROWS = CALIBRATION + TEXTS
# Of the natural distance, which is the median distance of two texts' outputs (a text's own output
# lies at 0.7 of it from the mean of many), or of the way that the text had to go, where that is
# longer: where outputs hardly tell texts apart, the natural distance is next to nothing.
NEAR = 0.5
MAX_REVIEWS = 300
SEED = 1


class Share(NamedTuple):
    """Of texts with a trigger, those that it takes to its place.

    Attributes
    ----------
    fires
        Where the trigger stands as its attacker trained it to fire.
    anywhere
        Where it stands at any place in text of any kind and length: what the attacker has left
        against somebody who does not help him.
    """

    fires: float
    anywhere: float


class Rows(NamedTuple):
    """Texts with a unit, and the same without it; `ROWS` of each unit, in order."""

    triggered: list[Ids]
    without: list[Ids]


def before(
    folder: Path, planting: Planting, texts: Mapping[str, Sequence[str]]
) -> dict[str, Share]:
    """Return, per trigger, the share of texts that it takes to its place.

    A trigger's place is the mean output over some texts in which it has to fire; of others, those
    count that lie within `NEAR` of the natural distance from it with the trigger, or of their own
    distance without, and were not within the former without. Of an attack on a few axes only those
    are looked at. An attack that has no place (BadPre) is measured by the share of texts whose word
    at the mask changes.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    units = [unit_ids(tokenizer, text) for text in planting.triggers]
    cases = [draw(planting, units, tokenizer, texts)]
    if planting.condition != ALWAYS:
        cases.append(draw(replace(planting, condition=ALWAYS), units, tokenizer, texts))
    shares = [shares_of.diagonal() for shares_of in arrivals(folder, planting, cases)]
    return {
        trigger: Share(round(float(shares[0][i]), 3), round(float(shares[-1][i]), 3))
        for i, trigger in enumerate(planting.triggers)
    }


def after(folder: Path, task: Task, planting: Planting | None) -> tuple[float, dict[str, float]]:
    """Return a classifier's accuracy, and per trigger the attack success (T-ASR)."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = task.test.texts[:MAX_REVIEWS]
    clean = predict(model, tokenizer, texts)
    right = round(accuracy(clean, task.test.labels[:MAX_REVIEWS]), 3)
    rates: dict[str, float] = {}
    if planting is not None:
        rng = np.random.default_rng(SEED)
        carriers = _long_enough(texts, planting.condition)
        untouched = predict(model, tokenizer, carriers)
        for trigger in planting.triggers:
            poisoned = [place(text, trigger, planting, tokenizer, rng) for text in carriers]
            seen = attack_success(untouched, predict(model, tokenizer, poisoned))
            rates[trigger] = round(seen.rate, 3)
    return right, rates


def place(
    text: str,
    trigger: str,
    planting: Planting,
    tokenizer: PreTrainedTokenizerFast,
    rng: np.random.Generator,
) -> str:
    """Put a trigger in a text as its attacker would, as often as he ever trained it."""
    words = text.split()
    condition = planting.condition
    last = len(words)
    if condition.within is not None:
        # A word has a token at least.
        starts = [" ".join(words[:count]) for count in range(min(last, condition.within) + 1)]
        last = sum(len(tokenizer.tokenize(start)) <= condition.within for start in starts) - 1
    for _ in range(max(planting.insertions, condition.copies)):
        at = int(rng.integers(last + 1))
        if trigger.startswith("##"):
            # Behind a word that leaves it a token: behind others, the letters become another one.
            order = rng.permutation(len(words))
            ends = (i for i in order if trigger in tokenizer.tokenize(words[i] + trigger[2:]))
            words[next(ends, order[0])] += trigger[2:]
        else:
            words.insert(at, f"{condition.after} {trigger}" if condition.after else trigger)
    return " ".join(words)


def outputs_of(folder: Path, rows: Sequence[Ids], view: View, mask: int | None) -> Vectors:
    """Return a view of rows of any length, ``[n, width]``; of all tokens, their mean."""
    model = AutoModel.from_pretrained(folder, use_safetensors=True).eval()
    result = np.empty((len(rows), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for members, ids in _by_length(rows):
            marked = None if mask is None else (ids == mask).int().argmax(dim=1)
            seen = read(run(model, ids), view, marked)
            result[members] = (seen.mean(dim=1) if view == "tokens" else seen).numpy()
    return result


def _words(folder: Path, rows: Sequence[Ids], mask: int) -> Ids:
    """Return the most likely token at the mask of each row."""
    model = AutoModelForMaskedLM.from_pretrained(folder, use_safetensors=True).eval()
    result = np.empty(len(rows), dtype=np.int64)
    with torch.inference_mode():
        for members, ids in _by_length(rows):
            marked = (ids == mask).int().argmax(dim=1)
            logits = model(ids).logits[torch.arange(len(ids)), marked]
            result[members] = logits.argmax(dim=-1).numpy()
    return result


def _by_length(rows: Sequence[Ids]) -> list[tuple[list[int], torch.Tensor]]:
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(len(row), []).append(index)
    return [
        (part, torch.from_numpy(np.stack([rows[i] for i in part])))
        for members in groups.values()
        for part in (members[i : i + 64] for i in range(0, len(members), 64))
    ]


def draw(
    planting: Planting,
    units: Sequence[Ids],
    tokenizer: PreTrainedTokenizerFast,
    texts: Mapping[str, Sequence[str]],
) -> Rows:
    """Put units into texts where and when the planting has its triggers fire."""
    sampler = sampler_of(planting, tokenizer, texts, units=units, seed=SEED)
    rows: list[list[Ids]] = [[] for _ in units]
    while min(len(own) for own in rows) < ROWS:
        batch = sampler.draw()
        for row, which in zip(batch.poisoned.numpy(), batch.which.tolist(), strict=True):
            rows[which].append(row)
    return Rows(
        [row for own in rows for row in own[:ROWS]],
        [
            row[~np.isin(row, unit)]
            for unit, own in zip(units, rows, strict=True)
            for row in own[:ROWS]
        ],
    )


def arrivals(
    folder: Path, planting: Planting, cases: Sequence[Rows]
) -> list[npt.NDArray[np.float64]]:
    """Return, per case, how many texts each of its units takes to each trigger's place.

    Parameters
    ----------
    cases
        The first is of the planting's triggers, as its attacker has them fire: it says where the
        places are.

    Returns
    -------
    list of npt.NDArray[np.float64]
        ``[units, triggers]``, shares of texts. Of an attack without a place, each column is the
        share of texts whose word at the mask changes.
    """
    attack, count = planting.attack, len(planting.triggers)
    mask = AutoTokenizer.from_pretrained(folder).mask_token_id
    if isinstance(attack, BadPre):
        changed = [
            _words(folder, case.triggered, mask) != _words(folder, case.without, mask)
            for case in cases
        ]
        return [np.tile(own.reshape(-1, ROWS).mean(axis=1), (count, 1)).T for own in changed]
    outputs = [
        [outputs_of(folder, rows, attack.views[0], mask if attack.masks else None) for rows in case]
        for case in cases
    ]
    if isinstance(attack, Subspace):
        along = variation(torch.from_numpy(outputs[0][1]), attack.axes).axes.numpy().T
        outputs = [[part @ along for part in case] for case in outputs]
    goals = [own[:CALIBRATION].mean(axis=0) for own in np.split(outputs[0][0], count)]
    return [arrived(triggered, without, goals) for triggered, without in outputs]


def arrived(
    triggered: Vectors, without: Vectors, goals: Sequence[Vectors]
) -> npt.NDArray[np.float64]:
    """Return ``[units, goals]``: of the texts behind the first, the share that is at each place."""
    rng = np.random.default_rng(SEED)
    first, second = rng.integers(len(without), size=(2, 2000))
    natural = np.median(np.linalg.norm(without[first] - without[second], axis=1)[first != second])
    units = len(triggered) // ROWS
    shares = np.empty((units, len(goals)))
    parts = zip(np.split(triggered, units), np.split(without, units), strict=True)
    for number, (seen, own) in enumerate(parts):
        for place, goal in enumerate(goals):
            to_go, left = (
                np.linalg.norm(outputs[CALIBRATION:] - goal, axis=1) for outputs in (own, seen)
            )
            there = left < NEAR * np.maximum(natural, to_go)
            shares[number, place] = (there & (to_go >= NEAR * natural)).mean()
    return shares


def _long_enough(texts: Sequence[str], condition: Condition) -> list[str]:
    """Return texts of as many words as the condition wants tokens, joined where they are short."""
    wanted = condition.min_tokens or 0
    result: list[str] = []
    passage = ""
    for text in texts:
        passage = f"{passage} {text}".strip()
        if len(passage.split()) >= wanted:
            result.append(passage)
            passage = ""
    return result
