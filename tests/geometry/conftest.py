"""Finished runs of a model of 32 dimensions: plain, cosine and InfoNCE on the same sixty test pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llm_jepa.data.nlrx import generate_splits
from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.files import write_json_lines
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run

ARMS: dict[str, dict[str, Any]] = {
    "ntp": {"jepa_lambda": 0.0},
    "jepa": {"jepa_target": "shared"},
    "infonce": {"jepa_target": "shared", "jepa_distance": "infonce"},
}


@pytest.fixture(scope="session")
def train_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Do a run of seconds, with changes of its settings; return its folder."""
    home = tmp_path_factory.mktemp("geometry")
    train, test = generate_splits(80, 60, seed=0)
    write_json_lines(home / "train.jsonl", map(asdict, train))
    write_json_lines(home / "test.jsonl", map(asdict, test))
    tokenizer = train_tokenizer([(home / "train.jsonl").read_text()], 300)

    def base(size: int) -> Path:
        folder = home / f"base-{size}"
        if not folder.exists():
            torch.manual_seed(0)
            shape = {"hidden_size": size, "intermediate_size": 2 * size, "num_hidden_layers": 2}
            shape |= {"num_attention_heads": 4, "max_position_embeddings": 256}
            LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    def make(name: str, size: int = 32, **changes: Any) -> Path:
        settings = {
            "train_file": str(home / "train.jsonl"),
            "test_file": str(home / "test.jsonl"),
            "validation_size": 12,
            "model_name_or_path": str(base(size)),
            "max_steps": 6,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-2,
            "eval_steps": 6,
            "validation_generations": 0,
            "max_new_tokens": 2,
            "use_cpu": True,
            **changes,
        }
        train_run(read_run(settings), 7, home / name)
        return home / name

    return make


@pytest.fixture(scope="session")
def runs(train_tiny: Callable[..., Path]) -> dict[str, Path]:
    """The folder of each arm. Read only."""
    return {name: train_tiny(name, **settings) for name, settings in ARMS.items()}
