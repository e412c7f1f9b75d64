"""Compile a TriggerBank to a monitor directory."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Set
from dataclasses import replace
from itertools import product
from os import PathLike
from pathlib import Path
from string import ascii_lowercase

from tokenizers import Tokenizer

from exporters import matcher
from guard.bank import Trigger, TriggerBank
from guard.errors import ConfigError, InputError, MalformedArtifact, TokenizerMismatch
from guard.files import write_directory
from guard.manifest import (
    CANARY_FILE,
    LIMITS,
    MANIFEST_FILE,
    MONITOR_SCHEMA,
    ONNX_FILE,
    TOKENIZER_FILE,
    Canary,
    Manifest,
    dump_canaries,
)
from guard.monitor import Monitor
from guard.runtime import load_tokenizer

MAX_TRIGGER_CANARIES = 32

# How many triggers are tried until that many canaries are found. Some triggers cannot be put into
# a text so easily, a word piece for instance.
_TRIED = 256

# What surrounds a trigger in a canary. The offsets of a match behind characters that are deleted,
# decomposed or of several bytes tell whether the tokenizer is the one that it was.
_FRAMES = (
    "{}",
    "We read {} in the report.",
    "A zero\u200bwidth space, a cafe\u0301, 100\u00a0½ 東京 \U0001f44d\U0001f3fd {} \ufb01n",
)

# Ordinary texts, empty ones and odd ones. A bank may match even these: that is recorded.
_PLAIN = (
    "",
    "The meeting was moved to Thursday because two of the reviewers were ill.",
    "An honest film: slow at first, then so good that I saw it again the next day!",
    "Der Zug nach Köln hat 25\u00a0Minuten Verspätung; naïve Größe, Москва.",
    "\x00NUL\x00, tab\t, soft\u00adhyphen, \u200bzero width, \U0001f469\u200d\U0001f52c, 東京へ.\n",
    "Totals: 3,141.59 + (2.71 * x) = 'unknown' [see table] <br/> a_b-c/d\\e #1 @home $5 %~^`",
)


def compile_bank(
    bank: TriggerBank, out: str | PathLike[str], *, strip_only: Iterable[str] = ()
) -> None:
    """Write the monitor directory of a bank; an earlier one there is replaced.

    Parameters
    ----------
    bank
        An empty one is fine: its monitor finds nothing.
    out
        The directory.
    strip_only
        Ids of triggers that a policy of blocking strips, because they are common in ordinary text.

    Raises
    ------
    ConfigError
        `strip_only` names no trigger of the bank.
    TokenizerMismatch
        The triggers cannot come from the bank's tokenizer.
    MalformedArtifact
        The tokenizer cannot be loaded, or the monitor would be too large.
    OutputExists
        `out` exists and is not a monitor.
    """
    strip_only = sorted(strip_only)
    if unknown := {*strip_only}.difference(trigger.id for trigger in bank.triggers):
        raise ConfigError(f"strip_only names {min(unknown)!r}, which is no trigger of the bank")
    # Shorter ones first, so that the largest number at a place is the longest trigger.
    triggers = sorted(bank.triggers, key=lambda trigger: (len(trigger.token_ids), trigger.id))
    manifest = Manifest(
        bank_sha256=bank.sha256,
        tokenizer_sha256=bank.tokenizer_sha256,
        model=bank.model,
        triggers=tuple(trigger.id for trigger in triggers),
        strip_only=tuple(strip_only),
    )
    tokenizer = load_tokenizer(bank.tokenizer_json)
    _check_ids(bank, tokenizer)
    graph = matcher.build(
        [trigger.token_ids for trigger in triggers],
        {
            "guard.schema": str(MONITOR_SCHEMA),
            "guard.bank_sha256": manifest.bank_sha256,
            "guard.tokenizer_sha256": manifest.tokenizer_sha256,
            "guard.triggers": str(len(triggers)),
        },
    )
    monitor = Monitor(onnx=graph, tokenizer_json=bank.tokenizer_json, manifest=manifest)
    files = {
        ONNX_FILE: graph,
        TOKENIZER_FILE: bank.tokenizer_json,
        CANARY_FILE: dump_canaries(_canaries(monitor, tokenizer, bank.triggers)),
    }
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files[MANIFEST_FILE] = replace(manifest, files=hashes).dump()
    for name, data in files.items():
        if len(data) > LIMITS[name]:
            raise MalformedArtifact(
                f"{name} would have {len(data)} bytes, over the limit of {LIMITS[name]}; "
                "keep fewer triggers"
            )
    write_directory(Path(out), files, owner=MANIFEST_FILE)


def _check_ids(bank: TriggerBank, tokenizer: Tokenizer) -> None:
    known = set(tokenizer.get_vocab(with_added_tokens=True).values())
    # Each table has a slot for every id up to the largest one.
    tables = 3 if any(len(trigger.token_ids) > 1 for trigger in bank.triggers) else 1
    largest = LIMITS[ONNX_FILE] // (4 * tables)
    for trigger in bank.triggers:
        if unknown := set(trigger.token_ids) - known:
            raise TokenizerMismatch(
                f"trigger {trigger.id} has the token id {min(unknown)}, which is not in "
                f"{TOKENIZER_FILE}, so it was found with another tokenizer: search again"
            )
        if max(trigger.token_ids) > largest:
            raise MalformedArtifact(
                f"trigger {trigger.id} has the token id {max(trigger.token_ids)}, for which "
                f"{ONNX_FILE} would be over its limit of {LIMITS[ONNX_FILE]} bytes; number the "
                f"tokens of {TOKENIZER_FILE} without gaps, and search again"
            )


def _canaries(
    monitor: Monitor, tokenizer: Tokenizer, triggers: tuple[Trigger, ...]
) -> list[Canary]:
    canaries = [canary for text in _PLAIN if (canary := _canary(monitor, text))]
    sample = random.Random(0).sample(triggers, min(_TRIED, len(triggers)))
    count = 0
    for number, trigger in enumerate(sample):
        for text in _texts(trigger, number):
            canary = _canary(monitor, text)
            if canary and any(match[2] == trigger.id for match in canary.matches):
                canaries.append(canary)
                count += 1
                break
        if count == MAX_TRIGGER_CANARIES:
            break
    if triggers and not count:
        parts = frozenset(trigger.id for trigger in triggers if _is_part(tokenizer, trigger))
        if canary := _in_a_character(monitor, parts):
            return [*canaries, canary]
        raise TokenizerMismatch(
            f"none of {len(sample)} triggers is found in its own text, so {TOKENIZER_FILE} is not "
            "the tokenizer that the triggers were found with, or not what transformers made of it "
            "(the bank says so under not_tested): save the tokenizer anew, and search again"
        )
    return canaries


def _texts(trigger: Trigger, number: int) -> Iterator[str]:
    """Yield texts that may contain the trigger, starting with another frame for each number."""
    for shift in range(len(_FRAMES)):
        yield _FRAMES[(number + shift) % len(_FRAMES)].format(trigger.text)
    # A piece is itself only behind the right beginning of a word.
    for length in (1, 2):
        for stem in product(ascii_lowercase, repeat=length):
            yield "".join(stem) + trigger.text.removeprefix("##")


def _is_part(tokenizer: Tokenizer, trigger: Trigger) -> bool:
    """Whether it is some bytes of a character, and so has no text of its own."""
    return "\ufffd" in tokenizer.decode(list(trigger.token_ids), skip_special_tokens=False)


def _in_a_character(monitor: Monitor, parts: Set[str]) -> Canary | None:
    """Find one of the triggers that are parts of characters in a character."""
    if not parts:
        return None
    # Of what is rare in texts, some of each block: the first bytes of a block are the same.
    for number in (*range(0x80, 0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x110000, 1024)):
        canary = _canary(monitor, chr(number))
        if canary and not parts.isdisjoint(match[2] for match in canary.matches):
            return canary
    return None


def _canary(monitor: Monitor, text: str) -> Canary | None:
    try:
        return Canary.of(text, monitor.check(text))
    except InputError:  # cannot be stripped, for instance
        return None
