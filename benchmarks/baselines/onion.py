"""ONION: a word is suspicious if the text is more fluent without it.

Qi et al., "ONION: A Simple and Effective Defense Against Textual Backdoor Attacks", EMNLP 2021. Of
a text of n words, the suspicion of word i is ``f_i = p_0 - p_i``, the perplexity of the text less
that of the text without the word; words over a threshold are removed before the text reaches the
model. That is n + 1 passes of a language model.

The paper's model is GPT-2 (117 million parameters), which no package index serves. SmolLM2 (135
million, trained on far more text, tuned to instructions) stands in for it. The words of what is
left are joined by blanks: a public copy of ONION joins them by nothing, which no language model
finds fluent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Perplexity: TypeAlias = Callable[[Sequence[str]], list[float]]

_MAX_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Onion:
    """The defence.

    Parameters
    ----------
    perplexity
        Of each of some texts; see `language_model`.
    threshold
        Words of a larger suspicion are removed. The paper's is 0, or fitted to clean texts.
    """

    perplexity: Perplexity
    threshold: float = 0.0

    def suspicions(self, text: str) -> list[float]:
        """Return ``f_i`` of each word."""
        words = text.split()
        if len(words) < 2:
            return [0.0] * len(words)  # without its only word a text has no perplexity
        texts = [
            " ".join(words),
            *(" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))),
        ]
        whole, *rest = self.perplexity(texts)
        return [whole - without for without in rest]

    def score(self, text: str) -> float:
        """Return the suspicion of the most suspicious word."""
        return max(self.suspicions(text), default=0.0)

    def purified(self, text: str) -> str:
        """Return the text without its suspicious words; one word is left alone."""
        suspicions = self.suspicions(text)
        kept = [
            word
            for word, suspicion in zip(text.split(), suspicions, strict=True)
            if suspicion <= self.threshold
        ]
        return " ".join(kept)


def language_model(folder: Path, *, batch: int = 32) -> Perplexity:
    """Return the perplexity under a causal language model, of the text behind its first token.

    Parameters
    ----------
    folder
        Of the model and its tokenizer.
    batch
        How many texts are read at a time.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    begin = tokenizer.bos_token_id

    def perplexity(texts: Sequence[str]) -> list[float]:
        values: list[float] = []
        for start in range(0, len(texts), batch):
            rows = [
                [begin, *tokenizer(text, add_special_tokens=False).input_ids[:_MAX_TOKENS]]
                for text in texts[start : start + batch]
            ]
            width = max(map(len, rows))
            ids = torch.tensor([[*row, *[begin] * (width - len(row))] for row in rows])
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
            with torch.inference_mode():
                logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
            losses = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), ids[:, 1:], reduction="none"
            )
            counted = mask[:, 1:]
            mean = (losses * counted).sum(1) / counted.sum(1).clamp(min=1)
            values += mean.exp().tolist()
        return values

    return perplexity
