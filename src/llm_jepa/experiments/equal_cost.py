"""Equal FLOPs and equal time: how many steps an arm may take for the cost of the baseline's run.

A JEPA step costs more than a plain step, so at equal steps the arm uses more computation. Here its number of steps is
scaled so that its whole run costs as much as the baseline's, including the training and the answers of a teacher.
Schedules that are shares of all steps (warm-up, decay, evaluations during training) scale with it. Only the arm is
scaled: the baseline has its runs of equal steps in every table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llm_jepa.runs.cost import step_flops, step_time, teacher_flops, teacher_time
from llm_jepa.runs.folder import ExperimentFolder, arm_at

if TYPE_CHECKING:  # a page of results must not wait for transformers
    from llm_jepa.runs.settings import RunConfig


@dataclass(frozen=True)
class Budget:
    """The steps of an arm's runs in one table; costs are in FLOPs or seconds."""

    kind: str  # `flops` or `time`
    arm: str  # at equal steps
    baseline: str
    max_steps: int  # 0 if no number of steps has that cost; then the arm is missing in the table
    baseline_steps: int
    cost: float  # of a step; 0 if it is not known
    baseline_cost: float
    fixed: float = 0.0  # the cost of the teacher
    baseline_fixed: float = 0.0

    @property
    def name(self) -> str:
        return arm_at(self.arm, self.kind)

    @property
    def ratio(self) -> float:
        """The cost of a step of the arm, as a multiple of that of the baseline."""
        return self.cost / self.baseline_cost if self.baseline_cost else 0.0

    @property
    def baseline_total(self) -> float:
        """The cost of the baseline's run."""
        return self.baseline_fixed + self.baseline_steps * self.baseline_cost

    @property
    def record(self) -> dict[str, Any]:
        """As JSON, with the ratio of a step's costs and both totals. These differ by at most half a step, unless
        `max_steps` is 0 or 1.
        """
        total = self.fixed + self.max_steps * self.cost
        return asdict(self) | {"ratio": self.ratio, "total": total, "baseline_total": self.baseline_total}

    def is_stale(self, now: Budget) -> bool:
        """Whether the baseline is no longer the one whose cost set these steps; counts differ by a few percent."""
        differs = self.kind == "flops" and not math.isclose(now.baseline_total, self.baseline_total, rel_tol=0.1)
        return differs or (self.baseline, self.baseline_steps) != (now.baseline, now.baseline_steps)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Budget:
        """Read a `record`."""
        return cls(**{name: record[name] for name in cls.__dataclass_fields__ if name in record})


def recorded(folder: ExperimentFolder, kind: str, arm: str) -> Budget | None:
    """Return the budget that an experiment's runs of an arm began with; None if there are no such runs.

    It is not computed again: a median over more seeds could be different, and the runs could not be compared.
    """
    for run in folder.runs_of(arm_at(arm, kind)).values():
        if (record := run.budget()) is not None:
            return Budget.from_json(record)
    return None


def plan(
    kind: str,
    arm: str,
    baseline: str,
    runs: Mapping[str, RunConfig],
    records: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Budget:
    """Return the budget of an arm, from the FLOPs or times of the runs of equal steps.

    FLOPs are counted, the same on every machine; the time is the median step time, measured on this machine. `records`
    are the eval.json of each arm, one a seed. An arm that trains nothing has no steps, and no cost of them.
    """
    cost, baseline_cost = (_cost(kind, runs[each], records[each]) for each in (arm, baseline))
    fixed, baseline_fixed = (_fixed(kind, records[each]) for each in (arm, baseline))
    baseline_steps = round(statistics.median(record["num_steps"] for record in records[baseline]))
    left = baseline_fixed + baseline_steps * baseline_cost - fixed
    max_steps = max(1, round(left / cost)) if left > 0 and cost and baseline_cost else 0
    return Budget(kind, arm, baseline, max_steps, baseline_steps, cost, baseline_cost, fixed, baseline_fixed)


def _fixed(kind: str, records: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean cost of an arm's teacher over its seeds; 0 without a teacher."""
    cost_of = teacher_flops if kind == "flops" else teacher_time
    return statistics.fmean(cost_of(each["cost"]) for each in records)


def _cost(kind: str, run: RunConfig, records: Sequence[Mapping[str, Any]]) -> float:
    """Return the cost of a step of an arm, 0 if unknown: the mean (FLOPs) or median (time) over its seeds."""
    cost_of, middle = (step_flops, statistics.fmean) if kind == "flops" else (step_time, statistics.median)
    known = [cost for each in records if (cost := cost_of(run, each["cost"])) and math.isfinite(cost)]
    return middle(known) if known else 0.0
