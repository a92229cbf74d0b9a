"""Scorers that read output and gold as text. Nothing in them is run, and they are never used as patterns of a regex
engine that backtracks. So no output, however long or odd, can be right by accident or do harm.

`number`, `any_of` and `label` may know all gold answers of the file. A detail that separates two of them then counts.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

from . import answer_numbers as numbers
from .answer_numbers import NUMBER_MARKER, FoundNumber, after_marker, find_number, several_numbers
from .answer_words import GoldLevels, normalised_words
from .verdict import EMPTY, GoldError, Verdict, checked_gold, quoted, undecided

# Our choice: scorers that read an output word by word count longer ones as wrong. No answer of a person is so long.
MAX_CHARS = 100_000

ARTICLES = frozenset({"a", "an", "the"})
SEPARATORS = re.compile(r"[;|\n\t]|\s/\s")  # between answers of a gold text that lists several
PARTS = re.compile(r"[,;|/\n\t&+]")  # the same for labels; all parts must be labels of the file


def score_exact(output: str, gold: str, *, row: Mapping[str, Any] | None = None) -> Verdict:
    """Right if output and gold are the same string; white space around them does not count.

    This is the metric of the paper's regex pairs. Case, inner spaces and Unicode forms all count.
    """
    output, gold = output.strip(), checked_gold(gold)
    if not output:
        return EMPTY
    if output == gold:
        return Verdict(True, "equal to the gold text")
    return Verdict(False, _first_difference(output, gold))


def score_startswith(output: str, gold: str, *, row: Mapping[str, Any] | None = None) -> Verdict:
    """Right if the output begins with the gold text; white space around them does not count.

    This is the paper's metric for models trained from scratch, which had not learned to stop. It is generous:
    for the gold text `a`, the output `ab` is right.
    """
    output, gold = output.strip(), checked_gold(gold)
    if not output:
        return EMPTY
    if not output.startswith(gold):
        return Verdict(False, _first_difference(output, gold))
    extra = len(output) - len(gold)
    return Verdict(True, f"begins with the gold text, {extra} characters follow" if extra else "equal to the gold text")


class NumberScorer:
    """Right if the number after the first `####` of the output is that of the gold: GSM8K's form of an answer.

    Numbers are compared by value: `1,000` is `1000` and `18.00` is `18`. A `$` before a number and words after it do
    not count. Two texts without a number never match. A gold text with no number or with several is not decided.

    If two gold answers of the file have the same number but different words (5 kg and 5 g), as many words count as are
    needed to separate them. If one has a decimal comma, those that could have one (1,234 and 1.234) are not decided.
    """

    def __init__(self, golds: Iterable[Any] = ()) -> None:
        self.notes: list[str] = []
        words: dict[Decimal, set[tuple[str, ...]]] = defaultdict(set)
        self.answer_is_last = self.has_comma = False
        for gold in golds:
            if not isinstance(gold, str):
                continue
            found = find_number(gold, last=True)
            self.answer_is_last |= len(numbers.MARKER.findall(gold)) > 1
            if found is None and numbers.COMMA_DECIMAL.search(after_marker(gold).partition("\n")[0]):
                self.has_comma = True
            if found is not None and not several_numbers(gold):
                words[found.value].add(found.words)
        self.units = {value: _telling_apart(each) for value, each in words.items() if len(each) > 1}
        if self.units:
            value = min(self.units)
            first = sorted({self._unit(each, value) for each in words[value]})
            shown = ", ".join(ascii(unit)[1:-1] or "none" for unit in first)
            self.notes.append(f"Some gold numbers have several units, such as {value} ({shown}). Units count there.")

    def __call__(self, output: str, gold: str, *, row: Mapping[str, Any] | None = None) -> Verdict:
        output, gold = output.strip(), checked_gold(gold)
        if unread := _unread(output):
            return unread
        expected, problem = self._read_gold(gold)
        if expected is None:
            return undecided(problem)
        found = find_number(output, last=self.answer_is_last)
        if found is None or found.lists_another:
            return Verdict(False, f"no single number after {NUMBER_MARKER}: {quoted(after_marker(output))}")
        if found.value != expected.value:
            return Verdict(False, f"the number is {quoted(str(found.value))} instead of {quoted(str(expected.value))}")
        if expected.value in self.units:
            unit, wanted = (self._unit(each.words, expected.value) for each in (found, expected))
            if unit != wanted:
                return Verdict(False, f"the unit is {quoted(unit)} instead of {quoted(wanted)}")
        return Verdict(True, f"the number is that of the gold text, {quoted(str(found.value))}")

    def _read_gold(self, gold: str) -> tuple[FoundNumber | None, str]:
        """Return the number of a gold answer, or None and the reason."""
        found = find_number(gold, last=True)
        if found is None:
            return None, f"the gold text has no number after {NUMBER_MARKER}"
        if several_numbers(gold):
            return None, f"the gold text has several numbers after {NUMBER_MARKER}"
        if self.has_comma and numbers.EITHER.fullmatch(found.written):
            return None, f"other golds have decimal commas, so {found.written} may be one of two numbers"
        return found, ""

    def _unit(self, words: Sequence[str], value: Decimal) -> str:
        """Return the words of a number that count, if the file has this number with different words."""
        count, has_case = self.units[value]
        unit = " ".join(words[:count])
        return unit if has_case else unit.casefold()


class AnyOfScorer:
    """Right if the output has one of the gold answers in it, as whole words; both are normalised.

    The gold is a list of answers, or its JSON text; any other text is one answer. The paper describes this for NQ-Open.
    Its published code asks instead whether the output is in an answer, so that an empty output is right. Gold answers
    of the file that normalising would make equal are compared as they are written.
    """

    def __init__(self, golds: Iterable[Any] = ()) -> None:
        self.levels = GoldLevels(_usable(golds, _answers), ARTICLES)
        self.notes = self.levels.notes

    def __call__(self, output: str, gold: str | Sequence[str], *, row: Mapping[str, Any] | None = None) -> Verdict:
        answers = _answers(gold)
        if unread := _unread(output):
            return unread
        found = next((answer for answer in answers if self.levels.find(answer, output)), None)
        if found is not None:
            return Verdict(True, f"contains the gold answer {quoted(found)}")
        return Verdict(False, f"contains none of the {len(answers)} gold answers: {quoted(output.strip())}")


class LabelScorer:
    """Right if the first words of the output are those of the gold label; both are normalised.

    What follows does not matter: for the label `good`, `Good. The film is` is right, `Goodish` and `Not good` are
    wrong. Labels of the file that normalising would make equal are compared as they are written. If labels begin alike
    (`good`, `good enough`), the output's label is the longest one that it begins with.
    """

    def __init__(self, golds: Iterable[Any] = ()) -> None:
        known = _usable(golds, _one_label)
        self.levels = GoldLevels(known)
        self.notes = self.levels.notes
        self.by_words: dict[int, dict[tuple[str, ...], str]] = defaultdict(dict)
        self.labels = {label for (label,) in known}
        for label in self.labels:
            self.by_words[self.levels.level(label)][tuple(self.levels.words(label))] = label

    def __call__(self, output: str, gold: str, *, row: Mapping[str, Any] | None = None) -> Verdict:
        (gold,) = _one_label(gold)
        parts = [part.strip() for part in PARTS.split(gold)]
        if len(parts) > 1 and self.labels.issuperset(parts):
            raise GoldError(
                "gold_lists_several",
                f"The gold label {quoted(gold)} lists {len(parts)} labels of the file. Use exact_match, or correct it.",
            )
        if unread := _unread(output):
            return unread
        label = self.levels.words(gold)
        words = normalised_words(output, self.levels.level(gold))[: len(label)]
        if words != label:
            return Verdict(False, f"begins with {quoted(' '.join(words))} instead of {quoted(' '.join(label))}")
        longer = self._longer(output, " ".join(label))
        if longer is not None:
            return Verdict(False, f"begins with the label {quoted(longer)} instead of {quoted(gold)}")
        return Verdict(True, f"begins with the label {quoted(' '.join(label))}")

    def _longer(self, output: str, label: str) -> str | None:
        """Return a longer label that the output begins with; None if there is none."""
        for level, known in self.by_words.items():
            words = normalised_words(output, level)
            for count in range(1, min(len(words), max(map(len, known))) + 1):
                if len(" ".join(words[:count])) > len(label) and tuple(words[:count]) in known:
                    return known[tuple(words[:count])]
        return None


def _telling_apart(golds: Iterable[tuple[str, ...]]) -> tuple[int, bool]:
    """Return how many first words separate different golds, and whether their case is needed for it."""
    golds = list(golds)
    folded = {tuple(word.casefold() for word in words) for words in golds}
    has_case = len(folded) < len(golds)
    told = golds if has_case else list(folded)
    most = max(map(len, told))
    return next(n for n in range(most + 1) if len({words[:n] for words in told}) == len(told)), has_case


def _usable(golds: Iterable[Any], read: Any) -> list[list[str]]:
    """Return the answers of each gold that can be used; the others are reported row by row, where they are judged."""
    rows = []
    for gold in golds:
        with suppress(GoldError):
            rows.append(read(gold))
    return rows


def _answers(gold: str | Sequence[str]) -> list[str]:
    """Return the answers that a gold lists, or itself; a text that seems to list several answers is refused."""
    answers: Any = gold
    if isinstance(gold, str):
        text = checked_gold(gold)
        answers = [text]
        if text[0] in "[{":
            try:
                answers = json.loads(text)
            except (ValueError, RecursionError) as error:
                problem = f"The gold answer begins with {text[0]!r}, but is not a JSON list: {quoted(text)}."
                raise GoldError("not_json", f"{problem} Correct the row.") from error
        if answers == [text] and SEPARATORS.search(text):
            problem = f"The gold answer {quoted(text)} may list several answers. Write a JSON list of texts."
            raise GoldError("gold_lists_several", problem)
    if not isinstance(answers, list | tuple) or not answers:
        problem = f"The gold answer is {quoted(str(gold))}, expected a list of answers. Correct the row."
        raise GoldError("wrong_type", problem)
    answers = [checked_gold(answer) for answer in answers]
    for answer in answers:
        _check_words(answer, "answer")
    return answers


def _one_label(gold: str) -> list[str]:
    """Return the label of a gold, in a list; a list of labels is refused."""
    text = checked_gold(gold)
    if text.startswith("[") and text.endswith("]") and re.search("[\"',]", text):
        problem = f"The gold label {quoted(text)} lists labels. Use the scorer any_of, or write one label."
        raise GoldError("gold_lists_several", problem)
    _check_words(text, "label")
    return [text]


def _check_words(answer: str, kind: str) -> None:
    if not normalised_words(answer):
        problem = f"The gold {kind} {quoted(answer)} has no word in it. Correct the row of the test file."
        raise GoldError("gold_without_words", problem)


def _unread(output: str) -> Verdict | None:
    """Return the verdict on an output that is not read word by word: an empty one, or one that is too long."""
    if not output.strip():
        return EMPTY
    if len(output) > MAX_CHARS:
        return Verdict(False, f"the output has {len(output):,} characters, more than {MAX_CHARS:,}")
    return None


def _first_difference(output: str, gold: str) -> str:
    """Say where two different texts begin to differ; positions count characters from 0."""
    length = min(len(output), len(gold))
    shared = next((place for place in range(length) if output[place] != gold[place]), length)
    if shared == len(output):
        return f"ends after {shared} of the gold text's {len(gold)} characters"
    if shared == len(gold):
        return f"equal for {shared} characters, then continues: {quoted(output[shared:])}"
    return f"differs from character {shared} on: {quoted(output[shared:])} instead of {quoted(gold[shared:])}"
