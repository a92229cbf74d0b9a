"""The whole way of a practitioner: a chat model of theirs, LoRA, a kill in its midst, merge, export, serve."""

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
from transformers import LlamaConfig, LlamaForCausalLM

from llm_jepa.cli import main
from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.runs.trained_run import load_run

ROOT = Path(__file__).parents[2]
PLACES = [folder / "shared" / "data" / "gsm8k_200.jsonl" for folder in (ROOT, ROOT.parent)]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STEPS = 60
SERVE = """
import re, sys
sys.modules["llm_jepa"] = None  # importing it is an error from here on
(snippet,) = re.findall(r"```python\\n(.*?)```", open("README.md").read(), flags=re.DOTALL)
exec(re.sub("folder = .*", "folder = '.'", snippet.replace("YOUR TEXT", sys.argv[1])))
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The current folder, with rows of questions and a random chat model of two end tokens beside them."""
    source = next((path for path in PLACES if path.is_file()), None)
    if source is None:
        pytest.skip("the GSM8K rows are not beside the project (../shared/data/gsm8k_200.jsonl)")
    rows = source.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(rows[:60]), encoding="utf-8")
    (tmp_path / "test.jsonl").write_text("".join(rows[60:66]), encoding="utf-8")

    tokenizer = train_tokenizer(
        [message["content"] for row in rows[:60] for message in json.loads(row)["messages"]], 600
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    size = {
        "initializer_range": 0.2,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    vocab_size = len(tokenizer) + 6  # as with many models of the hub, the table has more rows than the tokenizer ids
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, max_position_embeddings=1024, eos_token_id=1, **size))
    model.save_pretrained(tmp_path / "chat-model")
    tokenizer.save_pretrained(tmp_path / "chat-model")
    settings = {
        "train_file": "train.jsonl", "test_file": "test.jsonl", "validation_size": 0, "max_length": 512,
        "on_overflow": "drop", "model_name_or_path": "chat-model", "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.05,
        "jepa_k": 2, "max_steps": STEPS, "save_steps": 2, "save_total_limit": 2, "per_device_train_batch_size": 2,
        "learning_rate": 1e-2, "max_new_tokens": 24, "use_cpu": True,
    }  # fmt: skip
    (tmp_path / "chat.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def environment(*without):
    kept = {key: value for key, value in os.environ.items() if key not in without}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def train_and_kill(out, after):
    """Train in a process of its own, and kill it with -9 once a checkpoint is there."""
    command = [sys.executable, "-m", "llm_jepa", "train", "chat.yaml", "--out", out, "--seed", "5"]
    child = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (Path(out) / after).exists():
        assert child.poll() is None and time.monotonic() < deadline, f"{out}/{after} did not come"
        time.sleep(0.005)
    child.kill()
    assert child.wait() == -signal.SIGKILL


def served(folder, text):
    command = [sys.executable, "-c", SERVE, text]
    done = subprocess.run(
        command, cwd=folder, env=environment("PYTHONPATH"), capture_output=True, text=True, check=True
    )
    return done.stdout.removesuffix("\n")


@pytest.mark.slow
def test_a_chat_model_is_tuned_killed_resumed_merged_exported_and_served(home, capsys):
    """The run that was killed ends in the bytes of one that was not; what is served answers as the run does."""
    assert main(["train", "chat.yaml", "--out", "whole", "--seed", "5"]) == 0
    train_and_kill("killed", after="checkpoint-4")
    assert not Path("killed/DONE").exists()
    assert main(["train", "chat.yaml", "--out", "killed", "--seed", "5"]) == 0
    for name in ("adapter_model.safetensors", "jepa.safetensors"):
        assert Path("killed/model", name).read_bytes() == Path("whole/model", name).read_bytes()
    losses = [json.loads(line).get("ce_loss") for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    losses = [loss for loss in losses if loss is not None]
    assert losses[-1] < losses[0]

    capsys.readouterr()
    assert main(["export", "killed", "--to", "served", "--merge"]) == 0
    shown = capsys.readouterr().out
    assert "chat/completions" in shown and "apply_chat_template" in shown
    stops = json.loads(Path("served/generation_config.json").read_text())["eos_token_id"]
    run = load_run(Path("killed"))
    assert stops == run.encoder.end_ids and len(stops) == 2
    assert json.loads(Path("served/config.json").read_text())["vocab_size"] == len(run.encoder.tokenizer) + 6

    question = "Anna has 3 boxes with 4 pens each. How many pens does she have?"
    answer = run.generate(question)
    assert answer and served("served", question) == answer
