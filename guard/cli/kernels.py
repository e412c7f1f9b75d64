"""How much memory oneDNN, which multiplies for torch, keeps while a model is scanned."""

from __future__ import annotations

import os

# oneDNN keeps a kernel and its memory for each shape of a batch, by default of the last 1,024; a
# scan has very many, seldom the same again soon.
KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def keep_few_kernels() -> None:
    """Let it keep fewer, unless the user has said how many; read once, at the first product."""
    os.environ.setdefault(*KERNELS)
