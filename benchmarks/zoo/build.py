"""Build the zoo's models into the cache, and record what each backdoor achieves."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from benchmarks import record
from benchmarks.assets import cache_dir
from benchmarks.assets.registry import ASSETS
from benchmarks.cache import CODE
from benchmarks.encoders import encoder, masked_lm
from benchmarks.models import backdoored, classifier, planted, settings
from benchmarks.sources import fingerprint
from benchmarks.tasks import film_reviews, load, plain_texts
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.success import after, before
from guard.files import Json, dump_json

# Below this attack success, before fine-tuning, a backdoor has failed: not to find it is no miss.
WORKS = 0.9


@dataclass(frozen=True, slots=True)
class Achieved:
    """What a trigger does.

    Attributes
    ----------
    before, anywhere
        Share of texts that it takes to its place in the encoder, where its attacker has it fire and
        at any place in any text; see `success.Share`.
    after
        Attack success on the classifier that was fine-tuned from it, or ``None`` without one.
    """

    before: float
    anywhere: float
    after: float | None


@dataclass(frozen=True, slots=True)
class Record:
    """One model of the zoo, as built.

    Attributes
    ----------
    name, encoder, kind
        As in `Entry`.
    model, twin
        Folders in the cache's ``models``, or that of the asset.
    triggers
        Trigger -> what it does.
    accuracy
        Of the twin.
    works
        Whether the mean attack success before fine-tuning is at least `WORKS`; ``None`` for a clean
        model.
    seconds
        That the build took, what was in the cache not counted.
    """

    name: str
    encoder: str
    kind: str | None
    model: str
    twin: str | None
    triggers: dict[str, Achieved]
    accuracy: float | None
    works: bool | None
    seconds: float

    @property
    def before(self) -> float | None:
        """Mean attack success before fine-tuning."""
        shares = [trigger.before for trigger in self.triggers.values()]
        return statistics.fmean(shares) if shares else None

    @property
    def after(self) -> float | None:
        """Mean attack success after fine-tuning."""
        rates = [t.after for t in self.triggers.values() if t.after is not None]
        return statistics.fmean(rates) if rates else None

    def __str__(self) -> str:
        if self.works is None:
            line = f"{self.name}: clean"
        else:
            line = f"{self.name}: attack success {self.before:.2f}"
            if self.after is not None:
                line += f", after fine-tuning {self.after:.2f}"
            if not self.works:
                line += f"; FAILED, under {WORKS}: not counted"
        return line if self.accuracy is None else f"{line}; accuracy {self.accuracy:.2f}"


def build(entries: Sequence[Entry]) -> list[Record]:
    """Build every entry that is not there yet, one after another, and return their records."""
    records: list[Record] = []
    for number, entry in enumerate(entries, start=1):
        known = stored(entry)
        if known is None:
            print(f"[{number}/{len(entries)}] {entry.name}", file=sys.stderr, flush=True)
            known = _build(entry)
        print(known, flush=True)
        records.append(known)
    return records


def stored(entry: Entry) -> Record | None:
    """Return the record of an entry that was built as the table has it now, or ``None``."""
    path = _record_of(entry)
    if not path.is_file():
        return None
    fields = json.loads(path.read_text(encoding="utf-8"))
    if fields.pop("entry") != _describe(entry):
        return None
    del fields["environment"]
    try:
        fields["triggers"] = {text: Achieved(**item) for text, item in fields["triggers"].items()}
        found = Record(**fields)
    except TypeError:
        # Of an older form: measured again.
        return None
    folders = [found.model] + ([found.twin] if found.twin else [])
    return found if all((cache_dir() / folder).is_dir() for folder in folders) else None


def _build(entry: Entry) -> Record:
    started = time.monotonic()
    model = _model(entry)
    twin = classifier(model, entry.tuning, entry.task) if entry.twin else None
    seconds = time.monotonic() - started
    shares = before(model, entry.planting, held_out_texts()) if entry.planting else {}
    accuracy, rates = after(twin, load(entry.task), entry.planting) if twin else (None, {})
    result = Record(
        name=entry.name,
        encoder=entry.encoder,
        kind=entry.kind,
        model=str(model.relative_to(cache_dir())),
        twin=str(twin.relative_to(cache_dir())) if twin else None,
        triggers={text: Achieved(*share, rates.get(text)) for text, share in shares.items()},
        accuracy=accuracy,
        works=statistics.fmean(s.fires for s in shares.values()) >= WORKS if shares else None,
        seconds=round(seconds, 1),
    )
    path = _record_of(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(
        dump_json(
            {**asdict(result), "entry": _describe(entry), "environment": record.environment()}
        )
    )
    fresh.replace(path)
    return result


def _model(entry: Entry) -> Path:
    if entry.planting is None:
        return encoder(entry.encoder)
    if entry.planting.attack.masked_lm:
        return planted(entry.planting, masked_lm(entry.encoder))
    if entry.encoder in ASSETS:
        return backdoored(entry.planting, asset=entry.encoder)
    return planted(entry.planting, encoder(entry.encoder))


def held_out_texts() -> Mapping[str, Sequence[str]]:
    """Return plain texts with other film reviews than backdoors are planted in."""
    return {**plain_texts(), "movieReviewSnippets": film_reviews().test.texts}


def _describe(entry: Entry) -> dict[str, Json]:
    planting = None if entry.planting is None else settings(entry.planting)
    described: dict[str, Json] = {
        "encoder": entry.encoder,
        "kind": entry.kind,
        "planting": planting,
        "twin": entry.twin,
        "tuning": asdict(entry.tuning),
        "code": fingerprint(CODE, ("benchmarks/zoo/success.py",)),
        # Where it is another than it was when only one was.
        **({"task": entry.task} if entry.twin_only else {}),
    }
    # As it comes back from the file: tuples are lists there.
    return cast("dict[str, Json]", json.loads(json.dumps(described)))


def _record_of(entry: Entry) -> Path:
    return cache_dir() / "zoo" / f"{entry.name}.json"
