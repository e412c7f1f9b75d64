"""The offline search for triggers; needs the extra ``search`` (torch, transformers)."""

from guard.search.run import search

__all__ = ["search"]
