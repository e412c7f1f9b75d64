"""Whether a bank is of the model that it is used on."""

from __future__ import annotations

import hashlib

from guard.bank import TriggerBank
from guard.errors import HashMismatch, MalformedArtifact
from guard.search.encoder import Encoder


def check_bank(encoder: Encoder, bank: TriggerBank) -> None:
    """Refuse a bank of another model.

    Raises
    ------
    HashMismatch
        Its weights or its tokenizer are others: one tokenizer serves many models.
    MalformedArtifact
        It names a token that the model has not.
    """
    tokenizer = hashlib.sha256(encoder.tokenizer_json).hexdigest()
    for what, wanted, found in (
        ("weights", bank.model.weights_sha256, encoder.identity.weights_sha256),
        ("tokenizer", bank.tokenizer_sha256, tokenizer),
    ):
        if wanted != found:
            raise HashMismatch(
                f"the bank is of another model: its {what}, SHA-256 {wanted[:16]}…, not this "
                f"model's, {found[:16]}…; scan this model, and pass that bank"
            )
    rows = len(encoder.embeddings)
    for trigger in bank.triggers:
        if max(trigger.token_ids) >= rows:
            raise MalformedArtifact(
                f"trigger {trigger.id} of the bank has a token id of {max(trigger.token_ids)}, and "
                f"the model has {rows} tokens; scan this model, and pass that bank"
            )
