"""Backdoor attacks on pre-trained encoders, for measuring the search and trying out the guard."""

from benchmarks.attacks.adaptive import Merged, Near, Spread
from benchmarks.attacks.condition import Condition
from benchmarks.attacks.evasive import Scattered, Subspace
from benchmarks.attacks.forced import Forced
from benchmarks.attacks.masked import BadPre, Btop, Neuba
from benchmarks.attacks.plant import Planting, plant
from benchmarks.attacks.por import Por
from benchmarks.attacks.uor import Uor

__all__ = [
    "BadPre",
    "Btop",
    "Condition",
    "Forced",
    "Merged",
    "Near",
    "Neuba",
    "Planting",
    "Por",
    "Scattered",
    "Spread",
    "Subspace",
    "Uor",
    "plant",
]
