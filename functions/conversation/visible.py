"""What hides in a text, made visible: what a person is asked to allow must be what they see. Pure."""

from __future__ import annotations

import unicodedata

UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
"""Categories of characters that are not seen: controls, directions, tags, surrogates, unassigned, separators."""

BLANK = (
    ("\u034f", "\u034f"),
    ("\u115f", "\u1160"),
    ("\u17b4", "\u17b5"),
    ("\u180b", "\u180f"),
    ("\u2800", "\u2800"),
    ("\u3164", "\u3164"),
    ("\ufe00", "\ufe0f"),
    ("\uffa0", "\uffa0"),
    ("\U000e0000", "\U000e0fff"),
)
"""First and last of the letters and marks that are drawn as nothing: fillers, joiners, variations, Braille's blank."""


def visible(text: str) -> str:
    """The text with every character that is not seen, or that moves others, as its code: `⟨U+202E⟩`.

    Line feeds and tabs stay; the opening bracket itself is told by its code, too, so that no text looks like another.
    Categories: https://www.unicode.org/reports/tr44/#General_Category_Values; what is seen of no letter or mark:
    Default_Ignorable_Code_Point in https://www.unicode.org/Public/UCD/latest/ucd/DerivedCoreProperties.txt.
    """
    return "".join(f"⟨U+{ord(character):04X}⟩" if _hides(character) else character for character in text)


def _hides(character: str) -> bool:
    if character in "\n\t ":
        return False
    if character == "⟨" or unicodedata.category(character) in UNSEEN:
        return True
    return any(first <= character <= last for first, last in BLANK)
