"""What a report has in addition to its comparisons, for the page and for Markdown. No result is computed here."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_jepa.experiments.results import BUDGET_TITLES, ArmResult, GridResults, Results
from llm_jepa.experiments.sentences import headline_of
from llm_jepa.experiments.statistics import PairedComparison

from .drawing import PALETTE
from .formatting import counted, duration, ratio
from .grid_figures import shown_axes
from .terminal import test_title

FROM_WHERE = "Relative file names in the command and the settings start from the folder where the command was given."
COLLAPSE_ALARM = "Collapse alarm"
DIFFERING = "Not the same in all runs"


@dataclass(frozen=True)
class Row:
    """What the page's tables show of one arm.

    Attributes:
        arm: The arm.
        colour: Its colour in all figures.
        comparison: With the baseline; None for the baseline itself.
        run_time: Median training time of its runs, in seconds.
    """

    arm: ArmResult
    colour: str
    comparison: PairedComparison | None
    run_time: float | None


@dataclass(frozen=True)
class EqualCost:
    """The comparison at equal FLOPs or equal time."""

    kind: str
    title: str
    rows: list[Row]
    results: Results


def price_of(results: Results) -> str:
    """Return what a step of the headline's arm costs, and how long all runs took; "" if nothing is known."""
    parts = []
    if (first := headline_of(results)) is not None:
        cost = results.arms[first.arm].cost
        factors = {"time": cost.step_time_ratio, "FLOPs": cost.flops_ratio}
        if prices := [f"{ratio(factor)} the {what}" for what, factor in factors.items() if factor is not None]:
            parts.append(f"a step of {first.arm} takes {' and '.join(prices)} of one of {first.baseline}")
        if results.costs_of_runs_differ and cost.run_flops_ratio is not None:
            parts.append(f"a whole run, including that of its teacher, {ratio(cost.run_flops_ratio)} the FLOPs")
    if times := results.times("training_time_s"):
        evaluated, total = (duration(sum(results.times(f"{name}_time_s"))) for name in ("evaluation", "total"))
        trained = f"{counted(len(times), 'run')} trained for {duration(sum(times))} in all"
        parts.append(f"{trained}, were evaluated for {evaluated}, and took {total}")
    return f"{'; '.join(parts)}." if parts else ""


def rows_of(results: Results) -> list[Row]:
    """Return what the tables show of each arm, the baseline first."""
    return [
        Row(
            arm,
            PALETTE[place % len(PALETTE)],
            results.main.comparison_of(name),
            statistics.median(times) if (times := results.times("training_time_s", name)) else None,
        )
        for place, (name, arm) in enumerate(results.arms.items())
    ]


def budgets_of(results: Results) -> list[EqualCost]:
    """Return the comparisons at equal FLOPs and equal time that were made, on each test set."""
    return [
        EqualCost(kind, " · ".join(filter(None, (BUDGET_TITLES[kind], test_title(each)))), rows_of(each), each)
        for kind, again in results.at_equal.items()
        for each in (again, *again.other_tests.values())
    ]


def splits_of(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return split to its counts of rows, from the summary of a run's data, with all test sets."""
    tests = sorted(name for name in summary if name.startswith("test"))
    return {
        name: summary[name] for name in ("train", "validation", *tests, "views", "views_validation") if name in summary
    }


def grid_caption(grid: GridResults) -> str:
    """Return the caption of a grid's picture, with the slice that it shows."""
    held = [field for field in grid.axes if field not in shown_axes(grid)]
    at = grid.shown_cell.coordinates
    caption = (
        f"Left or above, validation rows: {grid.choose_by}, by which the framed cell was chosen. Right or below, "
        f"test rows: {grid.metric}, measured afterwards; do not report its best cell. Means over seeds."
    )
    if held:
        caption += " Of the other axes: " + ", ".join(f"{field} {at[field]}" for field in held) + "."
    return caption
