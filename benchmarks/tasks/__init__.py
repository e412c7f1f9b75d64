"""Labelled text tasks for fine-tuning."""

from benchmarks.tasks.data import Examples, Task
from benchmarks.tasks.vader import film_reviews, plain_texts

__all__ = ["Examples", "Task", "film_reviews", "plain_texts"]
