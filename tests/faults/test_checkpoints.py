"""A1 to A8 and A14: a checkpoint is whole or it is none, and a run goes on only as itself."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from llm_jepa.errors import LLMJEPAError
from llm_jepa.training import checkpoints
from llm_jepa.training.checkpoints import find_newest, find_problem, rotate
from llm_jepa.training.trainer import JEPATrainer

KILLS, LONG_KILLS = 20, 200
LONGEST_WAIT_S = 0.6  # a run of STEPS steps, each saved, takes about as long
FILES = (
    "config.json",
    "jepa.safetensors",
    "model.safetensors",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
)


def assert_same_weights(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def resume_all(numbers, make_run, run_child, wait_until_there, final_weights):
    """Kill a run at a random moment after its first checkpoint, for each number, and let it go on.

    Returns:
        How many end in the weights of a run that was never stopped.
    """
    whole = make_run("whole")
    whole.train()
    expected, resumed = final_weights(whole), 0
    for number in numbers:
        trainer = make_run(f"killed-{number}", save_total_limit=2)
        folder = Path(trainer.args.output_dir)
        child = run_child(trainer.train)
        wait_until_there(folder / "checkpoint-1")
        time.sleep(random.Random(number).uniform(0, LONGEST_WAIT_S))
        child.kill()
        child.wait()
        again = make_run(folder.name, save_total_limit=2)
        again.train(resume_from_checkpoint=True)
        assert_same_weights(final_weights(again), expected)
        shutil.rmtree(folder)
        resumed += 1
    return resumed


def test_a1_a_run_killed_while_it_saves_goes_on_to_the_same_weights(
    make_run, run_child, wait_until_there, final_weights, fault_row
):
    """kill -9 at random moments of a run that saves every step: all go on, bit for bit."""
    with fault_row("A1", "kill -9 at a random moment of a run that saves every step", KILLS) as row:
        row.passed = resume_all(range(KILLS), make_run, run_child, wait_until_there, final_weights)
    assert row.passed == KILLS


@pytest.mark.long
def test_a1_200_of_200_kills_resume(make_run, run_child, wait_until_there, final_weights, fault_row):
    """The long run of the same."""
    with fault_row("A1 long", "kill -9 at a random moment of a run that saves every step", LONG_KILLS) as row:
        numbers = range(1000, 1000 + LONG_KILLS)
        row.passed = resume_all(numbers, make_run, run_child, wait_until_there, final_weights)
    assert row.passed == LONG_KILLS


POINTS = {
    "after the model": (JEPATrainer, "_save", True),
    "after optimizer and schedule": (Trainer, "_save_optimizer_and_scheduler", True),
    "after the random state": (Trainer, "_save_rng_state", True),
    "before the manifest": (checkpoints, "write_json", False),
    "after the manifest": (checkpoints, "write_json", True),
    "before the renaming": (Path, "rename", False),
    "after the renaming": (Path, "rename", True),
    "before the rotation": (checkpoints, "_checkpoints", False),
    "during the rotation": (shutil, "rmtree", False),
}


@pytest.mark.parametrize("point", POINTS)
def test_a2_a_kill_at_each_point_of_a_save_leaves_a_whole_checkpoint(
    point, make_run, run_child, monkeypatch, final_weights, fault_row
):
    """The process ends at the named point of its third save; the run goes on to the same weights."""
    owner, name, after = POINTS[point]
    whole = make_run("whole")
    whole.train()
    trainer = make_run("killed", save_total_limit=1)
    original = getattr(owner, name)

    def die(*args, **more):
        if trainer.state.global_step < 3:
            return original(*args, **more)
        if after:
            original(*args, **more)
        os._exit(9)

    with fault_row("A2", "the process ends at a named point of a save", 1) as row:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, die)
            assert run_child(trainer.train).wait() == 9
        newest = find_newest(trainer.args.output_dir)
        assert newest is not None
        again = make_run("killed", save_total_limit=1)
        again.train(resume_from_checkpoint=True)
        assert_same_weights(final_weights(again), final_weights(whole))
        assert [each.name for each in Path(again.args.output_dir).iterdir()] == [f"checkpoint-{again.state.max_steps}"]
        row.passed = 1


def test_a3_a_full_disk_is_one_clear_error_and_the_checkpoint_before_it_is_whole(
    make_run, run_child, tmp_path, fault_row
):
    """No file may grow over 40 kB, as on a disk that is full: nothing half written stays."""
    first = make_run("run", max_steps=1)
    first.train()
    trainer = make_run("run", max_steps=2, allow_changed=["max_steps"])

    def fill():
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
        try:
            trainer.train(resume_from_checkpoint=True)
        except LLMJEPAError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            (tmp_path / "error").write_text(f"{error.code} {error}")

    with fault_row("A3", "the disk is full while a checkpoint is written", 1) as row:
        assert run_child(fill).wait() == 0
        code, error = (tmp_path / "error").read_text().split(" ", 1)
        assert code == "checkpoint_not_written"
        assert trainer.args.output_dir in error and "MiB are free" in error
        assert [each.name for each in Path(trainer.args.output_dir).iterdir()] == ["checkpoint-1"]
        assert find_problem(Path(trainer.args.output_dir) / "checkpoint-1") is None
        row.passed = 1


def test_a4_too_little_room_is_refused_before_the_first_step(make_run, monkeypatch, fault_row, raises):
    """save_total_limit checkpoints and the one being staged must fit; what is needed and what is free is told."""
    trainer = make_run("run", save_total_limit=2)
    full = shutil.disk_usage("/")._replace(free=100_000)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: full)
    with fault_row("A4", "too little disk space for the checkpoints", 1) as row:
        with raises(
            "disk_full", trainer.args.output_dir, "3 checkpoints", "0 MiB are free", "save_total_limit", exit_code=1
        ):
            trainer.train()
        assert trainer.state.global_step == 0
        row.passed = 1
    monkeypatch.undo()
    trainer.train()  # the control: with room it trains


@pytest.mark.parametrize("name", FILES)
def test_a5_a_missing_file_is_named_and_the_checkpoint_before_it_is_used(name, make_run, caplog, fault_row, raises):
    """Of the stock trainer, a missing optimizer, schedule or random state goes unnoticed."""
    trainer = make_run("run", max_steps=2)
    trainer.train()
    newest = Path(trainer.args.output_dir) / "checkpoint-2"
    assert find_newest(trainer.args.output_dir) == newest
    with fault_row("A5", "a file of the newest checkpoint is missing", 1) as row:
        (newest / name).unlink()
        assert find_problem(newest) == f"{name} is missing"
        assert find_newest(trainer.args.output_dir) == newest.with_name("checkpoint-1")
        assert f"checkpoint-2 cannot be used: {name} is missing; continuing from checkpoint-1" in caplog.text
        with raises("checkpoint_damaged", newest, f"{name} is missing"):
            make_run("run", max_steps=2).train(resume_from_checkpoint=newest)
        row.passed = 1


@pytest.mark.parametrize("damage", ["cut in half", "one bit"])
@pytest.mark.parametrize("name", FILES)
def test_a6_a_damaged_file_is_named_and_the_checkpoint_before_it_is_used(name, damage, make_run, fault_row):
    """Cut in half, the size tells; with one bit turned over, the hash does."""
    trainer = make_run("run", max_steps=2)
    trainer.train()
    newest = Path(trainer.args.output_dir) / "checkpoint-2"
    content = bytearray((newest / name).read_bytes())
    with fault_row("A6", "a file of the newest checkpoint is cut, or has one flipped bit", 1) as row:
        if damage == "one bit":
            content[len(content) // 2] ^= 1
            (newest / name).write_bytes(content)
            assert find_problem(newest) == f"{name} is not what was written (its sha256 differs)"
        else:
            (newest / name).write_bytes(content[: len(content) // 2])
            assert find_problem(newest) == f"{name} has {len(content) // 2:,} bytes, {len(content):,} were written"
        assert find_newest(trainer.args.output_dir) == newest.with_name("checkpoint-1")
        row.passed = 1


def test_a_run_of_weights_in_several_files_goes_on_to_the_same_weights(make_run, final_weights, fault_row):
    """A5, A6: a missing and a damaged shard are named; what goes on from the others ends in the bits of a run whose
    weights are in one file, whatever size of files it goes on with."""
    whole, trainer = make_run("whole"), make_run("run", max_shard_size="20KB")
    whole.train()
    trainer.train()
    newest = find_newest(trainer.args.output_dir)
    assert not (newest / "model.safetensors").exists()
    *_, middle, last = sorted(newest.glob("model-*-of-*.safetensors"))
    with fault_row("A5", "a file of the newest checkpoint is missing", 1) as row:
        last.rename(trainer.args.output_dir + ".moved")
        assert find_problem(newest) == f"{last.name} is missing"
        row.passed = 1
    Path(trainer.args.output_dir + ".moved").rename(last)
    assert find_newest(trainer.args.output_dir) == newest
    with fault_row("A6", "a file of the newest checkpoint is cut, or has one flipped bit", 1) as row:
        content = bytearray(middle.read_bytes())
        content[-1] ^= 1
        middle.write_bytes(content)
        assert find_problem(newest) == f"{middle.name} is not what was written (its sha256 differs)"
        assert find_newest(trainer.args.output_dir).name == f"checkpoint-{trainer.state.max_steps - 1}"
        row.passed = 1
    for number, size in enumerate(("20KB", "50GB")):
        folder = f"again-{number}"
        shutil.copytree(trainer.args.output_dir, Path(trainer.args.output_dir).with_name(folder))
        again = make_run(folder, max_shard_size=size)
        again.train(resume_from_checkpoint=True)
        assert_same_weights(final_weights(again), final_weights(whole))


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"files": 3}', b'{"files": {"a": 1}}', b"\xff", b'{"files": {"../x": {"bytes": 0, "sha256": ""}}}'],
)
def test_a6_a_damaged_manifest_is_told(content, make_run, raises):
    """The manifest too can be damaged, or be somebody's who wants to read elsewhere."""
    trainer = make_run("run", max_steps=1)
    trainer.train()
    newest = Path(trainer.args.output_dir) / "checkpoint-1"
    (newest / checkpoints.MANIFEST).write_bytes(content)
    assert "manifest.json" in find_problem(newest)
    with raises("checkpoint_damaged", trainer.args.output_dir, "checkpoint-1", "manifest.json"):
        find_newest(trainer.args.output_dir)


