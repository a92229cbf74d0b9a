"""What a report has in addition to its comparisons, for the page and for Markdown. No result is computed here."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from llm_jepa.experiments.results import BUDGET_TITLES, Results
from llm_jepa.experiments.sentences import headline_of
from llm_jepa.progress import duration

from .drawing import PALETTE
from .formatting import counted, ratio
from .terminal import test_title

FROM_WHERE = "Relative file names in the command and the settings start from the folder where the command was given."
COLLAPSE_ALARM = "Collapse alarm"
DIFFERING = "Not the same in all runs"


def price_of(results: Results) -> str:
    """Return what a step of the headline's arm costs, and how long all runs took; "" if nothing is known."""
    parts = []
    if (first := headline_of(results)) is not None:
        cost = results.arms[first.arm].cost
        factors = {"time": cost.step_time_ratio, "FLOPs": cost.flops_ratio}
        if prices := [f"{ratio(factor)} the {what}" for what, factor in factors.items() if factor is not None]:
            parts.append(f"a step of {first.arm} takes {' and '.join(prices)} of one of {first.baseline}")
        if results.costs_of_runs_differ and cost.run_flops_ratio is not None:
            parts.append(f"a whole run, teachers included, {ratio(cost.run_flops_ratio)} the FLOPs")
    if times := results.times("training_time_s"):
        evaluated, total = (duration(sum(results.times(f"{name}_time_s"))) for name in ("evaluation", "total"))
        trained = f"{counted(len(times), 'run')} trained for {duration(sum(times))} in all"
        parts.append(f"{trained}, were evaluated for {evaluated}, and took {total}")
    return f"{'; '.join(parts)}." if parts else ""


def rows_of(results: Results) -> list[dict[str, Any]]:
    """Return what the page's tables show of each arm, the baseline first.

    `arm`; `colour`, that of the arm in all figures; `comparison` with the baseline, None for the baseline itself; and
    `run_time`, the median training time of its runs in seconds.
    """
    return [
        {
            "arm": arm,
            "colour": PALETTE[place % len(PALETTE)],
            "comparison": results.main.comparison_of(name),
            "run_time": statistics.median(times) if (times := results.times("training_time_s", name)) else None,
        }
        for place, (name, arm) in enumerate(results.arms.items())
    ]


def budgets_of(results: Results) -> list[dict[str, Any]]:
    """Return `kind`, `title`, `results` and `rows` of each comparison at equal cost, on each test set."""
    return [
        {"kind": kind, "results": each, "rows": rows_of(each)}
        | {"title": " · ".join(filter(None, (BUDGET_TITLES[kind], test_title(each))))}
        for kind, again in results.at_equal.items()
        for each in (again, *again.other_tests.values())
    ]


def splits_of(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return split to its counts of rows, from the summary of a run's data, with all test sets."""
    tests = sorted(name for name in summary if name.startswith("test"))
    names = ("train", "validation", *tests, "views", "views_validation")
    return {name: summary[name] for name in names if name in summary}
