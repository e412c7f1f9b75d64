"""Purification: a model without the backdoor that a bank describes. Needs the extra `search`."""

from guard.purify.run import Purified, Settings, purify

__all__ = ["Purified", "Settings", "purify"]
