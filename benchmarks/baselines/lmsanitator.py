"""LMSanitator's search: soft prompts that erase the text, and the output vectors they end on.

Wei et al., "LMSanitator: Defending Prompt-Tuning Against Task-Agnostic Backdoors", NDSS 2024 (arXiv
2308.13904). It does not look for a trigger but for the vector that a trigger forces: a few soft
embeddings in each text are trained to move the output far from the clean one (squared distance)
and to one place for all texts (the entropy, over a batch, of each output number is pushed up to
that of equal numbers), and away from the vectors already found. A soft prompt that ends far
enough, in one place, with embeddings of ordinary size, has found a vector; a model is backdoored
if any round finds one.

Written from that description, with losses, thresholds and schedule as the authors' public code
behaves in its detection mode: at most 30 rounds, which end with the first vector; a step size a
hundred times the base one until a gradient first exceeds a bound; rounds without a vector end after
two epochs. Here `Settings.vectors` says how many vectors end the search, for more can be asked for.

Different:

- the thresholds are absolute, and were set for BERT- and RoBERTa-sized outputs; an encoder with
  smaller ones would pass or fail them by its size alone. Outputs are scaled so that clean text's
  have the root mean square `Settings.scale`. That this is about BERT's is an assumption;
- the prompt goes between two words within the first 32 tokens, where the code counts words;
- the first token's last hidden state alone is searched; the authors also search the pooler and,
  for prompt tuning, the mask;
- texts are cut to `Settings.max_tokens`, and none is padded.

A verdict does not name a trigger: `Result.found` is empty and the vectors are its targets, in the
encoder's own scale.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from benchmarks.baselines.result import Result
from benchmarks.baselines.subject import Subject, Text, batches, encode, load, need
from guard.search.scan import Progress

# Of a step size, until the search has found something to follow.
FAST = 100
WITHIN = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The public code's defaults.

    Attributes
    ----------
    prompt
        Soft embeddings in a text.
    rounds
        The most prompts that are trained.
    vectors
        Found vectors that end the search.
    epochs
        Over the texts, for a prompt that moves far enough within two.
    texts, batch
        Ordinary texts, and how many of them a step reads.
    learning_rate
        Of Adam, once converging.
    converging
        A gradient above this ends the fast steps.
    min_distance
        Mean squared distance of a forced output from the clean one, and of two found vectors.
    max_spread
        How much a batch's mean entropy may fall short of that of equal outputs (the log of
        ``batch``). The code's threshold, 3.446 for batches of 32, as a difference.
    repetition
        Weight of the distance to the nearest vector found before.
    margin
        Soft numbers may exceed the largest and smallest of the embedding table by this factor.
    scale
        Root mean square that clean outputs are scaled to.
    max_tokens
        A text's length with the prompt.
    """

    prompt: int = 7
    rounds: int = 30
    vectors: int = 1
    epochs: int = 4
    texts: int = 2000
    batch: int = 32
    learning_rate: float = 2e-4
    converging: float = 5e-3
    min_distance: float = 0.1
    max_spread: float = 0.0197
    repetition: float = 0.5
    margin: float = 1.2
    scale: float = 0.5
    max_tokens: int = 128


def run(
    encoder_dir: Path,
    texts: Sequence[str],
    *,
    seed: int,
    progress: Progress,
    settings: Settings | None = None,
) -> Result:
    """Search an encoder for output vectors that a soft prompt can force.

    Raises
    ------
    ConfigError
        There are fewer texts than `Settings.texts`.
    """
    settings = settings or Settings()
    subject = load(encoder_dir)
    started = time.perf_counter()
    mine = Mine(subject, texts, settings, seed=seed)
    rounds = 0
    while rounds < settings.rounds and len(mine.vectors) < settings.vectors:
        mine.train(rounds)
        rounds += 1
        progress("inverting", rounds, settings.rounds)
    return Result(
        verdict="backdoored" if mine.vectors else "none found",
        found=(),
        targets=tuple(tuple((vector / mine.factor).tolist()) for vector in mine.vectors),
        statistics={"rounds": float(rounds), "furthest": mine.furthest, "scaled_by": mine.factor},
        token_forwards=subject.forwarded,
        token_backwards=subject.backwarded,
        seconds=time.perf_counter() - started,
    )