CHANGES = {
    "learning_rate": {"learning_rate": 1e-4},
    "seed": {"seed": 43},
    "per_device_train_batch_size": {"per_device_train_batch_size": 2},
    "data_seed": {"data_seed": 7},
    "jepa_lambda": {"objective": {"jepa_lambda": 0.5}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a7_changed_settings_are_refused_by_name_and_accepted_by_name(name, make_run, fault_row, raises):
    """The stock trainer takes them, and ignores a new learning rate."""
    make_run("run", max_steps=2).train()
    with fault_row("A7", "a setting is changed before a resume", 1) as row:
        with raises("settings_changed", f"\n  {name} was ", f"--allow-changed {name}."):
            make_run("run", max_steps=2, **CHANGES[name]).train(resume_from_checkpoint=True)
        accepted = make_run("run", max_steps=3, allow_changed=[name, "max_steps"], **CHANGES[name])
        accepted.train(resume_from_checkpoint=True)
        assert accepted.state.global_step == 3
        row.passed = 1


def test_a7_an_accepted_learning_rate_and_decay_take_effect(make_run):
    """The state that is loaded brings the old values; the accepted ones replace them."""
    constant = {"lr_scheduler_type": "constant", "warmup_steps": 0}
    make_run("run", max_steps=2, **constant).train()
    changes = {"learning_rate": 3e-4, "weight_decay": 0.3, "adam_beta2": 0.9}
    resumed = make_run("run", max_steps=3, allow_changed=[*changes, "max_steps"], **changes, **constant)
    resumed.train(resume_from_checkpoint=True)
    group = resumed.optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (3e-4, 0.3, (0.9, 0.9))
    assert resumed.state.log_history[-2]["learning_rate"] == 3e-4


@pytest.mark.parametrize("change", ["changed", "reordered", "shortened"])
def test_a8_other_rows_are_refused(change, make_run, make_pairs, fault_row, raises):
    """The stock trainer takes changed and shorter data in silence."""
    pairs = make_pairs(12)
    make_run("run", max_steps=2, pairs=pairs).train()
    other = {"changed": [*pairs[:-1], pairs[0]], "reordered": pairs[::-1], "shortened": pairs[:-1]}[change]
    with fault_row("A8", "the training rows are changed before a resume", 1) as row:
        with raises("settings_changed", "train_rows was 12 rows of sha256", f" and is {len(other)} rows of sha256"):
            make_run("run", max_steps=2, pairs=other).train(resume_from_checkpoint=True)
        row.passed = 1
    make_run("run", max_steps=2, pairs=make_pairs(12)).train(resume_from_checkpoint=True)  # the control


def test_a14_rotation_goes_by_step_and_keeps_the_newest_whole_one(make_run, fault_row):
    """The stock trainer goes by time stamps, which a copy or a clock can turn round."""
    trainer = make_run("run", max_steps=4)
    trainer.train()
    folder = Path(trainer.args.output_dir)
    with fault_row("A14", "time stamps are reversed before old checkpoints are removed", 1) as row:
        for step in range(1, 5):
            os.utime(folder / f"checkpoint-{step}", (10**9 - step, 10**9 - step))
        (folder / "checkpoint-4" / "model.safetensors").unlink()  # the newest, but not whole
        rotate(folder, limit=2)
        assert sorted(each.name for each in folder.iterdir()) == ["checkpoint-3", "checkpoint-4"]
        rotate(folder, limit=1)
        assert sorted(each.name for each in folder.iterdir()) == ["checkpoint-3"]
        row.passed = 1


def test_the_best_checkpoint_is_kept_under_its_own_name(make_run, make_pairs, make_jepa, make_trainer):
    """`load_best_model_at_end` finds it: the state names the folder it has, not the one it was staged in."""
    trainer = make_trainer(
        make_jepa(), make_pairs(8), make_pairs(4), max_steps=3, save_steps=1, save_total_limit=2,
        metric_for_best_model="eval_ce_loss", greater_is_better=True, load_best_model_at_end=True,
    )  # fmt: skip
    trainer.train()
    folder = Path(trainer.args.output_dir)
    assert trainer.state.best_model_checkpoint == str(folder / "checkpoint-1")
    assert sorted(each.name for each in folder.iterdir()) == ["checkpoint-1", "checkpoint-3"]
    state = json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(folder / "checkpoint-1")


def test_the_stock_way_of_saving_leaves_half_a_checkpoint(make_run, run_child, monkeypatch):
    """Negative control of A1 and A2: transformers' own saving, killed after the model, cannot go on."""
    trainer = make_run("run", max_steps=2)
    original = JEPATrainer._save

    def die(*args, **more):
        original(trainer, *args, **more)
        if trainer.state.global_step == 2:
            os._exit(9)

    monkeypatch.setattr(trainer, "_save", die)
    monkeypatch.setattr(trainer, "_save_checkpoint", partial(Trainer._save_checkpoint, trainer))
    assert run_child(trainer.train).wait() == 9
    newest = get_last_checkpoint(trainer.args.output_dir)
    assert Path(newest).name == "checkpoint-2"
    with pytest.raises(FileNotFoundError, match="trainer_state.json"):
        Trainer.train(make_run("run", max_steps=2), resume_from_checkpoint=newest)


def test_the_stock_way_takes_a_missing_optimizer_in_silence(make_run, final_weights):
    """Negative control of A5: it goes on, to other weights."""
    whole = make_run("whole")
    whole.train()
    trainer = make_run("run", max_steps=2)
    trainer.train()
    newest = Path(trainer.args.output_dir) / "checkpoint-2"
    (newest / "optimizer.pt").unlink()
    again = make_run("again")
    Trainer.train(again, resume_from_checkpoint=str(newest))
    ours, theirs = final_weights(again), final_weights(whole)
    assert not all(torch.equal(ours[name], theirs[name]) for name in theirs)
