"""What changes from step to step: the weight of the JEPA term, and the random numbers of a step.

All are functions of the step's number and of the run's seed. So they are the same in every process, every micro-batch
and a resumed run. Nothing has to be saved, and the global random stream is not used.
"""

from __future__ import annotations

import math

import torch

SCHEDULES = ("constant", "linear", "cosine")

LOSS_DROPOUT = 0x6A657061  # each use has its own stream of random numbers, although all have the same seed
SIGREG = 0x73696772
TUBE = 0x74756265


def lambda_factor(step: int, num_steps: int, schedule: str) -> float:
    """Return what `jepa_lambda` is multiplied by in a step, from 0 to 1.

    The shapes are those of transformers' learning-rate schedules. A falling weight would be 0 one step after the last
    step.

    Args:
        step: Number of the optimizer step, from 0.
        num_steps: Optimizer steps of the whole run.
        schedule: constant, linear or cosine.

    >>> [lambda_factor(step, 4, "linear") for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    if schedule == "constant":
        return 1.0
    done = min(step / max(num_steps, 1), 1.0)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def is_dropped(rate: float, seed: int, step: int) -> bool:
    """Whether loss dropout leaves the JEPA term out of a step (paper, Table 6); `rate` is the share of such steps."""
    return rate > 0 and torch.rand((), generator=generator(seed, step, LOSS_DROPOUT)).item() < rate


def mix(seed: int, step: int, stream: int) -> int:
    """Return a seed for the numbers of one step and one use, in [0, 2^63)."""
    return (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + stream) % 2**63


def generator(seed: int, step: int, stream: int) -> torch.Generator:
    """Return a generator, on the CPU, of the numbers of one step and one use."""
    return torch.Generator().manual_seed(mix(seed, step, stream))
