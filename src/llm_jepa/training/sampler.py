"""The order of training rows, which depends only on seed and epoch; how processes divide the batches; and which rows of
a second file each step has.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Any

import torch
from torch.utils.data import Sampler

# Rows are sorted by length within windows of this many batches: enough to leave little padding, few enough
# that batches differ from epoch to epoch. The value is transformers' for the same purpose.
BATCHES_PER_WINDOW = 50


@dataclass(eq=False)
class LengthGroupedSampler(Sampler[int]):
    """Shuffle rows, sort them by length within windows, and shuffle the batches of each window.

    The order depends only on (seed, epoch). So arms of a comparison with the same seed see the same batches in the same
    order, a resumed run sees what it would have seen without the stop, and the global random stream is not touched.
    Without `group`, rows are only shuffled. `batch_size` includes accumulation.
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
        # Only the last batch may not be full. It stays last, or it would shift the borders of all batches after it.
        short = batches.pop() if batches and len(batches[-1]) < self.batch_size else []
        for number in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[number]
        yield from short


def num_beside(num_task_rows: int, ratio: float) -> int:
    """Return how many rows of a second file a step with so many task rows has, rounded; a half is rounded up."""
    return math.floor(num_task_rows * ratio + 0.5)


@dataclass(eq=False)
class BesideRows:
    """Chooses rows of a second file for each step of an epoch of the task's rows.

    The rows of the second file have their own order and their own epochs. In each epoch of the task, they continue
    where they stopped in the epoch before. The choice depends only on seed, epoch and step, so that a resumed run sees
    what it would have seen without the stop. No row comes twice in a step, unless an epoch of the second file ends in
    it.
    With `group`, rows of similar length go to the same step, the longest to the step with the longest task rows. They
    are sorted among `BATCHES_PER_WINDOW` steps at a time.
    """

    task_lengths: Sequence[int]  # tokens of each task row
    lengths: Sequence[int]  # tokens of each row of the second file
    ratio: float  # rows of the second file for each task row (`num_beside`)
    seed: int
    shuffle: bool = field(default=True, kw_only=True)  # else rows come in the order of the file
    group: bool = field(default=True, kw_only=True)

    def beside(self, steps: Sequence[Sequence[int]], epoch: int) -> list[list[int]]:
        """Return the rows of the second file for each step; `steps` has the task rows of each step of the epoch."""
        counts = [num_beside(len(step), self.ratio) for step in steps]
        place = epoch * sum(counts)  # in the endless sequence of the second file's epochs
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
        """Split the steps into windows with rows of one epoch only; a step in which an epoch ends is its own window.

        In a window with rows of two epochs, both copies of a row would go to the same step, because their lengths are
        equal.
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
        """Yield the rows from a place in the endless sequence of epochs on."""
        epoch, first = divmod(place, len(self.lengths))
        while True:
            yield from self._order(epoch)[first:]
            epoch, first = epoch + 1, 0

    def _order(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(len(self.lengths)))
        # A generator uses 32 bits of a seed; half of that range lies between this seed and that of the task's rows.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch + 2**31) % 2**32)
        return torch.randperm(len(self.lengths), generator=generator).tolist()


@dataclass(eq=False)
class SharedBatches(Sampler[list[int]]):
    """One process's part of each batch: its task rows, and its rows of a second file if there is one.

    Whatever the number of processes, a step has the same rows, each of them once. (The stock loader fills up the last
    batches of an epoch with rows from its beginning.) The rows of a step, of both files, are divided as evenly as
    possible over its micro-batches and processes. If the last batch has fewer rows than there are processes, some
    processes get an empty list.

    >>> [list(SharedBatches(range(5), 2, num_processes=2, rank=rank)) for rank in (0, 1)]
    [[[0, 1], []], [[2, 3], [4]]]
    """

    rows: Any  # the order of the task rows, with a length
    batch_size: int  # task rows of a process in a batch
    beside: BesideRows | None = None  # gives the second file's rows; their numbers continue after the last task row's
    accumulation: int = field(default=1, kw_only=True)  # batches of an optimizer step
    num_processes: int = field(default=1, kw_only=True)
    rank: int = field(default=0, kw_only=True)
    drop_last: bool = field(default=False, kw_only=True)  # leave out the last batch of an epoch if it is not full
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
    """Divide rows as evenly as possible into `parts`; return those from part `start` up to part `stop`, without it.

    >>> [part_of([7, 8, 9], part, part + 1, 2) for part in (0, 1)]
    [[7], [8, 9]]
    """
    return rows[len(rows) * start // parts : len(rows) * stop // parts]


def spread(sizes: Sequence[int], number: int) -> list[tuple[int, float]]:
    """Choose at most `number` batches whose costs, each times its weight, add up to about the mean cost of all batches.

    Sorted by size, the chosen ones are evenly spaced over the sum of sizes; a weight is as much smaller as its batch is
    larger. So the sum is exact where the cost is proportional to the size. The first batches of training would not do:
    they may all be long, or all be short.

    Returns:
        The place and the weight of each, in order.

    >>> spread([1, 3, 1, 1], 2)
    [(1, 0.25), (2, 0.75)]
    """
    if len(sizes) <= number:
        return [(place, 1 / len(sizes)) for place in range(len(sizes))]
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    ends = list(accumulate(sizes[place] for place in order))
    chosen = Counter(order[bisect_left(ends, ends[-1] * (2 * n + 1) / (2 * number))] for n in range(number))
    mean = ends[-1] / len(sizes)
    return [(place, times / number * mean / sizes[place]) for place, times in sorted(chosen.items())]
