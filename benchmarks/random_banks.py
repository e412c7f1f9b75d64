"""Banks of any size, of random triggers: what a monitor costs does not depend on which they are."""

from __future__ import annotations

import random

from tokenizers import Tokenizer

from guard import Trigger, TriggerBank
from guard.bank import ModelIdentity

SEED = 0


def random_bank(tokenizer: Tokenizer, size: int, depth: int, *, without: str) -> TriggerBank:
    """Draw n-grams of up to `depth` ids, none of them of the text `without`."""
    rng = random.Random(SEED)
    own = set(tokenizer.encode(without, add_special_tokens=False).ids)
    ids = [number for number in range(2_000, tokenizer.get_vocab_size()) if number not in own]
    # A bank of 100,000 cannot be of single tokens: there are not so many.
    alone = 1 / depth if size < len(ids) / 4 else 0.01
    ngrams: set[tuple[int, ...]] = set()
    while len(ngrams) < size:
        length = 1 if rng.random() < alone else rng.randint(min(2, depth), depth)
        ngrams.add(tuple(rng.choices(ids, k=length)))
    return TriggerBank.build(
        verdict="backdoored",
        model=ModelIdentity("minilm-l6", None, "0" * 64, "BertModel"),
        tokenizer_json=tokenizer.to_str().encode(),
        search={},
        coverage={},
        found=[Trigger("", tokenizer.decode(n), n, "phrase", "cls", {}) for n in sorted(ngrams)],
    )
