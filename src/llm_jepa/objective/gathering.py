"""The targets of all processes, for a distance whose negatives are the batch's other targets.

Letters: B pairs of this process, N pairs of all, C hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_targets(targets: Tensor) -> tuple[Tensor, int]:
    """Return the targets of all processes by rank, (N, C), and the row at which this process's own begin.

    Every process must call it, one without a pair (B = 0) as well. Where gradients flow through targets, each one
    gets what the losses of all processes ask of it.

    Args:
        targets: This process's, (B, C); B may differ between processes.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return targets, 0
    counts = [torch.zeros((), dtype=torch.int64, device=targets.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor(len(targets), device=targets.device))
    sizes = [int(count) for count in counts]
    return _Gather.apply(targets, sizes), sum(sizes[: dist.get_rank()])


class _Gather(torch.autograd.Function):
    """Concatenation over processes; its gradient is the sum of theirs, of which each takes its own rows."""

    @staticmethod
    def forward(ctx: Any, targets: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        # Collectives want one shape: the short ones are filled with zeros, which are cut off again.
        padded = targets.new_zeros(max(sizes), targets.shape[1])
        padded[: len(targets)] = targets
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded)
        return torch.cat([each[:size] for each, size in zip(gathered, sizes, strict=True)])  # (N, C)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        start = sum(ctx.sizes[: dist.get_rank()])
        return summed[start : start + ctx.sizes[dist.get_rank()]], None
