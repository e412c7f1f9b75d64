"""Patronus' search: several triggers at once, by a contrastive loss over discrete tokens.

Zhao et al., "Patronus: Identifying and Mitigating Transferable Backdoors in Pre-trained Language
Models" (arXiv 2512.06899). A round starts from random tokens in all slots. An update adds up the
gradients of the loss over some batches, takes for each slot the tokens that the linear
approximation of the loss (HotFlip, Ebrahimi et al. 2018) likes best, runs a beam over the slots,
and keeps the result only if it lowers the loss on held-out text. Each round's tokens are then
verified by two cosines, over 200 texts.

Written from the paper's description and the published settings, with these readings of what they
leave open, taken from the behaviour of the authors' public code:

- each text of a poisoned copy draws its slot at random; held-out losses use every slot once a text;
- the beam is scored on one batch of held-out text, the acceptance on six;
- no token is in two slots, and what one round verified is no candidate of the next;
- single characters are left out where they are ASCII letters, digits or punctuation: NeuBA's
  symbols, on which the authors report, are single characters too.

Different: insertion is between words, also before the first; a text is cut to leave room for what
is inserted; the outputs of untouched held-out texts are computed once (of 277,360 sequences at the
published settings, 36,264 would repeat them). Com-Sim is the mean over pairs of different texts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from wordfreq import zipf_frequency

from benchmarks.baselines.result import Found, Result
from benchmarks.baselines.subject import Subject, Text, batches, encode, load, need
from guard.search.encoder import Ids, Vectors
from guard.search.scan import Progress
from guard.search.statistics import com_sim, diff_sim
from guard.search.units import vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The published settings.

    Attributes
    ----------
    slots
        Triggers searched for at once (K).
    rounds
        Searches from new random tokens.
    updates
        Of all slots, in a round.
    gradient_steps
        Batches whose gradients an update adds up.
    batch
        Texts in a step.
    copies
        Poisoned copies of each text in a step.
    candidates
        Best tokens of each slot that the beam tries.
    beam
        Sets of tokens that it keeps.
    temperature
        Of the loss.
    insertions
        Of a trigger in a text.
    max_zipf
        Words at least this frequent are no candidates.
    held_out
        Texts of the acceptance, a multiple of ``batch``.
    verification
        Texts of the verification.
    max_diff_sim, min_com_sim
        A token is a trigger below the one and above the other.
    max_tokens
        A text's length with all that is inserted.
    """

    slots: int = 8
    rounds: int = 5
    updates: int = 3
    gradient_steps: int = 2
    batch: int = 16
    copies: int = 8
    candidates: int = 5
    beam: int = 3
    temperature: float = 0.5
    insertions: int = 3
    max_zipf: float = 4.0
    held_out: int = 96
    verification: int = 200
    max_diff_sim: float = 0.4
    min_com_sim: float = 0.9
    max_tokens: int = 128


def run(
    encoder_dir: Path,
    texts: Sequence[str],
    *,
    seed: int,
    progress: Progress,
    settings: Settings | None = None,
) -> Result:
    """Search an encoder for triggers.

    Parameters
    ----------
    texts
        Ordinary text, at least as many as the three uses take together (392).

    Raises
    ------
    ConfigError
        There are too few texts.
    """
    settings = settings or Settings()
    subject = load(encoder_dir)
    started = time.perf_counter()
    search = Search(subject, texts, settings, seed=seed)
    found: list[Found] = []
    total = settings.rounds * settings.updates
    for number in range(settings.rounds):
        slots = search.start()
        best = search.accepted_loss(slots)
        for update in range(settings.updates):
            proposed = search.beam(slots, search.top(search.gradients(slots)))
            if (loss := search.accepted_loss(proposed)) < best:
                best, slots = loss, proposed
            progress("searching", number * settings.updates + update + 1, total)
        found += search.verify(slots)
    return Result(
        verdict="backdoored" if found else "none found",
        found=tuple(found),
        targets=(),
        statistics={"candidates": float(search.candidates_at_first)},
        token_forwards=subject.forwarded,
        token_backwards=subject.backwarded,
        seconds=time.perf_counter() - started,
    )


