"""The order of training rows: shuffled, in batches of like length, a function of seed and epoch alone; and how
the batches are shared out over processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

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


class SharedBatches(Sampler[list[int]]):
    """One process's part of each batch, where all processes together train on `batch_size * num_processes` rows.

    Whatever the number of processes, a step has the same rows, each of them once: the stock loader repeats rows of
    the epoch's beginning at its end, until every process has a full batch. The last batch is divided as evenly as
    it goes, and where it has fewer rows than there are processes, some get an empty list.

    Args:
        rows: The order of all rows.
        batch_size: Rows of a process in a batch.
        num_processes: Number of processes.
        rank: Which one this is.
        drop_last: Whether a last batch that is not full is left out.

    >>> [list(SharedBatches(range(5), 2, num_processes=2, rank=rank)) for rank in (0, 1)]
    [[[0, 1], []], [[2, 3], [4]]]
    """

    def __init__(
        self, rows: Iterable[int], batch_size: int, *, num_processes: int, rank: int, drop_last: bool = False
    ) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.num_processes = num_processes
        self.rank = rank
        self.drop_last = drop_last

    def __len__(self) -> int:
        full, rest = divmod(len(self.rows), self.batch_size * self.num_processes)  # type: ignore[arg-type]
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        order = iter(self.rows)
        for _ in range(len(self)):
            batch = list(islice(order, self.batch_size * self.num_processes))
            yield batch[
                len(batch) * self.rank // self.num_processes : len(batch) * (self.rank + 1) // self.num_processes
            ]
