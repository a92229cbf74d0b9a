"""An experiment: runs arms x seeds from one YAML file, and says which arm is better and how certain that is.

An arm may be a grid (`grids`): all its cells are run, the best on validation rows is chosen (`choose_cell`), and only
the chosen one is compared. The comparison can be repeated at equal FLOPs and equal time (`equal_cost`).

    OUT/experiment.yaml   settings         OUT/results.json, results.csv   values, intervals, verdicts
    OUT/<arm>-s<seed>/    one run each     OUT/looks.json                  the seeds and baseline of each look

`summary` makes the results of the finished runs; `report/` renders them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from llm_jepa.data.config import MAIN_TEST
from llm_jepa.data.generated_files import with_files
from llm_jepa.data.prepare import LoadedData, load_data
from llm_jepa.errors import ConfigError, LLMJEPAError
from llm_jepa.runs.build_trainer import notes_on, pretrained_tokenizer
from llm_jepa.runs.claim import check_folder, claim_folder, differences
from llm_jepa.runs.folder import ExperimentFolder, RunFolder, arm_at
from llm_jepa.runs.locks import sole_owner
from llm_jepa.runs.settings import RunConfig, Settings, read_yaml

from .choose_cell import HIGHER_IS_BETTER
from .comparability import check_arms, check_data
from .equal_cost import Budget
from .experiment import Experiment, about_grids, is_axis, read_experiment, read_grids
from .jobs import Failure, Job, Pool, run_jobs
from .preflight import rehearse
from .ray_workers import RayPool
from .results import Results
from .summary import budgets_of, chosen_arms, read_records, summarise
from .workers import LocalPool, threads_of_run

logger = logging.getLogger(__name__)

# What may differ when an experiment continues in its folder: more seeds, arms or values, and how the runs are done.
# `choose_by` may not: it would then be set after the test results have been seen.
EXTENSIBLE = (
    *("workers", "seeds", "arms", "baseline", "grid", "compare_at"),
    *("executor", "resources", "max_retries", "max_runs"),
)


def open_experiment(settings: Settings, out: Path, *, dry_run: bool = False) -> Experiment:
    """Check flat settings and the data, and write the experiment's settings and run folders.

    A dry run only checks, and estimates what the runs take; it writes nothing except generated data.

    Raises:
        ConfigError: If a setting is wrong, or the folder holds another experiment, or one that is running.
        DataError: If a row is wrong.
    """
    folder = ExperimentFolder(out)
    config, runs = read_experiment(settings)
    _check_folder(folder, settings)
    runs = {arm: _with_data_files(run, folder) for arm, run in runs.items()}
    notes: list[str] = []
    experiment = Experiment(config, runs, folder, notes, read_grids(settings))
    check_arms(runs, experiment.grids, experiment.choose_by)
    data = _load_data(experiment)
    notes += [*_log([_counts(data)]), *data.notes]  # reading the data has logged its own notes
    notes += _log([*notes_on(experiment.first_run), *about_grids(config, experiment.grids)])
    if not dry_run:
        _check_runs(experiment)  # all of them, before anything is written
    notes += _log(_rehearse(experiment, data, measure=dry_run))
    if not dry_run:
        check_data(_finished(experiment), files_too=True)
        with sole_owner(out):
            _check_folder(folder, settings)
            # Written first: an experiment cannot continue in a folder that holds runs but no settings.
            folder.write_settings(settings | {"arms": config.arms})
            _claim_runs(experiment)
    return experiment


def run_experiment(
    experiment: Experiment, *, progress: bool = False, render: Callable[[Results, Path], object] | None = None
) -> Results:
    """Do the runs that are not done yet, then compare all runs; `progress` says whether to draw bars.

    `render` is called with results and folder. If cells of grids failed, it is called before the error is raised.

    Raises:
        ConfigError: If another process works in the folder.
        LLMJEPAError: If a run failed. Finished runs stay, and the next call continues with the rest. If only cells of
            grids failed, the other runs are compared first: a setting that fails is a result too.
    """
    config = experiment.config
    with sole_owner(experiment.folder.path) as lock:
        _claim_runs(experiment)  # again: nobody owned the folder in between

        def open_pool() -> Pool:
            if config.executor == "ray":
                return RayPool(config.resources)
            return LocalPool(config.workers, config.resources, lock)

        def run(jobs: list[Job]) -> list[Failure]:
            return run_jobs(jobs, config.workers, open_pool, max_retries=config.max_retries, progress=progress)

        failures = run(experiment.jobs)
        records = read_records(experiment.jobs)
        chosen = chosen_arms(experiment, records)
        cells = {cell for grid in experiment.grids.values() for cell in grid.cells}
        # If all cells of the baseline failed, there is nothing to compare with.
        if failures and (any(each.job.arm not in cells for each in failures) or chosen[config.baseline] is None):
            raise _failed(failures, len(experiment.jobs))
        budgets = [each for kind in experiment.equal_costs for each in budgets_of(experiment, kind, records, chosen)]
        budgeted = _claim_budgets(experiment, budgets)
        failures += run(budgeted) if budgeted else []
        results = summarise(experiment.folder.path)
        if render is not None:
            render(results, experiment.folder.path)
    if failures:
        raise _failed(failures, len(experiment.jobs) + len(budgeted))
    return results


# ---- folders ----


def _finished(experiment: Experiment) -> list[RunFolder]:
    """Return the folders of the finished runs, also those of equal FLOPs or time."""
    kinds, jobs = experiment.equal_costs, experiment.jobs
    runs = [job.folder for job in jobs]
    runs += [experiment.folder.run(arm_at(job.arm, kind), job.seed) for job in jobs for kind in kinds]
    return [run for run in runs if run.is_done]


def _check_runs(experiment: Experiment) -> None:
    for job in experiment.jobs:
        check_folder(job.folder, job.settings)


def _claim_runs(experiment: Experiment) -> None:
    _check_runs(experiment)
    for job in experiment.jobs:
        claim_folder(job.folder, job.settings)


def _claim_budgets(experiment: Experiment, budgets: list[Budget]) -> list[Job]:
    """Make the folders of the runs of equal FLOPs or time; return these runs."""
    jobs = []
    for budget in (each for each in budgets if each.max_steps):
        for seed in experiment.config.seeds:
            steps, run = {"max_steps": budget.max_steps}, experiment.runs[budget.arm]
            run = replace(run, training=run.training | steps, settings=run.settings | steps)
            job = replace(experiment.job(budget.name, seed), run=run)
            claim_folder(job.folder, job.settings)
            job.folder.write_budget(budget.record)
            jobs.append(job)
    return jobs


def _check_folder(folder: ExperimentFolder, settings: Settings) -> None:
    if folder.has_settings:
        before = read_yaml(folder.settings_file)
        # A grid may get more values, or become one value: the settings of each cell are in its own folder.
        free = {key for each in (before, settings) for key, value in each.items() if is_axis(key, value)}
        old, new = (
            {key: value for key, value in each.items() if key not in free and key not in EXTENSIBLE}
            for each in (before, settings)
        )
        differing = differences(old, new)
        runs = folder.runs()
        never_began = bool(runs) and not any(run.has_begun for run in runs)  # refused before, now corrected
        if differing and not never_began:
            text = f"{folder} holds another experiment: {'; '.join(differing)}."
            raise ConfigError("settings_changed", f"{text} Choose another --out, or remove that folder.")
    elif folder.path.exists() and not folder.holds_nothing_else:
        text = f"{folder} exists and does not hold an experiment of llm-jepa. Choose another --out."
        raise ConfigError("folder_not_empty", text)


def _with_data_files(run: RunConfig, folder: ExperimentFolder) -> RunConfig:
    """Return the run with the names of generated files instead of the settings that generate them."""
    data = with_files(run.data, folder.generated)
    if data is run.data:
        return run
    settings = {key: value for key, value in run.settings.items() if not key.startswith("generate_")}
    test = "test_file" if data.test_files is None else "test_files"
    files = ("train_file", test, "validation_file", "views_file")
    settings |= {name: getattr(data, name) for name in files if getattr(data, name) is not None}
    return replace(run, data=data, settings=settings)


def _load_data(experiment: Experiment) -> LoadedData:
    """Read the data as the first arm will, so that a broken row is reported before any run starts."""
    run = experiment.first_run
    if run.data.test_file is None:
        text = "Neither test_file nor test_files is set. A comparison needs rows that no arm has seen. Set one of them."
        raise ConfigError("setting_missing", text)
    data = load_data(run.data, run.jepa, pretrained_tokenizer(run))
    if experiment.grids:
        _check_choice(run, experiment.choose_by, len(data.validation))
    return data


def _counts(data: LoadedData) -> str:
    """Return how many rows there are of each kind; the only test set is called test."""
    counts = {"train": len(data.train), "validation": len(data.validation)}
    counts |= {name if name == MAIN_TEST else f"test {name}": len(rows) for name, rows in data.tests.items()}
    return " | ".join(f"{name} {count:,}" for name, count in counts.items())


def _rehearse(experiment: Experiment, data: LoadedData, *, measure: bool) -> list[str]:
    """Check what the unfinished runs need; return what a reader must know, also if it cannot be checked here."""
    config = experiment.config
    if config.executor != "local":
        return [f"What a run needs is checked when it starts: executor={config.executor} does runs on other machines."]
    open_arms = {job.arm for job in experiment.jobs if not job.folder.is_done}
    open_runs = {arm: run for arm, run in experiment.runs.items() if arm in open_arms}
    before = torch.get_num_threads()
    if measure:
        torch.set_num_threads(threads_of_run(config.workers, config.resources))
    try:
        estimates = experiment.estimates if measure else None
        return rehearse(open_runs, config.seeds[0], (experiment.first_run, data), estimates)
    finally:
        torch.set_num_threads(before)


def _log(notes: list[str]) -> list[str]:
    """Write notes to the log, and return them."""
    for note in notes:
        logger.info("data   %s", note)
    return notes


def _check_choice(run: RunConfig, choose_by: str, num_rows: int) -> None:
    """Refuse a grid if its best cell could not be chosen when all its runs are done."""
    needed = f"The best cell of a grid is chosen by {choose_by} on validation rows, but"
    if not num_rows:
        raise ConfigError("no_validation_rows", f"{needed} there are none. Set validation_size or validation_file.")
    if str(run.training.get("eval_strategy", "steps")) == "no":
        raise ConfigError("settings_conflict", f"{needed} eval_strategy=no never evaluates on them. Set it to steps.")
    if choose_by not in HIGHER_IS_BETTER and not run.evaluation.validation_generations:
        text = f"{needed} validation_generations=0 answers none of them. Set it above 0, or set choose_by: ce_loss."
        raise ConfigError("settings_conflict", text)


def _failed(failures: list[Failure], num_jobs: int) -> LLMJEPAError:
    """Return an error with the reason of the first failure, whose exit code decides the class."""
    first, name = failures[0], failures[0].job.name
    names = ", ".join(failure.job.name for failure in failures)
    kind = ConfigError if first.exit_code == ConfigError.exit_code else LLMJEPAError
    text = f"{len(failures)} of {num_jobs} runs failed: {names}. The others are kept, and the same command continues "
    text += f"with the rest. {name} ended with {first.reason}. The log of {name} ends with:\n{first.log_tail}"
    return kind("runs_failed", text)
