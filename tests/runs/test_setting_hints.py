"""A name of another tool is refused with what it is here."""

from __future__ import annotations

import dataclasses
import re

import pytest

from llm_jepa.cli import main
from llm_jepa.experiments.experiment import ExperimentConfig, read_experiment
from llm_jepa.runs.setting_hints import OTHER_NAMES
from llm_jepa.runs.settings import PARTS

KEYS = {each.name for part in (ExperimentConfig, *PARTS.values()) for each in dataclasses.fields(part)}


@pytest.mark.parametrize(
    ("key", "here"),
    [
        ("group_by_length", "train_sampling_strategy: group_by_length"),
        ("batch_size", "per_device_train_batch_size"),
        ("epochs", "num_train_epochs"),
        ("lbd", "jepa_lambda"),
        ("predictors", "jepa_k"),
        ("finetune_seed", "seeds"),
        ("jepa_ratio", "jepa_loss_dropout"),
        ("max_seq_length", "max_length"),
        ("use_peft", "lora_r"),
        ("logging_dir", "metrics.jsonl"),
        ("last_token", "last token of a view"),
    ],
)
def test_an_error_says_what_a_name_of_another_tool_is_here(key, here, raises):
    for settings in ({key: 1}, {"arms": {"ntp": {}, "mine": {key: 1}}}):
        with raises("key_unknown", repr(key), here):
            read_experiment(settings)


def test_no_name_of_another_tool_is_one_of_ours_and_each_leads_to_one():
    assert not OTHER_NAMES.keys() & KEYS
    for name, here in OTHER_NAMES.items():
        assert here.startswith("nothing: ") or re.match(r"\w+", here)[0] in KEYS, name


def test_a_flag_of_another_tool_is_told_as_well(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "config.yaml", "--lbd", "0.5"])
    error = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 2 and "jepa_lambda" in error and "[unknown_flag]" in error
