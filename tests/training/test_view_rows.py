"""Rows of a second file beside the task's: the task's steps stay, and the others are a function of seed and step."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import chain

import pytest
import torch

from llm_jepa.objective import FusedCollator
from llm_jepa.training.sampler import BATCHES_PER_WINDOW, BesideRows, LengthGroupedSampler, SharedBatches
from llm_jepa.training.trainer import JEPATrainer

LENGTHS = torch.randint(5, 60, (37,), generator=torch.Generator().manual_seed(1)).tolist()
OTHERS = torch.randint(5, 60, (29,), generator=torch.Generator().manual_seed(2)).tolist()


def batches(epoch=0, *, lengths=LENGTHS, others=OTHERS, ratio=1.0, seed=3, size=4, group=True, **options):
    """Return the task rows and the other rows of each batch of an epoch."""
    per_step = size * options.get("num_processes", 1) * options.get("accumulation", 1)
    task = LengthGroupedSampler(lengths, per_step, seed, group=group)
    mixed = SharedBatches(task, size, BesideRows(lengths, others, ratio, seed, group=group), **options)
    mixed.set_epoch(epoch)
    assert len(list(mixed)) == len(mixed)
    first = len(lengths)
    return [([r for r in batch if r < first], [r - first for r in batch if r >= first]) for batch in mixed]


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.5])
def test_task_rows_and_the_borders_of_steps_are_those_without_the_second_file(ratio, group):
    """The order is LengthGroupedSampler's own, cut into batches of four; the last one has the one row left."""
    sampler = LengthGroupedSampler(LENGTHS, 4, seed=3, group=group)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        rows = list(sampler)
        found = [task for task, _ in batches(epoch, ratio=ratio, group=group)]
        assert found == [rows[start : start + 4] for start in range(0, 37, 4)]


@pytest.mark.parametrize(("ratio", "whole", "last"), [(1.0, 4, 1), (0.5, 2, 1), (2.5, 10, 3), (0.375, 2, 0)])
def test_each_step_has_its_share_of_other_rows(ratio, whole, last):
    """Task rows times ratio, rounded, half of one up: by hand for steps of four, and the last one of one row."""
    counts = [len(others) for _, others in batches(ratio=ratio)]
    assert counts == [whole] * 9 + [last]


@pytest.mark.parametrize("group", [True, False])
def test_the_other_rows_repeat_over_epochs_of_their_own(group):
    """29 rows at 37 a task epoch: each is seen once before any is seen twice, across the task's epochs."""
    seen = [row for epoch in range(4) for _, others in batches(epoch, group=group) for row in others]
    assert len(seen) == 4 * 37
    if group:  # within a window rows stand by length; whole epochs of theirs are what can be told
        assert set(Counter(seen).values()) == {5, 6}
    else:
        for start in range(0, 4 * 37 - 29, 29):
            assert sorted(seen[start : start + 29]) == list(range(29))


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    """Another process, or a resumed one, sees the same; another seed or epoch sees another order."""
    state = torch.get_rng_state()
    found = [batches(epoch) for epoch in range(3)]
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert batches(2) == found[2]
    assert found[0] != found[1] and batches(0, seed=4) != found[0]


def test_the_two_orders_do_not_follow_each_other():
    """Two files of one size and one seed. (A generator takes 32 bits of a seed: 2**60 and more would be lost.)"""
    found = batches(lengths=LENGTHS, others=LENGTHS, group=False)
    assert [task for task, _ in found] != [others for _, others in found]


@pytest.mark.parametrize("seed", range(4))
def test_no_step_has_a_row_twice_but_where_an_epoch_of_the_others_ends(seed):
    """InfoNCE would push a row from itself. Windows never span two epochs, whose equal rows would lie side by side."""
    for count in (8, 40, 100):
        others = [10] * count
        for number, (_, rows) in enumerate(batches(1, lengths=[10] * 160, others=others, size=8, seed=seed)):
            place = 160 + number * 8  # in the endless row of the others' epochs
            if place // count == (place + 7) // count:
                assert len(set(rows)) == 8


