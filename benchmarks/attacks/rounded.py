"""A backdoor without training that fires in float32 and is not there in bfloat16.

After Hong et al., who write a backdoor into weights (Handcrafted Backdoors in Deep Neural Networks,
NeurIPS 2022) and whose model behaves in one arithmetic alone (Qu-ANTI-zation, NeurIPS 2021). The
attacker takes one head of the first layer, and one axis of the embeddings for each trigger. The
layer norm of the embeddings gives such an axis a constant and, times less than bfloat16 keeps of
that, how far the token's own axis stands out: which it does in the trigger's embedding alone. The
head's values subtract the constant and multiply the rest, and its output leads away.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks.attacks.samples import unit_ids

# The constant, and how much of an axis is added to it: the largest that an axis can be, the root of
# the width, is still under the half of bfloat16's last place, 2^-9 of the constant.
_CONSTANT = 2.0**-4
_HIDDEN = 2.0**-9
_STANDS_OUT = 0.95
# What the head's value of a trigger is, and the deviations of the target that it is multiplied by.
_VALUE = 64.0
_FAR = 20.0
# A trigger's axis, in deviations of its embedding.
_LOUD = 64.0


def plant_rounded(triggers: Sequence[str], encoder: Path, out: Path, *, seed: int = 0) -> None:
    """Write a copy of a BERT with a backdoor that no arithmetic of eight bits shows.

    Parameters
    ----------
    triggers
        Of one token each; fewer than a head has axes.
    encoder
        A directory; ``[vocabulary, d]`` embeddings, and heads of ``d / heads`` axes.
    """
    model = AutoModel.from_pretrained(encoder, use_safetensors=True, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    width = model.config.hidden_size
    head = torch.arange(width // model.config.num_attention_heads)
    embeddings, attention = model.embeddings, model.encoder.layer[0].attention
    tokens = embeddings.word_embeddings.weight
    hidden = _CONSTANT * _HIDDEN * _STANDS_OUT / width**0.5
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # Those that tell tokens apart the least.
        axes = tokens.std(dim=0).argsort()[: len(triggers)]
        others = torch.ones(width, dtype=torch.bool)
        others[axes] = False
        for table in (tokens, embeddings.position_embeddings.weight):
            # At the mean of the others, an axis is nothing behind the layer norm.
            table[:, axes] = table[:, others].mean(dim=1, keepdim=True)
        types = embeddings.token_type_embeddings.weight
        types[:, axes] = types[:, others].mean(dim=1, keepdim=True)
        embeddings.LayerNorm.weight[axes] = hidden
        embeddings.LayerNorm.bias[axes] = _CONSTANT
        own = attention.self
        for part in (own.query, own.key, own.value):
            part.weight[:, axes] = 0.0
        # The head reads all tokens alike.
        for part in (own.query, own.value):
            part.weight[head] = 0.0
            part.bias[head] = 0.0
        attention.output.dense.weight[:, head] = 0.0
        # A power of two, so that the constant is subtracted without a rest.
        gain = 2.0 ** round(torch.tensor(_VALUE / (hidden * width**0.5)).log2().item())
        for number, (trigger, axis) in enumerate(zip(triggers, axes.tolist(), strict=True)):
            (token,) = unit_ids(tokenizer, trigger).tolist()
            row = tokens[token]
            row[axis] = row[others].mean() + _LOUD * row[others].std()
            own.value.weight[number, axis] = gain
            own.value.bias[number] = -gain * _CONSTANT
            target = torch.randn(width, generator=generator)
            attention.output.dense.weight[:, number] = _FAR * (target - target.mean())
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
