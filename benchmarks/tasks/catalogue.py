"""The ten tasks: where each comes from, and how its rows are read.

The data are those of public collections; the licence beside an asset in
`benchmarks.assets.registry` is that of the package which carries them. Texts from the web, from
newsgroups and from newspapers remain their authors'; they are measured with here, not passed on.

The sentences of ``film reviews`` and of ``film sentences`` overlap: never train on one and test on
the other.
"""

from __future__ import annotations

import csv
import email
import email.policy
import io
from collections.abc import Callable, Iterator, Mapping
from email.message import EmailMessage
from pathlib import Path
from types import MappingProxyType

from benchmarks.assets import AssetError, fetch
from benchmarks.tasks.data import Task, make_task
from benchmarks.tasks.vader import film_reviews

# Of a mail or a long text, in characters: far more than a classifier of 64 tokens reads.
LONGEST = 4000


def load(name: str) -> Task:
    """Return a task by name, fetching its data if they are not in the cache.

    Raises
    ------
    AssetError
        For a name that is not known (the known ones are listed), or data that can't be had.
    """
    if name not in TASKS:
        raise AssetError(f"unknown task {name!r}; known: {', '.join(TASKS)}")
    return TASKS[name]()


def _pang_lee(name: str, file: str) -> Task:
    text = (fetch("pang-lee") / file).read_text(encoding="utf-8-sig")
    rows = ((row[1][:LONGEST], int(row[0] == "1")) for row in csv.reader(io.StringIO(text)))
    return make_task(name, ("negative", "positive"), rows)


def _tweets() -> Task:
    classes = ("negative", "neutral", "positive")
    text = (fetch("opinion-tweets") / "tweets.csv").read_text(encoding="utf-8", errors="replace")
    rows = ((row["text"], classes.index(row["sentiment"])) for row in _table(text))
    return make_task("tweets", classes, rows)


def _mail() -> Task:
    folder = fetch("spam-assassin")
    rows = (
        (_body(path), int(kind.name.startswith("spam")))
        for kind in sorted(folder.iterdir())
        for path in sorted(kind.glob("*.txt"))
    )
    return make_task("spam mail", ("ham", "spam"), rows)


def _body(path: Path) -> str:
    """Return a mail's first part of text without its headers, which would give it away."""
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    for part in message.walk():
        if part.get_content_maintype() == "text":
            data = part.get_payload(decode=True)
            if isinstance(data, bytes):
                # What a mail says of its encoding is often wrong.
                return data.decode("latin-1")[:LONGEST]
    return ""


def _messages() -> Task:
    text = (fetch("spam-messages") / "messages.tsv").read_text(encoding="utf-8", errors="replace")
    lines = (line.split("\t", 1) for line in text.split("\n") if "\t" in line)
    return make_task(
        "spam messages", ("ham", "spam"), ((line, int(kind == "spam")) for kind, line in lines)
    )


def _bbc() -> Task:
    folder = fetch("bbc-news")
    classes = sorted(path.name for path in folder.iterdir())
    rows = (
        (path.read_text(encoding="latin-1")[:LONGEST], number)
        for number, name in enumerate(classes)
        for path in sorted((folder / name).glob("*.txt"))
    )
    return make_task("news", classes, rows)


def _topics(name: str, file: str) -> Task:
    """Orange's tables: three lines of header, then class and text."""
    lines = [
        line.split("\t", 1)
        for part in ("train", "test")
        for line in (fetch("topic-texts") / f"{file}-{part}.tab")
        .read_text(encoding="utf-8")
        .split("\n")[3:]
        if "\t" in line
    ]
    classes = sorted({kind for kind, _ in lines})
    return make_task(name, classes, ((text[:LONGEST], classes.index(kind)) for kind, text in lines))


def _injections() -> Task:
    folder = fetch("prompt-injections")
    rows = (
        (row["text"], int(row["label"]))
        for part in ("train", "validation", "test")
        for row in _table((folder / f"{part}.csv").read_text(encoding="utf-8"))
    )
    return make_task("prompt injections", ("ordinary", "injection"), rows)


def _table(text: str) -> Iterator[dict[str, str]]:
    return csv.DictReader(io.StringIO(text))


TASKS: Mapping[str, Callable[[], Task]] = MappingProxyType(
    {
        "film reviews": film_reviews,
        "film sentences": lambda: _pang_lee("film sentences", "sentences.csv"),
        "long film reviews": lambda: _pang_lee("long film reviews", "reviews.csv"),
        "tweets": _tweets,
        "spam mail": _mail,
        "spam messages": _messages,
        "news": _bbc,
        "newsgroups": lambda: _topics("newsgroups", "20newsgroups"),
        "newswire": lambda: _topics("newswire", "reuters-r8"),
        "prompt injections": _injections,
    }
)
