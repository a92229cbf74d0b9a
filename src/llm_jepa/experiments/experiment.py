"""From a flat YAML file to the checked settings of an experiment: arms x seeds, and grids.

The fields of `ExperimentConfig` stand in the same file as those of a run (`runs/settings.py`). The latter hold for
every arm.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_jepa.errors import ConfigError, nearest
from llm_jepa.runs.folder import ExperimentFolder
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
from .grids import Grid, count_cells, is_inert
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
    """What is compared. Fields of a run stand beside these in the same file, and hold for every arm.

    Raises:
        ValueError: If there is no arm or no seed, or a name or number cannot be used.
    """

    arms: dict[str, Settings] = field(
        default_factory=lambda: {"ntp": {}, "jepa": {}, "jepa_shuffled": {}},
        metadata={
            "help": "Arms by name, each with the fields that it changes. Built in: ntp (jepa_lambda 0), jepa, "
            "jepa_shuffled (code views of other pairs), jepa_lambda0 (the JEPA path with jepa_lambda 0). A list of "
            "values is a grid (docs/sweeps.md)."
        },
    )
    baseline: str = field(default="ntp", metadata={"help": "The arm that all others are compared with."})
    question: str | None = field(
        default=None,
        metadata={
            "help": "The arm that reports open with, whatever the result. Default: the first arm with a JEPA term on "
            "matching views. Set it before you see results."
        },
    )
    seeds: list[int] = field(
        default_factory=lambda: list(DEFAULT_SEEDS),
        metadata={"help": "Seeds, each run in every arm. Six or more are advised."},
    )
    workers: int = field(default=2, metadata={"help": "Runs at the same time."})
    grid: dict[str, list[Any]] = field(
        default_factory=dict,
        metadata={
            "help": "Fields with several values each, for every arm that does not set them itself (docs/sweeps.md). "
            "Fields of the objective are for arms with a JEPA term only."
        },
    )
    choose_by: str | None = field(
        default=None,
        metadata={
            "help": "What a grid's best cell is chosen by, on validation rows: the metric (default), ce_loss, gap or "
            "retrieval@1."
        },
    )
    compare_at: list[str] = field(
        default_factory=lambda: ["steps"],
        metadata={
            "help": "steps: arms train for the same number of steps. flops, time: also for as many steps as the "
            "baseline's FLOPs or time allow (docs/sweeps.md)."
        },
    )
    margin: float | None = field(
        default=None,
        metadata={
            "help": "Largest loss, in points, that does not matter to you (docs/statistics.md). Set it before you "
            "see results."
        },
    )
    executor: str = field(
        default="local",
        metadata={"help": "Where runs are done: local, or ray (a Ray cluster; extra [ray])."},
    )
    resources: dict[str, float] = field(
        default_factory=dict,
        metadata={
            "help": "What a run takes, such as {cpus: 1, gpus: 0}. Default: local, its share of the cores and every "
            "GPU; ray, one CPU and no GPU."
        },
    )
    max_retries: int = field(
        default=1,
        metadata={"help": "How often a run is tried again that a signal ended or that was lost with its worker."},
    )
    max_runs: int = field(default=1000, metadata={"help": "More runs than this are refused before any starts."})

    def __post_init__(self) -> None:
        if not self.arms:
            raise ValueError("arms is empty. Name at least two, ntp and jepa say.")
        for arm in self.arms:
            if not arm or not all(char.isalnum() or char in "_-." for char in arm) or arm.startswith("."):
                raise ValueError(f"The arm {arm!r} names a folder: use letters, digits, '_', '-' and '.' only.")
        if self.baseline not in self.arms:
            raise ValueError(f"baseline={self.baseline!r} is not one of the arms: {', '.join(self.arms)}.")
        self._check_question()
        if not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in self.seeds):
            raise ValueError(f"seeds={self.seeds} must be whole numbers, such as [82, 23, 37].")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds} must be at least one number, none of them twice.")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise ValueError(f"seeds={self.seeds} must lie between 0 and 2**32 - 1.")
        for name, least in (("workers", 1), ("max_retries", 0), ("max_runs", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if self.margin is not None and not 0 < self.margin < 100:
            raise ValueError(f"margin={self.margin} must be a number of points between 0 and 100, such as 1.0.")
        self._check_sweep()

    def _check_question(self) -> None:
        others = [arm for arm in self.arms if arm != self.baseline]
        if self.question == self.baseline:
            raise ValueError(f"question={self.question!r} is the baseline. Name the arm that is compared with it.")
        if self.question is not None and self.question not in others:
            hint = nearest(self.question, others)
            raise ValueError(f"question={self.question!r} is not one of the arms: {', '.join(others)}.{hint}")

    def _check_sweep(self) -> None:
        if self.executor not in EXECUTORS:
            raise ValueError(f"executor={self.executor!r} is not one of: {', '.join(EXECUTORS)}.")
        if not set(self.compare_at) <= set(BUDGETS) or len(set(self.compare_at)) < len(self.compare_at):
            raise ValueError(f"compare_at={self.compare_at} must name some of: {', '.join(BUDGETS)}; none twice.")
        if "steps" not in self.compare_at:
            raise ValueError(
                f"compare_at={self.compare_at} lacks steps: what a step costs is measured in runs of equal steps, and "
                "the others are scaled by it. Add steps."
            )
        for name, value in self.resources.items():
            if name not in RESOURCES:
                raise ValueError(f"resources.{name} is not one of: {', '.join(RESOURCES)}.{nearest(name, RESOURCES)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"resources.{name}={value!r} must be a number, 0 or more.")
        if self.executor == "local" and (cpus := self.resources.get("cpus", 1)) != int(cpus):
            raise ValueError(f"resources.cpus={cpus} are threads of a run here: a whole number is needed.")
        for name, values in self.grid.items():
            if not isinstance(values, list):
                raise ValueError(f"grid.{name}={values!r} must be a list of values. Set one value outside of grid.")


@dataclass(frozen=True)
class Experiment:
    """An experiment whose settings are checked and whose folder is its own.

    Attributes:
        config: Arms, seeds, baseline.
        runs: Checked settings of each arm, or cell of one, with the data files named.
        folder: Where everything goes.
        notes: What was found in the data, a line of counts, then sentences; and what is to be known of the grids.
        grids: The arms that are grids.
        estimates: Of a dry run: arm to what the training of one run takes, where runs of it are not done.
    """

    config: ExperimentConfig
    runs: dict[str, RunConfig]
    folder: ExperimentFolder
    notes: list[str]
    grids: dict[str, Grid] = field(default_factory=dict)
    estimates: dict[str, Estimate] = field(default_factory=dict)

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
        run = self.runs.get(arm)
        after = self.job(run.teacher.teacher, seed) if run is not None and run.teacher.teacher else None
        return Job(arm, seed, self.folder.run(arm, seed), run, after)

    def cells_of(self, arm: str) -> list[str]:
        """Return the cells of an arm; itself, where it is no grid."""
        return list(self.grids[arm].cells) if arm in self.grids else [arm]


def read_experiment(settings: Settings, *, trains: bool = True) -> tuple[ExperimentConfig, dict[str, RunConfig]]:
    """Check flat settings as an experiment; return it and the run settings of each arm, or cell (without seed).

    Args:
        settings: The settings.
        trains: Whether this machine is to train the runs. A report is made of runs that another has trained.

    Raises:
        ConfigError: If a key is unknown, a value wrong, or an arm changes what belongs to the experiment.
    """
    experiment, shared = _split(settings)
    arms, _ = _expanded(experiment, shared)
    runs = {}
    for arm, own in arms.items():
        try:
            runs[arm] = read_run(own, trains=trains)
        except ConfigError as error:
            raise ConfigError(f"In arm {arm}: {error}") from error
    _check_teachers(runs)
    check_name(experiment.choose_by, next(iter(runs.values())).evaluation.metric)
    return experiment, runs


def _check_teachers(runs: Mapping[str, RunConfig]) -> None:
    """Make sure that each teacher is an arm, one cell, that has no teacher itself."""
    for arm, run in runs.items():
        teacher = run.teacher.teacher
        if teacher is None:
            continue
        if teacher not in runs:
            raise ConfigError(
                f"In arm {arm}: teacher={teacher} is no arm.{nearest(teacher, runs)} Add it, or name one."
            )
        if runs[teacher].teacher.teacher is not None:
            raise ConfigError(f"In arm {arm}: teacher={teacher} has a teacher itself. Name an arm without one.")


def read_grids(settings: Settings) -> dict[str, Grid]:
    """Return the arms of an experiment that are grids, with their cells.

    Raises:
        ConfigError: If `read_experiment` would refuse the fields, or there are more runs than `max_runs`.
    """
    return _expanded(*_split(settings))[1]


def count_runs(experiment: ExperimentConfig, num_cells: int) -> int:
    """Return the most runs that an experiment may come to: cells x seeds, and those of equal FLOPs and time."""
    return len(experiment.seeds) * (num_cells + (len(experiment.arms) - 1) * (len(experiment.compare_at) - 1))


def about_grids(config: ExperimentConfig, grids: dict[str, Grid]) -> list[str]:
    """Return what a reader must know of the grids: the baseline should be tuned as much as what it is compared with."""
    if not grids:
        return []
    counts = {arm: len(grids[arm].cells) if arm in grids else 1 for arm in config.arms}
    notes = [
        f"{arm} is a grid of {counts[arm]} cells: {', '.join(f'{key} {each}' for key, each in grid.axes.items())}."
        for arm, grid in grids.items()
    ]
    if uneven := [arm for arm in counts if arm != config.baseline and counts[arm] != counts[config.baseline]]:
        others = ", ".join(f"{arm} {counts[arm]}" for arm in uneven)
        notes.append(
            f"Not tuned alike: the baseline {config.baseline} has {counts[config.baseline]} "
            f"cell{'s' if counts[config.baseline] > 1 else ''}, {others}. The best of many is better than one by "
            "chance alone; give the baseline a grid of as many cells, of learning_rate say."
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
        raise ConfigError(f"{twice} is set beside grid.{twice}. Leave one of them out.")
    for arm, changes in experiment.arms.items():
        for key in changes:
            if key in own:
                raise ConfigError(f"arms.{arm}.{key} belongs to the experiment. Set {key} outside of arms.")
        try:
            check_keys(changes)
        except ConfigError as error:
            raise ConfigError(f"In arm {arm}: {error}") from error
    return experiment, shared


def _expanded(experiment: ExperimentConfig, shared: Settings) -> tuple[dict[str, Settings], dict[str, Grid]]:
    """Return the fields of each arm, cells in the place of grids; and the grids by their arms."""
    axes = {key: value for key, value in shared.items() if is_axis(key, value)} | experiment.grid
    if wrong := next((key for key in experiment.grid if not is_axis(key, experiment.grid[key])), None):
        raise ConfigError(f"grid.{wrong} takes a list as its value, and cannot be a grid. Make arms of it.")
    plain = {key: value for key, value in shared.items() if key not in axes}
    of_arms: dict[str, dict[str, list[Any]]] = {}
    fields: dict[str, Settings] = {}
    for arm, changes in experiment.arms.items():
        own = BUILT_IN_ARMS.get(arm, {}) | changes
        fields[arm] = plain | {key: value for key, value in own.items() if not is_axis(key, value)}
        inherited = {key: value for key, value in axes.items() if key not in own and not is_inert(key, fields[arm])}
        of_arms[arm] = inherited | {key: value for key, value in own.items() if is_axis(key, value)}
    for key in axes:
        if not any(key in each for each in of_arms.values()):
            raise ConfigError(f"{key}={axes[key]} is a grid for no arm: each sets {key} itself, or has jepa_lambda 0.")
    num_runs = count_runs(experiment, sum(map(count_cells, of_arms.values())))
    if num_runs > experiment.max_runs:
        raise ConfigError(
            f"This is {num_runs:,} runs, and max_runs is {experiment.max_runs:,}. Try fewer values, or raise max_runs."
        )
    arms: dict[str, Settings] = {}
    grids: dict[str, Grid] = {}
    for arm, each in of_arms.items():
        values = {key: [coerce(key, value, field_types()[key]) for value in some] for key, some in each.items()}
        cells = {arm: {}} if not each else Grid.of(arm, values).cells
        if each:
            grids[arm] = Grid.of(arm, values)
        for cell, coordinates in cells.items():
            if cell in arms:
                raise ConfigError(f"Two arms are named {cell!r}: one of them is a cell of a grid. Rename the other.")
            arms[cell] = with_recipe(fields[arm] | coordinates, arm)
    return arms, grids


def is_axis(key: str, value: Any) -> bool:
    """Whether a field has a list of values where it takes one: a grid."""
    return isinstance(value, list) and key in field_types() and list not in plain_types(field_types()[key])


def _with_arms(settings: Settings) -> Settings:
    """Read `arms: [ntp, jepa]` as well as `arms: {ntp: {}, jepa: {jepa_k: 2}}`."""
    arms = settings.get("arms")
    if isinstance(arms, list):
        arms = dict.fromkeys(map(str, arms))
    if isinstance(arms, dict):
        arms = {str(arm): changes or {} for arm, changes in arms.items()}
        for arm, changes in arms.items():
            if not isinstance(changes, dict):
                raise ConfigError(f"arms.{arm} is {changes!r}; expected the fields that it changes, as key: value.")
            if not changes and arm not in BUILT_IN_ARMS:
                raise ConfigError(
                    f"Unknown arm {arm!r}: not built in, and it changes no field.{nearest(arm, BUILT_IN_ARMS)} "
                    f"Built in: {', '.join(BUILT_IN_ARMS)}. Give any other as `{arm}: {{jepa_k: 2}}`, say."
                )
    elif arms is not None:
        raise ConfigError(f"arms={arms!r}; expected names, or names with the fields that they change.")
    return settings if arms is None else {**settings, "arms": arms}
