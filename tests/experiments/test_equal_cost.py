"""Equal FLOPs and equal time: as many steps as the baseline's cost allows, and the same ever after."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from llm_jepa.experiments.equal_cost import Budget, plan, recorded
from llm_jepa.experiments.experiment import read_experiment
from llm_jepa.experiments.jobs import Job
from llm_jepa.experiments.results import Cost
from llm_jepa.experiments.sentences import about_budget
from llm_jepa.experiments.summary import cost_of_arms
from llm_jepa.runs import step_flops as step_flops_module
from llm_jepa.runs.build_trainer import build_trainer
from llm_jepa.runs.cost import step_flops
from llm_jepa.runs.folder import ExperimentFolder, RunFolder, arm_at
from llm_jepa.runs.settings import read_run
from llm_jepa.runs.step_flops import count_step_flops


def runs_of(**changes):
    arms = {"ntp": {}, "jepa": changes}
    return read_experiment({"train_file": "a.jsonl", "test_file": "b.jsonl", "arms": arms})[1]


def records(num_steps=100, **cost):
    """One eval.json a seed: each value of `cost` is a list over seeds."""
    seeds = zip(*cost.values(), strict=True)
    return [{"num_steps": num_steps, "cost": dict(zip(cost, values, strict=True))} for values in seeds]


def test_the_price_of_loss_dropout_is_that_of_its_mean_step():
    """Three steps of four leave the views out: the table of costs says what the runs of equal cost go by."""
    runs = runs_of(jepa_loss_dropout=0.75)
    plain = {"flops_per_step": 100.0, "step_time_s": 1.0}
    flops = {"flops_per_step": 200.0, "flops_per_dropped_step": 100.0}
    times = {"full_step_time_s": 2.0, "dropped_step_time_s": 1.0, "step_time_s": 1.0}
    cost = {"ntp": plain, "jepa": flops | times}
    found = {Job(arm, 1, RunFolder(Path(arm))): {"cost": each} for arm, each in cost.items()}
    assert cost_of_arms(found, "ntp", runs)["jepa"] == Cost(step_time_ratio=1.25, flops_ratio=1.25)


@pytest.mark.parametrize("ratio", [0.5, 0.97, 1.0, 1.17, 2.9, 250.0])
@pytest.mark.parametrize("baseline_steps", [1, 7, 100, 2000])
def test_the_runs_total_flops_are_the_baselines_to_half_a_step(ratio, baseline_steps):
    """Whole steps only, at least one; the record says both totals."""
    of = {
        "ntp": records(baseline_steps, flops_per_step=[1e9, 1.1e9]),
        "jepa": records(baseline_steps, flops_per_step=[ratio * 1e9, ratio * 1.1e9]),
    }
    budget = plan("flops", "jepa", "ntp", runs_of(), of)
    assert budget.name == "jepa@flops" and budget.baseline_steps == baseline_steps
    record = budget.record
    assert record["ratio"] == pytest.approx(ratio)
    assert record["baseline_total"] == pytest.approx(baseline_steps * 1.05e9)
    off = abs(record["total"] - record["baseline_total"])
    assert off <= 0.5 * budget.cost * (1 + 1e-9) or budget.max_steps == 1


def test_flops_of_a_step_count_all_its_batches():
    """Two batches of half the cost are one step of the same cost."""
    of = {"ntp": records(flops_per_step=[1e9]), "jepa": records(flops_per_step=[0.5e9])}
    assert plan("flops", "jepa", "ntp", runs_of(gradient_accumulation_steps=2), of).max_steps == 100
    assert plan("flops", "jepa", "ntp", runs_of(), of).max_steps == 200  # the control


def test_steps_that_loss_dropout_makes_cheap_are_counted_as_such():
    """A share of 0.75 without views: 0.75 x 1 + 0.25 x 2 = 1.25 times the baseline."""
    cost = {"flops_per_step": [2e9], "flops_per_dropped_step": [1e9]}
    of = {"ntp": records(flops_per_step=[1e9]), "jepa": records(**cost)}
    assert plan("flops", "jepa", "ntp", runs_of(jepa_loss_dropout=0.75), of).max_steps == 80


def test_the_cost_of_a_teacher_is_taken_from_the_steps_of_the_arm():
    """100 plain steps; a teacher that cost 30 of them leaves 70, and one that cost them all leaves none."""
    plain = records(flops_per_step=[1e9], step_time_s=[0.1])
    teacher = {"training_flops": 20e9, "answering_flops": 10e9, "training_steps_time_s": 1.0, "answering_time_s": 4.0}
    of = {"ntp": plain, "jepa": [{**each, "cost": each["cost"] | {"teacher": teacher}} for each in plain]}
    budget = plan("flops", "jepa", "ntp", runs_of(), of)
    assert budget.max_steps == 70 and budget.record["total"] == budget.record["baseline_total"] == 100e9
    assert plan("time", "jepa", "ntp", runs_of(), of).max_steps == 50
    assert plan("flops", "ntp", "jepa", runs_of(), of).max_steps == 130
    both = plan("flops", "jepa", "jepa", runs_of(), of)
    assert both.max_steps == 100 and "teacher" not in about_budget(both)
    assert "its teacher 30% of a run of ntp" in about_budget(budget)
    untaught = dataclasses.replace(budget, fixed=0.0, baseline_fixed=25e9)
    assert "it has no teacher; that of ntp costs 20% of its run" in about_budget(untaught)
    dear = [{**each, "cost": each["cost"] | {"teacher": {"training_flops": 100e9}}} for each in plain]
    none = plan("flops", "jepa", "ntp", runs_of(), of | {"jepa": dear})
    assert none.max_steps == 0 and "jepa is missing" in about_budget(none)


def test_the_evaluations_of_a_teacher_cost_no_steps_at_equal_time():
    """The baseline's do not count either: 100 steps, of which the teacher took 30, and its answers 10."""
    plain = records(step_time_s=[0.1])
    teacher = {"training_time_s": 8.0, "training_steps_time_s": 3.0, "answering_time_s": 1.0}
    of = {"ntp": plain, "jepa": [{**each, "cost": each["cost"] | {"teacher": teacher}} for each in plain]}
    assert plan("time", "jepa", "ntp", runs_of(), of).max_steps == 60