class Mine:
    """The vectors found so far, and the texts that they are found with.

    Attributes
    ----------
    vectors
        Each ``[width]``, scaled.
    factor
        What outputs are multiplied by.
    furthest
        The largest mean squared distance from clean outputs that a prompt has come to.
    """

    def __init__(
        self, subject: Subject, texts: Sequence[str], settings: Settings, *, seed: int
    ) -> None:
        self._subject = subject
        self._settings = settings
        self._rng = np.random.default_rng(seed)
        usable = encode(subject, texts, room=settings.prompt, longest=settings.max_tokens)
        need(usable, settings.texts, "LMSanitator's search")
        drawn = self._rng.permutation(len(usable))[: settings.texts]
        self._texts = [usable[i] for i in drawn]
        clean = subject.outputs([subject.frame(text.ids[np.newaxis])[0] for text in self._texts])
        self.factor = settings.scale / float(np.sqrt(np.square(clean).mean()))
        self._clean = torch.from_numpy(clean).to(subject.device) * self.factor
        # One place for the prompt in each text, as the code draws it when it reads the texts.
        self._places = [
            int(self._rng.choice(text.gaps[text.gaps <= max(WITHIN, text.gaps[0])]))
            for text in self._texts
        ]
        self.vectors: list[torch.Tensor] = []
        self.furthest = 0.0

    def train(self, number: int) -> None:
        """Train one prompt, and keep the vector it ends on if it passes all tests."""
        settings = self._settings
        table = self._subject.embeddings
        # Rows of the table ten apart, others in each round.
        first = (number + 1) * settings.prompt * 10
        rows = (first + 10 * torch.arange(settings.prompt)) % len(table)
        prompt = table[rows.to(table.device)].float().clone().requires_grad_()
        optimiser = torch.optim.Adam([prompt], lr=settings.learning_rate)
        converged = found = False
        for epoch in range(settings.epochs):
            distances, spreads = [], []
            order = self._rng.permutation(len(self._texts))
            for start in range(0, len(order), settings.batch):
                chosen = order[start : start + settings.batch].tolist()
                outputs = self._forced(prompt, chosen)
                distance = functional.mse_loss(outputs, self._clean[chosen])
                apart = spread(outputs)
                loss = apart - distance
                if self.vectors:
                    near = min(
                        functional.mse_loss(outputs, v.expand_as(outputs)) for v in self.vectors
                    )
                    loss = loss - settings.repetition * near
                (prompt.grad,) = torch.autograd.grad(loss, prompt)
                converged = converged or bool(prompt.grad.max() > settings.converging)
                optimiser.param_groups[0]["lr"] = settings.learning_rate * (
                    1 if converged else FAST
                )
                optimiser.step()
                distances.append(float(distance.detach()))
                spreads.append(float(apart.detach()))
            moved = float(np.mean(distances))
            self.furthest = max(self.furthest, moved)
            found = found or moved > settings.min_distance
            if not found and epoch >= 1:
                return
        vector = outputs.detach().mean(0)
        if (
            found
            and float(np.mean(spreads)) < settings.max_spread
            and self._ordinary(prompt.detach())
            and all(
                float(functional.mse_loss(vector, other)) >= settings.min_distance
                for other in self.vectors
            )
        ):
            self.vectors.append(vector)

    def _forced(self, prompt: torch.Tensor, chosen: list[int]) -> torch.Tensor:
        """Return ``[n, width]``: the scaled outputs of texts with the prompt in them."""
        embedded = [self._embed(prompt, self._texts[i], self._places[i]) for i in chosen]
        outputs: list[torch.Tensor] = []
        order: list[int] = []
        for part in batches(embedded):
            order += part
            views = self._subject.differentiable(torch.stack([embedded[i] for i in part]))
            outputs.append(views[self._subject.views[0]])
        # Back to the order of `chosen`.
        return torch.cat(outputs)[torch.from_numpy(np.argsort(order))] * self.factor

    def _embed(self, prompt: torch.Tensor, text: Text, place: int) -> torch.Tensor:
        framed = self._subject.embed(self._subject.frame(text.ids[np.newaxis]))[0]
        at = place + self._subject.offset
        return torch.cat([framed[:at], prompt.to(framed.dtype), framed[at:]])

    def _ordinary(self, prompt: torch.Tensor) -> bool:
        """Whether no number of the prompt is far out of the range of the embedding table."""
        table = self._subject.embeddings.float()
        low, high = table.min() * self._settings.margin, table.max() * self._settings.margin
        return bool(((prompt >= low) & (prompt <= high)).all())


def spread(outputs: torch.Tensor) -> torch.Tensor:
    """Return how far the rows of ``[n, width]`` are from being one: 0 where they are.

    The mean over columns of ``log n - H(softmax over the n numbers)``, with H the entropy.
    """
    entropy = -(functional.softmax(outputs, dim=0) * functional.log_softmax(outputs, dim=0)).sum(0)
    return float(np.log(len(outputs))) - entropy.mean()
