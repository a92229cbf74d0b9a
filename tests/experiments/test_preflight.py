"""What a run will need is tried before the first run begins: a setting that fails late is refused at the start."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch

from llm_jepa.errors import DataError
from llm_jepa.experiments import preflight
from llm_jepa.experiments.compare import open_experiment, run_experiment
from llm_jepa.experiments.summary import summarise
from llm_jepa.runs import build_trainer
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run
from llm_jepa.training import arguments

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has what is missing here")


def without(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is not None, reason=f"{package} is installed")


REFUSED = [
    ({"metric_for_best_model": "loss"}, "value_not_allowed", ["metric_for_best_model='loss'", "'ce_loss'"]),
    ({"metric_for_best_model": "exact_mach"}, "value_not_allowed", ["'exact_mach'", "'exact_match'"]),
    ({"metric_for_best_model": "monitor/gap"}, "value_not_allowed", ["'monitor/gap'", "ce_loss, exact_match"]),
    ({"lr_scheduler_type": "reduce_lr_on_plateau", "validation_size": 0}, "setting_refused", ["eval strategy"]),
    (
        {"lr_scheduler_type": "cosine_with_min_lr"},
        "setting_refused",
        ["lr_scheduler_type='cosine_with_min_lr'", "min_lr"],
    ),
    ({"lr_scheduler_kwargs": {"num_cycles": "two"}}, "setting_refused", ["lr_scheduler_kwargs={'num_cycles': 'two'}"]),
    ({"lr_scheduler_kwargs": {"min_lr": 1e-5}}, "setting_refused", ["lr_scheduler_kwargs={'min_lr': 1e-05}"]),
    ({"optim_args": "x"}, "setting_refused", ["optim_args='x'"]),
    ({"report_to": "wand"}, "setting_refused", ["report_to='wand'"]),
    ({"push_to_hub": True}, "setting_not_supported", ["push_to_hub=True", "llm-jepa export"]),
    ({"use_liger_kernel": True}, "setting_not_supported", ["use_liger_kernel=True"]),
    ({"bf16_full_eval": True}, "setting_not_supported", ["bf16_full_eval=True"]),
    ({"attn_implementation": "flex_attention"}, "device_not_capable", ["flex_attention"]),
    ({"fp16": True}, "device_not_capable", ["fp16=True"]),
    (
        {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "x"},
        "setting_refused",
        ["dataloader_multiprocessing_context='x'"],
    ),
    ({"metric": "choice"}, "no_usable_gold", ["choice", "12 test rows"]),
    pytest.param(
        {"report_to": "wandb"}, "package_missing", ["report_to='wandb'", "pip install wandb"], marks=without("wandb")
    ),
    pytest.param({"report_to": ["wandb"]}, "package_missing", ["report_to=['wandb']"], marks=without("wandb")),
    pytest.param({"optim": "adamw_8bit"}, "package_missing", ["optim='adamw_8bit'"], marks=without("bitsandbytes")),
    pytest.param({"deepspeed": "x.json"}, "package_missing", ["deepspeed"], marks=without("deepspeed")),
]


@pytest.mark.parametrize(("changes", "code", "values"), REFUSED)
def test_what_would_fail_late_is_refused_before_anything_is_written(
    changes, code, values, tiny_settings, tmp_path, raises
):
    """Named by its setting, with exit code 2; a dry run says so, too."""
    settings = tiny_settings(arms=["ntp", "jepa"], seeds=[1], **changes)
    for dry_run in (True, False):
        with raises(code, "In arm ntp: ", *values) as caught:
            open_experiment(settings, tmp_path / "out", dry_run=dry_run)
        assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_every_arm_is_tried_not_the_first_alone(tiny_settings, tmp_path, raises):
    """A name that one arm misspells, and data that suits the baseline alone."""
    arms = {"ntp": {}, "jepa": {"lr_scheduler_type": "warmup_stable_decay"}}
    with raises("setting_refused", "In arm jepa: ", "lr_scheduler_type='warmup_stable_decay'"):
        open_experiment(tiny_settings(arms=arms, seeds=[1]), tmp_path / "out", dry_run=True)
    (tmp_path / "rows.jsonl").write_text('{"text": "a b", "code": "c", "use_jepa": false}\n' * 30)
    settings = tiny_settings(arms=["ntp", "jepa"], seeds=[1], train_file=str(tmp_path / "rows.jsonl"))
    with raises("no_jepa_rows", "In arm jepa: ") as caught:
        open_experiment(settings, tmp_path / "out", dry_run=True)
    assert isinstance(caught.value, DataError)


@without("deepspeed")
def test_a_refused_setting_does_not_stay_in_the_process(tiny_settings, tmp_path, raises):
    """transformers keeps a DeepSpeed file for all models of the process."""
    with raises("package_missing", "deepspeed") as kept:
        read_run(tiny_settings(deepspeed="x.json"))
    assert kept.value.__cause__ is not None  # as a notebook does, which keeps the last error
    assert train_run(read_run(tiny_settings(max_steps=1)), 1, tmp_path / "run")["num_steps"] == 1


def test_a_single_run_names_its_setting_too(tiny_settings, tmp_path, raises):
    with raises("setting_refused", "lr_scheduler_type='cosine_with_min_lr'"):
        train_run(read_run(tiny_settings(lr_scheduler_type="cosine_with_min_lr")), 1, tmp_path / "run")


def test_schedules_that_go_by_a_metric_train_to_the_end(tiny_settings, tmp_path):
    """By the loss, which falls, without another word; by an accuracy they wait for it to rise."""
    settings = tiny_settings(lr_scheduler_type="reduce_lr_on_plateau", eval_steps=1)
    assert train_run(read_run(settings), 1, tmp_path / "run")["num_steps"] == 3
    for metric, mode in (("ce_loss", None), ("exact_match", "max")):
        arguments = read_run(settings | {"metric_for_best_model": metric}).training_arguments(tmp_path)
        assert (arguments.lr_scheduler_kwargs or {}).get("mode") == mode


@pytest.mark.slow
def test_a_rehearsal_changes_no_run(tiny_settings, quick_runs, tmp_path):
    """The same losses as a run that was never rehearsed."""
    settings = tiny_settings(seeds=[1], arms=["ntp", "jepa"], dropout=0.1)
    run_experiment(open_experiment(settings, tmp_path / "out"))
    alone = {key: value for key, value in settings.items() if key not in ("seeds", "arms")}
    train_run(read_run(alone), 1, tmp_path / "alone")
    assert losses(tmp_path / "out" / "jepa-s1") == losses(tmp_path / "alone")


def losses(folder):
    import json

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines for key in ("loss", "eval_ce_loss") if key in line]


def test_models_and_data_are_loaded_once_and_cells_of_one_kind_tried_once(tiny_settings, tmp_path, monkeypatch):
    """Six cells that differ in the size of a weight and of the rate alone are one trainer; arms share the model."""
    counts = dict.fromkeys(("load_data", "build_model", "build_trainer"), 0)

    def counted(module, name):
        function = getattr(module, name)

        def count(*arguments, **named):
            counts[name] += 1
            return function(*arguments, **named)

        monkeypatch.setattr(module, name, count)

    counted(preflight, "load_data")
    counted(build_trainer, "build_model")
    counted(preflight, "build_trainer")
    arms = {"ntp": {}, "jepa": {"jepa_lambda": [0.1, 0.5, 1.0], "learning_rate": [1e-3, 1e-2]}, "jepa_shuffled": {}}
    open_experiment(tiny_settings(arms=arms, seeds=[1]), tmp_path / "out", dry_run=True)
    assert counts == {"load_data": 1, "build_model": 1, "build_trainer": 3}  # the first arm's data is there already


def test_a_dry_run_says_what_each_arm_takes(tiny_settings, tmp_path):
    """Epochs and steps by hand, FLOPs as the runs will count them; cells of one kind are timed once."""
    arms = {"ntp": {}, "jepa": {"learning_rate": [1e-3, 1e-2]}, "long": {"max_steps": 6}}
    settings = tiny_settings(arms=arms, seeds=[1], per_device_train_batch_size=4, gradient_accumulation_steps=2)
    experiment = open_experiment(settings | {"jepa_views": "prefix"}, tmp_path / "out", dry_run=True)
    found = experiment.estimates
    assert list(found) == list(experiment.runs) and not (tmp_path / "out").exists()
    (num_rows,) = {int(each.removeprefix("train ")) for each in experiment.notes[0].split(" | ")[:1]}
    for arm, steps in (("ntp", 3), ("long", 6)):
        assert found[arm].steps == steps and found[arm].epochs == pytest.approx(steps / math.ceil(num_rows / 8))
    cells = [found[cell] for cell in experiment.grids["jepa"].cells]
    assert cells[0] is cells[1] and cells[0].flops > found["ntp"].flops > 0
    assert found["long"].flops == pytest.approx(2 * cells[0].flops)
    assert all(0 < each.training_time_s < 60 for each in found.values())


@pytest.mark.slow
def test_runs_that_are_done_are_not_tried_again(tiny_settings, quick_runs, tmp_path, monkeypatch):
    settings = tiny_settings(seeds=[1], arms=["ntp", "jepa"])
    run_experiment(open_experiment(settings, tmp_path / "out"))
    monkeypatch.setattr(preflight, "build_trainer", None)
    open_experiment(settings, tmp_path / "out")


@WITHOUT_GPU
@pytest.mark.parametrize("changes", [{"bf16": True}, {"precision": "bf16"}])
def test_bf16_on_a_processor_without_its_instructions_is_refused(changes, tiny_settings, tmp_path, monkeypatch, raises):
    """Named by its setting, with the reason and both ways out."""
    monkeypatch.setattr(arguments, "has_bf16_instructions", lambda: False)
    settings = tiny_settings(arms=["ntp"], seeds=[1], use_cpu=None, **changes)
    [(key, value)] = changes.items()
    with raises("device_too_slow", f"{key}={value}", "use_cpu: true"):
        open_experiment(settings, tmp_path / "out", dry_run=True)


@pytest.mark.slow
@WITHOUT_GPU
def test_a_report_is_made_on_a_machine_that_could_not_train(tiny_settings, quick_runs, tmp_path):
    """The runs are there; that a GPU trained them is no matter."""
    run_experiment(open_experiment(tiny_settings(seeds=[1], arms=["ntp", "jepa"]), tmp_path / "out"))
    file = tmp_path / "out" / "experiment.yaml"
    file.write_text(file.read_text().replace("use_cpu: true", "bf16: true"))
    assert set(summarise(tmp_path / "out").arms) == {"ntp", "jepa"}
