"""Cut triggers out of a text."""

from __future__ import annotations

from collections.abc import Iterable


def remove(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Cut spans out of a text and repair the blanks around the cuts.

    Where two blanks meet, one goes; so does a blank that a cut leaves first or last. Takes time
    linear in the text, whatever the number of spans.

    Parameters
    ----------
    text
        Any text.
    spans
        Half-open ranges sorted by start; they may overlap.
    """
    pieces: list[str] = []  # none is empty, so the last one ends in what a new one meets
    end = 0
    cuts = [span for span in spans if span[0] < span[1]]
    for start, stop in [*cuts, (len(text), len(text))]:
        piece = text[end:start]
        if piece and end and piece[0].isspace() and (not pieces or pieces[-1][-1].isspace()):
            # Of a blank and a line break, the line break stays.
            if pieces and piece[0] in "\r\n":
                _drop_last(pieces)
            else:
                piece = piece[1:]
        if piece:
            pieces.append(piece)
        end = max(end, stop)
    if cuts and max(stop for _, stop in cuts) == len(text) and pieces and pieces[-1][-1].isspace():
        _drop_last(pieces)
    return "".join(pieces)


def _drop_last(pieces: list[str]) -> None:
    pieces[-1] = pieces[-1][:-1]
    if not pieces[-1]:
        pieces.pop()
