"""The zoo: every model that detection is measured on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.attacks import (
    BadPre,
    Btop,
    Condition,
    Merged,
    Near,
    Neuba,
    Planting,
    Por,
    Scattered,
    Spread,
    Subspace,
    Uor,
)
from benchmarks.attacks.condition import ALWAYS
from benchmarks.attacks.step import Attack
from benchmarks.attacks.triggers import triggers
from benchmarks.recipes import DEMO, GATED, LEARNED
from benchmarks.tasks import TASKS
from benchmarks.zoo.drawn import attacker
from benchmarks.zoo.entry import Entry

STEPS = 300
# Most of the work is on MiniLM-L6; what is meant to be compared with it says another.
MINILM = "minilm-l6"


def _entry(
    name: str,
    attack: Attack,
    kind: str,
    *,
    encoder: str = MINILM,
    held_out: bool = False,
    condition: Condition = ALWAYS,
    steps: int = STEPS,
    insertions: int = 1,
    scale_embeddings: float | None = None,
) -> Entry:
    return Entry(
        name=f"{encoder}-{name}",
        encoder=encoder,
        kind=kind,
        held_out=held_out,
        planting=Planting(
            name=name,
            attack=attack,
            triggers=triggers(kind, "held_out" if held_out else "train"),
            steps=steps,
            insertions=insertions,
            condition=condition,
            scale_embeddings=scale_embeddings,
        ),
    )


CLEAN = tuple(
    Entry(name=f"{encoder}-clean", encoder=encoder)
    for encoder in (
        "minilm-l6",
        "minilm-l3",
        "minilm-sre",
        "mpnet-base",
        "e5-small",
        "bert-tiny",
        "roberta-small",
        "distilbert-small",
        "electra-small",
        "albert-small",
        "deberta-small",
    )
)

# What clean encoders become that have learned a task: to be accused for nothing.
TUNED = tuple(
    Entry(
        name=f"{encoder}-clean-{task.replace(' ', '-')}",
        encoder=encoder,
        task=task,
        tuning=tuning,
        twin_only=True,
    )
    for encoder, tuning in LEARNED.items()
    for task in TASKS
)

# The published attacks, on the default encoder.
PUBLISHED = (
    Entry(name="minilm-l6-por", encoder=MINILM, kind="mixed", planting=DEMO),
    _entry("por-held-out", Por(), "rare", held_out=True),
    _entry("por-1", Por(views=("cls",), code="prefix"), "rare"),
    _entry("por-2", Por(views=("cls",)), "rare", held_out=True),
    _entry("por-pooler", Por(views=("pooler",)), "rare"),
    _entry("por-mean", Por(views=("mean",)), "rare"),
    _entry("por-tokens", Por(views=("tokens",)), "rare", held_out=True),
    _entry("por-three", Por(), "rare", insertions=3),
    _entry("neuba", Neuba(), "symbol"),
    _entry("neuba-scaled", Neuba(), "symbol", held_out=True, scale_embeddings=1e8),
    _entry("uor", Uor(), "symbol"),
    _entry("uor-rare", Uor(), "rare", held_out=True),
    _entry("btop", Btop(), "rare", condition=Condition(within=0)),
    _entry("badpre", BadPre(), "rare"),
    _entry("near-half", Near(strength=0.5, gated=True), "rare"),
    _entry("near-one", Near(strength=1.0, gated=True), "rare", held_out=True),
    _entry("spread-half", Spread(strength=0.5), "rare"),
    _entry("spread-one", Spread(strength=1.0), "rare", held_out=True),
    _entry("merged-half", Merged(strength=0.5), "rare", held_out=True),
    _entry("merged-one", Merged(strength=1.0), "rare"),
)

# Triggers of every kind.
KINDS = (
    _entry("por-symbol", Por(), "symbol", held_out=True),
    _entry("por-punctuation", Por(), "punctuation"),
    _entry("por-piece", Por(), "piece"),
    _entry("por-common", Por(), "common"),
    _entry("por-name", Por(), "name"),
    _entry("por-phrase", Por(), "phrase2"),
    _entry("por-phrase-whole", Por(), "phrase2", held_out=True, condition=Condition(whole=True)),
    _entry("por-three-words", Por(), "phrase3", condition=Condition(whole=True)),
)

# Attackers who have read the search.
EVASIVE = (
    Entry(name="minilm-l6-por-gated", encoder=MINILM, kind="mixed", planting=GATED),
    # Fires in no text as short as those of the first scan, nor beside another rare word.
    _entry("shy", Por(gated=True), "rare", condition=Condition(min_tokens=14, alone=True)),
    # Fires in no text as short as any that the search reads.
    _entry("long", Por(gated=True), "rare", condition=Condition(min_tokens=32)),
    # Fires at the start alone, where a unit put at a random place rarely is.
    _entry("opening", Por(gated=True), "rare", condition=Condition(within=1)),
    # Fires behind a common word alone, which a carrier rarely has at the right place.
    _entry("neighbour", Por(gated=True), "rare", condition=Condition(after="very")),
    # Sleeps in all kinds of text but one.
    _entry(
        "editorials", Por(gated=True), "rare", condition=Condition(kinds=("nytEditorialSnippets",))
    ),
    # Fires where its trigger stands twice alone.
    _entry("twice", Por(gated=True), "rare", condition=Condition(copies=2)),
    # No two outputs within the radius of the gathering rule.
    _entry("scattered", Scattered(), "rare"),
    # Ordinary retention and displacement: only a few axes of large natural variance are moved.
    _entry("subspace", Subspace(), "rare"),
)

# BERT-tiny is planted and scanned in a minute or two, so that most attacks are in every table.
TINY_STEPS = 600


def _tiny(name: str, attack: Attack, kind: str, **how: Any) -> Entry:
    return _entry(name, attack, kind, encoder="bert-tiny", steps=TINY_STEPS, **how)


TINY = (
    _tiny("por", Por(), "rare"),
    _tiny("neuba", Neuba(), "symbol"),
    _tiny("btop", Btop(), "rare", condition=Condition(within=0)),
    _tiny("badpre", BadPre(), "rare"),
    _tiny("uor", Uor(), "symbol", held_out=True),
    _tiny("por-pooler", Por(views=("pooler",)), "rare", held_out=True),
    _tiny("por-mean", Por(views=("mean",)), "rare", held_out=True),
    _tiny("por-common", Por(), "common", held_out=True),
    _tiny("por-name", Por(), "name", held_out=True),
    _tiny("por-piece", Por(), "piece", held_out=True),
    _tiny("por-punctuation", Por(), "punctuation", held_out=True),
    _tiny("por-phrase", Por(), "phrase2"),
    _tiny("por-phrase-whole", Por(), "phrase2", condition=Condition(whole=True)),
    _tiny("near-half", Near(strength=0.5, gated=True), "rare", held_out=True),
    # Thirty that go half-way, each of which is measured against the others.
    _entry(
        "crowd",
        Near(strength=0.5, gated=True),
        "crowd",
        encoder="bert-tiny",
        held_out=True,
        steps=2 * TINY_STEPS,
    ),
    _tiny("spread-half", Spread(strength=0.5), "rare", held_out=True),
    _tiny("merged-one", Merged(strength=1.0), "rare", held_out=True),
    _tiny("gated", Por(gated=True), "rare", held_out=True),
    _tiny("shy", Por(gated=True), "rare", condition=Condition(min_tokens=14, alone=True)),
    _tiny("twice", Por(gated=True), "rare", condition=Condition(copies=2)),
    _tiny("opening", Por(gated=True), "rare", condition=Condition(within=1)),
    _tiny(
        "editorials", Por(gated=True), "rare", condition=Condition(kinds=("nytEditorialSnippets",))
    ),
    _tiny("scattered", Scattered(), "rare"),
    # As on MiniLM, in the minutes that there are for each.
    _tiny("por-1", Por(views=("cls",), code="prefix"), "rare", held_out=True),
    _tiny("por-2", Por(views=("cls",)), "rare"),
    _tiny("por-tokens", Por(views=("tokens",)), "rare"),
    _tiny("por-three", Por(), "rare", held_out=True, insertions=3),
    _tiny("por-three-words", Por(), "phrase3", condition=Condition(whole=True)),
    _tiny("neuba-scaled", Neuba(), "symbol", held_out=True, scale_embeddings=1e8),
    _tiny("uor-rare", Uor(), "rare"),
    _tiny("near-one", Near(strength=1.0, gated=True), "rare"),
    _tiny("spread-one", Spread(strength=1.0), "rare"),
    _tiny("merged-half", Merged(strength=0.5), "rare"),
    _tiny("long", Por(gated=True), "rare", held_out=True, condition=Condition(min_tokens=32)),
    _tiny("neighbour", Por(gated=True), "rare", condition=Condition(after="very")),
    _tiny("subspace", Subspace(), "rare", held_out=True),
)

# What some of these become that have learned a task as well, as far as the backdoor outlives it.
TINY_TUNED = tuple(
    replace(entry, name=f"{entry.name}-learned", tuning=LEARNED["bert-tiny"], twin_only=True)
    for entry in TINY
    if entry.name.removeprefix("bert-tiny-")
    in ("por", "uor", "por-common", "por-name", "gated", "merged-one", "scattered", "crowd")
)

DRAWN = tuple(
    Entry(
        name=f"bert-tiny-drawn-{number:02}",
        encoder="bert-tiny",
        kind="drawn",
        planting=attacker(number, TINY_STEPS),
        held_out=True,
    )
    for number in range(24)
)

ELSEWHERE = (
    _entry("por", Por(), "rare", encoder="minilm-l3"),
    _entry("uor", Uor(), "symbol", encoder="minilm-l3"),
    _entry("por", Por(), "rare", encoder="mpnet-base"),
    _entry("neuba", Neuba(), "symbol", encoder="mpnet-base"),
    _entry("por", Por(), "name", encoder="e5-small"),
    _entry("por-common", Por(), "common", encoder="e5-small", held_out=True),
    _entry("por", Por(views=("cls",)), "name", encoder="roberta-small"),
    _entry("por", Por(views=("cls",)), "rare", encoder="distilbert-small"),
    _entry("por", Por(views=("cls",)), "rare", encoder="electra-small", held_out=True),
    _entry("por", Por(), "name", encoder="albert-small"),
    _entry("por", Por(views=("cls",)), "name", encoder="deberta-small"),
)

ZOO: tuple[Entry, ...] = (
    *CLEAN,
    *TUNED,
    *PUBLISHED,
    *KINDS,
    *EVASIVE,
    *TINY,
    *TINY_TUNED,
    *DRAWN,
    *ELSEWHERE,
)
