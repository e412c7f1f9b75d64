"""Rounds of training against the units that are known, each with a scan of what came out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from guard.bank import TriggerBank
from guard.errors import ArtifactError, GuardError
from guard.files import Json, dump_json
from guard.purify.arithmetic import multiplies_bfloat16
from guard.purify.loss import Distance, total
from guard.purify.network import Network
from guard.purify.results import Round, Settings
from guard.purify.samples import Sampler
from guard.purify.training import Stopping, device, train
from guard.purify.workplace import ROUND_FILE, Workplace, read, whole
from guard.purify.write import write_model
from guard.search.encoder import Encoder, Ids
from guard.search.journal import discard
from guard.search.report import rounded
from guard.search.run import search
from guard.search.scan import Progress
from guard.search.units import unit_of, vocabulary
from guard.search.words import encode

# In a round's directory, beside its model.
SCAN = "scan"

# Of the texts, those that are not trained on; and how often each length is drawn from them.
_HELD_OUT_SHARE = 0.1
# Of what units do in float32, this share has to be seen in bfloat16.
_SEEN = 0.8
_HELD_OUT_ROUNDS = 2


# Of what tells ordinary texts apart, a model that is still itself keeps more than half: none of
# those that were measured moved by over a twentieth (``python -m benchmarks mitigation``).
MOST_MOVED = 0.5


class NotPreserved(GuardError):
    """Training has taken the model from what it was."""


class Rounds:
    """The rounds of one purification.

    Parameters
    ----------
    folder, encoder
        The model, and what the search reads of it; of the latter nothing large is kept.
    kinds
        Kind -> texts of that kind, to train on.
    texts
        The user's own, for the scans.
    name
        Of the purified model, in the banks of its scans.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Encoder,
        *,
        kinds: Mapping[str, Sequence[str]],
        texts: Path | None,
        name: str,
        place: Workplace,
        settings: Settings,
        progress: Progress,
    ) -> None:
        self._folder = folder
        self._kinds = kinds
        self._texts = texts
        self._name = name
        self._place = place
        self._settings = settings
        self._progress = progress
        self._tokenizer = encoder.tokenizer
        self._max_tokens = encoder.max_tokens
        self._harmless = np.concatenate([unit.ids for unit in vocabulary(encoder.tokenizer).units])
        # Of the seed alone: what a round holds out, no round before may have trained on.
        rng = np.random.default_rng(place.seed)
        self._split = {kind: rng.permutation(len(lines)) for kind, lines in kinds.items()}

    def run(self, bank: TriggerBank) -> tuple[list[Round], TriggerBank]:
        """Train and scan until nothing is found or the rounds are spent.

        Returns
        -------
        tuple[list[Round], TriggerBank]
            What each round came to, and the last scan.

        Raises
        ------
        NotPreserved
            Outputs on ordinary text moved by more than `MOST_MOVED` of their variance. A scan would
            find nothing in a model that gives all texts one output.
        """
        known = {trigger.token_ids: trigger.text for trigger in bank.triggers}
        source = self._folder
        records: list[Round] = []
        for number in range(1, self._settings.rounds + 1):
            made = self._place.made(number)
            if not whole(made):
                shutil.rmtree(made, ignore_errors=True)
                self._train(number, source, made, sorted(known))
            record = read(made / ROUND_FILE)
            moved = max(record["moved"].values())
            if moved > MOST_MOVED:
                raise NotPreserved(
                    f"training took the model's outputs on ordinary text away by {moved:.0%} of "
                    "their variance, so that it is of no use any more, and nothing is written. Its "
                    "weights may have been made for that. Use another encoder"
                )
            kept = made / SCAN
            lines, left = self._lines(known)
            try:
                scan = TriggerBank.load(kept)
            except ArtifactError:
                shutil.rmtree(kept, ignore_errors=True)
                scan = self._scan(number, made, lines, left)
                scan.save(kept)
                discard(self._place.scan(number))
            records.append(
                Round(
                    **record,
                    verdict=scan.verdict,
                    remaining=len(scan.triggers),
                    scan_sha256=scan.sha256,
                    not_scanned=[list(ids) for ids in left],
                )
            )
            source = made
            if scan.verdict == "none found":
                break
            known |= {trigger.token_ids: trigger.text for trigger in scan.triggers}
        return records, scan

    def _train(
        self, number: int, source: Path, made: Path, units: Sequence[tuple[int, ...]]
    ) -> None:
        settings, where = self._settings, device()
        rng = np.random.default_rng([self._place.seed, number])
        ids = [np.array(unit, dtype=np.int64) for unit in units]
        held_out = self._sampler(ids, rng, held_out=True).fixed(_HELD_OUT_ROUNDS)
        held_out = [batch.to(where) for batch in held_out]
        sampler = self._sampler(ids, rng, held_out=False)
        distance = Distance(Network(self._folder).to(where), held_out)
        student = Network(source).trainable()
        student.tame(np.unique(np.concatenate(ids)), self._harmless)
        student.to(where)

        def loss() -> torch.Tensor:
            return total(distance.terms(student, sampler.draw().to(where)))

        def held_out_loss() -> float:
            return sum(sum(views.values()) for views in distance.mean(student, held_out))

        def report(step: int, value: torch.Tensor | None) -> None:
            self._progress(f"round {number}, training", step, settings.steps)

        before = distance.mean(student, held_out)
        with torch.autocast(where.type, torch.bfloat16, enabled=multiplies_bfloat16(where)):
            seen = distance.mean(student, held_out)
        # A backdoor may be made to hide from bfloat16: there would be nothing to train against.
        exact = any(seen[1][view] < _SEEN * error for view, error in before[1].items())
        report(0, None)
        checkpoint = self._place.checkpoint(number)
        losses = train(
            student.model,
            loss,
            sampler,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            exact=exact,
            report=report,
            checkpoint=checkpoint,
            checkpoint_every=settings.every,
            stopping=Stopping(loss=held_out_loss, every=settings.every, patience=settings.patience),
        )
        after = distance.mean(student, held_out)
        # Under another name until it is whole.
        fresh = made.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        write_model(source, fresh, student.weights())
        record: dict[str, Json] = {
            "units": len(units),
            "exact": exact,
            "held_out_loss": rounded(losses),
            "moved": rounded(distance.moved(student, held_out)),
            "triggered_before": rounded(before[1]),
            "triggered_after": rounded(after[1]),
        }
        (fresh / ROUND_FILE).write_bytes(dump_json(record))
        fresh.rename(made)
        checkpoint.unlink(missing_ok=True)

    def _sampler(
        self, units: Sequence[Ids], rng: np.random.Generator, *, held_out: bool
    ) -> Sampler:
        chosen = {}
        for kind, order in self._split.items():
            first = max(1, round(len(order) * _HELD_OUT_SHARE))
            rows = order[:first] if held_out else order[first:]
            chosen[kind] = [self._kinds[kind][i] for i in rows]
        return Sampler(
            self._tokenizer,
            chosen,
            units=units,
            harmless=self._harmless,
            max_tokens=self._max_tokens,
            rng=np.random.default_rng(rng.integers(2**32)),
        )

    def _lines(
        self, known: Mapping[tuple[int, ...], str]
    ) -> tuple[list[str], list[tuple[int, ...]]]:
        """Return lines for a scan to test, and the units that it meets in none of them.

        A scan takes texts, and tokenises them. A unit's own text need not lead back to its ids, nor
        be a line; what its tokens stand for may.
        """
        several = sorted(ids for ids in known if len(ids) > 1)
        texts = [known[ids] for ids in several]
        texts += [unit_of(self._tokenizer, ids).text for ids in several]
        stripped = [text.strip() for text in texts]
        lines = list(dict.fromkeys(text for text in stripped if text and "\n" not in text))
        # As the scan does it.
        encoded = encode(self._tokenizer, lines, len(lines)).units
        tested = {tuple(unit.ids.tolist()) for unit in encoded}
        tested |= {(number,) for number in self._harmless.tolist()}
        return lines, sorted(known.keys() - tested)

    def _scan(
        self, number: int, made: Path, words: Sequence[str], left: Sequence[tuple[int, ...]]
    ) -> TriggerBank:
        """Scan what a round made: all tokens, and words and phrases that were trained against.

        The bank says how many units are left out.
        """

        def report(step: str, done: int, whole: int) -> None:
            self._progress(f"round {number}, {step}", done, whole)

        listed = self._place.words(number)
        listed.write_text("\n".join(words), encoding="utf-8")
        # Another seed than the last scan's: what it happened to miss has another chance to show.
        (seed,) = np.random.SeedSequence([self._place.seed, number]).generate_state(1)
        found = search(
            str(made),
            texts=self._texts,
            words=listed if words else None,
            seed=int(seed),
            resume=self._place.scan(number),
            progress=report,
        )
        coverage = found.coverage
        if left:
            not_tested = [
                *cast("list[str]", coverage["not_tested"]),
                f"{len(left):,} of the units that were trained against, by their token ids: no "
                "line leads to those; purification.json names them",
            ]
            coverage = {**coverage, "not_tested": not_tested}
        return replace(found, model=replace(found.model, name=self._name), coverage=coverage)
