"""The whole way of a pretrained chat model, in a GGUF file and in a plain folder, in float32 and in bf16."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llm_jepa.cli import main
from llm_jepa.data.nlrx import generate_splits
from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.runs.trained_run import load_run

START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    f"{{{{ '{START}system\nYou are tiny.{END}\n' }}}}{{% endif %}}"
    f"{{{{ '{START}' + m['role'] + '\n' + m['content'] + '{END}\n' }}}}{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{{{{ '{START}assistant\n' }}}}{{% endif %}}"
)
STEPS = 40
SETTINGS = {
    **{"train_file": "train.jsonl", "test_file": "test.jsonl", "validation_size": 4, "template_system": False},
    **{"max_steps": STEPS, "save_steps": 2, "save_total_limit": 2, "per_device_train_batch_size": 2, "eval_steps": 20},
    **{"validation_generations": 2, "logging_steps": 1, "learning_rate": 3e-3, "max_new_tokens": 8},
    **{"jepa_distance": "infonce", "use_cpu": True},
}
FORMATS = {
    "gguf": {"model_name_or_path": "packed", "gguf_file": "tiny.gguf"},
    "folder": {"model_name_or_path": "plain"},
}


@pytest.fixture
def home(write_gguf, tmp_path, monkeypatch):
    """The current folder: rows of questions, and a random chat model of 8 bits a weight as a GGUF file."""
    splits = dict(zip(("train", "test"), generate_splits(60, 6, 0), strict=True))
    tokenizer = train_tokenizer([each.text + each.code for each in splits["train"]] + ["You are tiny."], 400)
    tokenizer.add_special_tokens({"additional_special_tokens": [START, END]})
    tokenizer.chat_template = TEMPLATE
    for name, pairs in splits.items():
        chats = [[("user", each.text), ("assistant", each.code)] for each in pairs]
        rows = [{"messages": [{"role": role, "content": content} for role, content in chat]} for chat in chats]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **size))
    (tmp_path / "packed").mkdir()
    write_gguf(model, tokenizer, tmp_path / "packed" / "tiny.gguf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train_and_kill(config, out, after):
    """Train in a process of its own, and kill it with -9 once a checkpoint is there."""
    command = [sys.executable, "-m", "llm_jepa", "train", config, "--out", out, "--seed", "5"]
    child = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (Path(out) / after).exists():
        assert child.poll() is None and time.monotonic() < deadline, f"{out}/{after} did not come"
        time.sleep(0.005)
    child.kill()
    assert child.wait() == -signal.SIGKILL


def losses(folder):
    lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_a_pretrained_model_goes_the_whole_way_in_both_formats_and_precisions(home, capsys):
    """Inspect, fine-tune, kill, continue, evaluate, export, and load by plain transformers with the same logits."""
    assert main(["export", "packed/tiny.gguf", "--to", "plain"]) == 0
    assert "were quantized (Q8_0" in capsys.readouterr().out.replace("\n", " ")
    curves = {}
    for precision in ("float32", "bf16"):
        for kind, source in FORMATS.items():
            name = f"{kind}-{precision}"
            Path(f"{name}.yaml").write_text(yaml.safe_dump({**SETTINGS, **source, "precision": precision}))
            assert main(["train", f"{name}.yaml", "--out", name, "--seed", "5"]) == 0
            curves[name] = losses(name)
        weights = [Path(f"{kind}-{precision}", "model", "model.safetensors").read_bytes() for kind in FORMATS]
        assert weights[0] == weights[1]  # what a GGUF file holds is what its plain folder holds
    assert curves["gguf-bf16"] != curves["gguf-float32"]
    assert curves["gguf-bf16"][:10] == pytest.approx(curves["gguf-float32"][:10], rel=2e-2)
    assert sum(curves["gguf-float32"][-5:]) < sum(curves["gguf-float32"][:5])

    for config in ("gguf-bf16", "folder-float32"):
        train_and_kill(f"{config}.yaml", "killed", after="checkpoint-4")
        assert not Path("killed/DONE").exists()
        assert main(["train", f"{config}.yaml", "--out", "killed", "--seed", "5"]) == 0
        for file in ("model/model.safetensors", "model/jepa.safetensors", "predictions.jsonl"):
            assert Path("killed", file).read_bytes() == Path(config, file).read_bytes()
        Path("killed").rename(f"killed-{config}")
    notes = json.loads(Path("gguf-bf16/data.json").read_text())["notes"]
    assert any("tiny.gguf were quantized" in note for note in notes)


@pytest.mark.slow
def test_what_was_trained_from_a_gguf_file_needs_no_gguf_any_more(home, capsys):
    """The run is evaluated and exported without the file; the prompt has no system message of the template's."""
    inspect = ["data", "inspect", "train.jsonl", "--set", "model_name_or_path=packed", "--set", "gguf_file=tiny.gguf"]
    assert main(inspect) == 0
    assert "The chat template adds" in capsys.readouterr().out
    Path("run.yaml").write_text(yaml.safe_dump({**SETTINGS, **FORMATS["gguf"], "precision": "bf16", "max_steps": 4}))
    assert main(["train", "run.yaml", "--out", "run", "--seed", "5"]) == 0
    Path("packed/tiny.gguf").unlink()
    assert main(["evaluate", "run", "--data", "test.jsonl"]) == 0
    assert main(["export", "run", "--to", "served"]) == 0
    ours, model = load_run(Path("run")), AutoModelForCausalLM.from_pretrained("served")
    tokenizer = AutoTokenizer.from_pretrained("served")
    chat = [{"role": "user", "content": "lines with a number"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    assert tokenizer.decode(ids[0]) == f"{START}user\nlines with a number{END}\n{START}assistant\n"
    with torch.no_grad():
        assert torch.equal(model(ids).logits, ours.jepa.model(ids).logits)
    assert all(each.dtype == torch.float32 for each in model.parameters())
