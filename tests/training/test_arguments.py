"""Training settings: transformers' own, with the defaults that the method needs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import TrainingArguments

from llm_jepa.training import arguments as module
from llm_jepa.training.arguments import JEPATrainingArguments


def test_every_field_of_transformers_keeps_its_name():
    """Whatever transformers documents can be set here."""
    ours = {each.name for each in dataclasses.fields(JEPATrainingArguments)}
    theirs = {each.name for each in dataclasses.fields(TrainingArguments)}
    assert theirs < ours
    assert ours - theirs == {
        "precision",
        "packing",
        "pack_length",
        "sum_micro_batches",
        "monitor_pairs",
        "max_shard_size",
        "allow_changed",
    }


@pytest.mark.parametrize(
    ("changes", "code", "values"),
    [
        ({"precision": "fp8"}, "value_not_allowed", ["precision='fp8'", "auto, float32, bf16"]),
        ({"remove_unused_columns": True}, "setting_not_supported", ["remove_unused_columns=True"]),
        ({"logging_nan_inf_filter": True}, "setting_not_supported", ["logging_nan_inf_filter=True"]),
        ({"monitor_pairs": 1}, "value_out_of_range", ["monitor_pairs=1", "at least 2"]),
        ({"label_smoothing_factor": 0.1}, "setting_not_supported", ["label_smoothing_factor=0.1"]),
        ({"neftune_noise_alpha": 5.0}, "setting_not_supported", ["neftune_noise_alpha=5.0"]),
        ({"save_only_model": True, "save_steps": 2}, "setting_not_supported", ["save_only_model=True"]),
        ({"ignore_data_skip": True}, "setting_not_supported", ["ignore_data_skip=True"]),
        ({"auto_find_batch_size": True}, "setting_not_supported", ["auto_find_batch_size=True"]),
        ({"per_device_train_batch_size": 0}, "value_out_of_range", ["per_device_train_batch_size=0", "at least 1"]),
        ({"max_steps": -5}, "value_out_of_range", ["max_steps=-5", "at least 1"]),
        ({"learning_rate": -1.0}, "value_out_of_range", ["learning_rate=-1.0", "at least 0"]),
        ({"eval_steps": -3}, "value_out_of_range", ["eval_steps=-3", "above 0"]),
        ({"precision": "float32", "bf16": True}, "settings_conflict", ["precision=float32", "bf16=True"]),
    ],
)
def test_a_setting_that_cannot_be_names_its_field(changes, code, values, tmp_path, raises):
    with raises(code, *values):
        JEPATrainingArguments(output_dir=str(tmp_path), **changes)


def test_nothing_is_reported_or_saved_unless_asked_for(tmp_path):
    """No tracker, no checkpoint, no hub; columns stay, and a nan loss is not smoothed over."""
    args = JEPATrainingArguments(output_dir=str(tmp_path))
    assert args.report_to == [] and not args.push_to_hub
    assert args.save_strategy == "no"
    assert not args.remove_unused_columns and not args.logging_nan_inf_filter


def test_save_steps_alone_turns_checkpoints_on(tmp_path):
    """A number of steps that nothing looked at would be a switch that is ignored."""
    args = JEPATrainingArguments(output_dir=str(tmp_path), save_steps=50)
    assert (args.save_strategy, args.save_steps) == ("steps", 50)


def test_precision_is_float32_unless_a_device_has_better(tmp_path):
    """`float32` anywhere, and `auto` without a GPU, leave mixed precision off; `bf16` turns it on."""
    assert not JEPATrainingArguments(output_dir=str(tmp_path), precision="float32").bf16
    assert JEPATrainingArguments(output_dir=str(tmp_path), precision="bf16", use_cpu=True).bf16
    assert JEPATrainingArguments(output_dir=str(tmp_path)).bf16 == (
        torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )


@pytest.mark.skipif(torch.accelerator.is_available(), reason="bf16 goes to the GPU")
@pytest.mark.parametrize("asked", [{"bf16": True}, {"precision": "bf16"}])
def test_bf16_without_a_gpu_is_for_processors_that_have_it(asked, tmp_path, monkeypatch, raises):
    """transformers' `use_cpu` is set for the user; without bf16 instructions the reason is given, and a way out."""
    monkeypatch.setattr(module, "has_bf16_instructions", lambda: True)
    args = JEPATrainingArguments(output_dir=str(tmp_path), **asked)
    assert args.use_cpu and args.bf16 and args.mixed_precision == "bf16" and args.device.type == "cpu"
    monkeypatch.setattr(module, "has_bf16_instructions", lambda: False)
    ((name, value),) = asked.items()
    with raises("device_too_slow", f"{name}={value}", "processor", "use_cpu: true"):
        JEPATrainingArguments(output_dir=str(tmp_path), **asked)
    assert JEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, **asked).mixed_precision == "bf16"
    assert not JEPATrainingArguments(output_dir=str(tmp_path)).use_cpu  # float32 is left as it was


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_gradient_checkpointing_is_the_kind_that_works_with_two_forwards(tmp_path):
    """Non-reentrant unless the user says otherwise."""
    assert JEPATrainingArguments(output_dir=str(tmp_path)).gradient_checkpointing_kwargs is None
    args = JEPATrainingArguments(output_dir=str(tmp_path), gradient_checkpointing=True)
    assert args.gradient_checkpointing_kwargs == {"use_reentrant": False}
    own = {"use_reentrant": True}
    args = JEPATrainingArguments(
        output_dir=str(tmp_path), gradient_checkpointing=True, gradient_checkpointing_kwargs=own
    )
    assert args.gradient_checkpointing_kwargs == own


def test_packing_takes_rows_in_random_order_unless_told_otherwise(tmp_path):
    """Grouped by length, pairs leave each other no room; whoever asks for it gets it."""

    def strategy(**settings):
        return JEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings).train_sampling_strategy

    assert strategy() == "group_by_length"
    assert strategy(packing=True) == "random"
    assert strategy(packing=True, train_sampling_strategy="group_by_length") == "group_by_length"


@pytest.mark.parametrize(
    ("settings", "code", "values"),
    [
        ({"pack_length": 64}, "setting_without_effect", ["pack_length=64", "packing"]),
        ({"packing": True, "pack_length": 0}, "value_out_of_range", ["pack_length=0", "at least 1"]),
    ],
)
def test_a_pack_length_that_would_do_nothing_is_refused(settings, code, values, tmp_path, raises):
    with raises(code, *values):
        JEPATrainingArguments(output_dir=str(tmp_path), **settings)


def test_precision_is_what_the_settings_say_and_not_what_accelerate_was_told(tmp_path, monkeypatch, caplog):
    """A run records its `precision`, and a launcher's configuration must not make another of it unseen."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    arguments = JEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, precision="float32")
    assert arguments.mixed_precision == "no"
    assert "precision=float32 is used, not the bf16" in caplog.text
    assert JEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, precision="bf16").mixed_precision == "bf16"


def test_an_output_folder_of_each_machine_is_refused(tmp_path, raises):
    """Checkpoints hold what every process wrote: all machines see one folder."""
    with raises("setting_not_supported", "save_on_each_node=True"):
        JEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, save_on_each_node=True)


@pytest.mark.parametrize("size", ["", "5", "GB", "0GB", "-1GB", "5XB", "5 GB or so", 5])
def test_a_size_of_files_that_is_none_is_refused(size, tmp_path, raises):
    with raises("value_malformed", f"max_shard_size={size!r}", "KB, MB or GB"):
        JEPATrainingArguments(output_dir=str(tmp_path), use_cpu=True, max_shard_size=size)
