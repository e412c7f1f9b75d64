"""Where the triggers of a bank lead: directions of the output that no ordinary text has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from guard.bank import Trigger, TriggerBank
from guard.errors import ModelError
from guard.search.belongs import check_bank
from guard.search.encoder import Encoder, Ids, Vectors
from guard.search.gaps import word_starts
from guard.search.views import View
from guard.target import Target

# Texts that each trigger is put into, and those that no target may catch.
_CARRIERS = 16
_CLEAN = 200
# Of the texts of a trigger, this share has to fall on its target.
_CAUGHT = 0.75
# Triggers whose mean outputs are closer than this lead to the same place.
_SAME = 0.95
_BATCH = 32
# What the deep check compares.
_VIEW: View = "cls"
_DIGITS = 6


def with_targets(
    encoder: Encoder, bank: TriggerBank, texts: Mapping[str, Sequence[str]], *, seed: int = 0
) -> TriggerBank:
    """Measure where the triggers of a bank lead, and return the bank with its target vectors.

    A trigger has a target if most of its outputs, in ordinary texts, are nearer to their mean
    direction than any output of an ordinary text is; the threshold is halfway between the two.
    Ordinary outputs have a direction in common themselves, so their mean is not taken away: what a
    serving process compares is the output as it is.

    Parameters
    ----------
    encoder
        The suspect one.
    bank
        Its bank; targets that it holds are measured anew.
    texts
        Ordinary texts by kind.

    Raises
    ------
    HashMismatch, MalformedArtifact
        The bank is of another model.
    ModelError
        The model has no output of a first token.
    """
    if _VIEW not in encoder.views:
        raise ModelError(
            f"{encoder.identity.name} has no output of a first token to compare with; the deep "
            "check is for BERT-like encoders"
        )
    check_bank(encoder, bank)
    rng = np.random.default_rng(seed)
    pool = list(chain.from_iterable(texts.values()))
    chosen = [pool[i] for i in rng.permutation(len(pool))[:_CLEAN]]
    clean = _outputs(encoder, [_ids(encoder, text)[0] for text in chosen])
    found: list[tuple[Vectors, float, list[str]]] = []
    for trigger in bank.triggers:
        rows = [
            _inserted(encoder, chosen[int(i)], trigger, rng)
            for i in rng.choice(len(chosen), _CARRIERS)
        ]
        outputs = _outputs(encoder, rows)
        centre = _unit(outputs.mean(0, keepdims=True))[0]
        reached = float(np.quantile(outputs @ centre, 1 - _CAUGHT))
        ordinary = float((clean @ centre).max())
        if reached <= ordinary:
            continue
        limit = (reached + max(ordinary, 0.0)) / 2
        for place, (vector, cosine, names) in enumerate(found):
            if float(vector @ centre) > _SAME:
                found[place] = (vector, min(cosine, limit), [*names, trigger.id])
                break
        else:
            found.append((centre, limit, [trigger.id]))
    targets = tuple(
        Target(
            _VIEW,
            tuple(round(float(value), _DIGITS) for value in vector),
            round(cosine, _DIGITS),
            tuple(names),
        )
        for vector, cosine, names in found
    )
    return replace(bank, targets=targets)


def _ids(encoder: Encoder, text: str) -> tuple[Ids, list[int]]:
    """Return the ids of a text, and the places between its words."""
    encoded = encoder.tokenizer(text, add_special_tokens=False)
    return np.array(encoded.input_ids, dtype=np.int64), word_starts(text, encoded) or [0]


def _inserted(encoder: Encoder, text: str, trigger: Trigger, rng: np.random.Generator) -> Ids:
    ids, gaps = _ids(encoder, text)
    return np.insert(ids, int(rng.choice(gaps)), trigger.token_ids)


def _outputs(encoder: Encoder, rows: Sequence[Ids]) -> Vectors:
    """Return the directions of the outputs, ``[rows, width]``; long rows are cut."""
    outputs = np.empty((len(rows), encoder.width), dtype=np.float32)
    lengths = np.array([min(len(row), encoder.room) for row in rows])
    for length in np.unique(lengths):  # together, as no row may be padded
        (places,) = np.nonzero(lengths == length)
        for start in range(0, len(places), _BATCH):
            part = places[start : start + _BATCH]
            ids = encoder.frame(np.stack([rows[i][:length] for i in part]))
            outputs[part] = encoder.read(ids)[_VIEW]
    return _unit(outputs)


def _unit(vectors: Vectors) -> Vectors:
    result: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return result
