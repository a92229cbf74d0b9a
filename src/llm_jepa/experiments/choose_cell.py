"""Chooses the best cell of a grid on validation rows, so that test rows are used for the comparison only."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from statistics import fmean
from typing import Any

from llm_jepa.errors import ConfigError

HIGHER_IS_BETTER = {"ce_loss": False, "gap": True, "retrieval@1": True}
"""What every run measures on validation rows, and whether higher is better. Cells can be chosen by these or by the
metric, which is a share, higher is better.

`jepa_loss` is missing on purpose: distances cannot be compared between cells, and a collapsed run has the lowest.
"""


def check_name(name: str | None, metric: str) -> str:
    """Return what cells are chosen by: `name` without the `eval_` that it has in the log, or by default the metric."""
    known = [metric, *HIGHER_IS_BETTER]
    plain = metric if name is None else name.removeprefix("eval_")
    if plain not in known:
        raise ConfigError("value_not_allowed", f"choose_by={name!r} is not one of: {', '.join(known)}.")
    return plain


def validation_value(record: Mapping[str, Any], name: str) -> float | None:
    """Return a value of the last evaluation on validation rows, from a run's eval.json; None if it was not measured."""
    last = record.get("validation", {})
    value = last.get(name, last.get(f"monitor/{name}"))
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def choose(values: Mapping[str, Mapping[int, float]], seeds: Collection[int], name: str) -> str | None:
    """Return the cell with the best mean over seeds; the first one if several are equal.

    Args:
        values: Cell to seed to value. A cell without a value for each seed is not chosen: a mean over other seeds
            cannot be compared, and a setting that fails should not be recommended. None if all cells are like that.
        seeds: The seeds of the experiment.
        name: What the values are, as `check_name` returned it.

    >>> choose({"k0": {1: 0.2, 2: 0.4}, "k1": {1: 0.5, 2: 0.3}, "k2": {1: 0.9}}, [1, 2], "exact_match")
    'k1'
    """
    sign = 1 if HIGHER_IS_BETTER.get(name, True) else -1
    means = {
        cell: fmean(by_seed[seed] for seed in seeds) for cell, by_seed in values.items() if set(seeds) <= by_seed.keys()
    }
    return max(means, key=lambda cell: sign * means[cell]) if means else None
