"""QLoRA on a CPU: the frozen weights in four bits through a run, a resume, and what loads the adapter afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from llm_jepa.export.export_run import export_run
from llm_jepa.export.model_folder import MAX_DIFFERENCE
from llm_jepa.runs.build_trainer import build_trainer
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run
from llm_jepa.runs.trained_run import load_run
from llm_jepa.training.adapters import ADAPTER

pytestmark = pytest.mark.slow

IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture
def settings(lora_home, lora_settings, tmp_path, monkeypatch):
    """Those of a QLoRA run of four steps, two checkpoints, in the current folder with its base and rows.

    The base is 64 wide: bitsandbytes packs blocks of 64 weights of a row for a CPU.
    """
    pytest.importorskip("bitsandbytes", reason="bitsandbytes (the extra qlora) is not installed")
    shutil.copytree(lora_home, tmp_path / "home", ignore=shutil.ignore_patterns("run"))
    monkeypatch.chdir(tmp_path / "home")
    config = AutoConfig.from_pretrained("base/llama")
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained("base/llama")
    return lora_settings | {"quantization": "4bit", "max_steps": 4, "save_steps": 2}


def changed(settings, **changes):
    return {key: value for key, value in {**settings, "save_steps": None, **changes}.items() if value is not None}


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits.float()


def test_the_frozen_weights_are_in_four_bits_and_only_adapter_and_pred_are_trained(settings):
    """NF4 as packed bytes, half a byte a weight; the trained matrices and [PRED] are float32 and move."""
    trainer, _ = build_trainer(read_run(settings), 7, Path("run"))
    parameters = dict(trainer.jepa.named_parameters())
    packed = {name: each for name, each in parameters.items() if each.dtype == torch.uint8}
    assert len(packed) == 2 * 7  # the linear layers of two blocks; table and head stay in bfloat16
    assert all(type(each).__name__ == "Params4bit" and each.quant_type == "nf4" for each in packed.values())
    trained = {name: each for name, each in parameters.items() if each.requires_grad}
    assert all("lora_" in name or name == "predictor.embedding" for name in trained)
    assert {each.dtype for each in trained.values()} == {torch.float32}
    # Packed weights are left out: bitsandbytes lays them out anew for some CPUs while nothing is trained.
    plain = [name for name in parameters if name not in packed]
    before = {name: parameters[name].detach().clone() for name in plain}
    trainer.train()
    assert {name for name in plain if not torch.equal(parameters[name], before[name])} == set(trained)


def test_looks_at_held_out_rows_change_nothing_in_four_bits(settings):
    """Nor does what bitsandbytes does to packed weights while a run looks: the steps after it are the same."""
    for name, more in (("looks", {"eval_steps": 1}), ("none", {"eval_strategy": "no"})):
        trainer, _ = build_trainer(read_run(changed(settings, **more)), 7, Path(name))
        trainer.train()
        trainer.save_model(name)
    assert Path("looks", ADAPTER).read_bytes() == Path("none", ADAPTER).read_bytes()


def test_a_run_in_four_bits_that_was_cut_short_ends_in_the_same_bytes_and_its_adapter_loads(settings):
    """Train, back to the first checkpoint, resume; then plain PEFT, `load_run`, and merge on the full weights."""
    report = train_run(read_run(settings), 7, Path("run"))
    assert report["num_steps"] == 4 and 0 < report["validation"]["ce_loss"] < 20
    first = (Path("run") / "model" / ADAPTER).read_bytes()
    assert "model.safetensors" not in {each.name for each in (Path("run") / "checkpoint-2").iterdir()}
    for name in ("DONE", "eval.json", "predictions.jsonl", "model", "checkpoint-4"):
        path = Path("run") / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    train_run(read_run(settings), 7, Path("run"))
    assert (Path("run") / "model" / ADAPTER).read_bytes() == first
    assert json.loads(Path("run/model/adapter_config.json").read_text())["base_model_name_or_path"] == "./base/llama"

    full = AutoModelForCausalLM.from_pretrained("base/llama")
    without = logits(full)
    plain = PeftModel.from_pretrained(full, "run/model")
    ours = logits(load_run(Path("run")).jepa.model)
    assert torch.equal(logits(plain), ours) and not torch.allclose(ours, without, atol=1e-4)
    exported = export_run(Path("run"), "out", merge=True)
    assert exported["max_logit_difference"] < MAX_DIFFERENCE * ours.abs().max()
    assert "weights in four bits" in Path("out/README.md").read_text()
