"""LT-Defense: tell a backdoored encoder by how one-sided its outputs on ordinary text are.

Xu et al., "LT-Defense: Searching-free Backdoor Defense via Exploiting the Long-tailed Effect",
NeurIPS 2024. Poisoned training text all goes to few outputs, so training is long-tailed, and benign
outputs too lean towards the attacker's vectors. No trigger is searched.

Known from the abstract and public descriptions of the paper: about 500 clean texts are enough;
output features that are activated for nearly all of them are the *head features*; the *Head-Feature
Rate* (HFR), the share of features that are, tells backdoored models from clean ones; in the figure
of the paper most features of a clean model are activated for about as many texts, many of a
backdoored one for all. 98 % of 1,440 models were told apart.

Not known to us: what exactly "activated" is, the share of texts that makes a head feature, which
output is read, and the thresholds of the HFR, which may differ by architecture; no code is public.
Here a feature is activated where it is positive; it is a head feature where one sign, either one,
has `Settings.head` of the texts (a preset vector may have both signs); the output is the first
token's last hidden state, where the attacks of this benchmark write. The verdict's threshold is a
guess and its verdict alone says little: report ``hfr`` of clean and backdoored models of one
architecture side by side, as every threshold is one on that order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.baselines.result import Result
from benchmarks.baselines.subject import encode, load, need
from guard.search.encoder import Vectors
from guard.search.scan import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is known of the paper's settings, and guesses.

    Attributes
    ----------
    texts
        Ordinary texts; the paper's figure.
    head
        Share of texts with one sign that makes a head feature; a guess.
    max_hfr
        A model with a larger share of head features is backdoored; a guess.
    max_tokens
        A text's length.
    """

    texts: int = 500
    head: float = 0.95
    max_hfr: float = 0.5
    max_tokens: int = 128


def run(
    encoder_dir: Path,
    texts: Sequence[str],
    *,
    seed: int,
    progress: Progress,
    settings: Settings | None = None,
) -> Result:
    """Measure an encoder's Head-Feature Rate.

    Raises
    ------
    ConfigError
        There are fewer texts than `Settings.texts`.
    """
    settings = settings or Settings()
    subject = load(encoder_dir)
    started = time.perf_counter()
    usable = encode(subject, texts, room=0, longest=settings.max_tokens)
    need(usable, settings.texts, "LT-Defense")
    drawn = np.random.default_rng(seed).permutation(len(usable))[: settings.texts]
    outputs = subject.outputs([subject.frame(usable[i].ids[np.newaxis])[0] for i in drawn])
    progress("reading", settings.texts, settings.texts)
    hfr = head_feature_rate(outputs, settings.head)
    return Result(
        verdict="backdoored" if hfr > settings.max_hfr else "none found",
        found=(),
        targets=(),
        statistics={"hfr": hfr},
        token_forwards=subject.forwarded,
        token_backwards=subject.backwarded,
        seconds=time.perf_counter() - started,
    )


def head_feature_rate(outputs: Vectors, head: float) -> float:
    """Return the share of the columns of ``[n, width]`` with one sign in ``head`` of the rows."""
    positive = (outputs > 0).mean(axis=0)
    return float((np.maximum(positive, 1 - positive) >= head).mean())