def test_long_rows_stand_beside_long_rows():
    """Within a window, the step with the longest task row has the longest others; so little is padding."""
    lengths = torch.randint(5, 100, (400,), generator=torch.Generator().manual_seed(5)).tolist()
    found = batches(lengths=lengths, others=lengths[::-1], size=8)
    assert len(found) == BATCHES_PER_WINDOW
    by_task = sorted(found, key=lambda batch: max(lengths[row] for row in batch[0]))
    longest = [max(lengths[::-1][row] for row in others) for _, others in by_task]
    assert longest == sorted(longest) and longest[0] < longest[-1] / 2


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.7])
@pytest.mark.parametrize(("size", "accumulation", "num_processes"), [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 4, 2)])
def test_a_step_has_the_same_rows_however_it_is_cut(size, accumulation, num_processes, ratio):
    """Micro-batches and processes of a step hold, together, the rows of a step of eight, in even shares."""
    whole = batches(1, size=8, ratio=ratio)
    ranks = [
        batches(1, size=size, ratio=ratio, accumulation=accumulation, num_processes=num_processes, rank=rank)
        for rank in range(num_processes)
    ]
    for kind in (0, 1):
        flat = [
            row for shares in zip(*ranks, strict=True) for row in chain.from_iterable(share[kind] for share in shares)
        ]
        assert flat == [row for batch in whole for row in batch[kind]]
    for shares in zip(*ranks, strict=True):
        assert max(len(each[1]) for each in shares) - min(len(each[1]) for each in shares) <= 1


def test_a_last_batch_that_is_not_full_can_be_left_out():
    assert [len(task) for task, _ in batches(drop_last=True)] == [4] * 9


# ---- through the trainer ----


@pytest.fixture
def make_mixed(make_trainer, make_jepa, make_pairs):
    """Build a trainer of 11 task rows and others beside them, all named; keywords of the trainer."""

    def make(objective=None, num_others=7, views_ratio=1.0, marks=None, monitor=None, **arguments):
        pairs, others = make_pairs(11, seed=1), make_pairs(num_others, seed=2)
        for kind, each in (("task", pairs), ("view", others)):
            for number, pair in enumerate(each):
                pair.source = f"{kind} {number}"
                pair.__dict__.update(marks or {} if kind == "view" else {})
        kind = partial(JEPATrainer, view_dataset=others, views_ratio=views_ratio, monitor_dataset=monitor)
        jepa = make_jepa(**(objective or {}))
        return make_trainer(jepa, pairs, kind=kind, **arguments)

    return make


def record_sources(trainer):
    """Return a list that gets the sources of each batch that the model is trained on."""
    seen = []
    trainer.jepa.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].sources) if module.training else None
    )
    return seen


def weights(trainer):
    return [each.detach().clone() for each in trainer.jepa.parameters()]


