"""The gradient monitor says how the two terms pull, and changes nothing of the run."""

from __future__ import annotations

import math

import pytest
import torch

from llm_jepa.errors import ConfigError
from llm_jepa.objective import FusedCollator, reference_loss
from llm_jepa.training.gradients import compare_gradients

DROPOUT = {"attn_pdrop": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1}
NAMES = {"monitor/grad_cosine", "monitor/grad_norm_ratio"}


def flat_gradient(jepa, loss):
    """The gradient of a loss over the model's weights as one vector, [PRED] not among them."""
    jepa.zero_grad()
    loss.backward()
    return torch.cat([each.grad.flatten() for each in jepa.model.parameters()]).double()


@pytest.mark.parametrize("target", ["stop_grad", "shared"])
@pytest.mark.parametrize("jepa_lambda", [0.3, 2.0])
def test_cosine_and_ratio_are_those_of_separate_forwards(jepa_lambda, target, make_jepa, make_pairs):
    """Each term's gradient taken literally, weighted by gamma and lambda."""
    pairs = make_pairs(4, seed=2)
    jepa = make_jepa(jepa_lambda=jepa_lambda, jepa_gamma=0.5, jepa_target=target, jepa_k=2)
    ce = flat_gradient(jepa, 0.5 * reference_loss(jepa, pairs).ce_loss)
    whole = flat_gradient(jepa, reference_loss(jepa, pairs).loss)
    other = whole - ce
    jepa.zero_grad()
    batch = FusedCollator(jepa.config, pad_token_id=0)(pairs)
    looks = compare_gradients(jepa, batch, step=0, num_steps=1)
    assert looks["monitor/grad_cosine"] == pytest.approx((ce @ other / ce.norm() / other.norm()).item(), abs=1e-4)
    assert looks["monitor/grad_norm_ratio"] == pytest.approx((other.norm() / ce.norm()).item(), rel=1e-4)
    assert all(each.grad is None for each in jepa.parameters())


def test_the_ratio_grows_with_lambda_and_the_cosine_stays(make_jepa, make_pairs):
    """Twice the weight is twice the pull, in the same direction."""
    looks = []
    for jepa_lambda in (0.5, 1.0):
        jepa = make_jepa(jepa_lambda=jepa_lambda)
        batch = FusedCollator(jepa.config, pad_token_id=0)(make_pairs(4))
        looks.append(compare_gradients(jepa, batch, step=0, num_steps=1))
    assert looks[1]["monitor/grad_norm_ratio"] == pytest.approx(2 * looks[0]["monitor/grad_norm_ratio"], rel=1e-4)
    assert looks[1]["monitor/grad_cosine"] == pytest.approx(looks[0]["monitor/grad_cosine"], abs=1e-5)


@pytest.mark.parametrize("objective", [{}, {"jepa_loss_dropout": 0.5}, {"jepa_target": "ema"}])
def test_the_run_is_the_same_to_the_bit(objective, make_jepa, make_trainer, make_pairs):
    """With dropout on, losses, norms and weights of a monitored run are those of one that is not."""
    seen = {}
    for every in (0, 2):
        trainer = make_trainer(
            make_jepa("gpt2", changes=DROPOUT, jepa_k=2, **objective),
            make_pairs(16),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=6,
            gradient_monitor_steps=every,
            seed=3,
        )
        trainer.train()
        lines = [line for line in trainer.state.log_history if "loss" in line]
        seen[every] = (
            [(line["loss"], line["grad_norm"], line["ce_loss"]) for line in lines],
            [each.detach().clone() for each in trainer.jepa.parameters()],
            [line["step"] for line in lines if line.keys() >= NAMES],
        )
    assert seen[0][0] == seen[2][0]
    assert all(torch.equal(one, other) for one, other in zip(seen[0][1], seen[2][1], strict=True))
    assert seen[0][2] == [] and set(seen[2][2]) <= {1, 3, 5} and seen[2][2]


def test_a_line_of_the_log_has_the_mean_of_its_looks(make_jepa, make_trainer, make_pairs):
    """Looks every step and lines every three: each line is the mean of three."""
    values = {}
    for every in (1, 3):
        trainer = make_trainer(
            make_jepa(), make_pairs(24), max_steps=6, gradient_monitor_steps=1, logging_steps=every, seed=3
        )
        trainer.train()
        values[every] = [line["monitor/grad_cosine"] for line in trainer.state.log_history if "loss" in line]
    assert len(values[1]) == 6 and len(values[3]) == 2
    assert values[3] == pytest.approx([sum(values[1][:3]) / 3, sum(values[1][3:]) / 3])


def test_steps_without_a_term_to_compare_log_nothing(make_jepa, make_trainer, make_pairs):
    """Neither the baseline, nor a step of weight 0, nor rows without views."""
    without = make_pairs(8)
    for pair in without:
        pair.use_jepa = False
    for objective, pairs in (
        ({"jepa_lambda": 0.0}, make_pairs(8)),
        ({"jepa_lambda_warmup": 1}, make_pairs(8)),
        ({}, without),
    ):
        steps = 2 if "jepa_lambda_warmup" in objective else 1  # a run all of whose steps have weight 0 is refused
        trainer = make_trainer(make_jepa(**objective), pairs, max_steps=steps, gradient_monitor_steps=1)
        trainer.train()
        line = next(line for line in trainer.state.log_history if "loss" in line)
        assert not NAMES & line.keys()
        assert math.isfinite(line["loss"])


def test_the_alarm_of_a_resumed_run_takes_no_look_at_gradients_for_one_at_pairs(make_jepa, make_trainer, make_pairs):
    """Lines of training have monitors too, now; the replay reads those of held-out pairs."""
    trainer = make_trainer(
        make_jepa(), make_pairs(8), make_pairs(6, seed=1), max_steps=2, gradient_monitor_steps=1, monitor_pairs=6
    )
    trainer.train()
    assert any(line.keys() >= NAMES for line in trainer.state.log_history)
    before = trainer.alarm.summary()
    trainer.replay_alarm()
    assert trainer.alarm.summary() == before


def test_a_loss_of_one_term_has_nothing_to_compare(make_jepa, make_trainer, make_pairs):
    with pytest.raises(ConfigError, match="gradient_monitor_steps compares two terms, and jepa_gamma=0"):
        make_trainer(make_jepa(jepa_gamma=0.0), make_pairs(4), gradient_monitor_steps=1)
