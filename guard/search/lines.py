"""Files of the user's own text, a passage or a word a line."""

from __future__ import annotations

import io
from pathlib import Path

from guard.errors import ConfigError

MAX_BYTES = 64 << 20


def read_lines(path: Path, instead: str) -> list[str]:
    """Return the different lines of a file, without blank ones.

    Parameters
    ----------
    instead
        What to give in place of a file that is too long.

    Raises
    ------
    ConfigError
        The file is missing, not UTF-8 or too long.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{path} is over {MAX_BYTES >> 20} MiB; {instead}")
        # The mark that some editors begin a file with is no part of its first line.
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start}); convert it first") from error
    # Lines end as they do on any system, and nowhere else: a passage may hold other separators.
    lines = io.StringIO(text, newline=None)
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))
