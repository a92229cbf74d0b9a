"""Words of answers, and how strictly the gold answers of one file are compared.

Different gold answers of one file must stay different. So each gold answer is compared at the loosest of four levels at
which it equals no other gold answer of its file. Usually that is the first level:

    LOOSE    case, punctuation and Unicode forms do not count
    CASED    case counts
    CHUNKS   pieces between white space are compared as they are; only punctuation around them does not count
    EXACT    punctuation around them counts too; only the amount of white space does not count
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby

from .answer_numbers import CURRENCY
from .verdict import quoted

LOOSE, CASED, CHUNKS, EXACT = LEVELS = range(4)

# Thai, Lao, Burmese, Khmer, ideographs: there are no spaces between words, so each character counts as a word.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\U0010ffff]")
ZERO_WIDTH_SPACE = "\u200b"
INVISIBLE = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef\u034f]")  # they choose how a character looks
OUTER = ".,;:!?\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb()[]{}\u3002\u3001\uff0c\uff01\uff1f"

OWN_FORMS = ("<super>", "<sub>", "<fraction>")  # not to be changed by NFKC, which would turn 5 with a raised 2 into 52
MINUS_SIGN = "\u2212"
# Signs that change the word or number next to them: A+ is not A, C# is not C, <5 is not 5, and 5% is not 5.
AFTER_WORD = "+#\u266f\u266d"
AFTER_NUMBER = "%\u2030\u2031\u00b0\u2032\u2033"
BEFORE_NUMBER = "<>~\u2264\u2265\u00b1\u2248"


@lru_cache(maxsize=256)
def normalised_words(text: str, level: int = LOOSE) -> list[str]:
    """Return the words of a text by which answers are compared at one of `LEVELS`.

    At the first level, case, punctuation and the forms of a Unicode character do not count. What changes a meaning
    counts: combining marks of every script, and signs, units and decimal points of numbers.

    Example:
        >>> normalised_words("The U.S. paid -3.5 of 1,000 dollars, it's said: $ 5, 5 %, C++")
        ['the', 'us', 'paid', '-3.5', 'of', '1000', 'dollars', 'its', 'said', '$5', '5%', 'c++']
    """
    if level >= CHUNKS:
        chunks = unicodedata.normalize("NFC", text).split()
        return [each for chunk in chunks if (each := (chunk.strip(OUTER) or chunk) if level == CHUNKS else chunk)]
    words: list[str] = []
    word = ""
    text = f"  {_folded(text, level)}    "
    for place in range(2, len(text) - 4):
        char = text[place]
        is_mark = unicodedata.category(char).startswith("M")
        if is_mark and not word:  # the mark is on a character that is its own word, or on no letter
            if words and UNSPACED.match(text[place - 1]) and unicodedata.category(text[place - 1])[0] in "LMN":
                words[-1] += char
            continue
        kept = True if is_mark else _is_kept(text, place, word)
        if kept and (is_mark or not UNSPACED.match(char)):
            word += char
        elif kept is not False:
            words += [each for each in (word, char if kept else "") if each]
            word = ""
    words = [*words, word] if word else words
    return words or _symbols(text)


def _folded(text: str, level: int) -> str:
    """Return the text in one Unicode form, without spaces between signs and numbers, and in one case at LOOSE."""
    text = "".join(
        "".join(piece) if is_own else unicodedata.normalize("NFKC", "".join(piece))
        for is_own, piece in groupby(text, lambda char: unicodedata.decomposition(char).startswith(OWN_FORMS))
    )
    text = INVISIBLE.sub("", text).replace(MINUS_SIGN, "-")
    if level == LOOSE:
        text = unicodedata.normalize("NFC", text.casefold())
    return _UNIT_SPACE.sub("", text)


_UNIT_SPACE = re.compile(rf"(?<=[0-9])\s+(?=[{AFTER_NUMBER}{CURRENCY}])|(?<=[{CURRENCY}])\s+(?=[0-9])")


def _is_kept(text: str, place: int, word: str) -> bool | None:
    """Whether a character is part of a word (True), is left out of it (False), or ends it (None)."""
    before, char, after = text[place - 1], text[place], text[place + 1]
    if char.isalnum() or _is_sign(text, place, word):
        return True
    if unicodedata.category(char) == "Cf":  # such as the joiners within Persian and Indic words
        return None if char == ZERO_WIDTH_SPACE else False
    if char == ",":
        return _in_number(text, place) if before.isdigit() and after.isdigit() else None
    if char == ".":  # in U.S., which is one word, but not in `end.Next`, `A.Next` and `A.5`
        is_letter = before.isalpha() and not text[place - 2].isalnum()
        return False if is_letter and not after.isdigit() and not text[place + 1 : place + 4].isalnum() else None
    return False if char in "'\u2019" and before.isalpha() else None


def _in_number(text: str, place: int) -> bool:
    """Whether a comma between digits is part of the number; that of 1,000, which separates thousands, is not."""
    after = text[place + 1 : place + 5]
    count = len(after) - len(after.lstrip("0123456789"))
    is_group = count == 3 or (count == 2 and text[place + 3] == ",")  # 1,00,000 has groups of two
    return not is_group


def _is_sign(text: str, place: int, word: str) -> bool:
    """Whether a sign belongs to the word or the number next to it."""
    before, char, after = text[place - 1], text[place], text[place + 1]
    is_before_number = bool(re.match(r"[-+]?\.?[0-9]", text[place + 1 : place + 4]))
    is_currency = unicodedata.category(char) == "Sc"
    if char in ".-" and after.isdigit() and (not before.isalnum() or (char == "." and before.isdigit())):
        return True
    if char == "-":  # in a school mark or a blood group, A- or AB-, and in -$5
        starts = not word and unicodedata.category(after) == "Sc" and text[place + 2].isdigit()
        return starts or (word.isalpha() and len(word) <= 2 and after.isspace())
    if is_before_number and (is_currency or (char in BEFORE_NUMBER and not word)):
        return True
    if is_currency or char in AFTER_NUMBER:
        return before.isdigit() or (bool(word) and before == char)  # NFKC turns a double prime into two primes
    return char in AFTER_WORD and bool(word) and not after.isalnum()


def _symbols(text: str) -> list[str]:
    """Return the symbols of a text without words, such as an emoji or `+`, as one word; punctuation alone is none."""
    chunk = "".join(char for char in text if not char.isspace() and unicodedata.category(char) != "Cf")
    is_symbol = any(unicodedata.category(char)[0] == "S" or unicodedata.category(char) == "Pd" for char in chunk)
    return [chunk] if is_symbol else []


class GoldLevels:
    """At which level each gold answer of a file is compared. `ignored` words do not count at the first level.

    The answers of one row are the same answer, however they are written.
    """

    def __init__(self, rows: Iterable[Sequence[str]], ignored: frozenset[str] = frozenset()) -> None:
        self.ignored = ignored
        self._level: dict[str, int] = {}
        self._alike: dict[str, list[str]] = {}
        rows_of: dict[str, list[set[str]]] = defaultdict(list)
        for answers in {frozenset(map(_spaced, each)) for each in rows}:
            for answer in answers:
                rows_of[answer].append(set(answers))
        left = list(rows_of)
        for level in LEVELS:
            groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
            for answer in left:
                groups[tuple(self._words(answer, level))].append(answer)
            left = []
            for group in groups.values():
                if level == EXACT or len(group) == 1 or any(row.issuperset(group) for row in rows_of[group[0]]):
                    self._level |= dict.fromkeys(group, level)
                else:
                    left += group
                    for answer in group:
                        self._alike.setdefault(answer, group)

    def level(self, answer: str) -> int:
        """Return the level of an answer; `LOOSE` for one that the file does not have."""
        return self._level.get(_spaced(answer), LOOSE)

    def words(self, answer: str) -> list[str]:
        """Return the words of an answer at its level."""
        return normalised_words(answer, self.level(answer))

    def find(self, answer: str, output: str) -> bool:
        """Whether an answer is in an output as whole words, and not as part of a similar, longer answer of the file."""
        answer, level = _spaced(answer), self.level(answer)
        wanted = self._words(answer, level)
        words = normalised_words(output, level) if self.ignored.issuperset(wanted) else self._words(output, level)
        alike = [self._words(each, level) for each in self._alike.get(answer, ())]
        longer = [each for each in alike if each != wanted and _contains(each, wanted)]
        return _contains(words, wanted) and not any(_contains(words, each) for each in longer)

    @property
    def notes(self) -> list[str]:
        """A sentence about the answers that are compared more strictly than others, if there are any."""
        strict = sorted(answer for answer, level in self._level.items() if level > LOOSE)
        if not strict:
            return []
        first = strict[0]
        second = next(answer for answer in self._alike[first] if answer != first)
        return [
            f"{len(strict):,} gold answers differ from another one only by case or signs, such as {quoted(first)} "
            f"and {quoted(second)}. These are compared as they are written."
        ]

    def _words(self, text: str, level: int) -> list[str]:
        words = normalised_words(text, level)
        return ([word for word in words if word not in self.ignored] or words) if level == LOOSE else words


def _contains(words: list[str], wanted: list[str]) -> bool:
    """Whether `words` contains `wanted`, without other words in between."""
    return f" {' '.join(wanted)} " in f" {' '.join(words)} "


def _spaced(answer: str) -> str:
    return " ".join(unicodedata.normalize("NFC", answer).split())
