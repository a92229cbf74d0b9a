"""`sum_micro_batches`: the scale of the published JEPA trainer, whose loss is not divided by the accumulation."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import clip_grad_norm_
from transformers import Trainer, TrainerCallback, TrainingArguments

from llm_jepa.objective import FusedCollator, reference_loss
from llm_jepa.processes import join

OBJECTIVE = {"jepa_lambda": 2.0, "jepa_k": 2, "jepa_target": "shared", "train_end_token": False}
SETTINGS = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "train_sampling_strategy": "sequential",
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "num_train_epochs": 1,
}


def logged(trainer, key):
    return [line[key] for line in trainer.state.log_history if key in line]


class LastGradients(TrainerCallback):
    """Keeps the gradients of the first optimizer step, clipped as the optimizer gets them."""

    def __init__(self):
        self.first = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.first is None:
            self.first = [each.grad.clone() for each in model.parameters() if each.grad is not None]


def assert_near(first, second, tolerance=1e-4):
    for one, other in zip(first, second, strict=True):
        assert (one - other).norm() <= tolerance * other.norm().clamp(min=1e-3)


@pytest.mark.parametrize("max_grad_norm", [1e9, 1.0], ids=["unclipped", "clipped"])
def test_a_step_is_the_sum_of_its_micro_batches_own_means(max_grad_norm, make_jepa, make_trainer, make_pairs):
    """Losses, gradients and weights of a literal loop: separate forwards, a backward for each micro-batch, AdamW.

    Twenty rows are two steps of four micro-batches and one of two.
    """
    pairs = make_pairs(20, seed=3)
    plain = make_jepa(**OBJECTIVE)
    optimizer = torch.optim.AdamW([each for each in plain.parameters() if each.requires_grad], lr=1e-3, weight_decay=0)
    losses, ce_losses, norms, first = [], [], [], None
    for start in range(0, 20, 8):
        parts = [reference_loss(plain, pairs[at : at + 2]) for at in range(start, min(start + 8, 20), 2)]
        sum(part.loss for part in parts).backward()
        norms.append(clip_grad_norm_(plain.parameters(), max_grad_norm).item())
        first = first or [each.grad.clone() for each in plain.parameters() if each.grad is not None]
        losses.append(sum(part.loss.item() for part in parts))
        ce_losses.append(sum(part.ce_loss.item() for part in parts) / len(parts))
        optimizer.step()
        optimizer.zero_grad()

    seen = LastGradients()
    trainer = make_trainer(
        make_jepa(**OBJECTIVE),
        pairs,
        callbacks=[seen],
        sum_micro_batches=True,
        max_grad_norm=max_grad_norm,
        **SETTINGS,
    )
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx(losses, rel=1e-5)
    assert logged(trainer, "ce_loss") == pytest.approx(ce_losses, rel=1e-5)  # still nats a token
    assert logged(trainer, "grad_norm") == pytest.approx(norms, rel=1e-4)
    assert_near(seen.first, first)
    assert_near(list(trainer.jepa.parameters()), list(plain.parameters()))


def test_the_gradient_is_the_accumulation_times_as_large(make_jepa, make_trainer, make_pairs):
    """Rows of one length: four micro-batches give four times the gradient, and one micro-batch the same."""
    pairs = [pair for pair in make_pairs(200, seed=4) if len(pair) == 12][:8]
    assert len(pairs) == 8
    norms = {}
    for summed in (False, True):
        for micro, accumulation in ((2, 4), (8, 1)):
            settings = SETTINGS | {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation}
            trainer = make_trainer(make_jepa(jepa_lambda=0.0), pairs, sum_micro_batches=summed, **settings)
            trainer.train()
            norms[summed, accumulation] = logged(trainer, "grad_norm")[0]
    assert norms[True, 4] == pytest.approx(4 * norms[False, 4], rel=1e-5)
    assert norms[True, 1] == norms[False, 1] == pytest.approx(norms[False, 4], rel=1e-5)


class PublishedLoss(Trainer):
    """The stock Trainer with a loss that, like the published one, calls the model and passes no count on."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model(**inputs).loss


@pytest.mark.parametrize(("kind", "summed"), [(PublishedLoss, True), (Trainer, False)], ids=["jepa arm", "baseline"])
def test_the_stock_trainer_takes_the_same_steps(kind, summed, make_jepa, make_trainer, make_pairs, tmp_path):
    """At lambda 0 both published trainers are ours, the one with a loss of its own and the stock one."""
    pairs = make_pairs(16, seed=6)
    settings = {**SETTINGS, "logging_steps": 1, "max_grad_norm": 1.0, "use_cpu": True, "disable_tqdm": True}
    settings |= {"report_to": "none", "eval_strategy": "no", "save_strategy": "no", "remove_unused_columns": False}
    theirs = make_jepa(jepa_lambda=0.0).model

    def collate(rows):
        batch = FusedCollator(ours.jepa.config, pad_token_id=0)(rows)
        return {
            "input_ids": batch.rows.input_ids,
            "attention_mask": batch.rows.real.long(),
            "labels": batch.labels,
        }

    ours = make_trainer(make_jepa(jepa_lambda=0.0), pairs, sum_micro_batches=summed, max_grad_norm=1.0, **SETTINGS)
    ours.train()
    stock = kind(theirs, TrainingArguments(str(tmp_path / "stock"), **settings), collate, pairs)
    stock.train()
    for key in ("loss", "grad_norm"):
        assert logged(ours, key) == pytest.approx(logged(stock, key), rel=1e-4), key
    assert_near(list(ours.jepa.model.parameters()), list(theirs.parameters()))


def test_a_run_does_not_go_on_at_another_scale(make_jepa, make_trainer, make_pairs):
    facts = [make_trainer(make_jepa(), make_pairs(4), sum_micro_batches=summed).facts() for summed in (False, True)]
    assert facts[1] == facts[0] | {"sum_micro_batches": True}


def test_several_processes_average_their_sums(make_jepa, make_trainer, make_pairs, start_ranks):
    """Each of two processes sums its own two micro-batches; the gradient is the mean of both, as data-parallel training
    averages. The log has nats a token and the distance a pair, whatever the scale."""
    pairs = make_pairs(8, seed=9)

    def run(rank):
        join()
        torch.manual_seed(5)
        settings = SETTINGS | {"gradient_accumulation_steps": 2, "max_grad_norm": 1e9, "max_steps": 1}
        trainer = make_trainer(make_jepa(**OBJECTIVE), pairs, sum_micro_batches=True, **settings)
        trainer.train()
        return next(line for line in trainer.state.log_history if "loss" in line)

    first, second = start_ranks(run).results()
    plain = make_jepa(**OBJECTIVE)
    parts = [reference_loss(plain, pairs[at : at + 2]) for at in range(0, 8, 2)]
    (sum(part.loss for part in parts) / 2).backward()
    for line in (first, second):
        assert line["loss"] == pytest.approx(sum(part.loss.item() for part in parts) / 2, rel=1e-5)
        for term in ("ce_loss", "jepa_loss"):
            assert line[term] == pytest.approx(sum(getattr(part, term).item() for part in parts) / 4, rel=1e-5), term
        assert line["grad_norm"] == pytest.approx(clip_grad_norm_(plain.parameters(), 1e9).item(), rel=1e-4)
