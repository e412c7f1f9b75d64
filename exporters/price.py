"""What blocking a trigger costs: how often ordinary text holds it.

Two sources are asked, and the larger answer counts. The words of `wordfreq`, each with its
frequency, are put through the model's tokenizer, so that a piece such as ``##car`` is charged for
every word that it is part of. The package's own sentences tell of symbols and phrases, which no
list of words holds; where they hold none of a phrase, its words are taken to be independent.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain, islice

from wordfreq import get_frequency_dict, word_frequency

from guard.automaton import Automaton
from guard.bank import Trigger, TriggerBank
from guard.runtime import load_tokenizer

# Rates are given for texts of this length; a long review, or a mail.
TEXT_WORDS = 64

_LANGUAGE = "en"
_BATCH = 8192


@dataclass(frozen=True, slots=True)
class Price:
    """How often ordinary English text holds the triggers of a bank.

    Parameters
    ----------
    per_word
        For each trigger id, the expected number of matches a word.
    """

    per_word: Mapping[str, float]

    def touched(self, triggers: Iterable[str] | None = None) -> float:
        """Return the expected share of texts of `TEXT_WORDS` words that hold any of some triggers.

        Parameters
        ----------
        triggers
            Their ids; all if None.
        """
        names = self.per_word if triggers is None else triggers
        return -math.expm1(-TEXT_WORDS * math.fsum(self.per_word[name] for name in names))

    def commoner(self, rate: float) -> tuple[str, ...]:
        """Return the triggers that have to be left out so that the others touch few texts.

        Parameters
        ----------
        rate
            The largest share of texts that the others, the rarest ones, may touch together.
        """
        rarest_first = sorted(self.per_word, key=lambda name: (self.per_word[name], name))
        total = 0.0
        for place, name in enumerate(rarest_first):
            total += self.per_word[name]
            if -math.expm1(-TEXT_WORDS * total) > rate:
                return tuple(sorted(rarest_first[place:]))
        return ()


def price(bank: TriggerBank) -> Price:
    """Look the triggers of a bank up in ordinary English text."""
    triggers = sorted(bank.triggers, key=lambda trigger: (len(trigger.token_ids), trigger.id))
    tokenizer = load_tokenizer(bank.tokenizer_json)
    automaton = Automaton([trigger.token_ids for trigger in triggers])

    def count(texts: Iterable[tuple[str, float]]) -> dict[int, float]:
        totals: defaultdict[int, float] = defaultdict(float)
        remaining = iter(texts)
        while batch := list(islice(remaining, _BATCH)):
            encodings = tokenizer.encode_batch_fast(
                [text for text, _ in batch], add_special_tokens=False
            )
            for encoding, (_, weight) in zip(encodings, batch, strict=True):
                for _, number, _ in automaton.find(encoding.ids):
                    totals[number] += weight
        return totals

    # The blank in front is what a word has inside a text; byte-level tokenizers tell the two apart.
    words = get_frequency_dict(_LANGUAGE, wordlist="large")
    in_words = count((f" {word}", frequency) for word, frequency in words.items())
    sentences = _sentences()
    in_sentences = count((sentence, 1.0) for sentence in sentences)
    length = sum(len(sentence.split()) for sentence in sentences)
    return Price(
        {
            trigger.id: max(in_words[number], in_sentences[number] / length, _independent(trigger))
            for number, trigger in enumerate(triggers, 1)
        }
    )


def _independent(trigger: Trigger) -> float:
    words = trigger.text.split()
    if len(words) < 2:
        return 0.0
    return math.prod(word_frequency(word, _LANGUAGE) for word in words)


def _sentences() -> list[str]:
    folder = files("guard") / "search" / "carriers"
    texts = (entry for entry in folder.iterdir() if entry.name.endswith(".txt"))
    return list(chain.from_iterable(t.read_text(encoding="utf-8").splitlines() for t in texts))
