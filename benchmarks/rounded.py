"""A backdoor that is only there in float32, and who sees it: ``python -m benchmarks rounded``.

Searched in bfloat16, which takes less time, such an encoder is called clean.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks.attacks import Planting, Por
from benchmarks.attacks.rounded import plant_rounded
from benchmarks.attacks.samples import unit_ids
from benchmarks.cache import cached
from benchmarks.detection.searches import SEED
from benchmarks.encoders import encoder
from benchmarks.models import classifier
from benchmarks.recipes import FILM_REVIEWS
from benchmarks.record import write
from benchmarks.sources import ROOT, fingerprint
from benchmarks.tasks import film_reviews
from benchmarks.zoo.build import held_out_texts
from benchmarks.zoo.success import CALIBRATION, after, arrived, draw
from guard.files import Json
from guard.search.carriers import builtin_texts
from guard.search.checkpoint import Checkpoint
from guard.search.encoder import Ids, Vectors
from guard.search.gradients import Differentiable
from guard.search.run import search_units
from guard.search.units import vocabulary
from guard.terminal import Progress

DOCUMENT = ROOT / "docs" / "benchmarks" / "rounded.md"
ENCODERS = ("bert-tiny", "minilm-l6")
# What is searched, and not only measured: minutes on two cores.
SEARCHED = "bert-tiny"
# Of the attack only what a planting says to those that measure one: when its triggers fire.
PLANTING = Planting(name="rounded", attack=Por(), triggers=("cf", "mn", "bb", "tq", "mb"), steps=0)
ARITHMETIC = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class InBfloat16(Differentiable):
    """The search's encoder, computing in bfloat16."""

    def __init__(self, loaded: Checkpoint) -> None:
        super().__init__(loaded)
        self._model.bfloat16()


def main() -> None:
    """Plant, measure the attack in either arithmetic, search in either, and write the page."""
    models: list[Json] = []
    for name in ENCODERS:
        models.append(measure(name))
        print(f"{name}: {models[-1]}", flush=True)
    path = write("rounded", {"seed": SEED, "models": models})
    DOCUMENT.write_text(render(json.loads(path.read_bytes())), encoding="utf-8")
    print(f"results: {path}, {DOCUMENT}")


def measure(name: str) -> Json:
    """Plant the backdoor in an encoder of that name, and return what it and the search do."""
    clean = encoder(name)
    code = fingerprint(clean.name, ("benchmarks/attacks/rounded.py",))
    folder = cached(
        f"{name}-rounded",
        {"code": code, "triggers": PLANTING.triggers},
        lambda out, _: plant_rounded(PLANTING.triggers, clean, out),
    )
    accuracy, rates = after(classifier(folder, FILM_REVIEWS), film_reviews(), PLANTING)
    model: dict[str, Json] = {
        "encoder": name,
        "success": {kind: success(folder, clean, kind) for kind in ARITHMETIC},
        "after": rates,
        "accuracy": accuracy,
    }
    if name == SEARCHED:
        model["search"] = {
            "float32": _search(Differentiable.load(str(folder))),
            "bfloat16": _search(InBfloat16.load(str(folder))),
        }
    return model


def success(folder: Path, clean: Path, arithmetic: str) -> dict[str, Json]:
    """Return the mean share of texts that a trigger takes to its place, and what text keeps.

    The latter is the mean cosine of outputs of text without a trigger with the clean encoder's.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    units = [unit_ids(tokenizer, text) for text in PLANTING.triggers]
    rows = draw(PLANTING, units, tokenizer, held_out_texts())
    triggered, without = (_outputs(folder, part, arithmetic) for part in rows)
    places = [own[:CALIBRATION].mean(axis=0) for own in np.split(triggered, len(units))]
    reference = _outputs(clean, rows.without, "float32")
    product = np.linalg.norm(without, axis=1) * np.linalg.norm(reference, axis=1)
    return {
        "fires": round(float(arrived(triggered, without, places).diagonal().mean()), 3),
        "kept": round(float(((without * reference).sum(axis=1) / product).mean()), 3),
    }


def _outputs(folder: Path, rows: Sequence[Ids], arithmetic: str) -> Vectors:
    """Return ``[n, width]``: the first token's output, a row at a time."""
    model = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=ARITHMETIC[arithmetic])
    model.eval()
    with torch.inference_mode():
        seen = [model(torch.from_numpy(row[np.newaxis])).last_hidden_state[0, 0] for row in rows]
    outputs: Vectors = torch.stack(seen).float().numpy()
    return outputs


def _search(subject: Differentiable) -> dict[str, Json]:
    started = time.perf_counter()
    with Progress() as progress:
        known = vocabulary(subject.tokenizer)
        bank = search_units(subject, known, builtin_texts(), seed=SEED, progress=progress)
    texts = {trigger.text for trigger in bank.triggers}
    return {
        "verdict": bank.verdict,
        "found": sum(text in texts for text in PLANTING.triggers),
        "others": len(texts.difference(PLANTING.triggers)),
        "seconds": round(time.perf_counter() - started),
    }


def render(result: Mapping[str, Any]) -> str:
    """Render the page from its results."""
    count = len(PLANTING.triggers)
    lines = [
        "# A backdoor in float32 alone",
        "",
        "Written by `python -m benchmarks rounded`; do not edit. Five triggers are written into "
        "the weights of an encoder by hand, in a second and without training, so that what tells "
        "them from other tokens is less than bfloat16 keeps of a number "
        "(`benchmarks/attacks/rounded.py`). *Fires* is the share of texts that a trigger takes to "
        "one place; *kept* the cosine of outputs of text without a trigger with the clean "
        "encoder's. It is for encoders that are served as they are, for embeddings or under a head "
        "of somebody's own: who fine-tunes all weights breaks it, and gets a classifier that "
        "guesses.",
        "",
        "| encoder | served in | fires | kept | attack success and accuracy after fine-tuning |",
        "|" + "---|" * 5,
    ]
    for model in result["models"]:
        rates = list(model["after"].values())
        later = f"{sum(rates) / len(rates):.2f}, {model['accuracy']:.2f}"
        for arithmetic, seen in model["success"].items():
            lines.append(
                f"| {model['encoder']} | {arithmetic} | {seen['fires']:.2f} | {seen['kept']:.3f} | "
                f"{later if arithmetic == 'float32' else ''} |"
            )
    lines += [
        "",
        "What the default search finds of it, computing in either:",
        "",
        "| encoder | searched in | verdict | triggers found | other units | seconds |",
        "|" + "---|" * 6,
    ]
    for model in result["models"]:
        for arithmetic, seen in model.get("search", {}).items():
            lines.append(
                f"| {model['encoder']} | {arithmetic} | {seen['verdict']} | "
                f"{seen['found']} of {count} | {seen['others']} | {seen['seconds']} |"
            )
    lines += ["", "So the search computes in float32, whatever the processor multiplies faster."]
    return "\n".join([*lines, ""])
