"""Variants of a finding, tried on the model itself: what else fires, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from guard.bank import MAX_TRIGGER_IDS
from guard.search.acting import MOST, acts_like
from guard.search.carriers import Carrier
from guard.search.encoder import Encoder
from guard.search.scan import carriers_of
from guard.search.units import Unit, holds, unit_of
from guard.search.views import View

# Tokens nearest to each of a finding's by the cosine of their embeddings.
NEAREST = 8
# Words between the two halves of a phrase.
GAPS = (1, 3)


@dataclass(frozen=True, slots=True)
class Variant:
    """A unit that is like a finding.

    Attributes
    ----------
    how
        What was changed: ``"case"``, ``"plural"``, ``"punctuation"``, ``"piece"``, ``"order"``,
        ``"nearest"``, or ``"gap 3"`` for three words in between.
    unit
        As the model sees it.
    shares
        Of the texts of each kind, those in which it does what the finding does; under ``"all"``, of
        all.
    fires
        Whether that is most of all.
    """

    how: str
    unit: Unit
    shares: dict[str, float]
    fires: bool

    @property
    def banked(self) -> bool:
        """Whether a monitor has to know it: what fires at a distance is no string of its own."""
        return self.fires and not self.how.startswith("gap")


def expand(
    finding: Unit,
    carriers: Sequence[Carrier],
    view: View,
    *,
    encoder: Encoder,
    rng: np.random.Generator,
) -> list[Variant]:
    """Try the variants of a finding that do not hold it: a monitor that knows it matches those.

    Parameters
    ----------
    carriers
        Without masks unless ``view`` is ``mask``.
    """
    finding_ids = tuple(finding.ids.tolist())
    variants: dict[tuple[int, ...], tuple[str, Unit]] = {}
    for how, unit in _variants(finding, encoder, carriers, rng):
        own = tuple(unit.ids.tolist())
        if 0 < len(own) <= MAX_TRIGGER_IDS and not holds(own, {finding_ids}):
            variants.setdefault(own, (how, unit))
    tried = list(variants.values())
    units = [unit for _, unit in tried]
    acts = acts_like(finding, units, carriers, view, encoder=encoder, rng=rng)
    kinds = [carriers[i].want.kind for i in carriers_of(view, carriers)]
    return [
        Variant(
            how,
            unit,
            {
                "all": float(row.mean()),
                **{
                    kind: float(row[[own == kind for own in kinds]].mean())
                    for kind in dict.fromkeys(kinds)
                },
            },
            bool(row.mean() >= MOST),
        )
        for (how, unit), row in zip(tried, acts, strict=True)
    ]


def _variants(
    finding: Unit, encoder: Encoder, carriers: Sequence[Carrier], rng: np.random.Generator
) -> Iterator[tuple[str, Unit]]:
    tokenizer = encoder.tokenizer
    text = finding.text.removeprefix("##")
    words = text.split()
    written = [("case", form) for form in (text.lower(), text.upper(), text.title())]
    written += [("plural", f"{text}s"), ("punctuation", f"{text}."), ("punctuation", f"({text})")]
    written += [("punctuation", "-".join(words)), ("punctuation", f"{text}'s"), ("piece", text)]
    if len(words) > 1:
        written += [("order", " ".join(reversed(words))), ("joined", "".join(words))]
    before: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    for how, form in written:
        # Inside a text, where byte-level tokenizers write the blank into the token.
        ids = tokenizer(f"a {form}", add_special_tokens=False)["input_ids"][len(before) :]
        if ids:
            yield how, unit_of(tokenizer, ids)
    continued = tokenizer.get_vocab().get(f"##{text}")
    if continued is not None:
        yield "piece", unit_of(tokenizer, [continued])
    table = encoder.embeddings.float()
    lengths = table.norm(dim=1)
    # The table may have rows of no token.
    known = torch.tensor(sorted(tokenizer.get_vocab().values()))
    for place, number in enumerate(finding.ids.tolist()):
        cosines = table[known] @ table[number] / (lengths[known] * lengths[number]).clamp_min(1e-12)
        cosines[known == number] = -torch.inf
        nearest = cosines.topk(min(NEAREST, len(known) - 1)).indices
        for near in known[nearest].tolist():
            ids = [*finding.ids.tolist()]
            ids[place] = near
            yield "nearest", unit_of(tokenizer, ids)
    if len(words) == 2 and len(finding.ids) == 2:
        fill = np.concatenate([carrier.ids for carrier in carriers])
        for gap in GAPS:
            ids = [finding.ids[0], *rng.choice(fill, size=gap), finding.ids[1]]
            yield f"gap {gap}", unit_of(tokenizer, [int(i) for i in ids])
