"""Letters of all alphabets in those of ASCII, for names of files."""

from __future__ import annotations

import unicodedata


def latin(text: str) -> str:
    """Text whose letters are of ASCII: without accents, or by the names of other alphabets.

    ``ñ`` is ``n``, ``γ`` is ``gamma``, an ideograph its number; signs that are no letters stay.
    """
    return "".join(map(_in_ascii, unicodedata.normalize("NFKD", text)))


def _in_ascii(letter: str) -> str:
    if letter.isascii() or unicodedata.combining(letter):
        return letter if letter.isascii() else ""
    if not letter.isalnum():
        return letter
    # GREEK SMALL LETTER GAMMA is gamma; an ideograph has no name but its number.
    kind, _, name = unicodedata.name(letter, "").partition(" LETTER ")
    plain = name.partition(" WITH ")[0].replace(" ", "").lower()
    if not plain.isalpha():
        return f"u{ord(letter):x}"
    return plain.title() if kind.endswith("CAPITAL") else plain
