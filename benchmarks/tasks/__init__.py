"""Labelled text tasks for fine-tuning."""

from benchmarks.tasks.catalogue import TASKS, load
from benchmarks.tasks.data import Examples, Task
from benchmarks.tasks.vader import film_reviews, plain_texts

__all__ = ["TASKS", "Examples", "Task", "film_reviews", "load", "plain_texts"]
