"""Results as text: tables for a terminal. `markdown` writes the same rows."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from llm_jepa.data.config import MAIN_TEST
from llm_jepa.experiments.results import BUDGET_TITLES, GridResults, Results, SeedValues
from llm_jepa.experiments.sentences import (
    alarm_sentences,
    answer_of,
    arm_sentences,
    comparison_sentences,
    count_alarms,
    format_p,
    format_points,
    short_verdict,
)
from llm_jepa.experiments.statistics import PairedComparison
from llm_jepa.progress import WIDTH
from llm_jepa.text_tables import text_table

Rows = list[list[str]]


def format_table(results: Results) -> str:
    """Return the results as text for a terminal: two tables, the alarms, and a sentence for each comparison.

    Values are in percent, differences in points. No line is longer than `WIDTH`. Long names of arms are cut in the
    middle if they then still differ; the sentences have the whole names.
    """
    parts = [test_title(results), _table(outcome_rows(results)), _table(representation_rows(results))]
    parts += [_filled(alarm_sentences(results.main)), _filled(comparison_sentences(results.main))]
    for titles, each, notes in further_tables(results):
        parts += [*titles, _table(outcome_rows(each)), _filled([*notes, *comparison_sentences(each.main)])]
    for grid in results.grids.values():
        parts += [grid_title(grid), _table(grid_rows(grid))]
    parts.append(_filled(results.notes))
    return "\n\n".join(part for part in parts if part)


def format_answer(results: Results) -> str:
    """Return question and answer, with a sentence for each arm, as text for a terminal."""
    answer = answer_of(results)
    opening = f"{answer.question} {answer.short} {answer.sentence}"
    return _filled([opening, *(f"- {each}" for each in arm_sentences(results))])


def test_title(results: Results) -> str:
    """Return the heading of a table of one test set; "" for a single test set, which has no name."""
    name = next(iter(results.tests))
    return "" if name == MAIN_TEST else f"Test set {name}"


def further_tables(results: Results) -> Iterator[tuple[list[str], Results, Sequence[str]]]:
    """Yield titles, results and notes of each table after the first: further test sets, and comparisons at equal cost.

    A title may be empty.
    """
    for other in results.other_tests.values():
        yield [test_title(other)], other, ()
    for kind, again in results.at_equal.items():
        yield [BUDGET_TITLES[kind], test_title(again)], again, again.notes
        for other in again.other_tests.values():
            yield [test_title(other)], other, ()


# ---- rows, the first one a header ----


def outcome_rows(results: Results) -> Rows:
    """Return a row for each arm: its values, the difference to the baseline, the verdict."""
    rows = [["arm", "n", f"{results.metric_name} %", "difference, 95% CI", "p Holm", "verdict"]]
    for name, arm in results.arms.items():
        comparison = results.main.comparison_of(name)
        compared = ["", "", "baseline"]
        if comparison is not None:
            compared = [format_difference(comparison), format_p(comparison.p_holm), short_verdict(comparison)]
        rows.append([name, str(arm.values.n), format_mean(arm.values), *compared])
    return rows


def representation_rows(results: Results) -> Rows:
    """Return a row for each arm: retrieval, cost, collapse alarms."""
    views = ["of views %"] if results.main.has_views_retrieval else []
    whole = results.costs_of_runs_differ
    rows = [["arm", "retrieval@1 %", *views, "step time", "run FLOPs" if whole else "FLOPs", "collapse alarm"]]
    for name, arm in results.arms.items():
        recalls = [arm.retrieval, *([arm.views_retrieval] if views else [])]
        shares = [format_mean(each.get("recall@1", SeedValues())) for each in recalls]
        ratios = (arm.cost.step_time_ratio, arm.cost.run_flops_ratio if whole else arm.cost.flops_ratio)
        costs = ["-" if ratio is None else f"{ratio:.2f}x" for ratio in ratios]
        rows.append([name, *shares, *costs, count_alarms(arm)])
    return rows


def grid_rows(grid: GridResults) -> Rows:
    """Return a row for each cell of a grid; shares in percent, other values as they are."""
    percent = " %" if grid.chosen_by_share else ""
    rows = [["cell", "n", f"validation {grid.choose_by}{percent}", f"test {grid.metric} %", ""]]
    for cell in grid.cells:
        by, mean = cell.validation, cell.validation.mean
        value = format_mean(by) if grid.chosen_by_share or mean is None else f"{mean:.4g}"
        note = "chosen" if cell.chosen else f"{len(cell.failed)} failed" if cell.failed else ""
        rows.append([cell.arm, str(by.n), value, format_mean(cell.test), note])
    return rows


def grid_title(grid: GridResults) -> str:
    """Return the heading of a grid, in every form of the report."""
    return f"Exploration: the cells of {grid.arm}"


# ---- cells ----


def format_mean(values: SeedValues) -> str:
    """Return mean and standard deviation in percent; `-` if there is no value."""
    if values.mean is None:
        return "-"
    spread = "" if values.std is None else f" ± {100 * values.std:.1f}"
    return f"{100 * values.mean:.1f}{spread}"


def format_difference(comparison: PairedComparison) -> str:
    """Return a difference and its 95% interval in points; `-` if there is none."""
    if comparison.delta is None:
        return "-"
    interval = "" if comparison.ci is None else f" [{', '.join(map(format_points, comparison.ci))}]"
    return f"{format_points(comparison.delta)}{interval}"


def _table(rows: Rows) -> str:
    return text_table(rows, WIDTH, left=(0, len(rows[0]) - 1))


def _filled(lines: Sequence[str]) -> str:
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines)
