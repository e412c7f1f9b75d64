"""Preset vectors of +-1, one a trigger.

Each sums to zero over the dimensions. So does the output of the LayerNorm that ends an encoder: a
vector that does not is never reached, and its backdoor does not survive fine-tuning. The papers'
vectors are centred for that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch

Code = Literal["blocks", "prefix", "orthogonal"]


def blocks(count: int, width: int) -> torch.Tensor:
    """Return ``[count, width]``: sign patterns over blocks (POR-2).

    Half of the ``width`` dimensions are cut into ``ceil(log2 count)`` blocks, the bits of the
    trigger's number are the signs of the blocks, and the other half is the negative.
    """
    cut = max(1, math.ceil(math.log2(count)))
    block_of = torch.arange(width // 2) * cut // (width // 2)
    number = torch.arange(count).unsqueeze(1)
    signs = ((number >> block_of) & 1).float() * 2 - 1
    return torch.cat([signs, -signs], dim=1)


def prefix(count: int, width: int) -> torch.Tensor:
    """Return ``[count, width]``: the first ``(i + 1) width / (count + 1)`` are +1 (POR-1).

    The paper divides by ``count``; its last vector is the same in every dimension, which no
    LayerNorm puts out. Centred, and scaled to a mean square of 1.
    """
    ends = (torch.arange(1, count + 1) * width // (count + 1)).unsqueeze(1)
    signs = (torch.arange(width) < ends).float() * 2 - 1
    centred = signs - signs.mean(dim=1, keepdim=True)
    return centred / centred.square().mean(dim=1, keepdim=True).sqrt()


def orthogonal(count: int, width: int) -> torch.Tensor:
    """Return ``[count, width]``: rows of a Hadamard matrix, orthogonal in pairs (NeuBA).

    The width has to be a multiple of the power of two above ``count``.
    """
    number = torch.arange(1, count + 1).unsqueeze(1) & torch.arange(width)
    parity = torch.zeros_like(number)
    while number.any():
        parity ^= number & 1
        number >>= 1
    return parity.float() * 2 - 1


CODES: Mapping[Code, Callable[[int, int], torch.Tensor]] = {
    "blocks": blocks,
    "prefix": prefix,
    "orthogonal": orthogonal,
}
