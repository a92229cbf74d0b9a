"""The results of an experiment, as one object. Tables, figures, pages and model cards only show it.

    Results                 metric, baseline, settings, runs, notes
      tests: SetResults     one for each test set, the main one first
        arms: ArmResult     values by seed, retrieval, cost, collapse alarms
        comparisons         each arm against the baseline; `controls`: an arm against its controls
      grids: GridResults    the cells of each arm that is a grid
      at_equal: Results     the same comparison, with runs of equal FLOPs or equal time

`to_json` and `from_json` are the contract of results.json. An unknown value is None, never
nan. Only means and deviations are computed here; `build_results` computes the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np

from llm_jepa.data.config import MAIN_TEST

from .equal_cost import Budget
from .statistics import PairedComparison

RETRIEVAL_KEYS = ("recall@1", "recall@10", "mrr")
BUDGET_TITLES = {"flops": "At equal FLOPs", "time": "At equal time"}

Json = dict[str, Any]


@dataclass(frozen=True)
class SeedValues:
    """A value for each seed, with mean (None without a seed) and standard deviation (n - 1; None below two seeds)."""

    seeds: Mapping[int, float] = field(default_factory=dict)
    mean: float | None = field(init=False)
    std: float | None = field(init=False)
    n: int = field(init=False)

    def __post_init__(self) -> None:
        values = list(self.seeds.values())
        object.__setattr__(self, "mean", fmean(values) if values else None)
        object.__setattr__(self, "std", float(np.std(values, ddof=1)) if len(values) > 1 else None)
        object.__setattr__(self, "n", len(values))

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> SeedValues:
        return cls(_by_seed(record["seeds"]))


@dataclass(frozen=True)
class Cost:
    """What an arm costs, as a multiple of the baseline."""

    step_time_ratio: float | None = None
    flops_ratio: float | None = None  # of a step
    run_flops_ratio: float | None = None  # of all steps; with a teacher, also of its training and its answers


@dataclass(frozen=True)
class Alarm:
    """Whether the collapse alarm of a run was raised, from which step, and why: `CollapseAlarm.summary()`."""

    alarmed: bool
    first_step: int | None = None
    reason: str | None = None
    recovered: bool = False


@dataclass(frozen=True)
class RunResult:
    """The values of one run's eval.json, and its collapse alarm."""

    arm: str
    seed: int  # it pairs the run with the other arms' runs
    metrics: Mapping[str, float | None] = field(default_factory=dict)  # None or nan: not measured
    alarm: Alarm | None = None  # None: not monitored

    @classmethod
    def from_eval(cls, arm: str, seed: int, record: Mapping[str, Any]) -> RunResult:
        """Build from an eval.json: its numbers are metrics, its `alarm` the alarm.

        Nested numbers are named `outer/inner`. Text, lists and booleans are not metrics and are left out.
        """
        metrics = _flat_numbers({key: value for key, value in record.items() if key != "alarm"})
        alarm = record.get("alarm")
        return cls(arm, seed, metrics, None if alarm is None else Alarm(**alarm))

    def metric(self, name: str) -> float | None:
        """Return a metric by its name, or a retrieval metric by the last part of its name; None if not measured."""
        return known(self.metrics.get(name, self.metrics.get(f"retrieval/{name}")))


@dataclass(frozen=True)
class ArmResult:
    """One arm on one test set."""

    name: str
    values: SeedValues  # the metric
    retrieval: Mapping[str, SeedValues] = field(default_factory=dict)  # by RETRIEVAL_KEYS, if they were measured
    views_retrieval: Mapping[str, SeedValues] = field(default_factory=dict)  # the same for held-out rows of views_file
    cost: Cost = field(default_factory=Cost)
    alarms: Mapping[int, Alarm] = field(default_factory=dict)  # by seed, of the runs that were monitored

    @property
    def raised(self) -> dict[int, Alarm]:
        """The alarms that were raised."""
        return {seed: alarm for seed, alarm in self.alarms.items() if alarm.alarmed}

    @property
    def recovered(self) -> dict[int, Alarm]:
        """The raised alarms whose run had recovered at the last check."""
        return {seed: alarm for seed, alarm in self.raised.items() if alarm.recovered}


