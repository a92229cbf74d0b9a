"""A run that trains LoRA, from its settings to a folder that can be asked; and a tokenizer that is not its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.evaluation.evaluate import evaluate
from llm_jepa.experiments.experiment import read_experiment
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run
from llm_jepa.runs.trained_run import load_run
from llm_jepa.training.adapters import ADAPTER, ADAPTER_CONFIG


@pytest.fixture
def copied(lora_run, tmp_path, monkeypatch):
    """A copy of the run and all beside it, in the current folder."""
    shutil.copytree(lora_run.parent, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return Path("run")


def test_the_model_of_the_run_is_an_adapter_and_scores_again_what_it_scored(lora_run, monkeypatch):
    """Loaded as a run it gives the same answers; loaded by transformers it is the base with the adapter."""
    monkeypatch.chdir(lora_run.parent)
    names = {path.name for path in (lora_run / "model").iterdir()}
    assert {ADAPTER, ADAPTER_CONFIG, "jepa.safetensors"} <= names and "model.safetensors" not in names
    run = load_run(lora_run)
    metrics, records = evaluate(run.jepa, run.encoder, run.rows("test.jsonl"), run.evaluation)
    report = json.loads((lora_run / "eval.json").read_text())
    assert records == [json.loads(line) for line in (lora_run / "predictions.jsonl").read_text().splitlines()]
    assert metrics["retrieval"] == pytest.approx(report["retrieval"])
    plain = AutoModelForCausalLM.from_pretrained(lora_run / "model").eval()
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(plain(ids).logits, run.jepa.model(ids).logits)


def test_what_is_trained_is_counted(lora_run):
    """Rank 4 on seven linear layers a block, and one [PRED] vector: a small part of the whole."""
    report = json.loads((lora_run / "eval.json").read_text())
    per_layer = 4 * (4 * (32 + 32) + 3 * (32 + 64))
    assert report["num_trained_parameters"] == 2 * per_layer + 32
    assert report["num_parameters"] > 2 * report["num_trained_parameters"]


def test_no_file_of_the_run_says_where_it_was_made(lora_run, contents):
    """The base is named as it was given, as a path that no hub has."""
    for name, content in contents(lora_run).items():
        assert str(lora_run.parent).encode() not in content, name
    written = json.loads((lora_run / "model" / ADAPTER_CONFIG).read_text())
    assert written["base_model_name_or_path"] == "./base/llama"


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(copied, lora_settings, lora_run):
    """Promise 5 through a whole run: back to its first checkpoint, and the adapter and [PRED] end in the same bytes."""
    for name in ("DONE", "eval.json", "predictions.jsonl", "model", "checkpoint-4"):
        path = copied / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    train_run(read_run(lora_settings), 7, copied)
    for name in (ADAPTER, "jepa.safetensors"):
        assert (copied / "model" / name).read_bytes() == (lora_run / "model" / name).read_bytes()


def test_arms_can_differ_in_what_is_trained(lora_settings, raises):
    """All weights against LoRA, in one experiment; an arm with a misspelt key is told."""
    shared = {key: value for key, value in lora_settings.items() if not key.startswith("lora")}
    arms = {"ntp": {}, "lora": {"lora_r": 4, "lora_alpha": 8}, "full": {"jepa_k": 2}}
    _, runs = read_experiment(shared | {"arms": arms})
    assert [run.adapter.lora_r for run in runs.values()] == [0, 4, 0]
    with raises("key_unknown", "arm lora", "'lora_rank'", "lora_r"):
        read_experiment(shared | {"arms": {"ntp": {}, "lora": {"lora_rank": 4}}})


# ---- F4: a tokenizer that is not the run's ----


def test_another_tokenizer_in_the_folder_of_a_run_is_refused(copied, raises):
    """All its ids fit; the hash in data.json tells, and names both files."""
    train_tokenizer(["quite other words, many of them"] * 3, 300).save_pretrained(copied / "model")
    sha256 = json.loads((copied / "data.json").read_text())["tokenizer_sha256"]
    with raises("tokenizer_changed", "run/model", f"run/data.json has {sha256[:12]}"):
        load_run(copied)


def test_another_tokenizer_is_refused_when_a_run_goes_on(copied, lora_settings, raises):
    """Its checkpoints know the tokenizer as well."""
    (copied / "DONE").unlink()
    other = train_tokenizer([Path("train.jsonl").read_text().upper()], 310)
    other.save_pretrained("base/llama")
    sha256 = json.loads((copied / "data.json").read_text())["tokenizer_sha256"]
    with raises("settings_changed", "tokenizer", f"sha256 {sha256[:12]}"):
        train_run(read_run(lora_settings), 7, copied)


def test_another_tokenizer_than_the_models_own_is_refused_before_the_run(copied, lora_settings, raises):
    """Its ids fit the table, and would be read as other words."""
    train_tokenizer(["quite other words, many of them"] * 3, 300).save_pretrained("other")
    with raises("tokenizer_of_other_model", "tokenizer_name_or_path='other'", "base/llama"):
        train_run(read_run(lora_settings | {"tokenizer_name_or_path": "other"}), 7, Path("another"))
