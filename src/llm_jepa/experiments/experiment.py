"""Turns a flat YAML file into the checked settings of an experiment: arms x seeds, and grids.

The file holds the fields of `ExperimentConfig` and those of a run (`runs/settings.py`). The fields of a run apply to
every arm.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_jepa.errors import ConfigError, DataError, nearest
from llm_jepa.fields import setting, setting_made_by
from llm_jepa.runs.folder import ExperimentFolder, without_budget
from llm_jepa.runs.settings import (
    RunConfig,
    Settings,
    build,
    check_keys,
    coerce,
    field_types,
    plain_types,
    read_run,
    with_recipe,
)

from .choose_cell import check_name
from .grids import Grid, is_inert
from .jobs import Job

if TYPE_CHECKING:
    from .estimates import Estimate

BUILT_IN_ARMS: dict[str, Settings] = {
    "ntp": {"jepa_lambda": 0.0},
    "jepa": {},
    "jepa_shuffled": {"shuffle_views": True},
    "jepa_lambda0": {"jepa_lambda": 0.0},
}
DEFAULT_SEEDS = (82, 23, 37)  # the first three of the paper's five
EXECUTORS = ("local", "ray")
BUDGETS = ("steps", "flops", "time")
RESOURCES = ("cpus", "gpus")


@dataclass
class ExperimentConfig:
    """What is compared. The same file also holds fields of a run, which apply to every arm."""

    arms: dict[str, Settings] = setting_made_by(
        lambda: {"ntp": {}, "jepa": {}, "jepa_shuffled": {}},
        "Arms by name, each with the fields that it changes. Built in: ntp (jepa_lambda 0), jepa, "
        "jepa_shuffled (code views of other pairs), jepa_lambda0 (the JEPA path with jepa_lambda 0). A list of "
        "values is a grid (docs/sweeps.md).",
    )
    baseline: str = setting("ntp", "The arm that all others are compared with.")
    question: str | None = setting(
        None,
        "The arm that is reported first, whatever the result. Default: the first arm with a JEPA term on "
        "matching views. Set it before you see results.",
    )
    seeds: list[int] = setting_made_by(
        lambda: list(DEFAULT_SEEDS), "Seeds, each run in every arm. Six or more are advised."
    )
    workers: int = setting(2, "Runs at the same time.")
    grid: dict[str, list[Any]] = setting_made_by(
        dict,
        "Fields with several values each, for every arm that does not set them itself (docs/sweeps.md). "
        "Fields of the objective apply only to arms with a JEPA term.",
    )
    choose_by: str | None = setting(
        None,
        "The value by which a grid's best cell is chosen, on validation rows: the metric (default), "
        "ce_loss, gap or retrieval@1.",
    )
    compare_at: list[str] = setting_made_by(
        lambda: ["steps"],
        "steps: arms train for the same number of steps. flops, time: they also train for as many steps as "
        "the baseline's FLOPs or time allow (docs/sweeps.md).",
    )
    margin: float | None = setting(
        None,
        "Largest loss, in points, that does not matter to you (docs/statistics.md). Set it before you see results.",
    )
    executor: str = setting("local", "Where runs are done: local, or ray (a Ray cluster; extra [ray]).")
    resources: dict[str, float] = setting_made_by(
        dict,
        "CPUs and GPUs of a run, such as {cpus: 1, gpus: 0}. Default with local: its share of the cores, "
        "and all GPUs. Default with ray: one CPU and no GPU.",
    )
    max_retries: int = setting(1, "How often a run is tried again if a signal ended it or its worker was lost.")
    max_runs: int = setting(1000, "More runs than this are refused before the first starts.")

    def __post_init__(self) -> None:
        if not self.arms:
            raise ConfigError("value_empty", "arms is empty. Name at least two arms, such as ntp and jepa.")
        for arm in self.arms:
            if not arm or not all(char.isalnum() or char in "_-." for char in arm) or arm.startswith("."):
                text = f"The arm {arm!r} must be usable as a folder's name. Use letters, digits, '_', '-' and '.' only."
                raise ConfigError("name_not_allowed", text)
        if self.baseline not in self.arms:
            raise ConfigError(
                "unknown_arm", f"baseline={self.baseline!r} is not one of the arms: {', '.join(self.arms)}."
            )
        self._check_question()
        self._check_seeds()
        for name, least in (("workers", 1), ("max_retries", 0), ("max_runs", 1)):
            if getattr(self, name) < least:
                raise ConfigError("value_out_of_range", f"{name}={getattr(self, name)} must be at least {least}.")
        if self.margin is not None and not 0 < self.margin < 100:
            text = f"margin={self.margin} must be a number of points between 0 and 100, such as 1.0."
            raise ConfigError("value_out_of_range", text)
        self._check_sweep()
        for name, values in self.grid.items():
            if not isinstance(values, list):
                text = f"grid.{name}={values!r} must be a list of values. Set a single value outside of grid."
                raise ConfigError("wrong_type", text)

    def _check_question(self) -> None:
        others = [arm for arm in self.arms if arm != self.baseline]
        if self.question == self.baseline:
            text = f"question={self.question!r} is the baseline. Name the arm that is compared with it."
            raise ConfigError("settings_conflict", text)
        if self.question is not None and self.question not in others:
            text = f"question={self.question!r} is not one of the arms: {', '.join(others)}."
            raise ConfigError("unknown_arm", text + nearest(self.question, others))

    def _check_seeds(self) -> None:
        if not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in self.seeds):
            raise ConfigError("wrong_type", f"seeds={self.seeds} must be whole numbers, such as [82, 23, 37].")
        if not self.seeds:
            raise ConfigError("value_empty", "seeds=[] is empty. Name at least one seed, such as [82, 23, 37].")
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError("value_repeated", f"seeds={self.seeds} has a seed twice. Remove one of them.")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise ConfigError("value_out_of_range", f"seeds={self.seeds} must be between 0 and 2**32 - 1.")

    def _check_sweep(self) -> None:
        if self.executor not in EXECUTORS:
            raise ConfigError("value_not_allowed", f"executor={self.executor!r} is not one of: {', '.join(EXECUTORS)}.")
        if not set(self.compare_at) <= set(BUDGETS):
            raise ConfigError(
                "value_not_allowed", f"compare_at={self.compare_at}: expected some of {', '.join(BUDGETS)}."
            )
        if len(set(self.compare_at)) < len(self.compare_at):
            raise ConfigError("value_repeated", f"compare_at={self.compare_at} has a name twice. Remove one of them.")
        if "steps" not in self.compare_at:
            text = "the cost of a step is measured in runs of equal steps, and sets the number of steps of the others."
            raise ConfigError("value_missing", f"compare_at={self.compare_at} must contain steps: {text} Add steps.")
        for name, value in self.resources.items():
            if name not in RESOURCES:
                text = f"resources.{name} is not one of: {', '.join(RESOURCES)}.{nearest(name, RESOURCES)}"
                raise ConfigError("key_unknown", text)
            text = f"resources.{name}={value!r} must be a number, 0 or more."
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError("wrong_type", text)
            if not 0 <= value < math.inf:
                raise ConfigError("value_out_of_range", text)
        if self.executor == "local" and (cpus := self.resources.get("cpus", 1)) != int(cpus):
            text = f"resources.cpus={cpus} must be a whole number with executor=local: a run has so many threads."
            raise ConfigError("settings_conflict", text)


@dataclass(frozen=True)
class Experiment:
    """An experiment whose settings are checked and whose folder is its own."""

    config: ExperimentConfig
    runs: dict[str, RunConfig]  # of each arm, or cell of one, with the names of the data files
    folder: ExperimentFolder
    notes: list[str]  # what was found in the data, a line of counts, then sentences; then notes on the grids
    grids: dict[str, Grid] = field(default_factory=dict)  # the arms that are grids
    # In a dry run: arm to what the training of one run takes, for arms with unfinished runs.
    estimates: dict[str, Estimate] = field(default_factory=dict)

    @property
    def jobs(self) -> list[Job]:
        """All runs of equal steps, seed by seed, so that all arms of a seed start before the next seed."""
        return self.jobs_of(self.runs)

    def jobs_of(self, arms: Iterable[str]) -> list[Job]:
        """Return the runs of some arms or cells, seed by seed."""
        return [self.job(arm, seed) for seed in self.config.seeds for arm in arms]

    def job(self, arm: str, seed: int) -> Job:
        """Return a run of this experiment."""
        run = self.runs[without_budget(arm)]
        after = self.job(run.teacher.teacher, seed) if run.teacher.teacher else None
        return Job(arm, seed, self.folder.run(arm, seed), run, after)

    @property
    def most_runs(self) -> int:
        """The largest number of runs that there can be, including those of equal FLOPs and time."""
        return count_runs(self.config, len(self.runs))

    @property
    def equal_costs(self) -> list[str]:
        """Which of `flops` and `time` the comparison is repeated at."""
        return [kind for kind in self.config.compare_at if kind != "steps"]

    @property
    def first_run(self) -> RunConfig:
        """The settings of the first arm; those of data and evaluation are equal in all arms."""
        return next(iter(self.runs.values()))

    @property
    def metric(self) -> str:
        """The metric on which arms are compared."""
        return self.first_run.evaluation.metric

    @property
    def choose_by(self) -> str:
        """The value by which the cells of a grid are chosen."""
        return check_name(self.config.choose_by, self.metric)

    def cells_of(self, arm: str) -> list[str]:
        """Return the cells of an arm; only the arm itself if it is not a grid."""
        return list(self.grids[arm].cells) if arm in self.grids else [arm]


def read_experiment(settings: Settings, *, trains: bool = True) -> tuple[ExperimentConfig, dict[str, RunConfig]]:
    """Check the flat settings of an experiment; return its config and the run settings of each arm or cell (no seed).

    `trains` says whether this machine will train the runs; a report may be made on one that could not.

    Raises:
        ConfigError: If a key is unknown, a value wrong, or an arm changes what belongs to the experiment.
    """
    experiment, shared = _split(settings)
    arms, _ = _expanded(experiment, shared)
    runs = {}
    for arm, own in arms.items():
        with naming_arm(arm):
            runs[arm] = read_run(own, trains=trains)
    _check_teachers(runs)
    check_name(experiment.choose_by, next(iter(runs.values())).evaluation.metric)
    return experiment, runs


@contextmanager
def naming_arm(arm: str) -> Iterator[None]:
    """Add the name of the arm to an error of its settings or data."""
    try:
        yield
    except (ConfigError, DataError) as error:
        kind = ConfigError if isinstance(error, ConfigError) else DataError
        raise kind(error.code, f"In arm {arm}: {error}") from error


def _check_teachers(runs: Mapping[str, RunConfig]) -> None:
    """Make sure that each teacher is an arm (or a cell) that has no teacher itself."""
    for arm, run in runs.items():
        teacher = run.teacher.teacher
        if teacher is None:
            continue
        if teacher not in runs:
            text = f"In arm {arm}: teacher={teacher} is not an arm.{nearest(teacher, runs)} Add it, or name another."
            raise ConfigError("unknown_arm", text)
        if runs[teacher].teacher.teacher is not None:
            text = f"In arm {arm}: teacher={teacher} has a teacher itself. Name an arm without one."
            raise ConfigError("settings_conflict", text)


def read_grids(settings: Settings) -> dict[str, Grid]:
    """Return the arms of an experiment that are grids, with their cells; the fields are checked as above."""
    return _expanded(*_split(settings))[1]


def count_runs(experiment: ExperimentConfig, num_cells: int) -> int:
    """Return the largest possible number of runs: cells x seeds, and those of equal FLOPs and time."""
    return len(experiment.seeds) * (num_cells + (len(experiment.arms) - 1) * (len(experiment.compare_at) - 1))


def about_grids(config: ExperimentConfig, grids: dict[str, Grid]) -> list[str]:
    """Return notes on the grids: the baseline should be tuned as much as the arms that it is compared with."""
    if not grids:
        return []
    counts = {arm: len(grids[arm].cells) if arm in grids else 1 for arm in config.arms}
    notes = [
        f"{arm} is a grid of {counts[arm]} cells: {', '.join(f'{key} {each}' for key, each in grid.axes.items())}."
        for arm, grid in grids.items()
    ]
    own = counts[config.baseline]
    if others := ", ".join(f"{arm} {count}" for arm, count in counts.items() if count != own):
        notes.append(
            f"Not tuned alike: the baseline {config.baseline} has {own} cell{'s' if own > 1 else ''}, {others}. The "
            "best of many cells is better than a single one by chance alone. Give the baseline a grid of as many "
            "cells, for example of learning_rate."
        )
    return notes


def _split(settings: Settings) -> tuple[ExperimentConfig, Settings]:
    """Return what belongs to the experiment, checked, and the fields that its arms share."""
    own = {each.name for each in dataclasses.fields(ExperimentConfig)}
    experiment = build(ExperimentConfig, _with_arms({key: settings[key] for key in settings if key in own}))
    shared = {key: value for key, value in settings.items() if key not in own}
    check_keys(shared, extra=own)
    check_keys(experiment.grid)
    if twice := next((key for key in experiment.grid if key in shared), None):
        raise ConfigError("settings_conflict", f"{twice} and grid.{twice} are both set. Remove one of them.")
    for arm, changes in experiment.arms.items():
        if key := next((key for key in changes if key in own), None):
            text = f"arms.{arm}.{key} is a setting of the whole experiment. Set {key} outside of arms."
            raise ConfigError("key_misplaced", text)
        with naming_arm(arm):
            check_keys(changes)
    return experiment, shared


def _expanded(experiment: ExperimentConfig, shared: Settings) -> tuple[dict[str, Settings], dict[str, Grid]]:
    """Return the fields of each arm, or of its cells if it is a grid; and the grids by their arms."""
    axes = {key: value for key, value in shared.items() if is_axis(key, value)} | experiment.grid
    if wrong := next((key for key in experiment.grid if not is_axis(key, experiment.grid[key])), None):
        text = f"grid.{wrong}: a value of {wrong} is itself a list, so it cannot be a grid. Use an arm for each value."
        raise ConfigError("grid_not_possible", text)
    plain = {key: value for key, value in shared.items() if key not in axes}
    of_arms: dict[str, dict[str, list[Any]]] = {}
    fields: dict[str, Settings] = {}
    for arm, changes in experiment.arms.items():
        own = BUILT_IN_ARMS.get(arm, {}) | changes
        fields[arm] = plain | {key: value for key, value in own.items() if not is_axis(key, value)}
        inherited = {key: value for key, value in axes.items() if key not in own and not is_inert(key, fields[arm])}
        of_arms[arm] = inherited | {key: value for key, value in own.items() if is_axis(key, value)}
    if idle := next((key for key in axes if not any(key in each for each in of_arms.values())), None):
        text = f"The grid {idle}={axes[idle]} applies to no arm: each arm sets {idle} itself, or has jepa_lambda 0."
        raise ConfigError("setting_without_effect", f"{text} Remove it.")
    num_cells = sum(math.prod(map(len, each.values())) for each in of_arms.values())
    num_runs, most = count_runs(experiment, num_cells), experiment.max_runs
    if num_runs > most:
        text = f"This is {num_runs:,} runs, but max_runs is {most:,}. Try fewer values, or raise max_runs."
        raise ConfigError("too_many_runs", text)
    arms: dict[str, Settings] = {}
    grids: dict[str, Grid] = {}
    for arm, each in of_arms.items():
        cells: dict[str, Settings] = {arm: {}}
        if each:
            values = {key: [coerce(key, value, field_types()[key]) for value in some] for key, some in each.items()}
            grids[arm] = Grid.of(arm, values)
            cells = grids[arm].cells
        for cell, coordinates in cells.items():
            if cell in arms:
                text = f"Two arms have the name {cell!r}: one of them is a cell of a grid. Rename the other."
                raise ConfigError("name_repeated", text)
            arms[cell] = with_recipe(fields[arm] | coordinates, arm)
    return arms, grids


def is_axis(key: str, value: Any) -> bool:
    """Whether a field that takes a single value has a list of values: a grid."""
    return isinstance(value, list) and key in field_types() and list not in plain_types(field_types()[key])


def _with_arms(settings: Settings) -> Settings:
    """Read `arms: [ntp, jepa]` as well as `arms: {ntp: {}, jepa: {jepa_k: 2}}`."""
    arms = settings.get("arms")
    if isinstance(arms, list):
        arms = dict.fromkeys(map(str, arms))
    if isinstance(arms, dict):
        arms = {str(arm): {} if changes is None else changes for arm, changes in arms.items()}
        for arm, changes in arms.items():
            if not isinstance(changes, dict):
                text = f"arms.{arm} is {changes!r}; expected the fields that the arm changes, as key: value."
                raise ConfigError("wrong_type", text)
            if not changes and arm not in BUILT_IN_ARMS:
                text = f"Unknown arm {arm!r}: it is not built in, and changes no field.{nearest(arm, BUILT_IN_ARMS)} "
                text += f"Built in: {', '.join(BUILT_IN_ARMS)}. "
                raise ConfigError(
                    "unknown_arm", f"{text}Give any other arm its fields, such as `{arm}: {{jepa_k: 2}}`."
                )
    elif arms is not None:
        text = f"arms={arms!r}; expected names, or names with the fields that they change."
        raise ConfigError("wrong_type", text)
    return settings if arms is None else {**settings, "arms": arms}
