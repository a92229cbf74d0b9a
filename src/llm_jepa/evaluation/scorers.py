"""Is a generated output right? Scorers compare the text that a model wrote with the gold text.

A scorer takes `(output, gold)` and returns a `Verdict`. It compares strings and nothing else: nothing is run,
parsed or turned into a number, so no output, however long or odd, can be right by accident or do harm.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from llm_jepa.errors import ConfigError

# Reasons end in reports and in predictions.jsonl; an output may be as long as the model may write.
MAX_QUOTED_CHARS = 60


@dataclass(frozen=True)
class Verdict:
    """Whether one output is right, and why, in one sentence fit for a report."""

    correct: bool
    reason: str


Scorer = Callable[[str, str], Verdict]


def score_exact(output: str, gold: str) -> Verdict:
    """Right if output and gold are the same string, white space around either left aside.

    This is the metric of the paper's regex pairs. Case, inner spaces and Unicode forms all count.

    Raises:
        ValueError: If the gold text is empty or blank.
    """
    output, gold = output.strip(), _checked_gold(gold)
    if not output:
        return Verdict(False, "the output is empty")
    if output == gold:
        return Verdict(True, "equal to the gold text")
    return Verdict(False, _first_difference(output, gold))


def score_startswith(output: str, gold: str) -> Verdict:
    """Right if the output begins with the gold text, white space around either left aside.

    This is the paper's metric for models trained from scratch, which had not learned to stop. It is generous:
    for the gold text `a`, the output `ab` is right.

    Raises:
        ValueError: If the gold text is empty or blank.
    """
    output, gold = output.strip(), _checked_gold(gold)
    if not output:
        return Verdict(False, "the output is empty")
    if not output.startswith(gold):
        return Verdict(False, _first_difference(output, gold))
    extra = len(output) - len(gold)
    return Verdict(True, f"begins with the gold text, {extra} characters follow" if extra else "equal to the gold text")


SCORERS: dict[str, Scorer] = {"exact": score_exact, "startswith": score_startswith}
ALIASES = {"exact_match": "exact", "starts_with": "startswith"}


def get_scorer(name: str) -> Scorer:
    """Return the scorer of that name: `exact` (or `exact_match`), `startswith` (or `starts_with`).

    Raises:
        ConfigError: If no scorer has that name; the text gives the nearest one.
    """
    scorer = SCORERS.get(ALIASES.get(name, name))
    if scorer is not None:
        return scorer
    close = difflib.get_close_matches(str(name), [*SCORERS, *ALIASES], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"There is no scorer {name!r}; known: {', '.join(SCORERS)}.{hint}")


def _checked_gold(gold: str) -> str:
    stripped = gold.strip()
    if not stripped:
        raise ValueError(
            "The gold text is empty, so no output could be judged by it. Remove the row from the test file."
        )
    return stripped


def _first_difference(output: str, gold: str) -> str:
    """Say where two different texts part; positions count characters from 0."""
    shared = next((i for i, (a, b) in enumerate(zip(output, gold, strict=False)) if a != b), None)
    if shared is None:
        shared = min(len(output), len(gold))
        if len(output) < len(gold):
            return f"ends after {shared} of the gold text's {len(gold)} characters"
        return f"equal for {shared} characters, then goes on: {_quoted(output[shared:])}"
    return f"differs from character {shared} on: {_quoted(output[shared:])} instead of {_quoted(gold[shared:])}"


def _quoted(text: str) -> str:
    """Quote the beginning of a text with control characters escaped."""
    return ascii(text[:MAX_QUOTED_CHARS]) + ("..." if len(text) > MAX_QUOTED_CHARS else "")
