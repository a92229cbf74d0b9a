"""Makes the results of an experiment from the finished runs in its folder.

Everything is rebuilt from the run folders alone, so `report` gives the same as `compare`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llm_jepa.data.config import MAIN_TEST
from llm_jepa.errors import ConfigError
from llm_jepa.files import reading_run
from llm_jepa.runs.cost import run_flops, step_flops, step_time
from llm_jepa.runs.folder import ExperimentFolder, arm_at, without_budget
from llm_jepa.runs.settings import RunConfig, read_yaml

from .build_results import build_results, write_results
from .choose_cell import HIGHER_IS_BETTER, choose, validation_value
from .comparability import about_exchanges, about_versions, check_data, check_teachers
from .controls import control_arms
from .equal_cost import Budget, plan, recorded
from .experiment import Experiment, about_grids, read_experiment, read_grids
from .grids import Grid
from .interim_looks import note_look
from .jobs import Job
from .results import Cell, Cost, GridResults, Results, RunResult, SeedValues
from .sentences import about_budget, about_controls, about_undecided

Records = dict[Job, dict[str, Any]]  # run to its eval.json


def summarise(out: Path) -> Results:
    """Compare the runs in an experiment's folder; write results.json and results.csv.

    Raises:
        ConfigError: If the folder does not hold an experiment, or no run of its baseline is done.
    """
    folder = ExperimentFolder(out)
    if not folder.has_settings:
        text = f"{out} has no {folder.settings_file.name}. Expected the --out folder of a `compare`."
        raise ConfigError("not_an_experiment", text)
    settings = read_yaml(folder.settings_file)
    config, runs = read_experiment(settings, trains=False)
    experiment = Experiment(config, runs, folder, [], read_grids(settings))
    records = read_records(experiment.jobs)
    chosen = chosen_arms(experiment, records)
    baseline = chosen[config.baseline]
    if baseline is None or not any(job.arm == baseline for job in records):
        text = f"{folder} has no finished run of the baseline {config.baseline}. Run `compare` first."
        raise ConfigError("run_not_finished", text)
    check_data(job.folder for job in records)
    compared = {job: each for job, each in records.items() if job.arm in chosen.values()}
    _check_same_rows(compared)
    arms = [arm for arm in chosen.values() if arm is not None]
    controls = control_arms(runs, baseline, arms, cells_of_baseline=experiment.cells_of(config.baseline))
    shown = {**settings, **asdict(config), "data": _data_summary(list(compared))}
    results = _results_of(experiment, compared, baseline, controls, records)
    grids = {arm: _grid_results(experiment, grid, records, chosen[arm]) for arm, grid in experiment.grids.items()}
    notes = (
        *_about_missing([job for job in experiment.jobs if job.arm in config.arms], records),
        *_about_removed(experiment),
        *about_controls(results, controls),
        *about_undecided(results),
        *about_grids(config, experiment.grids),
        *_about_choices(experiment, grids),
        *about_exchanges((job.arm, job.folder) for job in compared),
        *about_versions(job.folder for job in compared),
        *note_look(folder, {seed for each in results.main.comparisons for seed in each.differences}, config.baseline),
    )
    at_equal = {
        kind: _results_at_equal(experiment, kind, compared, baseline, controls) for kind in experiment.equal_costs
    }
    results = replace(results, settings=shown, grids=grids, notes=notes, at_equal=at_equal)
    write_results(results, out)
    return results


def _check_same_rows(records: Records) -> None:
    """Make sure that all runs answered the same number of rows of each test set.

    An arm may leave out rows that are too long for it but not for another arm.
    """
    first = next(iter(records))
    expected = _rows_answered(records[first])
    for job, record in records.items():
        for name, count in _rows_answered(record).items():
            if count != expected.get(name):
                raise ConfigError(
                    "row_counts_differ",
                    f"{first.name} answered {expected.get(name, 0)} {name} rows, {job.name} answered {count}, so they "
                    "cannot be compared. Give all arms the same limits on rows, such as max_length.",
                )


def _rows_answered(record: Mapping[str, Any]) -> dict[str, int]:
    """Return test set to the number of its rows that a run answered, by its eval.json."""
    others = {name: each["num_rows"] for name, each in record.get("tests", {}).items()}
    return {MAIN_TEST: record["num_rows"], **others}


def read_records(jobs: Sequence[Job]) -> Records:
    """Return the eval.json of each run that is done."""
    records = {}
    for job in jobs:
        if job.folder.is_done:
            with reading_run(job.folder.path):
                records[job] = job.folder.evaluation()
                records[job]["cost"].keys(), records[job]["num_rows"]
    check_teachers(records)
    return records


def chosen_arms(experiment: Experiment, records: Records) -> dict[str, str | None]:
    """Return the arm that represents each arm in the comparison: itself, or its best cell on validation rows.

    None while a run of a cell is neither done nor failed, because that cell may turn out to be the best.
    """
    chosen: dict[str, str | None] = {arm: arm for arm in experiment.config.arms}
    for arm, grid in experiment.grids.items():
        is_open = any(job not in records and not job.folder.has_failed for job in experiment.jobs_of(grid.cells))
        values = _validation_values(experiment, grid, records)
        chosen[arm] = None if is_open else choose(values, experiment.config.seeds, experiment.choose_by)
    return chosen


def budgets_of(experiment: Experiment, kind: str, records: Records, chosen: Mapping[str, str | None]) -> list[Budget]:
    """Return the budgets of the compared arms whose number of steps differs from that at equal steps.

    `kind` is `flops` or `time`; `records` are the finished runs of equal steps; `chosen` is from `chosen_arms`.
    """
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for job, record in records.items():
        by_arm.setdefault(job.arm, []).append(record)
    baseline = chosen[experiment.config.baseline]
    arms = [arm for arm in chosen.values() if arm is not None and arm != baseline and arm in by_arm]
    if baseline is None or baseline not in by_arm:
        return []
    budgets = []
    for arm in arms:
        found, now = recorded(experiment.folder, kind, arm), plan(kind, arm, baseline, experiment.runs, by_arm)
        if found and found.is_stale(now):
            raise ConfigError(
                "baseline_changed",
                f"The runs of {found.name} have as many steps as the cost of {found.baseline} with its "
                f"{found.baseline_steps:,} steps allowed, but the baseline is {baseline} with {now.baseline_steps:,} "
                f"now, or a step costs another amount. Remove their folders, "
                f"{experiment.folder.run(found.name, '*')}, or choose another --out.",
            )
        budget = found or now
        if found or not budget.max_steps or any(each["num_steps"] != budget.max_steps for each in by_arm[arm]):
            budgets.append(budget)
    return budgets


# ---- from runs to results ----


def _results_of(
    experiment: Experiment, records: Records, baseline: str, controls: dict[str, list[str]], all_records: Records
) -> Results:
    """Compare the runs of `records`. A control that is a cell that was not chosen is taken from `all_records`."""
    names = {each for some in controls.values() for each in some}
    beside = {job: each for job, each in all_records.items() if job.arm in names and job not in records}
    return build_results(
        [RunResult.from_eval(job.arm, job.seed, record) for job, record in records.items()],
        metric=experiment.metric,
        baseline=baseline,
        cost=cost_of_arms(records, baseline, experiment.runs),
        controls=controls,
        headline=_headline(experiment, records, baseline),
        tests=experiment.first_run.data.test_sets,
        margin=None if experiment.config.margin is None else experiment.config.margin / 100,
        control_runs=[RunResult.from_eval(job.arm, job.seed, record) for job, record in beside.items()],
    )


def _results_at_equal(
    experiment: Experiment, kind: str, compared: Records, baseline: str, controls: dict[str, list[str]]
) -> Results:
    """Compare again at equal FLOPs or time; an arm whose steps cost as much as the baseline's has the same runs."""
    chosen: dict[str, str | None] = {job.arm: job.arm for job in compared}
    chosen[experiment.config.baseline] = baseline
    budgets = budgets_of(experiment, kind, compared, chosen)
    scaled = {budget.arm: budget.name for budget in budgets}
    jobs = [experiment.job(each.name, seed) for each in budgets if each.max_steps for seed in experiment.config.seeds]
    records = {job: record for job, record in compared.items() if job.arm not in scaled} | read_records(jobs)
    check_data(job.folder for job in [*compared, *records])
    _check_same_rows(records)
    controls = {scaled.get(arm, arm): [scaled.get(each, each) for each in some] for arm, some in controls.items()}
    results = _results_of(experiment, records, baseline, controls, {})
    notes = (*map(about_budget, budgets), *_about_missing(jobs, records), *about_controls(results, controls))
    notes += (*about_versions(job.folder for job in records),)
    return replace(results, budgets={each.name: each for each in budgets}, notes=notes)


