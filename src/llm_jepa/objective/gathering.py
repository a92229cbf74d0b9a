"""The embeddings of all processes, for what depends on the other pairs of the batch.

Letters: B pairs of this process, N pairs of all, C hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Return the rows of all processes by rank, (N, C), and the number of the first of this process's own.

    Every process must call it, one without a pair (B = 0) as well. Where gradients flow through rows, each one
    gets what the losses of all processes ask of it.

    Args:
        rows: This process's, (B, C); B may differ between processes.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows, 0
    counts = [torch.zeros((), dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor(len(rows), device=rows.device))
    sizes = [int(count) for count in counts]
    return _Gather.apply(rows, sizes), sum(sizes[: dist.get_rank()])


class _Gather(torch.autograd.Function):
    """Concatenation over processes; its gradient is the sum of theirs, of which each takes its own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        # Collectives want one shape: the short ones are filled with zeros, which are cut off again.
        padded = rows.new_zeros(max(sizes), rows.shape[1])
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded)
        return torch.cat([each[:size] for each, size in zip(gathered, sizes, strict=True)])  # (N, C)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        start = sum(ctx.sizes[: dist.get_rank()])
        return summed[start : start + ctx.sizes[dist.get_rank()]], None