def test_time_is_the_median_over_seeds_and_one_slow_run_does_not_move_it():
    times = {"ntp": records(step_time_s=[0.1, 0.1, 0.1]), "jepa": records(step_time_s=[0.125, 0.12, 9.0])}
    assert plan("time", "jepa", "ntp", runs_of(), times).max_steps == 80


def test_with_loss_dropout_the_medians_of_both_kinds_of_steps_are_mixed():
    """A stall of the machine moves no median: 0.1 s a plain step, 0.2 s one with views, one of 9 s each."""
    plain = {"step_time_s": [0.1], "mean_step_time_s": [0.2]}
    arm = {"step_time_s": [0.1], "mean_step_time_s": [0.225], "full_step_time_s": [0.2], "dropped_step_time_s": [0.1]}
    runs = runs_of(jepa_loss_dropout=0.75)
    budget = plan("time", "jepa", "ntp", runs, {"ntp": records(**plain), "jepa": records(**arm)})
    assert budget.max_steps == 80 and budget.ratio == pytest.approx(1.25)
    assert "in median time by the clock." in about_budget(budget)


def test_an_arm_without_a_measured_step_is_missing_and_not_shown_as_of_equal_cost():
    """A run that was resumed at its end timed no step: eval.json has null. One that trains nothing has none."""
    timed, untimed = records(step_time_s=[0.1]), records(step_time_s=[None])
    for of in (
        {"ntp": untimed, "jepa": timed},
        {"ntp": timed, "jepa": untimed},
        {"ntp": timed, "jepa": records(0, x=[1])},
    ):
        budget = plan("time", "jepa", "ntp", runs_of(), of)
        assert budget.max_steps == 0 and budget.record["ratio"] == 0
        assert "jepa is missing: the cost of a step is not known" in about_budget(budget)


def test_steps_that_another_cost_of_the_baseline_set_are_stale():
    """More steps of the baseline, or dearer ones; a median time or a count of other batches moves by some percent."""
    before = Budget("flops", "jepa", "ntp", 80, 100, 1.25, 1.0)
    assert not before.is_stale(dataclasses.replace(before, max_steps=79, baseline_cost=1.03))
    for changes in ({"baseline": "base"}, {"baseline_steps": 200}, {"baseline_cost": 2.0}, {"baseline_fixed": 50.0}):
        assert before.is_stale(dataclasses.replace(before, **changes))
    timed = dataclasses.replace(before, kind="time")
    assert not timed.is_stale(dataclasses.replace(timed, baseline_cost=1.5))
    assert timed.is_stale(dataclasses.replace(timed, baseline_steps=99))


def test_the_budget_that_runs_began_with_is_found_again(tmp_path):
    """By the folders alone; a cell whose name begins alike is another."""
    budget = Budget("time", "jepa.k1", "ntp", 80, 100, 0.125, 0.1)
    folder = ExperimentFolder(tmp_path)
    runs = [folder.run(arm_at(arm, "time"), 7) for arm in ("jepa.k1", "jepa.k10")]
    for run in runs:
        run.path.mkdir()
    runs[0].write_budget(budget.record)
    assert recorded(folder, "time", "jepa.k1") == budget
    runs[1].write_budget(dataclasses.replace(budget, arm="jepa.k10", max_steps=3).record)
    assert recorded(folder, "time", "jepa.k1") == budget
    assert recorded(folder, "flops", "jepa.k1") is None and recorded(folder, "time", "ntp") is None


