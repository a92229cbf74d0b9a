"""The tables of a report as CSV, for other programs: the numbers of results.json, unrounded.

tables/arms.csv          one row for each arm, budget and test set: values over seeds, retrieval, cost, alarms
tables/comparisons.csv   one row for each comparison with the baseline or a control, budget and test set:
                         difference, p, verdict
tables/data.csv          one row for each split: rows read, kept, cut; and `left_out`, with the reasons
tables/grid_ARM.csv      one row for each cell of a grid
tables/geometry.csv, embedding_map.csv, singular_values.csv   the same as those of `analyze` (docs/geometry.md)

results.csv has one row for each run. An unknown value is an empty cell.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_jepa.experiments.results import RETRIEVAL_KEYS, GridResults, Results, SeedValues
from llm_jepa.geometry.geometry_tables import Row, write_csv, write_geometry_tables

from .content import splits_of


def write_tables(results: Results, geometry: Mapping[str, Any] | None, folder: Path) -> None:
    """Write every table of an experiment's report below its folder; a table without rows is not written."""
    out = folder / "tables"
    out.mkdir(parents=True, exist_ok=True)
    tables = {"arms": _arms(results), "comparisons": _comparisons(results), "data": _data(results)}
    tables |= {f"grid_{grid.arm.replace('/', '_')}": _cells(grid) for grid in results.grids.values()}
    write_csv(tables, out)
    if geometry is not None:
        write_geometry_tables(geometry, out)


def _tables(results: Results) -> Iterator[tuple[Row, Results]]:
    """Yield the comparison at each cost and on each test set, after the columns of a row that name both."""
    for budget, at_cost in (("steps", results), *results.at_equal.items()):
        for each in (at_cost, *at_cost.other_tests.values()):
            yield {"budget": budget, **({"test": next(iter(each.tests))} if results.several_tests else {})}, each


def _arms(results: Results) -> Iterator[Row]:
    for which, each in _tables(results):
        for name, arm in each.arms.items():
            times = each.times("training_time_s", name)
            budget = (each.budgets or {}).get(name)
            row = {**which, "arm": name, "metric": each.metric, **_summary("", arm.values)}
            for key in RETRIEVAL_KEYS:
                row |= _summary(f"{key}_", arm.retrieval.get(key))
            if each.main.has_views_retrieval:
                row |= _summary("views_recall@1_", arm.views_retrieval.get("recall@1"))
            row |= {**asdict(arm.cost), "median_training_time_s": statistics.median(times) if times else None}
            row |= {"max_steps": budget and budget.max_steps}
            yield row | {"watched_runs": len(arm.alarms), "alarmed_runs": len(arm.raised)}


def _comparisons(results: Results) -> Iterator[Row]:
    numbers = ("n", "delta", "p_value", "p_holm", "sign_flip_p", "smallest_detectable", "verdict")
    margin = ("margin_points", "p_margin", "p_margin_holm", "not_worse_shown")
    for which, each in _tables(results):
        compared = [("baseline", one) for one in each.main.comparisons]
        compared += [("control", one) for one in each.main.controls]
        for role, comparison in compared:
            yield {
                **which,
                "compared_with": role,
                **{key: getattr(comparison, key) for key in ("arm", "baseline", *numbers)},
                "reason": comparison.reason or None,
                **dict(zip(("ci95_low", "ci95_high"), comparison.ci or (None, None), strict=True)),
                **{key: None if comparison.margin is None else getattr(comparison, key) for key in margin},
            }


def _cells(grid: GridResults) -> Iterator[Row]:
    for cell in grid.cells:
        row = {"cell": cell.arm, **{field: cell.coordinates[field] for field in grid.axes}}
        row |= {"chosen_by": grid.choose_by, **_summary("validation_", cell.validation)}
        row |= {"metric": grid.metric, **_summary("test_", cell.test)}
        yield row | {"chosen": int(cell.chosen), "failed_runs": len(cell.failed)}


def _data(results: Results) -> Iterator[Row]:
    summary = results.settings.get("data", {}).get("summary", {})
    for split, counts in splits_of(summary).items():
        left_out = "; ".join(f"{reason} {count}" for reason, count in counts["dropped"].items())
        numbers = {key: counts[key] for key in ("rows_in", "kept", "truncated")}
        yield {"split": split, **numbers, "left_out": left_out}


def _summary(prefix: str, values: SeedValues | None) -> Row:
    return {f"{prefix}{key}": getattr(values, key, None) for key in ("n", "mean", "std")}
