"""Purification: a model without the backdoor that a bank describes. Needs the extra `search`."""

from guard.purify.results import Purified, Settings
from guard.purify.run import purify

__all__ = ["Purified", "Settings", "purify"]
