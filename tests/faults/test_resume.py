"""N9: from any checkpoint a resumed run ends in the bits of one that was never stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

CHECKPOINTS = 10
DROPOUT = {"attention_dropout": 0.2}
SETTINGS = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 2},
    "dropout": {"objective": {"changes": DROPOUT, "jepa_loss_dropout": 0.5, "jepa_target": "ema"}},
    "loader workers": {"dataloader_num_workers": 2, "objective": {"changes": DROPOUT}},
}


@pytest.mark.parametrize(
    "name", [name if name == "accumulation" else pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS]
)
def test_n9_every_checkpoint_goes_on_to_the_same_bits(name, make_run, final_weights, fault_row):
    """Ten checkpoints, over ends of epochs, in each of four settings: weights and log are those of the whole run."""
    settings = {**SETTINGS[name], "max_steps": CHECKPOINTS + 1}
    whole = make_run("whole", **_fresh(settings))
    whole.train()
    expected = final_weights(whole)
    with fault_row("N9", "a run is resumed from each of ten checkpoints, in four settings", CHECKPOINTS) as row:
        for step in range(1, CHECKPOINTS + 1):
            resumed = make_run("resumed", **_fresh(settings))
            resumed.train(resume_from_checkpoint=Path(whole.args.output_dir) / f"checkpoint-{step}")
            ours = final_weights(resumed)
            assert all(torch.equal(ours[key], expected[key]) for key in expected), step
            assert _losses(resumed) == _losses(whole), step
            row.passed += 1


def test_n9_another_seed_gives_other_bits(make_run, final_weights):
    """Negative control: the comparison above can fail."""
    one, other = make_run("one", max_steps=2), make_run("other", max_steps=2, seed=43)
    one.train()
    other.train()
    ours, theirs = final_weights(one), final_weights(other)
    assert not all(torch.equal(ours[key], theirs[key]) for key in ours)


def _fresh(settings):
    """Copy the settings: `make_run` takes the objective out of what it is given."""
    return {**settings, "objective": dict(settings.get("objective", {}))}


def _losses(trainer):
    return [(line["step"], line["loss"], line["grad_norm"]) for line in trainer.state.log_history if "loss" in line]
