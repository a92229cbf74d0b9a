"""What every scorer returns, and the error for a gold answer that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from llm_jepa.errors import DataError

# Reasons are printed in reports and in predictions.jsonl, and an output may be very long.
MAX_QUOTED_CHARS = 60


class GoldError(DataError):
    """The gold answer of a row cannot be used, so no output can be judged by it. This is an error, not a score."""


@dataclass(frozen=True)
class Verdict:
    """Whether one output is right, and why, in one sentence of printable ASCII for a report.

    If the scorer could not decide, the row is counted as unknown, separately from the wrong ones.
    """

    correct: bool
    reason: str
    decided: bool = True

    def __post_init__(self) -> None:
        assert self.decided or not self.correct


class Scorer(Protocol):
    """Judges an output by the gold answer of its row."""

    def __call__(self, output: str, gold: Any, *, row: Mapping[str, Any] | None = None) -> Verdict:
        """Return the verdict; `row` has the other columns that a scorer may need, such as its database.

        Raises:
            GoldError: If the gold answer cannot be used.
        """
        ...


EMPTY = Verdict(False, "the output is empty")


def undecided(reason: str) -> Verdict:
    """Return the verdict of a scorer that could not decide."""
    return Verdict(False, f"not decided: {reason}", decided=False)


def checked_gold(gold: str) -> str:
    """Return the gold text without the white space around it; GoldError if it is not a text, or is blank."""
    if not isinstance(gold, str):
        text = f"The gold answer is {type(gold).__name__}, expected text. Correct the row of the test file."
        raise GoldError("wrong_type", text)
    if not gold.strip():
        text = "The gold text is empty, so no output can be judged by it. Remove the row from the test file."
        raise GoldError("gold_empty", text)
    return gold.strip()


def quoted(text: str) -> str:
    """Quote the beginning of a text; control characters and characters outside ASCII are escaped."""
    num_shown = min(len(text), MAX_QUOTED_CHARS)
    while len(ascii(text[:num_shown])) > 2 * MAX_QUOTED_CHARS:  # an escape can take ten characters
        num_shown //= 2
    return ascii(text[:num_shown]) + ("..." if len(text) > num_shown else "")
