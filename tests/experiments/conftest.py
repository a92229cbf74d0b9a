"""A pretrained model beside its pairs, and a run of LoRA matrices on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.experiments.run import train_run
from llm_jepa.experiments.settings import read_run


@pytest.fixture(scope="session")
def lora_home(pair_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pairs and a pretrained model beside them. Read only."""
    folder = tmp_path_factory.mktemp("lora")
    for file in pair_files:
        shutil.copy(file, folder)
    tokenizer = train_tokenizer([pair_files[0].read_text()], 320)
    torch.manual_seed(0)
    size: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **size))
    model.save_pretrained(folder / "base" / "llama")
    tokenizer.save_pretrained(folder / "base" / "llama")
    return folder


@pytest.fixture(scope="session")
def lora_settings(tiny_settings: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Those of a run of LoRA matrices, with names relative to `lora_home`."""
    return tiny_settings(
        train_file="train.jsonl",
        test_file="test.jsonl",
        vocab_size=None,
        model_name_or_path="base/llama",
        lora_r=4,
        lora_dropout=0.1,
        jepa_k=2,
        save_steps=2,
        max_steps=4,
        learning_rate=1e-2,
    )


@pytest.fixture(scope="session")
def lora_run(lora_home: Path, lora_settings: dict[str, Any]) -> Path:
    """The folder of a whole run. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(lora_home)
        train_run(read_run(lora_settings), 7, Path("run"))
    return lora_home / "run"
