"""Purification: a model without the backdoor that a bank describes. Needs the extra `search`."""

from guard.purify.results import Purified, Settings
from guard.purify.rounds import NotPreserved
from guard.purify.run import NothingToPurify, purify

__all__ = ["NotPreserved", "NothingToPurify", "Purified", "Settings", "purify"]