def _headline(experiment: Experiment, records: Records, baseline: str) -> str | None:
    """Return `question`, or the first arm with a JEPA term on matching views; of a grid, the chosen cell."""
    runs = {job.arm: experiment.runs[without_budget(job.arm)] for job in records}
    question = experiment.config.question
    if question is not None:
        cells = experiment.cells_of(question)
        return next((arm for arm in runs if without_budget(arm) in cells), None)
    arms = [arm for arm, run in runs.items() if arm != baseline and run.jepa.has_term and not run.data.shuffle_views]
    order = list(experiment.runs)
    return min(arms, key=lambda arm: order.index(without_budget(arm)), default=None)


def cost_of_arms(records: Records, baseline: str, runs: Mapping[str, RunConfig]) -> dict[str, Cost]:
    """Return the cost of a step and a run of each arm: medians of multiples of the baseline's with equal seed."""
    costs: dict[tuple[str, int], tuple[float | None, ...]] = {}
    for job, record in records.items():
        run, cost = runs[without_budget(job.arm)], record["cost"]
        costs[job.arm, job.seed] = step_time(run, cost), step_flops(run, cost), run_flops(run, record)
    ratios: dict[str, list[list[float]]] = {arm: [[], [], []] for arm, _ in costs}
    for (arm, seed), mine in costs.items():
        for found, value, base in zip(ratios[arm], mine, costs.get((baseline, seed), ()), strict=False):
            if value and base:
                found.append(value / base)
    return {
        arm: Cost(*(statistics.median(each) if each else None for each in of_arm)) for arm, of_arm in ratios.items()
    }