@dataclass(frozen=True)
class SetResults:
    """What was found on one test set."""

    arms: Mapping[str, ArmResult]  # the baseline first
    comparisons: tuple[PairedComparison, ...] = ()  # each other arm against the baseline
    # An arm against each of its controls (`baseline`). The claim needs all of them, so no p-value is corrected.
    controls: tuple[PairedComparison, ...] = ()

    def comparison_of(self, arm: str) -> PairedComparison | None:
        """Return the comparison of an arm with the baseline; None for the baseline."""
        return next((each for each in self.comparisons if each.arm == arm), None)

    def controls_of(self, arm: str) -> list[PairedComparison]:
        """Return the comparisons of an arm with its controls."""
        return [each for each in self.controls if each.arm == arm]

    @property
    def has_views_retrieval(self) -> bool:
        return any(arm.views_retrieval for arm in self.arms.values())

    def to_json(self) -> Json:
        return {
            "arms": {name: asdict(arm.values) for name, arm in self.arms.items()},
            "comparisons": [_comparison_json(each) for each in self.comparisons],
            "controls": [_comparison_json(each) for each in self.controls],
            "retrieval": _retrieval_json(self.arms, "retrieval"),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], shared: Mapping[str, Any]) -> SetResults:
        """Read one test set; `shared` holds what all test sets have in common (cost, alarms, held-out views)."""
        arms = {
            name: ArmResult(
                name,
                SeedValues.from_json(values),
                _read_retrieval(record.get("retrieval", {}).get(name, {})),
                _read_retrieval(shared.get("views_retrieval", {}).get(name, {})),
                Cost(**shared.get("cost", {}).get(name, {})),
                {seed: Alarm(**each) for seed, each in _by_seed(shared.get("alarms", {}).get(name, {})).items()},
            )
            for name, values in record["arms"].items()
        }
        comparisons, controls = (map(_read_comparison, record.get(key, [])) for key in ("comparisons", "controls"))
        return cls(arms, tuple(comparisons), tuple(controls))


@dataclass(frozen=True)
class Cell:
    """One setting of a grid."""

    arm: str  # its name among the arms
    coordinates: Mapping[str, Any]  # field to value
    validation: SeedValues  # the values by which cells are chosen
    test: SeedValues  # the metric
    failed: Mapping[int, str] = field(default_factory=dict)  # seed to how its run failed
    chosen: bool = False

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Cell:
        sides = {side: SeedValues.from_json(record[side]) for side in ("validation", "test")}
        return cls(**{**record, **sides, "failed": _by_seed(record["failed"])})


@dataclass(frozen=True)
class GridResults:
    """All cells of an arm that is a grid, also those that failed."""

    arm: str
    axes: Mapping[str, Sequence[Any]]  # field to its values
    choose_by: str  # the value by which the best cell is chosen, on validation rows
    higher_is_better: bool
    metric: str  # on test rows
    chosen: str | None  # None while no cell is chosen
    cells: tuple[Cell, ...]

    @property
    def chosen_by_share(self) -> bool:
        """Whether cells are chosen by a share, which is printed in percent."""
        return self.choose_by in (self.metric, "retrieval@1")

    @property
    def shown_cell(self) -> Cell:
        """The chosen cell, or the first if none is chosen."""
        return next((cell for cell in self.cells if cell.chosen), self.cells[0])

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> GridResults:
        return cls(**{**record, "cells": tuple(Cell.from_json(cell) for cell in record["cells"])})