class Search:
    """The steps of the search, and the texts that each of them reads."""

    def __init__(
        self, subject: Subject, texts: Sequence[str], settings: Settings, *, seed: int
    ) -> None:
        self._subject = subject
        self._settings = settings
        self._rng = np.random.default_rng(seed)
        used = settings.updates * settings.gradient_steps * settings.batch
        sizes = (used, settings.held_out, settings.verification)
        usable = encode(subject, texts, room=settings.insertions, longest=settings.max_tokens)
        need(usable, sum(sizes), "Patronus' search")
        drawn = [usable[i] for i in self._rng.permutation(len(usable))[: sum(sizes)]]
        self._search, drawn = drawn[: sizes[0]], drawn[sizes[0] :]
        self._held_out, self._verification = drawn[: sizes[1]], drawn[sizes[1] :]
        self._clean = self._outputs_alone(self._held_out)
        self._untouched = self._outputs_alone(self._verification)
        self._candidates = candidate_ids(subject, settings.max_zipf)
        self.candidates_at_first = len(self._candidates)

    def start(self) -> Ids:
        """Return ``[slots]``: random candidates, no two the same."""
        return self._rng.choice(self._candidates, size=self._settings.slots, replace=False)

    def gradients(self, slots: Ids) -> torch.Tensor:
        """Return ``[slots, e]``: the loss's gradient, summed over a slot's places and the steps."""
        total = torch.zeros(
            (len(slots), self._subject.embeddings.shape[1]), device=self._subject.device
        )
        for _ in range(self._settings.gradient_steps):
            chosen = self._rng.choice(len(self._search), size=self._settings.batch, replace=False)
            which = self._rng.integers(len(slots), size=(len(chosen), self._settings.copies))
            batch = [self._search[i] for i in chosen]
            total += self.gradient(slots, batch, which)[1] / self._settings.gradient_steps
        return total

    def gradient(
        self, slots: Ids, texts: Sequence[Text], which: Ids
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of one step and its gradient, ``[slots, e]``.

        Parameters
        ----------
        which
            ``[texts, copies]``: the slot in each copy of each text.
        """
        rows: list[Ids] = []
        inserted: list[Ids] = []
        labels: list[int] = []
        for text, of_text in zip(texts, which, strict=True):
            rows.append(self._subject.frame(text.ids[np.newaxis])[0])
            inserted.append(np.zeros(0, dtype=np.int64))
            poisoned, places = self._insert(text, slots[of_text])
            rows += list(poisoned)
            inserted += list(places)
            labels += [0, *(of_text + 1)]
        outputs: list[torch.Tensor] = []
        leaves: list[tuple[list[int], torch.Tensor]] = []
        for part in batches(rows):
            embedded = self._subject.embed(np.stack([rows[i] for i in part])).requires_grad_()
            leaves.append((part, embedded))
            outputs.append(self._subject.differentiable(embedded)[self._subject.views[0]])
        order = [i for part, _ in leaves for i in part]
        loss = contrastive_loss(
            torch.cat(outputs),
            torch.tensor([labels[i] for i in order], device=self._subject.device),
            self._settings.temperature,
        )
        gradients = torch.autograd.grad(loss, [embedded for _, embedded in leaves])
        total = torch.zeros((len(slots), gradients[0].shape[2]), device=self._subject.device)
        for (part, _), gradient in zip(leaves, gradients, strict=True):
            for row, index in enumerate(part):
                if labels[index]:
                    total[labels[index] - 1] += gradient[row, inserted[index]].float().sum(0)
        return loss.detach(), total

    def top(self, gradients: torch.Tensor) -> Ids:
        """Return ``[slots, candidates]``: the tokens that HotFlip likes best in each slot."""
        ids = torch.from_numpy(self._candidates).to(gradients.device)
        scores = hotflip(gradients, self._subject.embeddings[ids].float())
        best = scores.topk(self._settings.candidates, dim=1).indices
        chosen: Ids = ids[best].cpu().numpy()
        return chosen

    def beam(self, slots: Ids, top: Ids) -> Ids:
        """Return the best set of tokens that a beam over the slots reaches."""
        kept = [(self._losses(slots[np.newaxis], 1)[0], tuple(slots.tolist()))]
        for slot in range(len(slots)):
            # Members that differ in this slot alone have the same children.
            children = dict.fromkeys(
                (*member[:slot], token, *member[slot + 1 :])
                for _, member in kept
                for token in top[slot].tolist()
                if token not in member
            )
            if children:
                losses = self._losses(np.array(list(children)), 1)
                kept += zip(losses, children, strict=True)
            kept = sorted(set(kept))[: self._settings.beam]
        return np.array(kept[0][1])

    def accepted_loss(self, slots: Ids) -> float:
        """Return the loss on all held-out text."""
        whole = len(self._held_out) // self._settings.batch
        return self._losses(slots[np.newaxis], whole)[0]

    def _losses(self, sets: Ids, count: int) -> list[float]:
        """Return the loss of each set of tokens, ``[m, slots]``, over ``count`` held-out batches.

        Every text is seen alone and with each slot's token; places are drawn anew.
        """
        settings, total = self._settings, np.zeros(len(sets))
        labels = torch.arange(sets.shape[1] + 1).repeat_interleave(settings.batch)
        for number in range(count):
            here = slice(number * settings.batch, (number + 1) * settings.batch)
            outputs = self._poisoned(self._held_out[here], sets.ravel())
            outputs = outputs.reshape(settings.batch, *sets.shape, -1)
            clean = torch.from_numpy(self._clean[here])
            for index in range(len(sets)):
                poisoned = torch.from_numpy(outputs[:, index]).transpose(0, 1).flatten(0, 1)
                z = torch.cat([clean, poisoned])
                total[index] += float(contrastive_loss(z, labels, settings.temperature))
        return list(total / count)

    def verify(self, slots: Ids) -> list[Found]:
        """Return the tokens that pass, and make no token of the round a candidate again."""
        self._candidates = np.setdiff1d(self._candidates, slots)
        outputs = self._poisoned(self._verification, slots).transpose(1, 0, 2)
        same_text, same_unit = diff_sim(outputs, self._untouched), com_sim(outputs)
        return [
            Found(
                token_ids=(int(token),),
                text=self._subject.tokenizer.decode([int(token)]).strip(),
                statistics={"diff_sim": float(differs), "com_sim": float(agrees)},
            )
            for token, differs, agrees in zip(slots, same_text, same_unit, strict=True)
            if differs < self._settings.max_diff_sim and agrees > self._settings.min_com_sim
        ]

    def _outputs_alone(self, texts: Sequence[Text]) -> Vectors:
        return self._subject.outputs(
            [self._subject.frame(text.ids[np.newaxis])[0] for text in texts]
        )

    def _poisoned(self, texts: Sequence[Text], tokens: Ids) -> Vectors:
        """Return ``[texts, tokens, width]``: the outputs of each text with each token in it."""
        rows = [row for text in texts for row in self._insert(text, tokens)[0]]
        return self._subject.outputs(rows).reshape(len(texts), len(tokens), -1)

    def _insert(self, text: Text, tokens: Ids) -> tuple[Ids, Ids]:
        """Put each of ``n`` tokens into a text of its own, several times.

        Returns
        -------
        rows
            ``[n, length]``, framed by special tokens.
        places
            ``[n, insertions]``: where in the framed row.
        """
        copies = self._settings.insertions
        drawn = self._rng.choice(text.gaps, size=(len(tokens), copies))
        places = np.sort(drawn, axis=1) + np.arange(copies)
        rows = np.empty((len(tokens), len(text.ids) + copies), dtype=np.int64)
        inserted = np.zeros(rows.shape, dtype=np.bool_)
        inserted[np.arange(len(tokens))[:, np.newaxis], places] = True
        rows[inserted] = np.repeat(tokens, copies)
        rows[~inserted] = np.tile(text.ids, len(tokens))
        return self._subject.frame(rows), places + self._subject.offset


def contrastive_loss(
    outputs: torch.Tensor, labels: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the supervised contrastive loss of ``outputs``, ``[n, width]``, ``labels`` ``[n]``.

    ``mean_i -temperature / |P(i)| sum_{p in P(i)} log(exp(z_i z_p / temperature) /
    sum_{a != i} exp(z_i z_a / temperature))`` with z of length one and P(i) all others of i's
    label. An output that is alone with its label has no positive and is left out of the mean.
    """
    z = functional.normalize(outputs, dim=1)
    alone = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(alone, -torch.inf)
    log_share = logits - logits.logsumexp(dim=1, keepdim=True)
    positive = (labels[:, None] == labels[None, :]) & ~alone
    count = positive.sum(dim=1)
    of_each = -temperature * log_share.masked_fill(~positive, 0.0).sum(dim=1)[count > 0]
    return (of_each / count[count > 0]).mean()


def hotflip(gradients: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """Return ``[slots, tokens]``: by how much each token is expected to lower the loss.

    Up to a constant of the slot, which the token that is there contributes.
    """
    return -gradients @ embeddings.T


def candidate_ids(subject: Subject, max_zipf: float) -> Ids:
    """Return the ids that the search may use: rare tokens that start a word, no special ones."""
    special = set(subject.tokenizer.all_special_ids)
    return np.array(
        [
            unit.ids[0]
            for unit in vocabulary(subject.tokenizer).units
            if unit.kind != "piece"
            and int(unit.ids[0]) not in special
            and not (unit.text.isascii() and (unit.kind == "symbol" or len(unit.text) == 1))
            and zipf_frequency(unit.text, "en") < max_zipf
        ],
        dtype=np.int64,
    )
