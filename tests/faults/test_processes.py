"""A11 to A13, B1, N7 over two processes: what happens to one happens to all, and nothing is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from transformers import TrainerCallback

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig
from llm_jepa.processes import gather, join
from llm_jepa.training.arguments import JEPATrainingArguments
from llm_jepa.training.checkpoints import find_newest, find_problem, read_manifest
from llm_jepa.training.saving import restore_weights, save_jepa
from llm_jepa.training.stopping import StopRequest

AT_STEP, STEPS = 3, 6
TOLERANCE = 1e-5


class AtStep(TrainerCallback):
    """Does something at the end of step AT_STEP, in one process."""

    def __init__(self, rank, action):
        self.rank, self.action = rank, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == AT_STEP and args.process_index == self.rank:
            self.action()


@pytest.fixture
def train(make_run, make_pairs, final_weights):
    """Give a function of the rank that trains on 14 rows, 4 to a step in all processes together."""

    def of(out, *, num_processes=2, before=lambda trainer: None, resume=None, **more):
        def run(rank):
            join()
            trainer = make_run(out, pairs=make_pairs(14), **{"per_device_train_batch_size": 4 // num_processes, **more})
            before(trainer)
            trainer.train(resume_from_checkpoint=resume)
            losses = {line["step"]: line["loss"] for line in trainer.state.log_history if "ce_loss" in line}
            return losses, final_weights(trainer)

        return run

    return of


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def assert_equal(ours, theirs, tolerance=0.0):
    losses, weights = ours
    its_losses, its_weights = theirs
    assert losses.keys() == its_losses.keys()
    assert all(losses[step] == pytest.approx(its_losses[step], rel=tolerance, abs=tolerance) for step in losses)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, its_weights[name], rtol=tolerance, atol=tolerance)


def test_a11_one_process_dies_and_the_run_goes_on_from_the_last_step(train, start_ranks, folder, fault_row):
    """kill -9 of rank 1 after step 3: rank 0 ends with an error, and what is resumed has the bits of an unbroken run.

    The checkpoints of two processes are one folder with one manifest, which names the random state of each.
    """
    with fault_row("A11", "kill -9 of one of two processes", 1) as row:
        whole = start_ranks(train("whole")).results()[0]
        die = AtStep(1, lambda: os.kill(os.getpid(), signal.SIGKILL))
        codes = start_ranks(train("run", before=lambda trainer: trainer.add_callback(die))).codes()
        assert codes == [1, -signal.SIGKILL]
        newest = find_newest(folder)
        assert newest in [folder / f"checkpoint-{step}" for step in (AT_STEP - 1, AT_STEP)]
        assert find_problem(newest) is None
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= {each.name for each in newest.iterdir()}
        resumed = start_ranks(train("run", resume=True)).results()[0]
        assert_equal(resumed, whole)
        row.passed = 1


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a12_another_number_of_processes_is_refused_by_name_and_exact_where_accepted(
    before, after, train, start_ranks, folder, fault_row, raises
):
    """The rows of a step are the same set, so the resumed run equals one that was never stopped, to 1e-5."""
    with fault_row("A12", f"resume {before} processes with {after}", 2) as row:
        whole = start_ranks(train("whole", num_processes=before), before).results()[0]
        stopped = train("run", num_processes=before, before=lambda trainer: trainer.add_callback(Stop()))
        start_ranks(stopped, before).results()
        assert read_manifest(find_newest(folder))["facts"]["num_processes"] == before

        def refused(rank):
            with raises("settings_changed", f"num_processes was {before} and is {after}"):
                train("run", num_processes=after, resume=True)(rank)
            return True

        assert all(start_ranks(refused, after).results())
        row.passed = 1
        accepted = {"allow_changed": ["num_processes", "per_device_train_batch_size"]}
        resumed = start_ranks(train("run", num_processes=after, resume=True, **accepted), after).results()[0]
        assert_equal(resumed, whole, TOLERANCE)
        row.passed = 2


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_n7_a_sharded_model_goes_on_in_another_number_of_processes(
    before, after, tiny_model, make_pairs, start_ranks, tmp_path, fault_row
):
    """FSDP2 by `fully_shard`, saved whole after two steps and read again: steps 3 and 4 have the losses that they
    have in as many processes as before. Without what was saved they have not."""
    pairs, config = make_pairs(6), JEPAConfig(jepa_target="ema")

    def steps(source, target, num_processes):
        def run(rank):
            join()
            jepa = LLMJEPA(tiny_model("llama"), config)
            if num_processes > 1:
                for layer in (*jepa.model.model.layers, *jepa.target.layers.layers):
                    fully_shard(layer)
                fully_shard(jepa)
            if source:
                restore_weights(jepa, source)
            optimizer = torch.optim.SGD([each for each in jepa.parameters() if each.requires_grad], lr=0.1)
            batch, losses = FusedCollator(config, pad_token_id=0)(pairs[rank::num_processes]), []
            counts = {"num_labels": sum(len(pair) - 1 for pair in pairs), "num_pairs": len(pairs)}
            for step in range(2):
                loss = jepa(batch, step=step, **counts).loss
                (loss * num_processes).backward()
                losses.append(sum(gather(loss.item())))
                optimizer.step()
                jepa.update_target()
                optimizer.zero_grad()
            save_jepa(jepa, target)
            return losses

        return start_ranks(run, num_processes).results()[0]

    fresh = steps(None, tmp_path / "first", before)
    expected = steps(tmp_path / "first", tmp_path / "whole", before)
    with fault_row("N7", "a sharded model is resumed with another number of processes", 1) as row:
        resumed = steps(tmp_path / "first", tmp_path / "second", after)
        assert resumed == pytest.approx(expected, rel=2e-6)
        assert fresh != pytest.approx(expected, rel=1e-3)
        row.passed = 1


class Stop(TrainerCallback):
    """Ends the run after step AT_STEP, which was saved."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == AT_STEP


