"""The exception tree.

::

    GuardError                      something the user has to know; str() names the remedy
    ├── InputError (ValueError)     the text cannot be scanned
    │   ├── NotText                 it is no str
    │   ├── InvalidIds              it was given as ids, and they are none
    │   ├── TextTooLong             it is longer than the monitor scans
    │   ├── InvalidUnicode          it holds lone surrogates
    │   └── StripLimit              removing its matches kept making new ones
    │       └── TargetReached       there is no match, and yet it does what triggers do
    ├── ArtifactError               a bank or monitor directory cannot be trusted
    │   ├── HashMismatch            a file is not the one that its manifest names
    │   ├── SchemaTooNew            it was written by a newer version of this library
    │   ├── MalformedArtifact       it breaks the file format
    │   ├── BadSignature            it is not signed, or not by the key that is asked for
    │   ├── CanaryFailure           the monitor does not do here what it did when it was compiled
    │   ├── TokenizerMismatch       it was made for another tokenizer
    │   └── OutputExists            writing would overwrite something that is not ours
    ├── ModelError                  a model directory cannot be used
    ├── ConfigError (ValueError)    an option has no such value
    ├── DeadlinePassed              the guard took longer than it may
    └── TriggeredInput              a call was blocked because of its text

No message holds the text of a trigger or of an input: messages reach logs and responses, and there
they would tell an attacker which words the monitor knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guard.verdict import Verdict


class GuardError(Exception):
    """Base of all errors that this library raises on purpose."""


class InputError(GuardError, ValueError):
    """The text cannot be scanned; a policy decides what happens to it."""


class NotText(InputError):
    """The value is no ``str``."""


class InvalidIds(InputError):
    """The ids of a text are no ids."""


class TextTooLong(InputError):
    """The text has more characters than the monitor scans."""


class InvalidUnicode(InputError):
    """The text holds lone surrogates, so no tokenizer can read it."""


class StripLimit(InputError):
    """Stripping did not come to an end: the text has to be blocked instead."""


class TargetReached(StripLimit):
    """The deep check alarms: the output of the encoder falls where known triggers lead."""


class ArtifactError(GuardError):
    """A bank or monitor directory is missing, damaged, or not what it says it is."""


class HashMismatch(ArtifactError):
    """A file's SHA-256 differs from the one recorded for it."""


class SchemaTooNew(ArtifactError):
    """The artifact's schema is newer than this version of the library reads."""


class MalformedArtifact(ArtifactError):
    """A file is missing, too large, or breaks the format."""


class BadSignature(ArtifactError):
    """The artifact has no signature, or none that the given key made over these files."""


class CanaryFailure(ArtifactError):
    """A monitor gave another verdict on a canary text than the one recorded at compile time."""


class TokenizerMismatch(ArtifactError):
    """The artifact was made for another tokenizer than the one in use."""


class OutputExists(ArtifactError):
    """The target of a write exists and was not written by this library."""


class ModelError(GuardError):
    """A model directory has no usable weights, or its tokenizer does not fit them."""


class ConfigError(GuardError, ValueError):
    """An option has a value that does not exist."""


class DeadlinePassed(GuardError):
    """Scanning took longer than the policy's deadline: a failure of the guard, not of the text."""


class TriggeredInput(GuardError):
    """A guarded call was blocked: its text holds a trigger.

    Parameters
    ----------
    verdict
        What the monitor found. Keep it out of responses: it tells which words are known.
    """

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(
            f"blocked: the text holds {len(verdict.matches)} trigger match(es); see .verdict for "
            "which. action='strip' removes them, except from keys and ids"
            if verdict.matches
            else "blocked: the text does what triggers do, and nothing in it can be stripped; its "
            "cause says why"
        )
        self.verdict = verdict

    def __reduce__(self) -> tuple[type[TriggeredInput], tuple[Verdict]]:
        """Pickle by the verdict, so that the error crosses process pools."""
        return type(self), (self.verdict,)
