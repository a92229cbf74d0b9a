"""The order of training rows: shuffled, in batches of like length, a function of seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

# Rows are sorted by length within windows of this many batches: enough to leave little padding, few enough
# that batches differ from epoch to epoch. The value is transformers' for the same purpose.
BATCHES_PER_WINDOW = 50


class LengthGroupedSampler(Sampler[int]):
    """Shuffle rows, sort them by length within windows, and shuffle the batches of each window.

    The order depends on (seed, epoch) only. Arms of a comparison that share a seed see the same batches in
    the same order, a resumed run sees what it would have seen, and the global random stream is not touched.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows in a batch, accumulation included.
        seed: Seed of the order.
        group: Whether to group by length; otherwise rows are only shuffled.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, group: bool = True) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.group = group
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        if not self.group:
            yield from order
            return
        window = self.batch_size * BATCHES_PER_WINDOW
        batches: list[list[int]] = []
        for start in range(0, len(order), window):
            rows = sorted(order[start : start + window], key=lambda row: self.lengths[row])
            batches += [rows[first : first + self.batch_size] for first in range(0, len(rows), self.batch_size)]
        # A batch with rows to spare comes last, or it would shift the borders of all that follow it.
        short = [batch for batch in batches if len(batch) < self.batch_size]
        whole = [batch for batch in batches if len(batch) == self.batch_size]
        for number in torch.randperm(len(whole), generator=generator).tolist():
            yield from whole[number]
        for batch in short:
            yield from batch
