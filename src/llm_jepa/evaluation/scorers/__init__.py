"""Is a generated output right? Scorers by name; `docs/scorers.md` says what each of them accepts as right.

A scorer takes `(output, gold)`, and the row if it needs more of it, and returns a `Verdict`. An output is never
right by accident: not if it is empty, and not if it or the gold answer cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from llm_jepa.errors import ConfigError, nearest

from .regex.regex_scorer import score_regex
from .sql.sql_scorer import SqlScorer
from .text_scorers import AnyOfScorer, LabelScorer, NumberScorer, score_exact, score_startswith
from .verdict import GoldError, Scorer, Verdict

__all__ = ["ALIASES", "NAMES", "SCORERS", "GoldError", "Scorer", "Verdict", "get_scorer"]

OF_FILE: dict[str, Callable[[Iterable[Any]], Scorer]] = {
    "number": NumberScorer,
    "any_of": AnyOfScorer,
    "label": LabelScorer,
}
"""Scorers that are given all gold answers of a file, so that different gold answers stay different."""

SCORERS: dict[str, Scorer] = {
    "exact": score_exact,
    "startswith": score_startswith,
    "regex": score_regex,
    **{name: make(()) for name, make in OF_FILE.items()},
}
ALIASES = {"exact_match": "exact", "starts_with": "startswith"}
NAMES = (*SCORERS, "sql")


def get_scorer(name: str, *, databases: str | Path | None = None, golds: Iterable[Any] | None = None) -> Scorer:
    """Return the scorer of that name, one of `NAMES` or of `ALIASES`.

    Args:
        databases: For `sql`: the folder of the databases, or one file. Without it, each row names its file.
        golds: For the scorers of `OF_FILE`: all gold answers of the file. For `any_of` each is a text or a list.

    Raises:
        ConfigError: If no scorer has that name (the text gives the nearest one), or `databases` does not exist or is
            given to a scorer that reads none.
    """
    name = ALIASES.get(name, name)
    if name == "sql":
        return SqlScorer(databases)
    if name not in SCORERS:
        text = f"There is no scorer {name!r}; known: {', '.join(NAMES)}.{nearest(name, [*NAMES, *ALIASES])}"
        raise ConfigError("unknown_scorer", text)
    if databases is not None:
        text = f"databases={str(databases)!r} is for the scorer sql; {name} reads none. Remove databases."
        raise ConfigError("setting_without_effect", text)
    return OF_FILE[name](golds) if golds is not None and name in OF_FILE else SCORERS[name]
