"""The order of training rows, a function of seed and epoch alone; how batches are shared out over processes; and which
rows of a second file are beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Sampler

# Rows are sorted by length within windows of this many batches: enough to leave little padding, few enough
# that batches differ from epoch to epoch. The value is transformers' for the same purpose.
BATCHES_PER_WINDOW = 50


@dataclass(eq=False)
class LengthGroupedSampler(Sampler[int]):
    """Shuffle rows, sort them by length within windows, and shuffle the batches of each window.

    The order depends on (seed, epoch) only. Arms of a comparison that share a seed see the same batches in the same
    order, a resumed run sees what it would have seen, and the global random stream is not touched. Without `group` rows
    are only shuffled. `batch_size` includes accumulation.
    """

    lengths: Sequence[int]
    batch_size: int
    seed: int
    group: bool = True
    epoch: int = field(default=0, init=False)

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


def num_beside(num_task_rows: int, ratio: float) -> int:
    """Return how many rows of a second file a step of so many task rows has: rounded, half of one up."""
    return math.floor(num_task_rows * ratio + 0.5)


@dataclass(eq=False)
class BesideRows:
    """Rows of a second file for the steps of an epoch of the task's rows: which, and beside which step.

    They come in an order of their own, epoch after epoch, and continue where the task's last epoch ended: a function
    of seed, epoch and step, so that a resumed run sees what it would have seen. A step of n task rows gets n times
    `ratio`, rounded, half of one up; no row twice, except where an epoch of theirs ends within the step.

    Args:
        task_lengths: Tokens of each task row.
        lengths: Tokens of each row of the second file.
        ratio: Rows for each task row.
        seed: Seed of the order.
        shuffle: Whether to shuffle; otherwise rows come in the order of the file.
        group: Whether rows of like length go to one step, the longest to the step with the longest task rows, among
            `BATCHES_PER_WINDOW` steps at a time.
    """

    task_lengths: Sequence[int]
    lengths: Sequence[int]
    ratio: float
    seed: int
    shuffle: bool = field(default=True, kw_only=True)
    group: bool = field(default=True, kw_only=True)

    def beside(self, steps: Sequence[Sequence[int]], epoch: int) -> list[list[int]]:
        """Return the rows beside each step of an epoch, from 0, of which `steps` are the task rows, in order."""
        counts = [num_beside(len(step), self.ratio) for step in steps]
        place = epoch * sum(counts)  # in the endless row of the second file's epochs
        beside: list[list[int]] = []
        for window in self._windows(counts, place):
            rows = list(islice(self._from(place), sum(counts[step] for step in window)))
            place += len(rows)
            order = list(window)
            if self.group:
                rows.sort(key=lambda row: self.lengths[row])
                order.sort(key=lambda step: max(self.task_lengths[row] for row in steps[step]))
            left = iter(rows)
            of_step = {step: list(islice(left, counts[step])) for step in order}
            beside += [of_step[step] for step in window]
        return beside

    def _windows(self, counts: Sequence[int], place: int) -> Iterator[range]:
        """Cut the steps into windows with the rows of one epoch, and steps at which an epoch ends.

        In a window with rows of two epochs, the two copies of a row would go to one step, for they are of one length.
        """
        start = 0
        while start < len(counts):
            left = len(self.lengths) - place % len(self.lengths)
            stop, taken = start, 0
            while stop < min(start + BATCHES_PER_WINDOW, len(counts)) and taken + counts[stop] <= left:
                taken += counts[stop]
                stop += 1
            if stop == start:
                taken, stop = counts[start], start + 1
            yield range(start, stop)
            start, place = stop, place + taken

    def _from(self, place: int) -> Iterator[int]:
        """Yield rows from a place in the endless row of epochs on."""
        epoch, first = divmod(place, len(self.lengths))
        while True:
            yield from self._order(epoch)[first:]
            epoch, first = epoch + 1, 0

    def _order(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(len(self.lengths)))
        # A generator takes 32 bits of a seed; half of that range lies between this and the order of the task's rows.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch + 2**31) % 2**32)
        return torch.randperm(len(self.lengths), generator=generator).tolist()


@dataclass(eq=False)
class SharedBatches(Sampler[list[int]]):
    """One process's part of each batch of task rows, with rows of a second file beside them if there is one.

    Whatever the number of processes, a step has the same rows, each of them once: the stock loader repeats rows of
    the epoch's beginning at its end, until every process has a full batch. A step's rows of either file are divided
    over its micro-batches and processes as evenly as it goes; where the last batch has fewer rows than there are
    processes, some get an empty list.

    Args:
        rows: The order of the task rows, with a length.
        batch_size: Task rows of a process in a batch.
        beside: Gives the rows of the second file, which are numbered on from the last task row.
        accumulation: Batches of an optimizer step.
        num_processes: Number of processes.
        rank: Which one this is.
        drop_last: Whether a last batch of an epoch that is not full is left out.

    >>> [list(SharedBatches(range(5), 2, num_processes=2, rank=rank)) for rank in (0, 1)]
    [[[0, 1], []], [[2, 3], [4]]]
    """

    rows: Any
    batch_size: int
    beside: BesideRows | None = None
    accumulation: int = field(default=1, kw_only=True)
    num_processes: int = field(default=1, kw_only=True)
    rank: int = field(default=0, kw_only=True)
    drop_last: bool = field(default=False, kw_only=True)
    epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.size = self.batch_size * self.num_processes  # rows of a batch, in all processes

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self.epoch = epoch
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)

    def __len__(self) -> int:
        full, rest = divmod(len(self.rows), self.size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.rows)[: len(self) * self.size]
        per_step = self.size * self.accumulation
        steps = [order[start : start + per_step] for start in range(0, len(order), per_step)]
        beside = [[]] * len(steps) if self.beside is None else self.beside.beside(steps, self.epoch)
        for step, others in zip(steps, beside, strict=True):
            for start in range(0, len(step), self.size):
                stop = min(start + self.size, len(step))
                batch = self._own(step[start:stop])
                theirs = self._own(part_of(others, start, stop, len(step)))
                yield batch + [len(self.rows) + row for row in theirs]

    def _own(self, rows: list[int]) -> list[int]:
        return part_of(rows, self.rank, self.rank + 1, self.num_processes)


def part_of(rows: list[int], start: int, stop: int, parts: int) -> list[int]:
    """Return the rows from part `start` up to part `stop`, where they are divided in `parts` as evenly as it goes.

    >>> [part_of([7, 8, 9], part, part + 1, 2) for part in (0, 1)]
    [[7], [8, 9]]
    """
    return rows[len(rows) * start // parts : len(rows) * stop // parts]
