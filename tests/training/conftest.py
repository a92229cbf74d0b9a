"""Trainers over tiny models, with nothing printed and nothing reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from torch import nn
from transformers import PrinterCallback

from llm_jepa.objective import LLMJEPA, JEPAConfig, Pair
from llm_jepa.training.arguments import JEPATrainingArguments
from llm_jepa.training.trainer import JEPATrainer


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
