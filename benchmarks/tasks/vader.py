"""The VADER texts (Hutto & Gilbert, ICWSM 2014, MIT): labelled film reviews, and plain text.

Four files of rated snippets. The film reviews are the sentiment task; the other three kinds
(product reviews, newspaper editorials, tweets) serve as ordinary text.
"""

from __future__ import annotations

import html
from collections.abc import Iterator

from benchmarks.assets import fetch
from benchmarks.tasks.data import Task, is_test, split

KINDS = ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets", "tweets")
# Ratings run from -4 to 4; between these lies what raters did not agree on.
MIN_ABSOLUTE_RATING = 1.0


def film_reviews() -> Task:
    """Sentences of film reviews, negative (0) or positive (1); about 9,000, split by text hash."""
    train, test = split(
        (text, text, int(rating > 0))
        for rating, text in _rows("movieReviewSnippets")
        if abs(rating) >= MIN_ABSOLUTE_RATING
    )
    return Task("film reviews", ("negative", "positive"), train, test)


def plain_texts() -> dict[str, list[str]]:
    """Ordinary text by kind: every snippet but the film reviews of the test split."""
    return {
        kind: [
            text for _, text in _rows(kind) if kind != "movieReviewSnippets" or not is_test(text)
        ]
        for kind in KINDS
    }


def _rows(kind: str) -> Iterator[tuple[float, str]]:
    path = fetch("vader-texts") / f"{kind}.tsv"
    seen: set[str] = set()
    for line in path.read_text(encoding="latin-1").split("\n"):
        fields = line.split("\t", 2)
        if len(fields) == 3:
            text = html.unescape(fields[2]).strip()
            if text and text not in seen:
                seen.add(text)
                yield float(fields[1]), text
