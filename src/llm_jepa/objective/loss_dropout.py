"""Loss dropout: the JEPA term is left out of a share of the optimizer steps (paper, Table 6)."""

from __future__ import annotations

import torch

_STREAM = 0x6A657061  # keeps this stream apart from others that start from the same seed


class LossDropout:
    """Decide step by step whether the JEPA term is left out.

    The decision is a function of (seed, step): whoever asks about a step gets the same answer, in any
    process, after a resume, and however the step was split into micro-batches. The global random stream is
    not touched.

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
        mixed = (self.seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + _STREAM) % 2**63
        return torch.rand((), generator=torch.Generator().manual_seed(mixed)).item() < self.rate