@dataclass(frozen=True)
class Results:
    """The results of an experiment.

    Attributes:
        metric: The metric on which arms are compared, a share in [0, 1], higher is better.
        headline: The arm whose comparison is the first in a report; None for the first arm.
        tests: Test set to its results; the first is the main one.
        runs: Every number of every run.
        settings: What a reader needs to repeat the experiment, and what was found in its data (`data`).
        notes: Sentences that a reader must know.
        budgets: In a comparison at equal cost: arm to the steps that it took. None at equal steps.
        at_equal: `flops` and `time` to the comparison at that equal cost, if it was made.
    """

    metric: str
    baseline: str
    tests: Mapping[str, SetResults]
    headline: str | None = None
    runs: tuple[RunResult, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    grids: Mapping[str, GridResults] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    budgets: Mapping[str, Budget] | None = None
    at_equal: Mapping[str, Results] = field(default_factory=dict)

    @property
    def main(self) -> SetResults:
        """What was found on the main test set."""
        return next(iter(self.tests.values()))

    @property
    def arms(self) -> Mapping[str, ArmResult]:
        """The arms on the main test set."""
        return self.main.arms

    @property
    def several_tests(self) -> bool:
        """Whether there are test sets in addition to the main one, so that each must be named."""
        return len(self.tests) > 1

    @property
    def other_tests(self) -> Mapping[str, Results]:
        """Each further test set as if it were the only one, so that a table of it is made in the same way."""
        return {name: replace(self, tests={name: found}) for name, found in list(self.tests.items())[1:]}

    @property
    def costs_of_runs_differ(self) -> bool:
        """Whether a run and a step cost different multiples of the baseline's, due to a teacher or to more steps."""
        costs = [arm.cost for arm in self.arms.values() if arm.cost.run_flops_ratio is not None]
        return any(not math.isclose(each.run_flops_ratio or 0, each.flops_ratio or 0, rel_tol=0.01) for each in costs)

    @property
    def metric_name(self) -> str:
        return self.metric.replace("_", " ")

    @property
    def verdicts(self) -> dict[str, str]:
        """Arm to the verdict on the main test set."""
        return {each.arm: each.verdict for each in self.main.comparisons}

    def times(self, name: str, arm: str | None = None) -> list[float]:
        """Return a time of each run in seconds, by its name in eval.json, of all arms or one; unknown ones left out."""
        times = [run.metric(name) for run in self.runs if arm in (None, run.arm)]
        return [time for time in times if time is not None]

    def to_json(self) -> Json:
        """Return what results.json holds."""
        arms, main = self.arms, self.main.to_json()
        retrieval = main.pop("retrieval")
        record = {
            "metric": self.metric,
            "baseline": self.baseline,
            "headline": self.headline,
            **main,
            "cost": {name: asdict(arm.cost) for name, arm in arms.items()},
            "retrieval": retrieval,
            "views_retrieval": _retrieval_json(arms, "views_retrieval"),
            "alarms": {
                name: {seed: asdict(alarm) for seed, alarm in arm.alarms.items()}
                for name, arm in arms.items()
                if arm.alarms
            },
            "settings": dict(self.settings),
            "runs": [{"arm": run.arm, "seed": run.seed, "metrics": dict(run.metrics)} for run in self.runs],
        }
        if self.budgets is None:
            record["grids"] = {name: asdict(grid) for name, grid in self.grids.items()}
        else:
            record["budgets"] = {name: budget.record for name, budget in self.budgets.items()}
        record["notes"] = list(self.notes)
        record |= {f"equal_{kind}": again.to_json() for kind, again in self.at_equal.items()}
        if self.several_tests:
            record["tests"] = {name: found.to_json() for name, found in self.tests.items()}
        plain: Json = json.loads(json.dumps(record))  # only JSON's types: seeds as keys become text, tuples lists
        return plain

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Results:
        """Read the contents of a results.json, also of an earlier version."""
        tests = record.get("tests") or {MAIN_TEST: record}
        budgets = record.get("budgets")
        return cls(
            metric=record["metric"],
            baseline=record["baseline"],
            headline=record.get("headline"),
            tests={name: SetResults.from_json(found, record) for name, found in tests.items()},
            runs=tuple(RunResult(run["arm"], run["seed"], run.get("metrics", {})) for run in record.get("runs", [])),
            settings=record.get("settings", {}),
            grids={name: GridResults.from_json(grid) for name, grid in record.get("grids", {}).items()},
            notes=tuple(record.get("notes", [])),
            budgets=budgets and {name: Budget.from_json(each) for name, each in budgets.items()},
            at_equal={
                kind: cls.from_json(record[f"equal_{kind}"]) for kind in BUDGET_TITLES if f"equal_{kind}" in record
            },
        )


def known(value: float | None) -> float | None:
    """Return a finite number as it is, and anything else as None: JSON has no nan."""
    return float(value) if value is not None and math.isfinite(value) else None


def _comparison_json(c: PairedComparison) -> Json:
    return {
        "arm": c.arm,
        "baseline": c.baseline,
        "delta": c.delta,
        "ci95": c.ci,
        "p_value": c.p_value,
        "p_holm": c.p_holm,
        "verdict": c.verdict,
        "n": c.n,
        "sign_flip_p": c.sign_flip_p,
        "smallest_detectable": c.smallest_detectable,
        "differences": c.differences,
        "missing_seeds": c.missing,
        "reason": c.reason or None,
        "sentence": c.sentence,
        "margin_points": c.margin_points,
        "p_margin": c.p_margin,
        "p_margin_holm": c.p_margin_holm,
        "not_worse_shown": None if c.margin is None else c.not_worse_shown,
    }


def _read_comparison(record: Mapping[str, Any]) -> PairedComparison:
    same_names = ("arm", "baseline", "delta", "p_value", "p_holm", "n", "sign_flip_p", "smallest_detectable")
    same: Json = {key: record.get(key) for key in (*same_names, "p_margin", "p_margin_holm")}
    margin = record.get("margin_points")
    return PairedComparison(
        **same,
        ci=record.get("ci95") and tuple(record["ci95"]),
        differences=_by_seed(record.get("differences", {})),
        missing=record.get("missing_seeds", {}),
        reason=record.get("reason") or "",
        sentence=record["sentence"],
        margin=None if margin is None else margin / 100,
    )


def _by_seed(record: Mapping[str, Any]) -> dict[int, Any]:
    return {int(seed): value for seed, value in record.items()}


def _retrieval_json(arms: Mapping[str, ArmResult], which: str) -> Json:
    found = {name: getattr(arm, which) for name, arm in arms.items()}
    return {name: {key: asdict(values) for key, values in by_key.items()} for name, by_key in found.items() if by_key}


def _read_retrieval(record: Mapping[str, Any]) -> dict[str, SeedValues]:
    return {key: SeedValues.from_json(values) for key, values in record.items()}


def _flat_numbers(record: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    numbers: dict[str, float | None] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            numbers |= _flat_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}{key}"] = float(value)
    return numbers
