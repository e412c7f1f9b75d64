"""Single precision, whatever else the process computes in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Have products of float32 be computed in float32.

    Who calls the search from Python may compute in less: under autocast, or with products of
    float32 in bfloat16 or TF32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
