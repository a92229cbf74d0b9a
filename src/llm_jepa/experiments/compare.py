"""An experiment: arms x seeds from one YAML, to a table that says which is better and how sure that is.

An arm may be a grid (`grids`): all its cells are run, the best on validation rows is chosen (`choice`), and the chosen
one alone is compared. The comparison may be made again at equal FLOPs and equal time (`budgets`).

    OUT/experiment.yaml   settings         OUT/results.json, results.csv   values, intervals, verdicts
    OUT/<arm>-s<seed>/    one run each     OUT/looks.json                  the seeds of each time that results were made

Everything after the runs is rebuilt from the run folders alone. `report/` draws the results.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llm_jepa.data.generated_files import with_files
from llm_jepa.data.prepare import LoadedData, load_data
from llm_jepa.errors import ConfigError, LLMJEPAError
from llm_jepa.files import reading_run
from llm_jepa.runs.build_trainer import notes_on, pretrained_tokenizer
from llm_jepa.runs.claim import check_folder, claim_folder, differences
from llm_jepa.runs.folder import ExperimentFolder, without_budget
from llm_jepa.runs.locks import sole_owner
from llm_jepa.runs.settings import RunConfig, Settings, read_yaml

from .choose_cell import HIGHER_IS_BETTER, check_name, choose, is_higher_better, validation_value
from .comparability import about_exchanges, about_versions, check_arms, check_data
from .controls import about_controls, control_arms
from .equal_cost import Budget, plan, recorded, step_flops, step_time
from .experiment import ExperimentConfig, count_runs, is_axis, read_experiment, read_grids
from .grids import Grid
from .interim_looks import note_look
from .jobs import Failure, Job, Pool, run_jobs
from .preflight import rehearse
from .ray_workers import RayPool
from .results import (
    COST_KEYS,
    Results,
    RunResult,
    about_undecided,
    budget_lines,
    build_results,
    summarise_seeds,
    write_results,
)
from .workers import LocalPool

logger = logging.getLogger(__name__)

# What may differ when an experiment goes on in its folder: more seeds, arms or values, and how the runs are done. What
# a cell is chosen by may not: it would be named after the test rows have been seen.
EXTENSIBLE = (
    *("workers", "seeds", "arms", "baseline", "grid", "compare_at"),
    *("executor", "resources", "max_retries", "max_runs"),
)
Records = dict[Job, dict[str, Any]]


@dataclass(frozen=True)
class Experiment:
    """An experiment whose settings are checked and whose folder is its own.

    Attributes:
        config: Arms, seeds, baseline.
        runs: Checked settings of each arm, or cell of one, with the data files named.
        folder: Where everything goes.
        notes: What was found in the data, a line of counts, then sentences; and what is to be known of the grids.
        grids: The arms that are grids.
    """

    config: ExperimentConfig
    runs: dict[str, RunConfig]
    folder: ExperimentFolder
    notes: list[str]
    grids: dict[str, Grid] = field(default_factory=dict)

    @property
    def jobs(self) -> list[Job]:
        """All runs of equal steps, seed by seed, so that whole pairs are done first."""
        return [self.job(arm, seed) for seed in self.config.seeds for arm in self.runs]

    @property
    def most_runs(self) -> int:
        """The number of all runs; those of equal FLOPs and time are as many at most."""
        return count_runs(self.config, len(self.runs))

    @property
    def choose_by(self) -> str:
        """What the cells of a grid are chosen by."""
        return check_name(self.config.choose_by, self.metric)

    @property
    def metric(self) -> str:
        """What arms are compared on."""
        return next(iter(self.runs.values())).evaluation.metric

    def job(self, arm: str, seed: int) -> Job:
        """Return a run of this experiment."""
        return Job(arm, seed, self.folder.run(arm, seed), self.runs.get(arm))

    def cells_of(self, arm: str) -> list[str]:
        """Return the cells of an arm; itself, where it is no grid."""
        return list(self.grids[arm].cells) if arm in self.grids else [arm]


def open_experiment(settings: Settings, out: Path, *, dry_run: bool = False) -> Experiment:
    """Check settings and data, and make the folder this experiment's.

    Args:
        settings: Flat settings, overrides included.
        out: The output folder.
        dry_run: Check only; write nothing but generated data.

    Raises:
        ConfigError: If a setting is wrong, or the folder holds another experiment, or one that is running.
        DataError: If a row is wrong.
    """
    folder = ExperimentFolder(out)
    config, runs = read_experiment(settings)
    grids = read_grids(settings)
    _check_folder(folder, settings)
    runs = {arm: _with_data_files(run, folder) for arm, run in runs.items()}
    check_arms(runs, grids)
    choose_by = check_name(config.choose_by, next(iter(runs.values())).evaluation.metric)
    first = next(iter(runs.values()))
    data = _check_data(first, grids, choose_by)
    notes = [*_about_data(data), *_tell([*notes_on(first), *_about_grids(config, grids)])]
    experiment = Experiment(config, runs, folder, notes, grids)
    if not dry_run:
        _check_runs(experiment)  # all of them, before anything is written
    notes += _tell(_rehearse(experiment, data))
    if not dry_run:
        check_data([job.folder for job in experiment.jobs if job.folder.is_done], files_too=True)
        with sole_owner(out):
            _check_folder(folder, settings)
            # First of all: a folder that holds runs and no experiment would not be taken up again.
            folder.write_settings(settings | {"arms": config.arms})
            _claim_runs(experiment)
    return experiment


def run_experiment(
    experiment: Experiment, *, progress: bool = False, render: Callable[[Results, Path], object] | None = None
) -> Results:
    """Do the runs that are not done yet, then compare; return what results.json holds.

    Args:
        experiment: The experiment.
        progress: Whether to draw bars.
        render: Called with results and folder: also where cells of grids failed, before that is raised.

    Raises:
        ConfigError: If another process works in the folder.
        LLMJEPAError: If a run failed; those that are done stay, and the next call goes on with the rest. Where only
            cells of grids failed the others are compared first: a setting that fails is a result too.
    """
    config = experiment.config
    with sole_owner(experiment.folder.path) as lock:
        _claim_runs(experiment)  # again: the folder was nobody's in between

        def open_pool() -> Pool:
            if config.executor == "ray":
                return RayPool(config.resources)
            return LocalPool(config.workers, config.resources, lock)

        def run(jobs: list[Job]) -> list[Failure]:
            return run_jobs(jobs, config.workers, open_pool, max_retries=config.max_retries, progress=progress)

        failures = run(experiment.jobs)
        cells = {cell for grid in experiment.grids.values() for cell in grid.cells}
        if failures and (any(each.job.arm not in cells for each in failures) or not _has_baseline(experiment)):
            raise _failed(failures, len(experiment.jobs))
        budgeted = [job for kind in config.compare_at if kind != "steps" for job in _claim_budgets(experiment, kind)]
        failures += run(budgeted) if budgeted else []
        results = summarise(experiment.folder.path)
        if render is not None:
            render(results, experiment.folder.path)
    if failures:
        raise _failed(failures, len(experiment.jobs) + len(budgeted))
    return results


def summarise(out: Path) -> Results:
    """Compare the runs in an experiment's folder; write results.json and results.csv.

    Raises:
        ConfigError: If the folder holds no experiment, or no run of it is done.
    """
    folder = ExperimentFolder(out)
    if not folder.has_settings:
        raise ConfigError(f"{out} holds no {folder.settings_file.name}. Expected the --out folder of a `compare`.")
    settings = read_yaml(folder.settings_file)
    config, runs = read_experiment(settings, trains=False)
    experiment = Experiment(config, runs, folder, [], read_grids(settings))
    records = _records(experiment.jobs)
    chosen = {arm: _choose(experiment, arm, records) for arm in config.arms}
    baseline = chosen[config.baseline]
    if baseline is None or not any(job.arm == baseline for job in records):
        raise ConfigError(f"{folder} has no finished run of the baseline {config.baseline}. Run `compare` first.")
    check_data(job.folder for job in records)
    compared = {job: each for job, each in records.items() if job.arm in chosen.values()}
    data = _data_summary(list(compared))
    controls = control_arms(runs, baseline, [arm for arm in chosen.values() if arm is not None])
    told = {**settings, **asdict(config), "data": data}
    results = _results_of(experiment, compared, baseline, told, controls, records)
    results["grids"] = {
        arm: _grid_record(experiment, grid, records, chosen[arm]) for arm, grid in experiment.grids.items()
    }
    results["notes"] = (
        _about_missing(experiment, records)
        + about_controls(results, controls)
        + about_undecided(results)
        + _about_grids(config, experiment.grids)
        + _about_choices(experiment, results["grids"])
        + about_exchanges((job.arm, job.folder) for job in compared)
        + about_versions(job.folder for job in compared)
        + note_look(folder, _compared_seeds(results))
    )
    for kind in config.compare_at:
        if kind != "steps":
            results[f"equal_{kind}"] = _budgeted_results(experiment, kind, compared, baseline)
    write_results(results, out)
    return results


# ---- folders ----


def _check_runs(experiment: Experiment) -> None:
    for job in experiment.jobs:
        check_folder(job.folder, _settings_of(experiment, job))


def _claim_runs(experiment: Experiment) -> None:
    _check_runs(experiment)
    for job in experiment.jobs:
        claim_folder(job.folder, _settings_of(experiment, job))


def _settings_of(experiment: Experiment, job: Job) -> Settings:
    return experiment.runs[job.arm].settings | {"seed": job.seed}


def _claim_budgets(experiment: Experiment, kind: str) -> list[Job]:
    """Make the folders of the runs of equal FLOPs or time; return these runs."""
    records = _records(experiment.jobs)
    chosen = {arm: _choose(experiment, arm, records) for arm in experiment.config.arms}
    jobs = []
    for budget in _budgets(experiment, kind, records, chosen):
        for seed in experiment.config.seeds:
            steps, run = {"max_steps": budget.max_steps}, experiment.runs[budget.arm]
            run = replace(run, training=run.training | steps, settings=run.settings | steps)
            job = replace(experiment.job(budget.name, seed), run=run)
            claim_folder(job.folder, run.settings | {"seed": seed})
            job.folder.write_budget(budget.record)
            jobs.append(job)
    return jobs


def _check_folder(folder: ExperimentFolder, settings: Settings) -> None:
    if folder.has_settings:
        before = read_yaml(folder.settings_file)
        # A grid may get more values, or become one value: each cell's own folder tells what it is.
        free = {key for each in (before, settings) for key, value in each.items() if is_axis(key, value)}
        old, new = (
            {key: value for key, value in each.items() if key not in free and key not in EXTENSIBLE}
            for each in (before, settings)
        )
        differing = differences(old, new)
        runs = folder.runs()
        never_began = bool(runs) and not any(run.has_begun for run in runs)  # refused before, now corrected
        if differing and not never_began:
            raise ConfigError(
                f"{folder} holds another experiment: {'; '.join(differing)}. Choose another --out, "
                "or remove that folder."
            )
    elif folder.path.exists() and not folder.holds_nothing_else:
        raise ConfigError(f"{folder} is there already and holds no experiment of llm-jepa. Choose another --out.")


def _with_data_files(run: RunConfig, folder: ExperimentFolder) -> RunConfig:
    """Return the run with the names of generated files in the place of what generates them."""
    data = with_files(run.data, folder.generated)
    if data is run.data:
        return run
    settings = {key: value for key, value in run.settings.items() if not key.startswith("generate_")}
    files = ("train_file", "test_file", "validation_file", "views_file")
    settings |= {name: getattr(data, name) for name in files if getattr(data, name) is not None}
    return replace(run, data=data, settings=settings)


def _check_data(run: RunConfig, grids: dict[str, Grid], choose_by: str) -> LoadedData:
    """Read the data as the first arm will, so that a broken row is told before any run starts."""
    if run.data.test_file is None:
        raise ConfigError("test_file is not set. A comparison needs rows that no arm has seen.")
    data = load_data(run.data, run.jepa, pretrained_tokenizer(run))
    if grids:
        _check_choice(run, choose_by, len(data.validation))
    return data


def _about_data(data: LoadedData) -> list[str]:
    counts = {name: f"{data.summary[name]['kept']:,}" for name in ("train", "validation", "test")}
    kept = " | ".join(f"{name} {count}" for name, count in counts.items())
    return [*_tell([kept]), *data.notes]  # of the data's own, reading has told


def _rehearse(experiment: Experiment, data: LoadedData) -> list[str]:
    """Try what the runs need that are not done; return what a reader must know where that cannot be done here."""
    config, runs = experiment.config, experiment.runs
    if config.executor != "local":
        return [f"What each run needs is tried when it starts: executor={config.executor} does runs on other machines."]
    open_arms = dict.fromkeys(job.arm for job in experiment.jobs if not job.folder.is_done)
    open_runs = {arm: run for arm, run in runs.items() if arm in open_arms}
    return rehearse(open_runs, config.seeds[0], (next(iter(runs.values())), data))


def _tell(notes: list[str]) -> list[str]:
    """Write notes to the log, and return them."""
    for note in notes:
        logger.info("data   %s", note)
    return notes


def _check_choice(run: RunConfig, choose_by: str, num_rows: int) -> None:
    """Refuse a grid whose cells could not be chosen from when all are done."""
    missing = []
    if not num_rows:
        missing.append("there are no validation rows. Set validation_size or validation_file")
    if str(run.training.get("eval_strategy", "steps")) == "no":
        missing.append("eval_strategy=no looks at none. Set it to steps")
    if choose_by not in HIGHER_IS_BETTER and not run.evaluation.validation_generations:
        missing.append("validation_generations=0 answers none. Set it, or choose_by: ce_loss")
    if missing:
        raise ConfigError(f"A grid's best cell is chosen by {choose_by} on validation rows, and {missing[0]}.")


def _about_grids(config: ExperimentConfig, grids: dict[str, Grid]) -> list[str]:
    """Return what a reader must know of the grids: the baseline should be tuned as much as what it is compared with."""
    if not grids:
        return []
    counts = {arm: len(grids[arm].cells) if arm in grids else 1 for arm in config.arms}
    notes = [
        f"{arm} is a grid of {counts[arm]} cells: {', '.join(f'{key} {each}' for key, each in grid.axes.items())}."
        for arm, grid in grids.items()
    ]
    if uneven := [arm for arm in counts if arm != config.baseline and counts[arm] != counts[config.baseline]]:
        told = ", ".join(f"{arm} {counts[arm]}" for arm in uneven)
        notes.append(
            f"Not tuned alike: the baseline {config.baseline} has {counts[config.baseline]} "
            f"cell{'s' if counts[config.baseline] > 1 else ''}, {told}. The best of many is better than one by chance "
            "alone; give the baseline a grid of as many cells, of learning_rate say."
        )
    return notes


def _failed(failures: list[Failure], num_jobs: int) -> LLMJEPAError:
    """Return an error with the reason of the first failure, of the kind that its exit code says."""
    first = failures[0]
    names = ", ".join(failure.job.name for failure in failures)
    kind = ConfigError if first.exit_code == ConfigError.exit_code else LLMJEPAError
    return kind(
        f"{len(failures)} of {num_jobs} runs failed: {names}. The others are kept, and the same command goes on with "
        f"the rest. {first.job.name} ended with {first.reason}. The log of {first.job.name} ends with:\n"
        f"{first.log_tail}"
    )


# ---- from runs to results ----


def _records(jobs: list[Job]) -> Records:
    """Return the eval.json of each run that is done."""
    records = {}
    for job in jobs:
        if job.folder.is_done:
            with reading_run(job.folder.path):
                records[job] = job.folder.evaluation()
                records[job]["cost"].keys()
    return records


def _results_of(
    experiment: Experiment,
    records: Records,
    baseline: str,
    settings: Settings | None = None,
    controls: dict[str, list[str]] | None = None,
    all_records: Records | None = None,
) -> Results:
    """Compare the runs of `records`; a control may be among all of them, as a cell that was not chosen."""
    metric = experiment.metric
    names = {each for some in (controls or {}).values() for each in some}
    beside = {job: each for job, each in (all_records or {}).items() if job.arm in names and job not in records}
    return build_results(
        [RunResult.from_eval(job.arm, job.seed, record) for job, record in records.items()],
        metric=metric,
        baseline=baseline,
        cost=_cost(records, baseline, experiment.runs),
        settings=settings,
        correct=_correct([*records, *beside], metric),
        controls=controls,
        headline=_headline(experiment, records, baseline),
        control_runs=[RunResult.from_eval(job.arm, job.seed, record) for job, record in beside.items()],
    )


def _headline(experiment: Experiment, records: Records, baseline: str) -> str | None:
    """Return the arm that the question is about: the first with a JEPA term on matching views."""
    runs = {job.arm: experiment.runs[without_budget(job.arm)] for job in records}
    arms = [arm for arm, run in runs.items() if arm != baseline and run.jepa.has_term and not run.data.shuffle_views]
    order = list(experiment.runs)
    return min(arms, key=lambda arm: order.index(without_budget(arm)), default=None)


def _choose(experiment: Experiment, arm: str, records: Records) -> str | None:
    """Return the arm that stands for `arm` in the comparison: itself, or its best cell on validation rows.

    None as long as a cell is neither done nor given up: the best may be to come.
    """
    if arm not in experiment.grids:
        return arm
    cells, seeds = experiment.cells_of(arm), experiment.config.seeds
    jobs = [experiment.job(cell, seed) for cell in cells for seed in seeds]
    if any(job not in records and not job.folder.has_failed for job in jobs):
        return None
    return choose(_validation_values(experiment, cells, records), seeds, experiment.choose_by)


def _has_baseline(experiment: Experiment) -> bool:
    """Whether there is something to compare with: a grid whose cells all failed has no best one."""
    return _choose(experiment, experiment.config.baseline, _records(experiment.jobs)) is not None


def _validation_values(experiment: Experiment, cells: list[str], records: Records) -> dict[str, dict[int, float]]:
    values: dict[str, dict[int, float]] = {cell: {} for cell in cells}
    for job, record in records.items():
        if job.arm in values and (value := validation_value(record, experiment.choose_by)) is not None:
            values[job.arm][job.seed] = value
    return values


def _grid_record(experiment: Experiment, grid: Grid, records: Records, chosen: str | None) -> dict[str, Any]:
    """Return what results.json holds of a grid: every cell, whatever became of it."""
    validation = _validation_values(experiment, list(grid.cells), records)
    test: dict[str, dict[int, float]] = {cell: {} for cell in grid.cells}
    for job, record in records.items():
        if job.arm in test:
            test[job.arm][job.seed] = float(record[experiment.metric])
    failed = {
        cell: {str(seed): _why(experiment.job(cell, seed)) for seed in experiment.config.seeds} for cell in grid.cells
    }
    return {
        "arm": grid.arm,
        "axes": grid.axes,
        "choose_by": experiment.choose_by,
        "higher_is_better": is_higher_better(experiment.choose_by),
        "metric": experiment.metric,
        "chosen": chosen,
        "cells": [
            {
                "arm": cell,
                "coordinates": coordinates,
                "validation": summarise_seeds(validation[cell]),
                "test": summarise_seeds(test[cell]),
                "failed": {seed: why for seed, why in failed[cell].items() if why is not None},
                "chosen": cell == chosen,
            }
            for cell, coordinates in grid.cells.items()
        ],
    }


def _why(job: Job) -> str | None:
    """Return how a run that was given up ended."""
    failure = job.folder.failure()
    return None if failure is None else failure["reason"]


def _compared_seeds(results: Results) -> set[int]:
    return {int(seed) for comparison in results["comparisons"] for seed in comparison["differences"]}


def _about_missing(experiment: Experiment, records: Records) -> list[str]:
    """Return a sentence about runs that are not in the comparison; those of grids are told with their cells."""
    missing = [job for job in experiment.jobs if job.arm in experiment.config.arms and job not in records]
    failed = [f"{job.name} ({why})" for job in missing if (why := _why(job)) is not None]
    others = [job.name for job in missing if not job.folder.has_failed]
    notes = [f"Runs that failed, and are in no number here: {', '.join(failed)}."] if failed else []
    return notes + ([f"Runs that are not done: {', '.join(others)}."] if others else [])


def _about_choices(experiment: Experiment, grids: dict[str, dict[str, Any]]) -> list[str]:
    notes = []
    for arm, grid in grids.items():
        jobs = [experiment.job(cell, seed) for cell in experiment.cells_of(arm) for seed in experiment.config.seeds]
        if open_runs := sum(not job.folder.is_done and not job.folder.has_failed for job in jobs):
            notes.append(f"No cell of {arm} is chosen yet: {open_runs} of its {len(jobs)} runs are not done.")
        elif grid["chosen"] is None:
            notes.append(f"No cell of {arm} can be chosen: none has all its runs with {grid['choose_by']}.")
        if failed := [cell["arm"] for cell in grid["cells"] if cell["failed"]]:
            notes.append(f"Cells of {arm} in which runs failed, and which cannot be chosen: {', '.join(failed)}.")
    return notes


def _budgets(experiment: Experiment, kind: str, records: Records, chosen: dict[str, str | None]) -> list[Budget]:
    """Return the budgets of the compared arms that take other steps than at equal steps."""
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for job, record in records.items():
        by_arm.setdefault(job.arm, []).append(record)
    baseline = chosen[experiment.config.baseline]
    arms = [arm for arm in chosen.values() if arm is not None and arm != baseline and arm in by_arm]
    if baseline is None or baseline not in by_arm:
        return []
    budgets = []
    for arm in arms:
        found = recorded(experiment.folder, kind, arm)
        if found and found.baseline != baseline:
            raise ConfigError(
                f"The runs of {found.name} have steps for what {found.baseline} costs, and the baseline is {baseline} "
                f"now. Remove their folders, {experiment.folder.run(found.name, '*')}, or choose another --out."
            )
        budget = found or plan(kind, arm, baseline, experiment.runs, by_arm)
        if budget and (found or any(record["num_steps"] != budget.max_steps for record in by_arm[arm])):
            budgets.append(budget)
    return budgets


def _budgeted_results(experiment: Experiment, kind: str, compared: Records, baseline: str) -> Results:
    """Compare again, with the runs of equal FLOPs or time in the place of those of equal steps.

    An arm whose steps cost what the baseline's do stands in both tables with the same runs.
    """
    chosen: dict[str, str | None] = {job.arm: job.arm for job in compared}
    chosen[experiment.config.baseline] = baseline
    budgets = _budgets(experiment, kind, compared, chosen)
    scaled = {budget.arm for budget in budgets}
    jobs = [experiment.job(budget.name, seed) for budget in budgets for seed in experiment.config.seeds]
    records = {job: record for job, record in compared.items() if job.arm not in scaled} | _records(jobs)
    results = _results_of(experiment, records, baseline) | {"budgets": {each.name: each.record for each in budgets}}
    return results | {"notes": budget_lines(results)}


def _cost(
    records: dict[Job, dict[str, Any]], baseline: str, runs: Mapping[str, RunConfig]
) -> dict[str, dict[str, float | None]]:
    """Return what a step of each arm costs over one of the baseline: medians over the seeds that both have."""
    values: dict[str, dict[int, dict[str, float | None]]] = {}
    for job, record in records.items():
        run, cost = runs[without_budget(job.arm)], record["cost"]
        each = {"step_time_ratio": step_time(run, cost), "flops_ratio": step_flops(run, cost)}
        values.setdefault(job.arm, {})[job.seed] = each

    def ratio(arm: str, key: str) -> float | None:
        pairs = [
            (mine[key], values[baseline][seed][key]) for seed, mine in values[arm].items() if seed in values[baseline]
        ]
        ratios = [mine / base for mine, base in pairs if mine and base]
        return statistics.median(ratios) if ratios else None

    return {arm: {key: ratio(arm, key) for key in COST_KEYS} for arm in values}


def _correct(jobs: list[Job], metric: str) -> dict[str, dict[int, list[bool]]]:
    correct: dict[str, dict[int, list[bool]]] = {}
    for job in jobs:
        with reading_run(job.folder.path):
            rows = job.folder.predictions()
            correct.setdefault(job.arm, {})[job.seed] = [bool(row[metric]) for row in rows]  # null: unknown
    return correct


def _data_summary(jobs: list[Job]) -> dict[str, Any]:
    """Return what the first run read, with the notes of all arms: those that not all share begin with the arm."""
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
