"""Right if the output is a regex that matches the same lines as the gold regex."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from . import automata
from .automata import BudgetError
from .regexes import RegexSyntaxError, UndecidableError, difference, parse
from .verdict import EMPTY, GoldError, Verdict, checked_gold, quoted, undecided


def score_regex(output: str, gold: str, *, row: Mapping[str, Any] | None = None) -> Verdict:
    """Right if output and gold match the same lines, in NL-RX's notation (`regexes.py` says how it is read).

    This is the metric of NL-RX's authors (arXiv 1608.03000, "DFA-equal"). Some golds of NL-RX match no line at all
    ("a vowel and a number"); there every regex that matches none is right. Where the limits of time and states do
    not suffice, the verdict is not decided.

    Raises:
        GoldError: If the gold text is empty, or no regex that can be compared.
    """
    deadline = time.perf_counter() + automata.MAX_SECONDS
    output, gold = output.strip(), checked_gold(gold)
    try:
        expected = parse(gold)
    except (RegexSyntaxError, UndecidableError) as error:
        raise GoldError(f"The gold regex {quoted(gold)} cannot be used: {error}. Correct the row.") from error
    if not output:
        return EMPTY
    if output == gold:
        return Verdict(True, "equal to the gold text")
    try:
        found = difference(parse(output), expected, deadline=deadline)
    except RegexSyntaxError as error:
        return Verdict(False, f"no regex: {error}: {quoted(output)}")
    except (UndecidableError, BudgetError) as error:
        return undecided(str(error))
    if found is None:
        return Verdict(True, "matches the same lines as the gold regex")
    does = "matches what the gold regex does not" if found.is_of_first else "does not match what the gold regex does"
    return Verdict(False, f"{does}: {quoted(found.line)}")
