"""The cost of a run, from its settings and the `cost` of its eval.json. Nothing here loads a model.

steps x FLOPs of a step  +  FLOPs of a teacher: its training and its answers
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing transformers takes seconds, and a page of results does not need it
    from .settings import RunConfig


def step_flops(run: RunConfig, cost: Mapping[str, Any]) -> float | None:
    """Return the mean FLOPs of an optimizer step with all its batches; loss dropout makes some steps cheaper."""
    with_views, dropped = cost.get("flops_per_step"), cost.get("flops_per_dropped_step")
    if not with_views:
        return None
    share = run.jepa.jepa_loss_dropout if dropped else 0.0
    batches = cost.get("batches_per_step") or int(run.training.get("gradient_accumulation_steps", 1))
    return batches * ((1 - share) * with_views + share * (dropped or 0.0))


def step_time(run: RunConfig, cost: Mapping[str, Any]) -> float | None:
    """Return the median seconds of a step; None if none was timed.

    With loss dropout the median of all steps is that of one kind of steps. So the medians of both kinds are mixed by
    the rate of the dropout, as their FLOPs are. A run so short that it has steps of one kind has the median of these.
    """
    full, dropped = cost.get("full_step_time_s"), cost.get("dropped_step_time_s")
    share = run.jepa.jepa_loss_dropout
    if not share or full is None or dropped is None:
        return cost.get("step_time_s")
    return (1 - share) * full + share * dropped


def steps_time(run: RunConfig, report: Mapping[str, Any]) -> float | None:
    """Return the seconds of all steps of a run without evaluations and checkpoints; None if no step was timed."""
    step = step_time(run, report["cost"])
    return report["num_steps"] * step if step is not None and math.isfinite(step) else None


def teacher_flops(cost: Mapping[str, Any]) -> float:
    """Return the FLOPs of a run's teacher: its training and its answers; 0 without a teacher."""
    teacher = cost.get("teacher", {})
    return float(teacher.get("training_flops", 0.0) + teacher.get("answering_flops", 0.0))


def teacher_time(cost: Mapping[str, Any]) -> float:
    """Return the seconds of a run's teacher: of its training steps and its answers; 0 without a teacher.

    Its evaluations during training and its checkpoints do not count, as those of other runs do not.
    """
    teacher = cost.get("teacher", {})
    return float((teacher.get("training_steps_time_s") or 0.0) + teacher.get("answering_time_s", 0.0))


def run_flops(run: RunConfig, report: Mapping[str, Any]) -> float | None:
    """Return the FLOPs of a whole run with this eval.json, including its teacher's; None if nothing was counted."""
    step, teacher = step_flops(run, report["cost"]), teacher_flops(report["cost"])
    if step is None or "num_steps" not in report:
        return teacher or None
    return float(report["num_steps"] * step + teacher)
