"""The order of rows is a function of seed and epoch, and batches hold rows of like length."""

from __future__ import annotations

from itertools import chain, pairwise

import pytest
import torch

from llm_jepa.training.sampler import BATCHES_PER_WINDOW, LengthGroupedSampler, SharedBatches, spread


def lengths(count, seed=0):
    return torch.randint(5, 100, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def order(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize("count", [1, 7, 8, 203])
def test_each_epoch_has_each_row_once(count, group):
    """No row is left out or repeated, whole batches or not."""
    sampler = LengthGroupedSampler(lengths(count), batch_size=8, seed=1, group=group)
    assert len(sampler) == count
    for epoch in range(3):
        assert sorted(order(sampler, epoch)) == list(range(count))


@pytest.mark.parametrize("group", [True, False])
def test_the_order_is_a_function_of_seed_and_epoch_alone(group):
    """Another process, or a resumed one, sees the same order; another seed or epoch another one."""
    sizes = lengths(200)
    first = LengthGroupedSampler(sizes, 8, seed=3, group=group)
    orders = [order(first, epoch) for epoch in range(3)]
    torch.manual_seed(1234)
    later = LengthGroupedSampler(sizes, 8, seed=3, group=group)
    assert order(later, 2) == orders[2] and order(later, 2) == orders[2]
    assert len({tuple(each) for each in orders}) == 3
    assert order(LengthGroupedSampler(sizes, 8, seed=4, group=group), 0) not in orders


def test_the_global_random_stream_is_not_touched():
    state = torch.get_rng_state()
    list(LengthGroupedSampler(lengths(50), 4, seed=0))
    assert torch.equal(state, torch.get_rng_state())


def test_a_batch_holds_rows_of_like_length():
    """Within a window, batches are cut from the sorted rows: none overlaps another in length."""
    sizes, size = lengths(8 * BATCHES_PER_WINDOW), 8
    rows = order(LengthGroupedSampler(sizes, size, seed=0), 0)
    batches = [sorted(sizes[row] for row in rows[start : start + size]) for start in range(0, len(rows), size)]
    in_order = sorted(batches)
    assert batches != in_order  # the batches themselves are shuffled
    assert all(one[-1] <= two[0] for one, two in pairwise(in_order))
    spread = sum(batch[-1] - batch[0] for batch in batches) / len(batches)
    assert spread < 0.05 * (max(sizes) - min(sizes))


def test_batches_differ_from_epoch_to_epoch():
    """Windows are shuffled rows, so which rows share a batch changes; sorting the whole file would fix it."""
    sampler = LengthGroupedSampler(lengths(1000), 4, seed=0)

    def batches(epoch):
        rows = order(sampler, epoch)
        return {frozenset(rows[start : start + 4]) for start in range(0, len(rows), 4)}

    assert len(batches(0) & batches(1)) < 50


def test_the_batch_with_rows_to_spare_comes_last():
    """Ten rows in batches of four: two whole ones of like length, then the two that are left."""
    sizes = [1, 1, 1, 1, 5, 5, 5, 5, 9, 9]
    for epoch in range(5):
        rows = order(LengthGroupedSampler(sizes, 4, seed=0), epoch)
        assert sorted(sizes[row] for row in rows[8:]) == [9, 9]
        assert {tuple(sizes[row] for row in rows[start : start + 4]) for start in (0, 4)} == {(1,) * 4, (5,) * 4}


@pytest.mark.parametrize("num_processes", [1, 2, 3, 5])
def test_every_row_is_trained_on_once_however_many_processes_there_are(num_processes):
    """A batch of all processes together is the same rows in the same order; its parts differ by one row at most."""
    rows = list(range(100, 137))
    parts = [list(SharedBatches(rows, 4, num_processes=num_processes, rank=rank)) for rank in range(num_processes)]
    batches = [[*chain(*shares)] for shares in zip(*parts, strict=True)]
    assert [*chain(*batches)] == rows
    assert all(len(batch) == 4 * num_processes for batch in batches[:-1])
    assert len(batches) == len(SharedBatches(rows, 4, num_processes=num_processes, rank=0))
    last = [len(part[-1]) for part in parts]
    assert max(last) - min(last) <= 1


def test_a_last_batch_that_is_not_full_can_be_left_out():
    """As `dataloader_drop_last` asks."""
    assert list(SharedBatches(range(7), 2, num_processes=2, rank=1, drop_last=True)) == [[2, 3]]


@pytest.mark.parametrize("cost", [lambda size: size, lambda size: size + size**2 / 1000])
def test_some_batches_stand_for_all(cost):
    """A few long ones among many short ones, and the last one not full: weights make up for it."""
    sizes = [20 + (37 * n % 101) ** 2 // 10 for n in range(200)] + [3]
    mean = sum(map(cost, sizes)) / len(sizes)
    chosen = spread(sizes, 16)
    assert sum(weight * cost(sizes[place]) for place, weight in chosen) == pytest.approx(mean, rel=0.02)
    assert len({place for place, _ in chosen}) == len(chosen) <= 16
    assert spread(sizes[:5], 16) == [(place, 0.2) for place in range(5)]
    assert sum(weight for _, weight in spread([7] * 50, 16)) == pytest.approx(1)
