"""The weight of the JEPA term over the steps: a linear warm-up from 0, then constant or falling to 0.

A pure function of the step and the number of steps, so that a resumed run, and every process, has the same weight.
"""

from __future__ import annotations

import math

SCHEDULES = ("constant", "linear", "cosine")


def lambda_factor(step: int, num_steps: int, warmup: float = 0.0, schedule: str = "constant") -> float:
    """Return what `jepa_lambda` is multiplied by in a step, between 0 and 1.

    The shapes are those of transformers' schedules of the learning rate. The first step of a warm-up has the factor
    0; a schedule that falls would reach 0 one step after the last.

    Args:
        step: Number of the optimizer step, from 0.
        num_steps: Optimizer steps of the whole run; counts only where `warmup` is a share or the weight falls.
        warmup: Steps of the warm-up; below 1, a share of all steps, rounded up.
        schedule: constant, linear or cosine: the shape after the warm-up.

    >>> [lambda_factor(step, 6, warmup=2, schedule="linear") for step in range(6)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]
    """
    warmup_steps = math.ceil(warmup * num_steps) if warmup < 1 else math.ceil(warmup)
    if step < warmup_steps:
        return step / warmup_steps
    if schedule == "constant":
        return 1.0
    done = min((step - warmup_steps) / max(num_steps - warmup_steps, 1), 1.0)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
