"""Backdoor attacks on pre-trained encoders, for measuring the search and trying out the guard."""

from benchmarks.attacks.plant import Planting, plant
from benchmarks.attacks.por import Por

__all__ = ["Planting", "Por", "plant"]
