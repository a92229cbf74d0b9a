"""A9 and A10: SIGTERM and Ctrl-C end a run after its step, with a checkpoint from which it continues bit for bit."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from llm_jepa.training.checkpoints import find_newest, find_problem
from llm_jepa.training.stopping import StopRequest

AT_STEP = 3
SETTINGS = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "max_steps": 6, "save_steps": None}
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


class Sender(TrainerCallback):
    """Sends a signal to its own process at a named moment of step AT_STEP."""

    def __init__(self, moment: str, number: signal.Signals, times: int = 1) -> None:
        self.moment, self.number, self.times = moment, number, times

    def _at(self, moment, state, step=AT_STEP):
        if self.moment == moment and state.global_step == step:
            for _ in range(self.times):
                signal.raise_signal(self.number)

    def on_substep_end(self, args, state, control, **kwargs):  # between two micro-batches, before the step counts
        self._at("accumulation", state, AT_STEP - 1)

    def on_step_end(self, args, state, control, **kwargs):
        self._at("step end", state)

    def on_evaluate(self, args, state, control, **kwargs):
        self._at("evaluation", state)

    def on_save(self, args, state, control, **kwargs):
        self._at("save", state)


def train_until_stopped(trainer, sender):
    """Train as `llm-jepa train` does, with its answer to the two signals; for a process of its own."""

    def terminate(*_):
        raise SystemExit(EXIT_CODES[signal.SIGTERM])

    def run():
        signal.signal(signal.SIGTERM, terminate)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop = StopRequest()
        trainer.add_callback(sender)
        trainer.add_callback(stop)
        try:
            with stop.listening():
                trainer.train()
        except KeyboardInterrupt:
            raise SystemExit(EXIT_CODES[signal.SIGINT]) from None

    return run


@pytest.fixture
def make_stopped(make_run, make_pairs):
    """Build the run of these tests: two micro-batches a step, four steps an epoch, no checkpoints of its own."""

    def make(out, num_rows=16, **more):
        return make_run(out, **{**SETTINGS, **more}, pairs=make_pairs(num_rows), objective={"jepa_loss_dropout": 0.5})

    return make


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["accumulation", "step end", "evaluation", "save"])
def test_a9_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    moment, number, make_stopped, run_child, final_weights, fault_row
):
    """Wherever it comes, the step is finished and saved; the resumed run ends in the weights of one never stopped."""
    whole = make_stopped("whole")
    whole.train()
    saves = {"save_steps": 1} if moment == "save" else {}
    looks = {"eval_strategy": "steps", "eval_steps": 1} if moment == "evaluation" else {}
    with fault_row("A9", "SIGTERM or Ctrl-C during a step, a validation, a save", 1) as row:
        trainer = make_stopped("stopped", **saves, **looks)
        if looks:
            trainer.eval_pairs = list(trainer.train_dataset)
        code = run_child(train_until_stopped(trainer, Sender(moment, number))).wait()
        assert code == EXIT_CODES[number]
        newest = find_newest(trainer.args.output_dir)
        # A look and a save come after the end of their step: the run ends with the next one.
        assert newest.name == f"checkpoint-{AT_STEP if moment in ('accumulation', 'step end') else AT_STEP + 1}"
        again = make_stopped("stopped")
        again.train(resume_from_checkpoint=True)
        ours, theirs = final_weights(again), final_weights(whole)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        row.passed = 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a10_a_second_signal_stops_at_once_and_breaks_nothing(number, make_stopped, run_child, fault_row):
    """No more step, no half checkpoint; what was whole before is whole."""
    with fault_row("A10", "SIGTERM or Ctrl-C twice", 1) as row:
        trainer = make_stopped("stopped", save_steps=1)
        code = run_child(train_until_stopped(trainer, Sender("accumulation", number, times=2))).wait()
        assert code == EXIT_CODES[number]
        folders = list(Path(trainer.args.output_dir).iterdir())
        assert sorted(each.name for each in folders) == ["checkpoint-1", "checkpoint-2"]
        assert all(find_problem(each) is None for each in folders)
        row.passed = 1


def test_a_signal_after_the_last_step_of_an_epoch_is_answered_there(make_stopped, run_child):
    """What is looked at and saved between two epochs may take long: the run ends before the next one begins."""
    trainer = make_stopped("stopped", num_rows=12, save_steps=1)
    assert run_child(train_until_stopped(trainer, Sender("save", signal.SIGTERM))).wait() == 143
    assert find_newest(trainer.args.output_dir).name == f"checkpoint-{AT_STEP}"


def test_without_a_signal_nothing_is_stopped_or_saved(make_stopped):
    """Negative control: the same callbacks, no signal."""
    trainer, stop = make_stopped("run"), StopRequest()
    trainer.add_callback(stop)
    before = signal.getsignal(signal.SIGTERM)
    with stop.listening():
        trainer.train()
    assert trainer.state.global_step == SETTINGS["max_steps"]
    assert find_newest(trainer.args.output_dir) is None
    assert signal.getsignal(signal.SIGTERM) is before
