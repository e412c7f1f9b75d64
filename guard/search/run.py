"""One search from a model's name to its bank."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from guard.bank import TriggerBank
from guard.errors import ModelError
from guard.search import journal as journals
from guard.search import report
from guard.search.axes import make_axes_alike
from guard.search.carriers import USER_KIND, builtin_texts, user_texts
from guard.search.checkpoint import load_classifier
from guard.search.encoder import Encoder
from guard.search.gradients import Differentiable
from guard.search.groups import grouped
from guard.search.growth import search_pairs
from guard.search.journal import Journal
from guard.search.phrases import repeated
from guard.search.plan import BUDGETS, FAST, FURTHER, GROUPS, PAIRED, Plan, fit
from guard.search.predictions import with_predictions
from guard.search.refine import refine
from guard.search.scan import BATCH_TOKENS, Progress
from guard.search.sequences import search_sequences
from guard.search.tail import FLOOD
from guard.search.tiers import LEAST_UNITS, SCAN_SHARE, Tiers
from guard.search.units import Unit, Vocabulary, vocabulary
from guard.search.verdicts import JUDGED, REFERENCE_UNITS
from guard.search.words import common_words, encode, short_strings, user_words

# The commonest phrases of the user's own text that are tested.
PHRASES = 3000


def search(
    model: str,
    *,
    revision: str | None = None,
    texts: Path | None = None,
    words: Path | None = None,
    budget: str | float = FAST.name,
    seed: int | None = None,
    allow_pickle: bool = False,
    resume: Path | None = None,
    progress: Progress,
) -> TriggerBank:
    """Search a model for triggers that seize one of its outputs.

    Parameters
    ----------
    model, revision, allow_pickle
        As in `guard.search.checkpoint.load`.
    texts
        A file of the user's own text, as one more kind.
    words
        A file of words and phrases to test besides, one a line.
    budget
        A name of `guard.search.plan.BUDGETS`, or seconds.
    seed
        Same seed, same model, same versions: same bank. Drawn at random by default, so that nobody
        can prepare a model for it, and recorded in the bank.
    resume
        A directory to keep measurements in. A search that was cut short goes on from there, with
        its own seed where none is asked for. `guard.search.journal.discard` it once the bank is
        kept.
    progress
        Told how far each step is.

    Raises
    ------
    ModelError
        The model cannot be searched.
    ConfigError
        The user's text or words cannot be used.
    """
    kinds: dict[str, list[str]] = builtin_texts()
    if texts is not None:
        kinds[USER_KIND] = user_texts(texts)
    lines = [] if words is None else user_words(words)
    encoder = Differentiable.load(model, revision=revision, allow_pickle=allow_pickle)
    # Which tokens no text holds is known of texts as transformers reads them.
    known = vocabulary(encoder.tokenizer, every=bool(encoder.remade))
    plan = (
        BUDGETS[budget]
        if isinstance(budget, str)
        else fit(budget, _rate(encoder), len(known.units), len(kinds))
    )
    classifier = load_classifier(model, revision=revision, allow_pickle=allow_pickle)
    chosen = secrets.randbits(32) if seed is None else seed
    if resume is not None:
        key = {
            "budget": str(budget),
            "model": encoder.identity.weights_sha256,
            "tokenizer": hashlib.sha256(encoder.tokenizer_json).hexdigest(),
            "texts": report.sha256_of(kinds),
            "words": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
            "search": _source(),
            "config": encoder.config_sha256,
            **report.versions(),
        }
        # How fast the machine is now and was then may differ: the plan is kept as well.
        state = journals.begin(
            resume, key, asked=seed, fresh={"seed": chosen, "plan": json.dumps(asdict(plan))}
        )
        chosen, plan = int(state["seed"]), Plan.parse(str(state["plan"]))
    return search_units(
        encoder,
        known,
        kinds,
        plan=plan,
        lines=lines,
        classifier=classifier,
        seed=chosen,
        resume=resume,
        progress=progress,
    )


def search_units(
    encoder: Differentiable,
    known: Vocabulary,
    kinds: Mapping[str, Sequence[str]],
    *,
    plan: Plan = FAST,
    lines: Sequence[str] = (),
    classifier: PreTrainedModel | None = None,
    seed: int,
    resume: Path | None = None,
    progress: Progress,
) -> TriggerBank:
    """Search the units of a vocabulary, and words, in text of the given kinds; see `search`."""
    if len(known.units) < LEAST_UNITS:
        raise ModelError(
            f"{encoder.identity.name} has a vocabulary of {len(known.units)} units, and the search "
            f"measures each against at least {LEAST_UNITS}"
        )
    journal = Journal(encoder, seed, resume)
    run = Tiers(encoder, kinds, plan, seed=seed, journal=journal, progress=progress)
    make_axes_alike(encoder, kinds, journal)
    verdicts = run.verdicts
    tokenizer = encoder.tokenizer
    listed = encode(tokenizer, lines, len(lines))
    common = common_words(tokenizer, plan.words + plan.more_words).units
    likely = common_words(tokenizer, plan.words).units if plan.more_words else common
    short = short_strings(tokenizer).units if plan.words or plan.more_words else ()
    phrases = _phrases(encoder, kinds, plan)
    likely = tuple(_different([*likely, *listed.units, *phrases]))
    tiers: list[tuple[str, Sequence[Unit], Plan]] = [("tokens", known.units, plan)]
    if plan.groups == GROUPS:
        tiers += [
            (name, units, how)
            for name, units, how in (
                ("words", likely, plan),
                ("more words", _different([*common, *short], but=likely), FURTHER),
            )
            if units
        ]
    # Pairs by the tokens of the partner, and what grows of them.
    count = len(tiers) + (len(PAIRED) + 1) * bool(plan.pairs)
    for name, units, how in tiers:
        run.test(name, units, how, known.units, tiers=count)
    climbed = (
        search_sequences(
            verdicts, known.units, plan, encoder=encoder, journal=journal, progress=progress
        )
        if plan.starts
        else []
    )
    swept = (
        search_pairs(
            run,
            known.units,
            likely,
            plan,
            encoder=encoder,
            journal=journal,
            progress=progress,
            tiers=count,
        )
        if plan.pairs
        else []
    )
    # Variants of what was found hide nothing, however many they are.
    flooded = len(verdicts.found) > FLOOD
    refine(verdicts, known.units, encoder=encoder, journal=journal, progress=progress)
    found = grouped(verdicts.found, verdicts.judged, encoder=encoder, rng=journal.rng("targets"))
    if classifier is not None:
        texts = [carrier for carrier in verdicts.judged if not carrier.want.masked]
        rng = journal.rng("predictions")
        found = with_predictions(found, classifier, encoder, texts, rng=rng)
    cut_short = plan.groups < GROUPS
    return TriggerBank.build(
        verdict=("incomplete" if flooded or cut_short else "backdoored" if found else "none found"),
        model=encoder.identity,
        tokenizer_json=encoder.tokenizer_json,
        search={
            "method": "insertion scan",
            "budget": plan.name,
            "seed": seed,
            "scan_share": SCAN_SHARE,
            "judged": JUDGED,
            "reference_units": REFERENCE_UNITS,
            **report.settings(encoder, kinds),
        },
        coverage=report.coverage(
            encoder.views,
            known,
            listed,
            len(phrases),
            plan,
            tiers=run.done,
            climbed=climbed,
            swept=swept,
            judged=verdicts.judged,
            otherwise=encoder.otherwise,
            narrow=verdicts.narrow,
            flooded=flooded,
        ),
        found=found,
    )


def _phrases(encoder: Encoder, kinds: Mapping[str, Sequence[str]], plan: Plan) -> Sequence[Unit]:
    """Return the phrases that the user's own text repeats, for a search that tests words."""
    if not plan.words or USER_KIND not in kinds:
        return ()
    return encode(encoder.tokenizer, repeated(kinds[USER_KIND], PHRASES), PHRASES).units


def _different(units: Sequence[Unit], but: Sequence[Unit] = ()) -> list[Unit]:
    known = {unit.ids.tobytes() for unit in but}
    return list({u.ids.tobytes(): u for u in units if u.ids.tobytes() not in known}.values())


def _source() -> str:
    """Return the hash of this package's code: what another one measured is not gone on with."""
    digest = hashlib.sha256()
    for entry in sorted(files("guard.search").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".py"):
            digest.update(entry.read_bytes())
    return digest.hexdigest()


def _rate(encoder: Encoder) -> float:
    """Measure how many token-forwards the encoder makes in a second."""
    # A pass of as many tokens as a scan's; what takes no texts of this length is refused later.
    length = min(16, encoder.room)
    rows = encoder.frame(np.zeros((BATCH_TOKENS // 16, length), dtype=np.int64))
    before = encoder.forwarded
    encoder.read(rows)
    started = time.perf_counter()
    for _ in range(3):
        encoder.read(rows)
    seconds = time.perf_counter() - started
    encoder.forwarded = before
    return 3 * rows.size / seconds
