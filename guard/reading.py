"""From a text to the ids that the protected model sees, and what cannot be read."""

from __future__ import annotations

import re

from tokenizers import Encoding, Tokenizer

from guard.errors import GuardError, InvalidUnicode, NotText, TextTooLong

MAX_CHARS = 1_048_576

# Characters that are encoded in a moment.
_SHORT = 2048

_SURROGATE = re.compile("[\ud800-\udfff]")


def scannable(text: str) -> str:
    """Return the text itself as a plain str.

    Raises
    ------
    NotText
        It is no str.
    TextTooLong
        It has more than `MAX_CHARS` characters.
    """
    if not isinstance(text, str):
        raise NotText(f"the text is of type {type(text).__name__}, not str; decode it first")
    if type(text) is not str:
        text = str.__str__(text)  # a subclass may say anything about itself
    if len(text) > MAX_CHARS:
        raise TextTooLong(
            f"the text has {len(text)} characters, and the monitor scans at most {MAX_CHARS}; "
            "split it"
        )
    return text


def encode(tokenizer: Tokenizer, text: str) -> Encoding:
    """Encode a text without special tokens.

    Raises
    ------
    InvalidUnicode
        It holds a lone surrogate.
    GuardError
        The tokenizer failed.
    """
    try:
        if len(text) > _SHORT:
            # `encode` holds the interpreter's lock, and with it all other threads, for as long as
            # it takes; this does not.
            return tokenizer.encode_batch([text], add_special_tokens=False)[0]
        return tokenizer.encode(text, add_special_tokens=False)
    except BaseException as error:
        if surrogate := _SURROGATE.search(text):
            raise InvalidUnicode(
                f"the text has a lone surrogate at index {surrogate.start()}; "
                "decode its bytes with errors='replace'"
            ) from None
        if failed(error):
            # Only the kind of it: panics quote the text.
            raise GuardError(
                f"the tokenizer failed on the text ({type(error).__name__}); do not forward it"
            ) from error
        raise


def failed(error: BaseException) -> bool:
    """Whether a library failed, and not somebody interrupted it.

    A panic of Rust code is no Exception, and would pass all handlers of a server.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
