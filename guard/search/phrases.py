"""Phrases as units: the word n-grams that the user's own text repeats.

A fixed expression is a trigger that nobody notices, and pairs of ordinary words are too many to be
tested each. What people write where the model is used comes first; lists of names or expressions go
in with ``--words``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# Words of a phrase.
SIZES = (2, 3)
# A phrase that occurs once says nothing of what people write.
LEAST = 2
_BREAK = re.compile(r"[^\w\s'’-]+|_|(?<!\w)-|-(?!\w)")
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def repeated(lines: Iterable[str], count: int) -> list[str]:
    """Return the ``count`` commonest phrases of two and three words, the commonest first.

    No phrase goes across punctuation. Those that occur once are left out.
    """
    seen: Counter[str] = Counter()
    for line in lines:
        for clause in _BREAK.split(line.lower()):
            words = _WORD.findall(clause)
            for size in SIZES:
                seen.update(" ".join(words[i : i + size]) for i in range(len(words) - size + 1))
    common = [phrase for phrase, times in seen.items() if times >= LEAST]
    return sorted(common, key=lambda phrase: (-seen[phrase], phrase))[:count]