def test_a13_fsdp_on_a_cpu_is_refused(tmp_path, monkeypatch, fault_row, raises):
    """accelerate would train with DDP and say nothing: asked for in the settings, and by its own configuration."""
    with fault_row("A13", "FSDP is requested on a CPU", 2) as row:
        with raises("device_not_capable", "FSDP"):
            JEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, fsdp=True)
        row.passed = 1
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        with raises("device_not_capable", "FSDP"):
            JEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        row.passed = 2


@pytest.mark.parametrize("who", [0, 1])
def test_a9_a_signal_to_one_process_stops_all_after_the_same_step(who, train, start_ranks, folder, fault_row):
    """Each saves, and ends as the signal says; the resumed run has the bits of one that was never stopped."""

    def run(rank):
        def with_stop(trainer):
            trainer.add_callback(AtStep(who, lambda: signal.raise_signal(signal.SIGTERM)))
            trainer.add_callback(stop)

        def terminate(*_):
            raise SystemExit(143)

        signal.signal(signal.SIGTERM, terminate)
        stop = StopRequest()
        with stop.listening():
            train("run", before=with_stop, save_steps=None)(rank)

    with fault_row("A9", "SIGTERM to one of two processes", 1) as row:
        assert start_ranks(run).codes() == [143, 143]
        assert find_newest(folder) == folder / f"checkpoint-{AT_STEP}"
        whole = start_ranks(train("whole")).results()[0]
        assert_equal(start_ranks(train("run", resume=True)).results()[0], whole)
        row.passed = 1


@pytest.mark.parametrize("accumulation", [1, 2])
def test_b1_a_nan_in_one_process_stops_both_before_the_step(
    accumulation, train, start_ranks, folder, fault_row, raises
):
    """Both say which rows it was, of the process that had them; no step after it, no checkpoint of it."""

    def poison(trainer):
        original, seen = trainer.jepa.forward, []

        def forward(batch, **more):
            out = original(batch, **more)
            seen.append(batch)
            if trainer.args.process_index == 1 and len(seen) == (AT_STEP - 1) * accumulation + 1:
                batch.sources.append("train.jsonl:7")
                out.loss = out.loss * torch.nan
            return out

        trainer.jepa.forward = forward

    def run(rank):
        with raises("loss_not_finite", f"step {AT_STEP} ", "nan", "train.jsonl:7", exit_code=1):
            train("run", before=poison, gradient_accumulation_steps=accumulation)(rank)
        return True

    with fault_row("B1", "the loss is nan in one of two processes", 1) as row:
        assert all(start_ranks(run).results())
        assert find_newest(folder) == folder / f"checkpoint-{AT_STEP - 1}"
        row.passed = 1


def test_processes_that_were_given_other_rows_are_refused(make_jepa, make_trainer, make_pairs, start_ranks, raises):
    """A machine with another version of the training file would train on a mixture, and say nothing."""

    def run(rank):
        join()
        trainer = make_trainer(make_jepa(), make_pairs(8, seed=rank), max_steps=1)
        with raises("processes_differ", "Process 1", "train_rows", "process 0"):
            trainer.train()
        return True

    assert all(start_ranks(run).results())


def test_one_process_with_several_gpus_uses_one_and_says_how_to_use_all(make_jepa, make_trainer, make_pairs, caplog):
    """`nn.DataParallel`, which the stock Trainer would choose, cannot split our batches."""
    arguments = JEPATrainingArguments(output_dir="unused", use_cpu=True)
    assert arguments.n_gpu <= 1
    trainer = make_trainer(make_jepa(), make_pairs(4), kind=_TwoGPUs, max_steps=1)
    trainer.train()
    assert "torchrun --nproc-per-node 2" in caplog.text
    assert trainer.args.train_batch_size == trainer.args.per_device_train_batch_size


def _TwoGPUs(jepa, args, *more, **options):  # noqa: N802
    from llm_jepa.training.trainer import JEPATrainer

    assert args.n_gpu <= 1  # sets up the device, which would count again
    args._n_gpu = 2
    return JEPATrainer(jepa, args, *more, **options)


def test_the_folder_of_a_run_is_whole_however_many_wrote_it(train, start_ranks, folder):
    """One manifest, no leftover of staging."""
    start_ranks(train("run", max_steps=2)).results()
    assert sorted(each.name for each in Path(folder).iterdir()) == ["checkpoint-1", "checkpoint-2"]