def test_a_dropped_steps_flops_are_those_of_plain_training(tiny_settings, tmp_path):
    """Counted on the same rows: loss dropout leaves the baseline's step."""
    counted = {}
    for name, changes in (("ntp", {"jepa_lambda": 0.0}), ("jepa", {"jepa_loss_dropout": 0.5, "loss_on": "all"})):
        trainer, _ = build_trainer(read_run(tiny_settings(**changes)), 1, tmp_path / name)
        counted[name] = count_step_flops(trainer, 1, dropped=name == "jepa")
        if name == "jepa":
            assert count_step_flops(trainer, 1) > counted[name]
    assert counted["jepa"] == pytest.approx(counted["ntp"], rel=1e-3)


def mixed_rows(file: Path, count: int) -> str:
    """Rows of very different lengths: half of them short, few of them long."""
    words = [2 + (37 * n % 40) ** 2 // 40 for n in range(count)]
    rows = [{"text": "line " * number, "code": f".*{'x ' * (number // 2)}{n}"} for n, number in enumerate(words)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize("changes", [{}, {"gradient_accumulation_steps": 4}, {"packing": True}])
def test_the_counted_flops_are_those_of_the_mean_batch(changes, tiny_settings, tmp_path):
    """Rows are grouped by length, so the first batches, of one optimizer step with accumulation, may all be short."""
    settings = tiny_settings(
        train_file=mixed_rows(tmp_path / "rows.jsonl", 170),
        validation_size=0,
        per_device_train_batch_size=4,
        jepa_lambda=0.0,
        **changes,
    )
    trainer, _ = build_trainer(read_run(settings), 1, tmp_path / "run")
    every = count_step_flops(trainer, 1000)
    assert count_step_flops(trainer) == pytest.approx(every, rel=0.03)
    assert len(list(trainer.sample_of_first_epoch(1000))) == 43 and len(list(trainer.sample_of_first_epoch(16))) <= 16


@pytest.mark.parametrize(
    "changes",
    [
        {"jepa_distance": "infonce", "jepa_k": 2},
        {"jepa_target": "ema", "packing": True},
        {"bf16": True},
        {"gradient_checkpointing": True},
    ],
)
def test_flops_are_counted_without_computing_the_products(changes, tiny_settings, tmp_path, monkeypatch):
    """They are those of a step that is computed, and the model has no zeros from it."""
    trainer, _ = build_trainer(read_run(tiny_settings(**changes)), 1, tmp_path / "run")
    before = {name: value.clone() for name, value in trainer.jepa.state_dict().items()}
    counted = count_step_flops(trainer, 3)
    assert all(torch.equal(value, before[name]) for name, value in trainer.jepa.state_dict().items())
    monkeypatch.setattr(step_flops_module, "_ZeroProducts", nullcontext)
    assert counted == count_step_flops(trainer, 3) > 0


def test_a_product_that_is_only_counted_is_zero():
    """Of two matrices, with a bias, and of batches; all else is computed."""
    rows, batch = torch.ones(2, 3), torch.ones(5, 2, 3)
    with step_flops_module._ZeroProducts():
        found = [rows @ rows.T, torch.nn.functional.linear(rows, torch.ones(4, 3), torch.ones(4)), batch @ batch.mT]
        total = rows.sum().item()
    assert [tuple(each.shape) for each in found] == [(2, 2), (2, 4), (5, 2, 2)]
    assert total == 6 and not any(each.any() for each in found)


def test_arms_of_equal_steps_have_equal_flops_however_their_steps_are_divided(tiny_settings, tmp_path):
    """One batch of 8 rows or four of 2; padding differs, and 74 rows are 37 batches, so the last step has one only."""
    steps = {}
    rows = mixed_rows(tmp_path / "rows.jsonl", 74)
    for size, accumulation in ((8, 1), (2, 4)):
        changes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        run = read_run(tiny_settings(train_file=rows, validation_size=0, jepa_lambda=0.0, **changes))
        trainer, _ = build_trainer(run, 1, tmp_path / f"run{size}")
        cost = {"flops_per_step": count_step_flops(trainer, 1000), "batches_per_step": trainer.batches_per_step}
        steps[size] = step_flops(run, cost)
        assert cost["batches_per_step"] == {8: 1, 2: 3.7}[size]
    assert 0.85 < steps[2] / steps[8] < 1  # less padding, nothing else
