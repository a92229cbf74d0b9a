"""Loss dropout: the JEPA term is left out of a share of the optimizer steps (paper, Table 6)."""

from __future__ import annotations

import torch

from .random_streams import LOSS_DROPOUT, generator


class LossDropout:
    """Decide step by step whether the JEPA term is left out.

    The decision is a function of (seed, step): see `random_streams.py`.

    Args:
        rate: Share of the steps to drop, in [0, 1).
        seed: The run's seed.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self.rate = rate
        self.seed = seed

    def drops(self, step: int) -> bool:
        """Whether the term is left out of optimizer step `step`, 0 or more."""
        if self.rate == 0:
            return False
        return torch.rand((), generator=generator(self.seed, step, LOSS_DROPOUT)).item() < self.rate
