"""Train decoder-only language models with LLM-JEPA (arXiv 2509.14252), and measure honestly whether it helps.

from llm_jepa import JEPAConfig, Pair, FusedCollator, LLMJEPA

jepa = LLMJEPA(model, JEPAConfig(jepa_lambda=1.0, jepa_k=1))     # any decoder-only transformers model
batch = FusedCollator(jepa.config, pad_token_id=0)(pairs)        # Pair(text_ids, code_ids, bridge_ids)
jepa(batch).loss.backward()
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Name -> module. It is imported on first use, so that `llm-jepa data make` need not wait for transformers.
_EXPORTS = {
    "DataConfig": "llm_jepa.data.config",
    "FusedBatch": "llm_jepa.objective",
    "FusedCollator": "llm_jepa.objective",
    "JEPAConfig": "llm_jepa.objective",
    "JEPAOutput": "llm_jepa.objective",
    "LLMJEPA": "llm_jepa.objective",
    "Pair": "llm_jepa.objective",
    "PairEncoder": "llm_jepa.data.encode",
    "UnsupportedModelError": "llm_jepa.objective",
    "encode_rows": "llm_jepa.data.encoded_pairs",
    "reference_loss": "llm_jepa.objective",
    "register_distance": "llm_jepa.objective",
    "JEPATrainer": "llm_jepa.training.trainer",
    "JEPATrainingArguments": "llm_jepa.training.arguments",
    "load_jepa": "llm_jepa.training.saving",
    "save_jepa": "llm_jepa.training.saving",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'llm_jepa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_EXPORTS]
