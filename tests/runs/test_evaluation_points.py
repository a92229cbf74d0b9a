"""Evaluations during training: as before for small models, spaced for large ones, and never a part of the result."""

from __future__ import annotations

import json

import pytest

from llm_jepa.runs import evaluation_points
from llm_jepa.runs.evaluation_points import space_evaluations
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run

LARGE = 135_000_000


def spaced(*, parameters=LARGE, validation=200, train=1000, **settings):
    """Return `eval_steps` before the rule, its notes, and `eval_steps` after it.

    200 rows are evaluated, 128 monitored and 100 answered: 200 + 2 * 128 + 3 * 100 forward passes. A step of 8 rows is
    3 * 8 of them, so that one evaluation takes as long as 31.5 steps.
    """
    run = read_run({"train_file": "x.jsonl", "per_device_train_batch_size": 8, "use_cpu": True, **settings})
    arguments = run.training_arguments("unused")
    rows = [None] * validation
    sizes = {"num_parameters": parameters, "num_train": train, "validation": rows, "monitored": rows}
    return arguments.eval_steps, space_evaluations(arguments, run, **sizes), arguments.eval_steps


@pytest.mark.parametrize(
    ("steps", "every"),
    [(3, 3), (100, 100), (300, 150), (640, 128), (999, 333), (997, 997), (1000, 200)],
)
def test_a_large_model_is_evaluated_for_a_quarter_of_its_training_at_most(steps, every):
    """But once at least; at equal distances, and after the last step."""
    _, (note,), eval_steps = spaced(max_steps=steps)
    assert eval_steps == every and steps % every == 0
    assert steps // every == 1 or steps // every * 31.5 <= steps / 4
    assert f"every {every} of {steps} steps" in note and "135 million" in note and "about as long as 32 steps" in note
    assert ("The collapse alarm needs three evaluations." in note) is (steps // every < 3)


def test_epochs_count_as_the_steps_that_they_have():
    """1,000 rows in batches of 8 are 125 steps an epoch."""
    assert spaced(num_train_epochs=4)[2] == 250  # of 500 steps, 3 could be afforded, and 3 does not divide them


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({}, 900_000),
        ({}, 15_000_000),  # the preset mini
        ({"eval_steps": 1}, LARGE),
        ({"eval_strategy": "epoch"}, LARGE),
        ({"lr_scheduler_type": "greedy"}, LARGE),
        ({"max_steps": 2000}, LARGE),  # enough steps for all ten
        ({"validation_generations": 0, "monitor_pairs": 2, "per_device_train_batch_size": 64}, LARGE),
    ],
)
def test_every_other_run_is_evaluated_when_it_was_before(settings, parameters):
    """Small models, settings of the user's own, runs that go by their evaluations, and those that can afford them."""
    before, notes, after = spaced(parameters=parameters, **{"max_steps": 100, **settings})
    assert after == before and notes == []


def test_a_run_ends_with_the_same_bits_however_often_it_is_evaluated(tiny_settings, tmp_path, monkeypatch):
    """Weights and answers of a run are those of one that was evaluated at every step; the note is in data.json."""
    settings = tiny_settings(max_steps=4)
    settings.pop("eval_steps", None)
    train_run(read_run(settings), 1, tmp_path / "often")
    monkeypatch.setattr(evaluation_points, "SLOW", 0)
    train_run(read_run(settings), 1, tmp_path / "once")
    lines = {
        name: [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("often", "once")
    }
    evaluated = {name: [line["step"] for line in each if "eval_ce_loss" in line] for name, each in lines.items()}
    assert evaluated == {"often": [1, 2, 3, 4], "once": [4]}
    for file in ("model/model.safetensors", "predictions.jsonl"):
        assert (tmp_path / "often" / file).read_bytes() == (tmp_path / "once" / file).read_bytes()
    notes = json.loads((tmp_path / "once" / "data.json").read_text())["notes"]
    assert any("Validation rows are evaluated every 4 of 4 steps" in note for note in notes)
