"""Scorers that read output and gold as text: nothing of them is run, and no engine that backtracks sees a pattern of
theirs, so no output, however long or odd, can be right by accident or do harm.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .verdict import EMPTY, GoldError, Verdict, checked_gold, quoted, undecided

# Ours: longer outputs are wrong where they would have to be read word by word. No answer of a person is so long.
MAX_CHARS = 100_000

NUMBER_MARKER = "####"
_CURRENCIES = r"$\u00a2-\u00a5\u20a0-\u20cf"
# What may stand between marker and number and is no part of it: `**18**`, `\boxed{18}`, `= 18`.
_BEFORE = re.compile(r"(?:[\s*_`=]|\\[(\[]|\\(?:boxed|text|textbf|mathbf)\s*\{|\$(?=\\))*")
# A number as people write it, in ASCII digits: -$1,234.50, $-5, \$18. What follows may be words, but no more of a
# number, no letter and no arithmetic (1e400, 0x10, 3rd, 1 000, 3/4), so that no part of something else is taken for it.
NUMBER = re.compile(
    rf"([-+\u2212]?)(?:\\?([{_CURRENCIES}]))?\s?([-+\u2212]?)"
    r"([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(\.[0-9]+)?"
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
    """Right if the number after `####` in the output is that of the gold: GSM8K's form of an answer.

    It is read after the first `####` that a number follows. Numbers are compared by value: `1,000` is `1000` and
    `18.00` is `18`. The notation is fixed: a point before decimals, commas between thousands. Words after are left
    aside, and so is a currency or percent sign that the gold lacks; one that it has must be the output's too, if the
    output has one, and `%` in any case. No number on either side is never a match. A gold text without one, or with
    several, is not decided.
    """
    output, gold = output.strip(), checked_gold(gold)
    if not output:
        return EMPTY
    if len(output) > MAX_CHARS:
        return _too_long(output)
    wanted, found = _marked_number(gold), _marked_number(output)
    if wanted is None or wanted.has_more:
        return undecided(f"the gold text has {'several numbers' if wanted else 'no number'} after {NUMBER_MARKER}")
    if found is None:
        return Verdict(False, f"no number after {NUMBER_MARKER}: {quoted(output.partition(NUMBER_MARKER)[2].strip())}")
    return _compared(found, wanted)


@dataclass(frozen=True)
class _Number:
    """A number after a marker; its currency or percent sign, if it has one; whether more numbers follow in its line."""

    value: Decimal
    sign: str
    has_more: bool

    def allows(self, other: _Number) -> bool:
        """Whether a number of the same value is the same with the sign that it has."""
        return not self.sign or other.sign == self.sign or (self.sign != "%" and not other.sign)


def _compared(found: _Number, wanted: _Number) -> Verdict:
    if found.value != wanted.value:
        return Verdict(False, f"the number is {quoted(str(found.value))} instead of {quoted(str(wanted.value))}")
    if not wanted.allows(found):
        return Verdict(False, f"the number has the sign {quoted(found.sign)} instead of {quoted(wanted.sign)}")
    return Verdict(True, f"the number is that of the gold text, {quoted(str(wanted.value))}")


def number_after_marker(text: str) -> Decimal | None:
    """Return the number after the first `####` of a text that a number follows, or None.

    It stays decimal: no digit is lost, and there is no limit of digits, which `int` has.

    Example:
        >>> number_after_marker("#### Step 1: 16 - 3 - 4 = 9 eggs\\n#### $1,018.50 a day")
        Decimal('1018.50')
    """
    found = _marked_number(text)
    return None if found is None else found.value


def _marked_number(text: str) -> _Number | None:
    for after in text.split(NUMBER_MARKER)[1:]:
        rest = after[_BEFORE.match(after).end() :]  # type: ignore[union-attr]  # it matches nothing, too
        found = NUMBER.match(rest)
        if found is None or not (found[4] or found[5]) or (found[1] and found[3]):
            continue
        minus = "-" if {found[1], found[3]} & {"-", "\u2212"} else ""
        line = rest[found.end() :].partition("\n")[0]
        sign = found[2] or ("%" if line.lstrip("\\ ").startswith("%") else "")
        value = Decimal(minus + (found[4] or "0").replace(",", "") + (found[5] or ""))
        return _Number(value, sign, re.search(r"(?<![\w^])[0-9]", line) is not None)
    return None


Words = Callable[[str], list[str]]


def score_any_of(
    output: str, gold: str | Sequence[str], *, row: Mapping[str, Any] | None = None, words: Words | None = None
) -> Verdict:
    """Right if one of the gold answers stands in the output, both normalised, as whole words.

    The gold is a list of answers, or its JSON text; any other text is one answer. The paper says it of NQ-Open; its
    published code asks whether the output stands in an answer, so that an empty one is right.

    Args:
        output: What the model wrote.
        gold: The answers.
        row: Not read.
        words: How texts are normalised: `normalised_words` by default, or what `words_for` chose for a file.

    Raises:
        GoldError: If there is no answer, or one is no text or has no word in it.
    """
    normalise = words or normalised_words
    answers = {answer: normalise(answer) for answer in answers_of(gold)}
    if (blank := next((answer for answer, own in answers.items() if not own), None)) is not None:
        raise GoldError(f"The gold answer {quoted(blank)} has no word in it. Correct the row of the test file.")
    if not output.strip():
        return EMPTY
    if len(output) > MAX_CHARS:
        return _too_long(output)
    own_words = normalise(output)
    found = next((answer for answer, wanted in answers.items() if _contains(own_words, wanted)), None)
    if found is not None:
        return Verdict(True, f"contains the gold answer {quoted(found)}")
    return Verdict(False, f"contains none of the {len(answers)} gold answers: {quoted(output.strip())}")


def _contains(words: list[str], wanted: list[str]) -> bool:
    """Whether some words stand in others in a row, articles left aside (unless nothing else is wanted)."""
    if any(word not in ARTICLES for word in wanted):
        words, wanted = ([word for word in each if word not in ARTICLES] for each in (words, wanted))
    return f" {' '.join(wanted)} " in f" {' '.join(words)} "


def answers_of(gold: str | Sequence[str]) -> list[str]:
    """Return the answers that a gold lists: those of a list or its JSON text; any other text is one answer.

    Raises:
        GoldError: If there is none, or one is no text.
    """
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


def score_label(output: str, gold: str, *, row: Mapping[str, Any] | None = None, words: Words | None = None) -> Verdict:
    """Right if the first words of the output are those of the gold label, both normalised.

    What follows does not matter: for the label `good`, `Good. The film is` is right, `Goodish` and `Not good` are
    wrong. If a label begins with another (`good`, `good enough`), compare by `exact`.

    Raises:
        GoldError: If the gold label has no word in it.
    """
    normalise = words or normalised_words
    label = normalise(checked_gold(gold))
    if not label:
        raise GoldError(f"The gold label {quoted(gold)} has no word in it. Correct the row of the test file.")
    if not output.strip():
        return EMPTY
    if len(output) > MAX_CHARS:
        return _too_long(output)
    found = normalise(output)[: len(label)]
    if found == label:
        return Verdict(True, f"begins with the label {quoted(' '.join(label))}")
    return Verdict(False, f"begins with {quoted(' '.join(found))} instead of {quoted(' '.join(label))}")


def words_for(golds: Iterable[str]) -> Words:
    """Return how the texts of a file are normalised: strictly, where the usual way would make two of its golds equal.

    `C`, `C++` and `C#` are one word without their signs, and so are `A`, `A+` and `A-`, or `5` and `<5`.

    Example:
        >>> words_for(["yes", "no"])("A+!"), words_for(["A", "A+"])("A+!")
        (['a'], ['a+'])
    """
    seen: dict[tuple[str, ...], list[str]] = {}
    for gold in golds:
        strict = strict_words(gold)
        if seen.setdefault(tuple(normalised_words(gold)), strict) != strict:
            return strict_words
    return normalised_words


def strict_words(text: str) -> list[str]:
    """Return the words of a text between white space, by case and Unicode form alone; marks that end a sentence, and
    quotation marks around a word, do not count.

    Example:
        >>> strict_words("The 'C++' one, I think.")
        ['the', 'c++', 'one', 'i', 'think']
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    words = (word.strip("'\"`\u2018\u2019\u201c\u201d").rstrip(".,;:!?") for word in text.split())
    return [word for word in words if word]


def normalised_words(text: str) -> list[str]:
    """Return the words of a text as answers are compared by them.

    Case, punctuation and the forms of a Unicode character do not count; signs and points of numbers do.

    Example:
        >>> normalised_words("The U.S. paid -3.5 of 1,000 dollars, it's said")
        ['the', 'us', 'paid', '-3.5', 'of', '1000', 'dollars', 'its', 'said']
    """
    text = f" {unicodedata.normalize('NFKC', text).casefold()} ".replace("\u2212", "-")
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
    if _is_mark(char):  # an accent, or a vowel sign, with no letter of its own; one may follow another
        while _is_mark(text[place - 1]):
            place -= 1
        return text[place - 1].isalnum() and ord(char) < FIRST_IDEOGRAPH
    if char in ".-" and after.isdigit() and (not before.isalnum() or (char == "." and before.isdigit())):
        return True
    if char == ",":
        return False if before.isdigit() and after.isdigit() else None
    if char == ".":  # of U.S., which is one word; not of `end.Next`
        return False if before.isalpha() and not text[place - 2].isalnum() else None
    return False if char in "'\u2019" and before.isalpha() else None


def _is_mark(char: str) -> bool:
    return unicodedata.category(char).startswith("M")


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
