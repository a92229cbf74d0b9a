"""The weight of the JEPA term: a function of the step alone, with the shapes of transformers' schedules."""

from __future__ import annotations

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig
from llm_jepa.objective.schedule import is_dropped, lambda_factor


def learning_rates(make_schedule, num_steps):
    """The factors of a schedule of transformers, step by step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(optimizer, 0, num_steps)
    factors = []
    for _ in range(num_steps):
        factors.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return factors


@pytest.mark.parametrize(
    ("schedule", "theirs"), [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)]
)
def test_the_weight_follows_the_shapes_of_transformers(schedule, theirs):
    factors = [lambda_factor(step, 11, schedule) for step in range(11)]
    assert factors == pytest.approx(learning_rates(theirs, 11), abs=1e-12)


def test_a_constant_weight_stays():
    assert [lambda_factor(step, 9, "constant") for step in range(9)] == [1.0] * 9


def test_the_weight_falls_to_zero_at_the_end():
    """One step after the last it would be 0, and it stays there."""
    for schedule in ("linear", "cosine"):
        assert [lambda_factor(step, 8, schedule) for step in (8, 9)] == pytest.approx([0, 0])
        assert 0 < lambda_factor(7, 8, schedule) < 0.2


@pytest.mark.parametrize("target", ["stop_grad", "shared"])
def test_the_loss_of_a_step_has_the_steps_weight(target, tiny_model, make_pairs):
    """loss = CE + lambda * factor(step) * JEPA; evaluation has the whole lambda."""
    config = JEPAConfig(jepa_lambda=2.0, jepa_lambda_schedule="linear", jepa_target=target)
    jepa = LLMJEPA(tiny_model("llama"), config)
    batch = FusedCollator(config, pad_token_id=0)(make_pairs(4))
    for step, factor in enumerate([1.0, 0.75, 0.5, 0.25]):
        out = jepa(batch, step=step, num_steps=4)
        assert out.lambda_eff == 2.0 * factor
        assert out.loss.item() == pytest.approx((out.ce_loss + 2.0 * factor * out.jepa_loss).item(), abs=1e-6)
    assert jepa.eval()(batch).lambda_eff == 2.0


@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ({"jepa_lambda_schedule": "cosine"}, {"step": 1}),
        ({"jepa_lambda_schedule": "linear"}, {"num_steps": 5}),
    ],
)
def test_a_weight_that_cannot_be_known_is_an_error(settings, given, tiny_model, make_pairs, raises):
    """Used bare, a schedule needs the step, and where it depends on the length of the run, that too."""
    config = JEPAConfig(**settings)
    jepa = LLMJEPA(tiny_model("llama"), config)
    batch = FusedCollator(config, pad_token_id=0)(make_pairs(2))
    with raises("step_missing", f"jepa_lambda_schedule={config.jepa_lambda_schedule!r}", "step=", "num_steps="):
        jepa(batch, **given)
    assert jepa(batch, step=1, num_steps=5).lambda_eff > 0


def test_loss_dropout_and_the_schedule_go_together(tiny_model):
    """A dropped step has weight 0, every other the schedule's."""
    torch.manual_seed(0)
    config = JEPAConfig(jepa_loss_dropout=0.5, jepa_lambda_schedule="linear")
    jepa = LLMJEPA(tiny_model("llama"), config)
    weights = [jepa.lambda_at(step, 20) for step in range(20)]
    drops = [is_dropped(0.5, jepa.seed, step) for step in range(20)]
    assert 0 < sum(drops) < 20
    expected = [0.0 if dropped else 1 - step / 20 for step, dropped in enumerate(drops)]
    assert weights == pytest.approx(expected)


def test_a_schedule_that_cannot_be_names_its_field(raises):
    with raises("value_not_allowed", "jepa_lambda_schedule='step'", "constant, linear, cosine"):
        JEPAConfig(jepa_lambda_schedule="step")


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_trainer_gives_each_step_its_weight_also_after_a_resume(schedule, make_jepa, make_trainer, make_pairs):
    """Six steps: the log has each step's weight, and a resumed run the same bits."""
    settings = {"jepa_lambda": 0.5, "jepa_lambda_schedule": schedule}
    lines = {}
    for out, checkpoint in (("whole", None), ("resumed", "whole/checkpoint-1")):
        trainer = make_trainer(make_jepa(**settings), make_pairs(24), out=out, max_steps=6, save_steps=1)
        root = trainer.args.output_dir.removesuffix(out)
        trainer.train(resume_from_checkpoint=checkpoint and root + checkpoint)
        lines[out] = [
            (line["step"], line["loss"], line["lambda_eff"]) for line in trainer.state.log_history if "loss" in line
        ]
    assert [each for _, _, each in lines["whole"]] == pytest.approx(
        [0.5 * lambda_factor(step, 6, schedule) for step in range(6)]
    )
    assert lines["whole"][0][2] == 0.5
    assert lines["resumed"] == lines["whole"]
