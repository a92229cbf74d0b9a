"""How pages write numbers and text: the same in HTML and in Markdown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from llm_jepa.experiments.sentences import format_points

LONGEST_TEXT = 600  # characters of a text or an answer that are shown: a diff or an essay would fill the whole page

DASH = "–"
MINUS = "\N{MINUS SIGN}"


def visible(value: Any) -> Any:
    """Replace invisible characters (controls, marks that turn the direction, half a character) by their numbers.

    >>> visible("a\\u202eb")
    'a<U+202E>b'
    """
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(
        char if can_be_shown(char) or char in "\n\t" else f"<U+{ord(char):04X}>" for char in value.replace("\r\n", "\n")
    )


def can_be_shown(char: str) -> bool:
    """Return whether a page can show a character as it is: a printable one, or a space of any width."""
    return char.isprintable() or unicodedata.category(char) == "Zs"


def shortened(text: str, room: int = LONGEST_TEXT) -> str:
    """Return at most `room` characters of a text, followed by its length if it was cut."""
    return text if len(text) <= room else f"{text[:room]} … ({len(text):,} characters)"


def or_dash(text_of: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return a function that writes None as a dash, and any other value as `text_of` does."""
    return lambda value: DASH if value is None else text_of(value)


def percent(share: float) -> str:
    """Return a share in percent, without the sign."""
    return f"{100 * share:.1f}"


def points(share: float) -> str:
    """Return a difference of shares in points, with its sign."""
    return format_points(share).replace("-", MINUS)


def interval(bounds: Sequence[float]) -> str:
    """Return the two ends of an interval of shares, in points."""
    return " to ".join(map(points, bounds))


def ratio(value: float) -> str:
    """Return a ratio with its sign, such as 1.50×."""
    return f"{value:.2f}×"


def counted(count: int, noun: str) -> str:
    """Return a number of things.

    >>> counted(1, "run"), counted(1200, "run")
    ('1 run', '1,200 runs')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def with_minus(text: str) -> str:
    """Return text with a minus sign for each hyphen in front of a number; a hyphen alone is a missing value.

    >>> with_minus("jepa-2: -1.7 points"), with_minus("-")
    ('jepa-2: −1.7 points', '–')
    """
    return DASH if text == "-" else re.sub(r"(?<![\w-])-(?=\d)", MINUS, text)


def as_text(value: Any) -> str:
    """Return a value of an environment or a setting on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items() if each is not None)
    return "unknown" if value is None else str(value)