def _data_summary(jobs: list[Job]) -> dict[str, Any]:
    """Return what the first run read, with the notes of all arms. A note that not all have begins with its arm."""
    seen: dict[str, dict[str, Any]] = {}
    for job in jobs:
        if job.arm not in seen:
            with reading_run(job.folder.path):
                seen[job.arm] = job.folder.data()
                list(seen[job.arm]["notes"])
    notes = [note for each in seen.values() for note in each["notes"]]
    shared = [note for note in dict.fromkeys(notes) if notes.count(note) == len(seen)]
    own = [f"{arm}: {note}" for arm, each in seen.items() for note in each["notes"] if note not in shared]
    return next(iter(seen.values())) | {"notes": [*shared, *own]}


# ---- grids ----


def _validation_values(experiment: Experiment, grid: Grid, records: Records) -> dict[str, dict[int, float]]:
    values: dict[str, dict[int, float]] = {cell: {} for cell in grid.cells}
    for job, record in records.items():
        if job.arm in values and (value := validation_value(record, experiment.choose_by)) is not None:
            values[job.arm][job.seed] = value
    return values


def _grid_results(experiment: Experiment, grid: Grid, records: Records, chosen: str | None) -> GridResults:
    validation = _validation_values(experiment, grid, records)
    test: dict[str, dict[int, float]] = {cell: {} for cell in grid.cells}
    failed: dict[str, dict[int, str]] = {cell: {} for cell in grid.cells}
    for job in experiment.jobs_of(grid.cells):
        if job in records:
            test[job.arm][job.seed] = float(records[job][experiment.metric])
        if (failure := job.folder.failure()) is not None:
            failed[job.arm][job.seed] = failure["reason"]
    cells = tuple(
        Cell(cell, coordinates, SeedValues(validation[cell]), SeedValues(test[cell]), failed[cell], cell == chosen)
        for cell, coordinates in grid.cells.items()
    )
    choose_by = experiment.choose_by
    return GridResults(
        grid.arm, grid.axes, choose_by, HIGHER_IS_BETTER.get(choose_by, True), experiment.metric, chosen, cells
    )


# ---- notes ----


def _about_missing(jobs: Sequence[Job], records: Records) -> list[str]:
    """Return sentences about runs that are not in the comparison; those of grids are reported with their cells."""
    missing = [job for job in jobs if job not in records]
    failed = [f"{job.name} ({why['reason']})" for job in missing if (why := job.folder.failure()) is not None]
    others = [job.name for job in missing if not job.folder.has_failed]
    notes = [f"Runs that failed and are not counted here: {', '.join(failed)}."] if failed else []
    return notes + ([f"Runs that are not done: {', '.join(others)}."] if others else [])


def _about_removed(experiment: Experiment) -> list[str]:
    """Return a sentence about runs in the folder whose arm, cost or seed the configuration no longer has."""
    kinds, seeds = experiment.equal_costs, set(experiment.config.seeds)
    arms = {*experiment.runs, *(arm_at(arm, kind) for arm in experiment.runs for kind in kinds)}
    ended: dict[str, list[str]] = {}
    for run in experiment.folder.runs():
        name = run.arm_and_seed
        if name is None or (name[0] in arms and name[1] in seeds):
            continue
        failure = run.failure()
        if run.is_done or failure is not None:
            ended.setdefault(name[0], []).append(f"{name[1]}" if failure is None else f"{name[1]} (failed)")
    runs = "; ".join(f"{arm}, seed{'s' * (len(each) > 1)} {', '.join(each)}" for arm, each in ended.items())
    if not runs:
        return []
    return [
        f"Runs in this folder that the configuration no longer has: {runs}. If they were taken out because of their "
        "results, the comparison promises too much."
    ]


def _about_choices(experiment: Experiment, grids: Mapping[str, GridResults]) -> list[str]:
    notes = []
    for arm, grid in grids.items():
        jobs = experiment.jobs_of(experiment.cells_of(arm))
        if open_runs := sum(not job.folder.is_done and not job.folder.has_failed for job in jobs):
            notes.append(f"No cell of {arm} is chosen yet: {open_runs} of its {len(jobs)} runs are not done.")
        elif grid.chosen is None:
            notes.append(f"No cell of {arm} can be chosen: none has all its runs with {grid.choose_by}.")
        if failed := [cell.arm for cell in grid.cells if cell.failed]:
            notes.append(f"Cells of {arm} that cannot be chosen because runs failed: {', '.join(failed)}.")
    return notes
