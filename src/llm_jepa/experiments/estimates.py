"""Estimates the epochs, steps, FLOPs and time of a run on this machine, from two of its batches."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from llm_jepa.runs.cost import step_flops
from llm_jepa.runs.settings import RunConfig
from llm_jepa.runs.step_flops import count_step_flops
from llm_jepa.training.meters import StepTimer
from llm_jepa.training.trainer import JEPATrainer

NUM_BATCHES = 2


@dataclass(frozen=True)
class Estimate:
    """What the training of a run will take."""

    epochs: float
    steps: int  # of the optimizer
    flops: float  # of all steps
    training_time_s: float  # without evaluations


def estimate(trainer: JEPATrainer, run: RunConfig) -> Estimate:
    """Do a step on each of two batches, and scale their FLOPs and time to the whole run."""
    _, steps_each_epoch, *_, num_steps = trainer.set_initial_training_values(
        trainer.args, trainer.get_train_dataloader()
    )
    trainer.state.max_steps = num_steps
    cost = {"batches_per_step": trainer.batches_per_step}
    cost["flops_per_step"] = count_step_flops(trainer, NUM_BATCHES)
    if run.jepa.has_term and run.jepa.jepa_loss_dropout:
        cost["flops_per_dropped_step"] = count_step_flops(trainer, NUM_BATCHES, dropped=True)
    return Estimate(
        num_steps / steps_each_epoch,
        num_steps,
        num_steps * (step_flops(run, cost) or 0.0),
        num_steps * trainer.batches_per_step * _time_of_batch(trainer, num_steps),
    )


def _time_of_batch(trainer: JEPATrainer, num_steps: int) -> float:
    """Return the mean seconds of forward, backward and update of a batch."""
    optimizer, model = trainer.create_optimizer(), trainer.jepa.train()
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # other arms share the model, so it must not change
    timer, weights = StepTimer(), []
    batches = list(trainer.sample_of_first_epoch(NUM_BATCHES))
    for batch, weight in (batches[0], *batches):  # the first time fills the caches
        timer.start()
        with trainer.compute_loss_context_manager():
            loss = model(batch.to(trainer.args.device), step=0, num_steps=num_steps).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.zero_grad()
        timer.stop()
        weights.append(weight)
    model.eval()
    trainer.optimizer = None
    return sum(weight * time_s for weight, time_s in zip(weights[1:], timer.times_s[1:], strict=True))
