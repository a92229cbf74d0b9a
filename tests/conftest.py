"""Tiny random models and pairs, built in memory: what nearly every test starts from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
import transformers
from torch import nn
from transformers import PrinterCallback

from llm_jepa.objective import LLMJEPA, JEPAConfig, Pair
from llm_jepa.training.arguments import JEPATrainingArguments
from llm_jepa.training.trainer import JEPATrainer

torch.set_num_threads(1)  # tiny models: a second thread costs more than it gives

VOCAB_SIZE = 64
WINDOW = 4  # shorter than the rows, so that it bites

_LLAMA_SIZE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_GPT2_SIZE = {
    "vocab_size": VOCAB_SIZE,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": None,
    "eos_token_id": 1,
}

TINY_MODELS: dict[str, tuple[str, dict]] = {
    "llama": ("Llama", _LLAMA_SIZE),
    "gpt2": ("GPT2", _GPT2_SIZE),
    "qwen3": ("Qwen3", {**_LLAMA_SIZE, "head_dim": 8}),
    "mistral": ("Mistral", {**_LLAMA_SIZE, "head_dim": 8, "sliding_window": WINDOW}),
    "gemma2": (
        "Gemma2",
        {**_LLAMA_SIZE, "head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8},
    ),
    "qwen2": ("Qwen2", _LLAMA_SIZE),
    "gemma3": (
        "Gemma3",
        {
            **_LLAMA_SIZE,
            "head_dim": 8,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "olmo2": ("Olmo2", _LLAMA_SIZE),
    "phi": ("Phi", _LLAMA_SIZE),
    "gpt_neox": ("GPTNeoX", {key: size for key, size in _LLAMA_SIZE.items() if key != "num_key_value_heads"}),
}
FAMILIES = tuple(TINY_MODELS)


def build_tiny_model(name: str, seed: int = 0, attention: str | None = None, **changes) -> nn.Module:
    """Return a random model of a few thousand parameters, in training mode; `attention` is sdpa or eager."""
    family, size = TINY_MODELS[name]
    kind = "TextConfig" if family == "Gemma3" else "Config"  # the plain name is that of the model with images
    config = getattr(transformers, family + kind)(**{**size, **changes})
    config._attn_implementation = attention or ("eager" if name == "gemma2" else "sdpa")
    torch.manual_seed(seed)
    head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    return getattr(transformers, family + head)(config).train()


def build_pairs(num_pairs: int, seed: int = 0, longest: int = 12, bridge: int = 3) -> list[Pair]:
    """Return random pairs of uneven lengths over ids 2 to VOCAB_SIZE - 1; id 1 is the end token."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high + 1, (), generator=generator))
        return torch.randint(2, VOCAB_SIZE, (length,), generator=generator).tolist()

    return [Pair(ids(1, longest), [*ids(1, longest), 1], ids(0, bridge)) for _ in range(num_pairs)]


def build_mixed_pairs(num_pairs: int, seed: int = 0, **size) -> list[Pair]:
    """Return pairs of every kind in turn: both views rendered apart, prefix views, text apart, code apart, no views."""
    pairs, apart = build_pairs(num_pairs, seed, **size), build_pairs(num_pairs, seed + 1000, **size)
    for number, (pair, view) in enumerate(zip(pairs, apart, strict=True)):
        pair.text_view_ids = view.text_ids if number % 5 in (0, 2) else None
        pair.code_view_ids = view.code_view if number % 5 in (0, 3) else None
        pair.use_jepa = number % 5 != 4
    return pairs


@pytest.fixture
def tiny_model() -> Callable[..., nn.Module]:
    return build_tiny_model


@pytest.fixture
def make_pairs() -> Callable[..., list[Pair]]:
    return build_pairs


@pytest.fixture
def make_mixed_pairs() -> Callable[..., list[Pair]]:
    return build_mixed_pairs


@pytest.fixture
def make_jepa(tiny_model: Callable[..., nn.Module]) -> Callable[..., LLMJEPA]:
    """Build a tiny model under an objective; keywords of JEPAConfig, and `changes` of the model's size."""

    def make(model: str = "llama", seed: int = 0, changes: dict | None = None, **objective) -> LLMJEPA:
        return LLMJEPA(tiny_model(model, seed=seed, **(changes or {})), JEPAConfig(**objective))

    return make


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., JEPATrainer]:
    """Build a trainer that logs each step and looks at held-out rows only where there are any."""

    def make(
        jepa: LLMJEPA,
        pairs: Sequence[Pair],
        held_out: Sequence[Pair] = (),
        *,
        out: str = "run",
        kind: type[JEPATrainer] = JEPATrainer,
        callbacks: Sequence = (),
        extra_metrics: Callable[[], dict[str, float]] | None = None,
        **arguments,
    ) -> JEPATrainer:
        settings = {
            "output_dir": str(tmp_path / out),
            "use_cpu": True,
            "disable_tqdm": True,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "eval_strategy": "steps" if held_out else "no",
            "eval_steps": 1,
            **arguments,
        }
        trainer = kind(
            jepa,
            JEPATrainingArguments(**settings),
            pairs,
            held_out,
            pad_token_id=0,
            callbacks=list(callbacks),
            extra_metrics=extra_metrics,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    return make


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
