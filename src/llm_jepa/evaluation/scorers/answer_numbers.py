r"""The number of an answer: what follows `####`, read as people write it.

Marks around it do not count: `**18**`, `\boxed{18}`, `$18`, `\$18`, `= 18`. What can be read in more than one way is
not a number: `3/4`, `1 000`, `5 million`, `18 or 20`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

NUMBER_MARKER = "####"
MARKER = re.compile("#{4,}")
CURRENCY = "$\u00a2-\u00a5\u058f\u060b\u09f2\u09f3\u0e3f\u17db\u20a0-\u20c0"
_SIGN = "[-+\u2212]"

# Marks before a number: Markdown, `=`, and LaTeX with or without its dollar signs.
_BEFORE = re.compile(
    r"(?:[*_`=:\s]|\\\(|\\\[|\$\$|\$(?=\s*\\[a-z])|\\(?:boxed|fbox|text|textbf|mathbf|mathrm|mathit|bm|left)\b\s*\{?)*"
)
# Words may follow a number, but not more digits, a letter or arithmetic (1e400, 0x10, 3rd, 1 000, 3/4, 5-). So no part
# of something else is read as a number.
_NUMBER = re.compile(
    rf"(?P<sign>{_SIGN}?)\s?(?P<currency>\\?[{CURRENCY}])?\s?(?P<second>{_SIGN}?)"
    r"(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?P<part>\.[0-9]+)?"
    r"(?!_*[^\W_]|[.,:'\u2019]?[0-9]|[^\S\r\n][0-9]|[-\u2212](?!\w)"
    r"|\\[,:; ][0-9]|[^\S\r\n]*(?:[-+*/^=~\u00d7\u00f7\u2212\u2013]|\\(?:times|cdot|div|pm))\s*\$?[0-9(]"
    r"|[^\S\r\n]*\\[cdt]?frac"
    r"|[^\S\r\n]+(?:dozen|hundred|thousand|million|billion|trillion|lakh|crore)s?\b)",
)
_COMMA = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!)(?=[0-9])")  # the comma of 18,000 in LaTeX
_WORD = re.compile(r"[^\W\d_]+|[^\w\s]")
_NO_WORDS = frozenset("*_`}{\\.,:;()[]") | {"text"}  # marks of Markdown and LaTeX, and punctuation
# Another number of the same kind: 18 or 20, 18, 20. If an output gives several numbers, none of them is its answer.
_ANOTHER = re.compile(
    r"[^\r\n0-9]*?(?:[,;|/&]|\bor\b|\band\b|\bto\b)\s*(?:(?:maybe|perhaps|possibly|even|rather|else)\s+)?"
    rf"[*_`]*\\?[{CURRENCY}]?{_SIGN}?[0-9]",
    re.I,
)
# What can only be read with a decimal comma, such as 1,5 and 1.000,50.
COMMA_DECIMAL = re.compile(
    r"(?:[0-9]+,(?:[0-9]{1,2}|[0-9]{4,})|0,[0-9]+|[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+|[0-9]{1,3}(?:\.[0-9]{3}){2,})"
    r"(?![0-9]|[.,][0-9])"
)
# Digits that are one number in English and another in French: 1.234 and 1,234.
EITHER = re.compile(r"[0-9]{1,3}[.,][0-9]{3}")


@dataclass(frozen=True)
class FoundNumber:
    """A number in an answer."""

    value: Decimal
    words: tuple[str, ...]  # its currency, and the words and signs that follow it on its line, as they are written
    written: str  # its digits as they are written
    rest: str  # what follows it on its line

    @property
    def lists_another(self) -> bool:
        """Whether the line lists another number as an answer."""
        return bool(_ANOTHER.match(self.rest))


def find_number(text: str, *, last: bool = False) -> FoundNumber | None:
    """Return the number after the first `####` that no word follows directly; with `last`, only the last counts."""
    text = _COMMA.sub(",", text)
    places = [found.end() for found in MARKER.finditer(text)]
    for place in places[-1:] if last else places:
        start = _BEFORE.match(text, place).end()  # type: ignore[union-attr]
        if text[start : start + 1].isalpha():
            continue
        return _read(text, start, in_latex="$" in text[place:start])
    return None


def several_numbers(text: str) -> bool:
    """Whether a gold answer has several numbers after `####`, so that none of them is the answer."""
    found = find_number(text, last=True)
    if found is None:
        return False
    lone = [each for each in map(_lone, MARKER.split(text)[1:]) if each is not None]
    return any(each != found.value for each in lone) or bool(re.search(r"\d", found.rest))


def after_marker(text: str) -> str:
    """Return the text after the first `####`; "" if there is none."""
    return "".join(MARKER.split(text, maxsplit=1)[1:]).lstrip()


def _lone(after: str) -> Decimal | None:
    """Return the number of a line that has nothing else; None for other lines."""
    line = after.strip().partition("\n")[0]
    found = _read(line, _BEFORE.match(line).end())  # type: ignore[union-attr]
    return None if found is None or re.search(r"\w", found.rest) else found.value


def _read(text: str, start: int, in_latex: bool = False) -> FoundNumber | None:
    found = _NUMBER.match(text, start)
    if found is None or not (found["whole"] or found["part"]) or (found["sign"] and found["second"]):
        return None
    sign = (found["sign"] or found["second"]).replace("\u2212", "-")
    value = Decimal(sign + (found["whole"] or "0").replace(",", "") + (found["part"] or ""))
    rest = text[found.end() :].partition("\n")[0]
    currency = (found["currency"] or "").lstrip("\\")
    words = [word for word in _WORD.findall(rest) if word not in _NO_WORDS]
    while words[:1] == ["$"] and (in_latex or currency == "$"):  # it ends the LaTeX
        words.pop(0)
    words = [currency, *words] if currency else words
    return FoundNumber(value, tuple(words), (found["whole"] or "") + (found["part"] or ""), rest)