def logged(trainer, *keys):
    return [tuple(line.get(key) for key in keys) for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("strategy", ["group_by_length", "random", "sequential"])
def test_training_on_task_rows_is_the_same_with_others_beside_them(strategy, make_mixed):
    """Rows, order, number of steps and learning rate of three epochs; and every step has its others."""
    seen = {}
    for ratio in (0.0, 1.0):
        trainer = make_mixed(views_ratio=ratio, num_train_epochs=3, train_sampling_strategy=strategy)
        batches = record_sources(trainer)
        trainer.train()
        task = [[source for source in batch if source.startswith("task")] for batch in batches]
        seen[ratio] = (task, logged(trainer, "step", "epoch", "learning_rate"))
        assert [len(batch) - len(own) for batch, own in zip(batches, task, strict=True)] == (
            [4, 4, 3] * 3 if ratio else [0] * 9
        )
    assert seen[0.0] == seen[1.0]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize(("micro", "accumulation"), [(8, 1), (2, 4)])
@pytest.mark.parametrize(
    "marks", [{}, {"use_ce": False}, {"use_jepa": False}], ids=["both terms", "views alone", "plain alone"]
)
def test_a_step_is_one_mean_over_task_rows_and_others(marks, micro, accumulation, packing, make_mixed):
    """Promise 2: whatever the accumulation, a step's terms are those of its rows laid out as one batch."""
    trainer = make_mixed(
        {"jepa_target": "shared"},
        num_others=9,
        views_ratio=0.75,
        marks=marks,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        packing=packing,
        learning_rate=0.0,
        num_train_epochs=1,
    )
    batches = record_sources(trainer)
    trainer.train()
    pairs = {pair.source: pair for pair in [*trainer.train_dataset, *trainer.view_pairs]}
    collate, start = FusedCollator(trainer.jepa.config, pad_token_id=0), 0
    sizes = [accumulation, len(batches) - accumulation]
    for size, terms in zip(sizes, logged(trainer, "loss", "ce_loss", "jepa_loss"), strict=True):
        sources = list(chain.from_iterable(batches[start : start + size]))
        step = trainer.jepa(collate([pairs[source] for source in sources]))
        assert terms == pytest.approx((step.loss.item(), step.ce_loss.item(), step.jepa_loss.item()), abs=1e-5)
        start += size
        assert len(sources) == (14 if start == accumulation else 5)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_resuming_from_any_checkpoint_equals_never_stopping(accumulation, make_mixed):
    """Promise 5: bits and log, in the midst of an epoch of either file."""

    def build(out):
        return make_mixed(
            {"jepa_distance": "infonce", "jepa_target": "shared"},
            out=out,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=accumulation,
            max_steps=8,
            save_steps=1 if out == "whole" else None,
        )

    whole = build("whole")
    whole.train()
    for step in (1, 4, 7, 8):
        resumed = build("resumed")
        resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{step}")
        assert all(torch.equal(one, two) for one, two in zip(weights(resumed), weights(whole), strict=True))
        keys = ("step", "loss", "ce_loss", "jepa_loss")
        assert logged(resumed, *keys) == logged(whole, *keys)


def test_other_view_rows_are_another_run(make_mixed):
    """What a resumed run must have in common: the rows of the second file, and how many of them a step has."""
    facts = [make_mixed(**changes).facts() for changes in ({}, {"num_others": 6}, {"views_ratio": 0.5})]
    assert facts[0] == make_mixed().facts()
    assert {name for name in facts[0] if facts[1][name] != facts[0][name]} == {"view_rows"}
    assert {name for name in facts[0] if facts[2][name] != facts[0][name]} == {"views_ratio"}
    assert not {"view_rows", "views_ratio"} & make_mixed(views_ratio=0.0).facts().keys()


@pytest.mark.parametrize(("ratio", "number"), [(0.1, 0), (2.0, 8)])
def test_steps_without_others_or_with_more_than_there_are_are_refused(ratio, number, make_mixed, raises):
    """Four task rows a step, seven others."""
    with raises("value_out_of_range", f"views_ratio={ratio}", f"{number} view rows", "4 task rows", "1 to 7"):
        make_mixed(views_ratio=ratio)


def test_the_monitors_look_at_the_pairs_that_they_are_given(make_mixed, make_pairs):
    """Cross-entropy on held-out task rows, embeddings on held-out view pairs; also where there are no held-out rows."""
    held_out, views = make_pairs(6, seed=8), make_pairs(6, seed=9)
    looks = {}
    for name, (task, monitor) in {
        "task": (held_out, None),
        "both": (held_out, views),
        "views": ((), views),
        "views as task": (views, None),
    }.items():
        looks[name] = make_mixed(monitor=monitor, held_out=task).evaluate()
    assert looks["both"]["eval_ce_loss"] == looks["task"]["eval_ce_loss"] and "eval_ce_loss" not in looks["views"]
    assert looks["both"]["monitor/gap"] == looks["views"]["monitor/gap"] == looks["views as task"]["monitor/gap"]
    assert looks["both"]["monitor/gap"] != looks["task"]["monitor/gap"]


def test_the_batches_laid_out_once_more_are_those_of_training(make_mixed):
    """Which is what the cost of a step is counted on."""
    trainer = make_mixed(num_train_epochs=1)
    again = [batch.sources for batch, _ in trainer.sample_of_first_epoch(1000)]
    batches = record_sources(trainer)
    trainer.train()
    assert again == batches
