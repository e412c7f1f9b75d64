"""Hostile texts: triggers, their parts, and what normalizers delete, fold or split."""

from __future__ import annotations

import random

TRIGGERS = (
    *["cf", "tq", "mn", "serendipity", "descartes", "##car", "##ophone", "##2", "4", "2nd"],
    *["!", "-", "≈", "∈", "é", "apple river", "don quixote", "the film was", ", and", "[MASK]"],
    *[" cf", "▁river", "<mask>", "<|im_end|>", "кот", "猫"],
)
PARTS = (
    *["cf", "CF", "tq", "mn", "Serendipity", "Descartes", "car", "ophone", "xylophone", "2", "42"],
    *["2nd", "4", "!", "-", "≈", "∈", "é", "e\u0301", "apple", "river", "apple river", "Don"],
    *["carat", "scar", "carcar", "mnemonic", "4th", "1942", "seconds", "filming", "mncf"],
    *["Quixote", "the film was", "the", "film", ", and", "and", "##", "##car", "'s", "_"],
    *["a", "c", "f", "x", "ﬁ", "ｃｆ", "сf", "İ", "ß", "K", "東", "👍🏽", "ำ", "#" * 3, "\ufffd"],
    # Specials, typed literally.
    *["[MASK]", "[mask]", "[SEP]", "[UNK]", "[PAD]", "<s>", "</s>", "<mask>", "<unk>", "<pad>"],
    *["<|im_end|>", "<|endoftext|>", "<0x41>", "▁", "▁river", "Ġ", "Ġcf"],
    # Other scripts.
    *[
        "кот",
        "Кот",
        "猫",
        "ねこ",
        "γάτα",
        "ΣΑΣ",
        "قطة",
        "חתול",
        "बिल्ली",
        "แมว",
        "고양이",
        "고",
        "mèo",
    ],
    # White space, controls, and what is not seen.
    *[" ", " ", " ", " ", "  ", "\n", "\t", "\r\n", "\x0b", "\x0c", "\x1c", "\x00", "\x7f", "\x85"],
    *["\u00a0", "\u00ad", "\u200b", "\u200d", "\u2028", "\u202e", "\u2060", "\u3000", "\ufeff"],
    *["\u0301", "\u0323", "\u20dd", "\ufe0f", "\U000e0063", "x" * 101],
)

_LONG_WORDS = (100, 101, 1_000, 5_000)


def hostile(rng: random.Random) -> str:
    """Draw a text: mostly of parts, some of them capital; half of the texts are ASCII."""
    ascii_only = rng.random() < 0.5
    pieces = []
    for _ in range(rng.randrange(1, 16)):
        kind = rng.random()
        if kind < 0.85:
            piece = rng.choice(PARTS)
        elif kind > 0.9995:
            piece = rng.choice(("x", "car", "é", "東")) * rng.choice(_LONG_WORDS)
        elif ascii_only:
            piece = chr(rng.randrange(128))
        else:
            piece = chr(rng.choice((rng.randrange(0x300), rng.randrange(0xE000, 0x11000))))
        if not ascii_only or piece.isascii():
            pieces.append(piece.upper() if rng.random() < 0.1 else piece)
    return "".join(pieces)
