"""Right if the output is a regex that matches the same lines as the gold regex."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from llm_jepa.evaluation.scorers.verdict import EMPTY, GoldError, Verdict, checked_gold, quoted, undecided

from . import automata
from .automata import BudgetError
from .regexes import Regex, RegexSyntaxError, UndecidableError, difference, parse

NO_LINE = parse("~(.*)")


def score_regex(output: str, gold: str, *, row: Mapping[str, Any] | None = None) -> Verdict:
    """Right if output and gold match the same lines, in NL-RX's notation (`regexes.py` says how it is read).

    This is the metric of NL-RX's authors (arXiv 1608.03000, "DFA-equal"). Of its gold regexes, 15.6% match no line at
    all ("a vowel and a number"). For these, every regex that matches no line is right, and the reason says so. If the
    limits of time and states are too low for an answer, the verdict is not decided.
    """
    deadline = time.thread_time() + automata.MAX_SECONDS
    output, gold = output.strip(), checked_gold(gold)
    try:
        expected = parse(gold)
    except (RegexSyntaxError, UndecidableError) as error:
        text = f"The gold regex {quoted(gold)} cannot be used: {error}. Correct the row."
        raise GoldError("gold_not_usable", text) from error
    if not output:
        return EMPTY
    if output == gold:
        return Verdict(True, "equal to the gold text")
    try:
        return _compare(parse(output), expected, deadline)
    except RegexSyntaxError as error:
        return Verdict(False, f"not a regex: {error}: {quoted(output)}")
    except (UndecidableError, BudgetError) as error:
        return undecided(str(error))


def _compare(output: Regex, gold: Regex, deadline: float) -> Verdict:
    found = difference(output, gold, deadline=deadline)
    if found is not None:
        text = (
            "matches what the gold regex does not" if found.is_of_first else "does not match what the gold regex does"
        )
        return Verdict(False, f"{text}: {quoted(found.line)}")
    with contextlib.suppress(BudgetError):  # the two are known to be equal; only the reason depends on this
        if difference(gold, NO_LINE, deadline=deadline) is None:
            return Verdict(True, "matches no line at all, as the gold regex does")
    return Verdict(True, "matches the same lines as the gold regex")
