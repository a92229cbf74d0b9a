"""What the objectives draw by step, and what they train beside the model, through the loop and over a resume."""

from __future__ import annotations

import pytest
import torch

OBJECTIVES = {
    "a head and SIGReg": {
        "jepa_predictor": "mlp",
        "jepa_sigreg_weight": 0.1,
        "jepa_variance_weight": 0.5,
        "jepa_pred_position": "prepend",
        "jepa_distance": "infonce_symmetric",
    },
    "Semantic Tube Prediction": {"jepa_term": "stp", "jepa_lambda": 0.05},
    "a probe": {"jepa_detach_backbone": True, "jepa_predictor": "linear"},
}


def log_of(trainer) -> list[str]:
    names = ("step", "loss", "grad_norm", "ce_loss", "jepa_loss", "sigreg_loss", "variance_loss", "lambda_eff")
    return [str({name: line[name] for name in names if name in line}) for line in trainer.state.log_history[:4]]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_resumed_run_is_the_run_that_was_never_stopped(name, make_jepa, make_trainer, make_pairs):
    """Promise 5: bits of every weight, the head's among them, and of every term; accumulation is on."""

    def build(out):
        jepa = make_jepa("gpt2", seed=3, changes={"resid_pdrop": 0.2}, **OBJECTIVES[name])
        if out != "whole":  # what a new process starts from does not matter
            for each in jepa.parameters():
                each.data.fill_(0.01)
        save = 1 if out == "whole" else None
        settings = {"max_steps": 4, "save_steps": save, "gradient_accumulation_steps": 2, "seed": 3}
        return make_trainer(jepa, make_pairs(9, seed=2), out=out, per_device_train_batch_size=2, **settings)

    whole = build("whole")
    whole.train()
    resumed, expected = build("resumed"), whole.jepa.state_dict()
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-2")
    assert all(torch.equal(each, expected[key]) for key, each in resumed.jepa.state_dict().items())
    assert log_of(resumed) == log_of(whole)
