"""The clean encoders that attacks start from, by name."""

from benchmarks.encoders.catalogue import ENCODERS, encoder, masked_lm

__all__ = ["ENCODERS", "encoder", "masked_lm"]
