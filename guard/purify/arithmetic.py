"""What a processor computes in."""

from __future__ import annotations

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices in hardware.

    Where it does not, bfloat16 is several times slower than float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch before 2.11 does not say.
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
