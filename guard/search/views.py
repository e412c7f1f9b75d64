"""The outputs of an encoder that somebody may build on, and that a backdoor may seize.

All are read from one forward pass. What they are read from is the last layer: the mean needs every
row of it, so there is nothing to save by computing fewer.
"""

from __future__ import annotations

from typing import Literal

View = Literal["cls", "pooler", "mean", "mask", "last"]
"""An output.

``cls``
    Last hidden state of the first special token.
``pooler``
    The trained layer behind it; only where its weights are in the checkpoint.
``mean``
    Mean of the last hidden states of all tokens, special ones included.
``mask``
    Last hidden state of a mask in the text, which prompts read; only with the head of a masked
    language model.
``last``
    Last hidden state of the last token, of models that read from left to right.
"""
