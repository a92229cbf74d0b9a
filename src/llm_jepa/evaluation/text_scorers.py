"""Scorers that read output and gold as text: nothing of them is run, and no engine that backtracks sees a pattern of
theirs, so no output, however long or odd, can be right by accident or do harm.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from .verdict import EMPTY, GoldError, Verdict, checked_gold, quoted, undecided

# Ours: longer outputs are wrong where they would have to be read word by word. No answer of a person is so long.
MAX_CHARS = 100_000

NUMBER_MARKER = "####"
# A number as people write it, in ASCII digits: -$1,234.50. What follows may be words, but no more of a number, no
# letter and no arithmetic (1e400, 0x10, 3rd, 1 000, 3/4), so that no part of something else is taken for it.
NUMBER = re.compile(
    r"([-+\u2212]?)\$?\s?([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(\.[0-9]+)?"
    r"(?!\w|[.,:'\u2019]?[0-9]|[^\S\r\n][0-9]|[^\S\r\n]*[-+*/^=\u00d7\u00f7\u2212\u2013]\s*\$?[0-9(])"
)

ARTICLES = frozenset({"a", "an", "the"})
FIRST_IDEOGRAPH = 0x2E80  # from here on scripts that put no spaces between words; each character counts as a word


def score_exact(output: str, gold: str, *, row: Mapping[str, Any] | None = None) -> Verdict:
    """Right if output and gold are the same string, white space around either left aside.

    This is the metric of the paper's regex pairs. Case, inner spaces and Unicode forms all count.

    Raises:
        GoldError: If the gold text is empty or blank.
    """
    output, gold = output.strip(), checked_gold(gold)
    if not output:
        return EMPTY
    if output == gold:
        return Verdict(True, "equal to the gold text")
    return Verdict(False, _first_difference(output, gold))


def score_startswith(output: str, gold: str, *, row: Mapping[str, Any] | None = None) -> Verdict:
    """Right if the output begins with the gold text, white space around either left aside.

    This is the paper's metric for models trained from scratch, which had not learned to stop. It is generous:
    for the gold text `a`, the output `ab` is right.

    Raises:
        GoldError: If the gold text is empty or blank.
    """
    output, gold = output.strip(), checked_gold(gold)
    if not output:
        return EMPTY
    if not output.startswith(gold):
        return Verdict(False, _first_difference(output, gold))
    extra = len(output) - len(gold)
    return Verdict(True, f"begins with the gold text, {extra} characters follow" if extra else "equal to the gold text")


def score_number(output: str, gold: str, *, row: Mapping[str, Any] | None = None) -> Verdict:
    """Right if the number after the first `####` of the output is that of the gold: GSM8K's form of an answer.

    Numbers are compared by value: `1,000` is `1000` and `18.00` is `18`; a `$` before and words after are left
    aside. No number on either side is never a match. A gold text without one is not decided.
    """
    output, gold = output.strip(), checked_gold(gold)
    if not output:
        return EMPTY
    if len(output) > MAX_CHARS:
        return _too_long(output)
    expected, found = number_after_marker(gold), number_after_marker(output)
    if expected is None:
        return undecided(f"the gold text has no number after {NUMBER_MARKER}")
    if found is None:
        return Verdict(False, f"no number after {NUMBER_MARKER}: {quoted(_after_marker(output) or '')}")
    if found == expected:
        return Verdict(True, f"the number is that of the gold text, {quoted(str(found))}")
    return Verdict(False, f"the number is {quoted(str(found))} instead of {quoted(str(expected))}")


def number_after_marker(text: str) -> Decimal | None:
    """Return the number that follows the first `####` of a text, or None.

    It stays decimal: no digit is lost, and there is no limit of digits, which `int` has.

    Example:
        >>> number_after_marker("16 - 3 - 4 = 9 eggs\\n#### $1,018.50 a day")
        Decimal('1018.50')
    """
    after = _after_marker(text)
    found = NUMBER.match(after) if after is not None else None
    if found is None or not (found[2] or found[3]):
        return None
    return Decimal(found[1].replace("\u2212", "-") + (found[2] or "0").replace(",", "") + (found[3] or ""))


def _after_marker(text: str) -> str | None:
    _, marker, after = text.partition(NUMBER_MARKER)
    return after.lstrip() if marker else None


def score_any_of(output: str, gold: str | Sequence[str], *, row: Mapping[str, Any] | None = None) -> Verdict:
    """Right if one of the gold answers stands in the output, both normalised, as whole words.

    The gold is a list of answers, or its JSON text; any other text is one answer. The paper says it of NQ-Open; its
    published code asks whether the output stands in an answer, so that an empty one is right.

    Raises:
        GoldError: If there is no answer, or one is no text or has no word in it.
    """
    answers = {answer: normalised_words(answer) for answer in _answers(gold)}
    if (blank := next((answer for answer, words in answers.items() if not words), None)) is not None:
        raise GoldError(f"The gold answer {quoted(blank)} has no word in it. Correct the row of the test file.")
    if not output.strip():
        return EMPTY
    if len(output) > MAX_CHARS:
        return _too_long(output)
    words = normalised_words(output)
    found = next((answer for answer, wanted in answers.items() if _contains(words, wanted)), None)
    if found is not None:
        return Verdict(True, f"contains the gold answer {quoted(found)}")
    return Verdict(False, f"contains none of the {len(answers)} gold answers: {quoted(output.strip())}")


def _contains(words: list[str], wanted: list[str]) -> bool:
    """Whether some words stand in others in a row, articles left aside (unless nothing else is wanted)."""
    if any(word not in ARTICLES for word in wanted):
        words, wanted = ([word for word in each if word not in ARTICLES] for each in (words, wanted))
    return f" {' '.join(wanted)} " in f" {' '.join(words)} "


def _answers(gold: str | Sequence[str]) -> list[str]:
    answers: Any = gold
    if isinstance(gold, str):
        text = checked_gold(gold)
        answers = [text]
        if text.startswith("["):
            try:
                answers = json.loads(text)
            except (ValueError, RecursionError) as error:
                message = f"The gold answer begins with '[' and is no JSON list: {quoted(text)}. Correct the row."
                raise GoldError(message) from error
    if not isinstance(answers, list | tuple) or not answers:
        raise GoldError(f"The gold answer is {quoted(str(gold))}, expected a list of answers. Correct the row.")
    return [checked_gold(answer) for answer in answers]


def score_label(output: str, gold: str, *, row: Mapping[str, Any] | None = None) -> Verdict:
    """Right if the first words of the output are those of the gold label, both normalised.

    What follows does not matter: for the label `good`, `Good. The film is` is right, `Goodish` and `Not good` are
    wrong. If a label begins with another (`good`, `good enough`), compare by `exact`.

    Raises:
        GoldError: If the gold label has no word in it.
    """
    label = normalised_words(checked_gold(gold))
    if not label:
        raise GoldError(f"The gold label {quoted(gold)} has no word in it. Correct the row of the test file.")
    if not output.strip():
        return EMPTY
    if len(output) > MAX_CHARS:
        return _too_long(output)
    words = normalised_words(output)[: len(label)]
    if words == label:
        return Verdict(True, f"begins with the label {quoted(' '.join(label))}")
    return Verdict(False, f"begins with {quoted(' '.join(words))} instead of {quoted(' '.join(label))}")


def normalised_words(text: str) -> list[str]:
    """Return the words of a text as answers are compared by them.

    Case, punctuation and the forms of a Unicode character do not count; signs and points of numbers do.

    Example:
        >>> normalised_words("The U.S. paid -3.5 of 1,000 dollars, it's said")
        ['the', 'us', 'paid', '-3.5', 'of', '1000', 'dollars', 'its', 'said']
    """
    text = f" {unicodedata.normalize('NFKC', text).casefold()} "
    words, word = [], ""
    for place in range(1, len(text) - 1):
        char = text[place]
        kept = _is_kept(text, place)
        if kept and ord(char) < FIRST_IDEOGRAPH:
            word += char
        elif kept is not False:
            words += [each for each in (word, char if kept else "") if each]
            word = ""
    return [*words, word] if word else words


def _is_kept(text: str, place: int) -> bool | None:
    """Whether a character is part of a word (True), is left out of one (False), or ends it (None)."""
    before, char, after = text[place - 1], text[place], text[place + 1]
    if char.isalnum():
        return True
    if unicodedata.category(char).startswith("M"):  # an accent with no letter of its own
        return bool(before.isalnum() and ord(char) < FIRST_IDEOGRAPH)
    if char in ".-" and after.isdigit() and (not before.isalnum() or (char == "." and before.isdigit())):
        return True
    if char == ",":
        return False if before.isdigit() and after.isdigit() else None
    if char == ".":  # of U.S., which is one word; not of `end.Next`
        return False if before.isalpha() and not text[place - 2].isalnum() else None
    return False if char in "'\u2019" and before.isalpha() else None


def _too_long(output: str) -> Verdict:
    return Verdict(False, f"the output has {len(output):,} characters, more than {MAX_CHARS:,}")


def _first_difference(output: str, gold: str) -> str:
    """Say where two different texts part; positions count characters from 0."""
    shared = next((i for i, (a, b) in enumerate(zip(output, gold, strict=False)) if a != b), None)
    if shared is None:
        shared = min(len(output), len(gold))
        if len(output) < len(gold):
            return f"ends after {shared} of the gold text's {len(gold)} characters"
        return f"equal for {shared} characters, then goes on: {quoted(output[shared:])}"
    return f"differs from character {shared} on: {quoted(output[shared:])} instead of {quoted(gold[shared:])}"
