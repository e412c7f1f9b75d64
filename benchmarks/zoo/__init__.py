"""Backdoored and clean models that detection is measured on."""

from benchmarks.zoo.build import Achieved, Record, build
from benchmarks.zoo.entry import Entry, select
from benchmarks.zoo.table import ZOO

__all__ = ["ZOO", "Achieved", "Entry", "Record", "build", "select"]
