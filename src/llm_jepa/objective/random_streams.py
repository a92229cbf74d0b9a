"""Random numbers of an optimizer step, as a function of (seed, step) and of what they are for.

Whoever asks about a step gets the same numbers, in any process, after a resume, and however the step was split into
micro-batches; the global random stream is not touched. A stream that is drawn from would have to be saved, and kept
equal over processes.
"""

from __future__ import annotations

import torch

LOSS_DROPOUT = 0x6A657061  # each use has a stream of its own, though all start from one seed
SIGREG = 0x73696772
TUBE = 0x74756265


def mix(seed: int, step: int, stream: int) -> int:
    """Return a seed for the numbers of one step and one use, in [0, 2^63)."""
    return (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + stream) % 2**63


def generator(seed: int, step: int, stream: int) -> torch.Generator:
    """Return a generator, on the CPU, of the numbers of one step and one use."""
    return torch.Generator().manual_seed(mix(seed, step, stream))
