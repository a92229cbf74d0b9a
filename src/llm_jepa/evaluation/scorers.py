"""Is a generated output right? Scorers by name; `docs/scorers.md` says what each of them takes for right.

A scorer takes `(output, gold)`, and the row where it needs more of it, and returns a `Verdict`. An output is never
right by accident: not when it is empty, not when it cannot be read, not when the gold answer cannot.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection

from llm_jepa.errors import ConfigError

from .regex_scorer import score_regex
from .text_scorers import score_any_of, score_exact, score_label, score_number, score_startswith
from .verdict import GoldError, Scorer, Verdict

__all__ = ["ALIASES", "SCORERS", "GoldError", "Scorer", "Verdict", "get_scorer"]

SCORERS: dict[str, Scorer] = {
    "exact": score_exact,
    "startswith": score_startswith,
    "regex": score_regex,
    "number": score_number,
    "any_of": score_any_of,
    "label": score_label,
}
ALIASES = {"exact_match": "exact", "starts_with": "startswith"}


def get_scorer(name: str) -> Scorer:
    """Return the scorer of that name: a key of `SCORERS` or of `ALIASES`.

    Raises:
        ConfigError: If no scorer has that name; the text gives the nearest one.
    """
    scorer = SCORERS.get(ALIASES.get(name, name))
    if scorer is not None:
        return scorer
    raise ConfigError(f"There is no scorer {name!r}; known: {', '.join(SCORERS)}.{nearest(name, [*SCORERS, *ALIASES])}")


def nearest(name: str, known: Collection[str]) -> str:
    """Return a hint at the known name that is nearest to a wrong one, or nothing."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
