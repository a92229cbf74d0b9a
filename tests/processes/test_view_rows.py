"""Rows of a second file in two processes: the steps are those of one."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from llm_jepa import JEPAConfig
from llm_jepa.objective import LLMJEPA
from llm_jepa.processes import join
from llm_jepa.training.trainer import JEPATrainer

CASES = {
    "infonce, views alone": ({"jepa_distance": "infonce", "jepa_target": "shared"}, {"use_ce": False}, 11),
    "a process without a task row": ({}, {}, 9),
    "half a row for each": ({"jepa_k": 2, "loss_on": "code"}, {}, 11),
    "lambda 0": ({"jepa_lambda": 0.0}, {}, 9),
}


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_train_as_one_on_both_files(accumulation, make_trainer, tiny_model, make_pairs, start_ranks):
    """2 processes x 2 task rows against 1 x 4: the terms of each step and the weights at the end."""

    def train(batch_size: int):
        def run(rank: int):
            done = {}
            for name, (objective, marks, rows) in CASES.items():
                join()
                torch.manual_seed(5)
                jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(**objective))
                others = make_pairs(10, seed=2)
                for pair in others:
                    pair.__dict__.update(marks)
                ratio = 0.5 if name.startswith("half") else 1.0
                trainer = make_trainer(
                    jepa,
                    make_pairs(rows, seed=1),
                    kind=partial(JEPATrainer, view_dataset=others, views_ratio=ratio),
                    max_grad_norm=1e9,
                    per_device_train_batch_size=batch_size,
                    gradient_accumulation_steps=accumulation,
                    num_train_epochs=2,
                )
                trainer.train()
                steps = [line for line in trainer.state.log_history if "ce_loss" in line]
                done[name] = steps, {key: each.detach().clone() for key, each in jepa.state_dict().items()}
            return done

        return run

    two, one = start_ranks(train(2)), start_ranks(train(4), 1)
    first, _ = two.results()
    (alone,) = one.results()
    for name in CASES:
        (steps, weights), (its_steps, its_weights) = first[name], alone[name]
        assert len(steps) == len(its_steps) > 0
        for mine, its in zip(steps, its_steps, strict=True):
            for key in ("loss", "ce_loss", "jepa_loss"):
                assert mine[key] == pytest.approx(its[key], abs=2e-6, rel=2e-6, nan_ok=True), (name, key)
        for key, weight in weights.items():
            torch.testing.assert_close(weight, its_weights[key], rtol=1e-5, atol=1e-5)
