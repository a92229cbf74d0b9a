"""N5, N6: a step's loss, gradient and weights do not depend on how its rows are shared out over processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from llm_jepa import JEPAConfig
from llm_jepa.objective import LLMJEPA
from llm_jepa.processes import join

LOSS, NORM, WEIGHTS = 2e-6, 1e-5, 1e-5


@pytest.fixture
def train(make_trainer, tiny_model, make_pairs) -> Callable[..., Callable[[int], dict[str, Any]]]:
    """Give a function that trains a run and returns what its log and its weights are at the end."""

    def of(objective: dict, rows: int, out: str, **arguments):
        def run(rank: int) -> dict[str, Any]:
            join()
            torch.manual_seed(5)
            jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(**objective))
            pairs = make_pairs(rows, seed=1)
            for number, pair in enumerate(pairs):
                pair.group = "abc"[number % 3]
            trainer = make_trainer(jepa, pairs, out=out, max_grad_norm=1e9, **arguments)
            trainer.train()
            steps = [line for line in trainer.state.log_history if "ce_loss" in line]
            weights = {name: each.detach().clone() for name, each in jepa.state_dict().items()}
            return {"steps": steps, "weights": weights, "num_steps": trainer.state.global_step}

        return run

    return of


def assert_same(one, other, case):
    """The terms, the norm and the weights of two runs agree to the promised digits."""
    assert len(one["steps"]) == len(other["steps"]) > 0
    for mine, its in zip(one["steps"], other["steps"], strict=True):
        assert mine.keys() == its.keys(), case
        for name in {"loss", "lambda_eff", *(key for key in mine if key.endswith("_loss"))}:
            assert mine[name] == pytest.approx(its[name], abs=LOSS, rel=LOSS, nan_ok=True), (case, name)
        assert mine["grad_norm"] == pytest.approx(its["grad_norm"], rel=NORM), case
        assert mine["learning_rate"] == its["learning_rate"]
    for name, weight in one["weights"].items():
        torch.testing.assert_close(weight, other["weights"][name], rtol=WEIGHTS, atol=WEIGHTS)


# 11 rows: a step of 4 rows three times, the last of which has 3, so that the processes have 1 and 2.
# 9 rows: the last step has 1, so that one process has none.
ONE_EPOCH = {"num_train_epochs": 1}  # three steps: rounding grows with every one after them
CASES = {
    "uneven rows and a short last batch": ({}, 11, {}),
    "a process without a row, labels on the code alone": ({"loss_on": "code", "jepa_k": 2}, 9, {}),
    "a process without a row, both directions, gradients through both": (
        {"jepa_target": "shared", "jepa_direction": "both"},
        9,
        {},
    ),
    "the slow copy": ({"jepa_target": "ema"}, 9, {}),
    "loss dropout": ({"jepa_loss_dropout": 0.5}, 11, {"num_train_epochs": 2}),
    "no [PRED] to train": ({"jepa_k": 0}, 9, {}),
    "lambda 0": ({"jepa_lambda": 0.0}, 9, {}),
    "infonce over the targets of all": ({"jepa_distance": "infonce", "jepa_target": "shared"}, 11, ONE_EPOCH),
    "infonce without a row in one process": ({"jepa_distance": "infonce"}, 9, ONE_EPOCH),
    "infonce without a row in one process, gradients through both": (
        {"jepa_distance": "infonce", "jepa_target": "shared"},
        9,
        ONE_EPOCH,
    ),
    "symmetric infonce without a row in one process": ({"jepa_distance": "infonce_symmetric"}, 9, ONE_EPOCH),
    "symmetric infonce, gradients through both": (
        {"jepa_distance": "infonce_symmetric", "jepa_target": "shared"},
        9,
        ONE_EPOCH,
    ),
    "a probe with a head": ({"jepa_detach_backbone": True, "jepa_predictor": "mlp"}, 9, ONE_EPOCH),
    "Semantic Tube Prediction": ({"jepa_term": "stp"}, 9, ONE_EPOCH),
    "all anti-collapse terms": (
        {"jepa_variance_weight": 0.5, "jepa_covariance_weight": 0.3, "jepa_sigreg_weight": 0.2},
        9,
        ONE_EPOCH,
    ),
}


@pytest.mark.parametrize("accumulation", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_two_processes_train_as_one(accumulation, train, start_ranks):
    """2 processes x 2 rows against 1 process x 4 rows, micro-batch by micro-batch; three optimizer steps or more."""

    def all_cases(batch_size: int) -> Callable[[int], dict[str, Any]]:
        def run(rank: int) -> dict[str, Any]:
            done = {}
            for name, (objective, rows, more) in CASES.items():
                number = rows if accumulation == 1 else rows * accumulation - 1
                arguments = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": batch_size}
                done[name] = train(objective, number, "run", **arguments, **more)(rank)
            return done

        return run

    two, one = start_ranks(all_cases(2)), start_ranks(all_cases(4), 1)
    first, second = two.results()
    (alone,) = one.results()
    for name in CASES:
        assert_same(first[name], alone[name], name)
        same = first[name]["weights"].items()
        assert all(torch.equal(weight, second[name]["weights"][key]) for key, weight in same), name


def test_loss_dropout_is_drawn_alike_in_all_processes(train, start_ranks):
    """N10: the same steps are without their JEPA term everywhere, some of them, not all."""
    first, second = start_ranks(train({"jepa_loss_dropout": 0.5}, 12, "two", max_steps=8)).results()
    drawn = [[line["lambda_eff"] for line in each["steps"]] for each in (first, second)]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {0.0, 1.0}


def test_the_stock_loader_repeats_rows_and_gives_another_loss(train, start_ranks, monkeypatch):
    """Negative control: with accelerate's way to share rows out, the last step is of more rows than there are."""
    from transformers import Trainer

    from llm_jepa.training.trainer import JEPATrainer

    one = start_ranks(train({}, 11, "one", per_device_train_batch_size=4), 1).results()[0]
    monkeypatch.setattr(JEPATrainer, "get_train_dataloader", Trainer.get_train_dataloader)
    two = start_ranks(train({}, 11, "two", per_device_train_batch_size=2)).results()[0]
    assert not math.isclose(one["steps"][2]["loss"], two["steps"][2]["loss"], rel_tol=1e-3)


def test_infonce_without_gathering_is_another_loss(train, start_ranks):
    """Negative control of the gathering, and what `jepa_gather` switches off: negatives are a process's own."""
    objective = {"jepa_distance": "infonce", "jepa_gather": False}
    two = start_ranks(train(objective, 8, "two", per_device_train_batch_size=2)).results()[0]
    one = start_ranks(train(objective, 8, "one", per_device_train_batch_size=4), 1).results()[0]
    assert one["steps"][0]["jepa_loss"] > two["steps"][0]["jepa_loss"] + 0.1
