"""Loads a causal model with all of its weights; transformers goes on with random numbers for those that are missing."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM

from llm_jepa.errors import first_line

_NUM_SHOWN = 3


def load_whole_model(name: Any, **options: Any) -> Any:
    """Return a model by `from_pretrained` with these options.

    Raises:
        ValueError: If weights are missing or have another shape than in config.json, or a file is damaged.
        OSError, KeyError, TypeError, ImportError: As transformers does.
    """
    try:
        # With `ignore_mismatched_sizes` transformers lists the weights of another shape; its own error does not.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except (SafetensorError, StrictDataclassError) as error:
        raise ValueError(f"a file is damaged: {first_line(error)}") from error
    model, found = loaded
    _check(sorted(found["missing_keys"]), "are missing")
    _check(sorted(str(key) for key, *_ in found["mismatched_keys"]), "have another shape than in config.json")
    return model


def load_config(name: str, **options: Any) -> Any:
    """Return a model's configuration; a ValueError if its values have no meaning."""
    try:
        return AutoConfig.from_pretrained(name, **options)
    except StrictDataclassError as error:
        raise ValueError(f"its config.json is wrong: {first_line(error)}") from error


def _check(names: list[str], problem: str) -> None:
    if names:
        shown = ", ".join(names[:_NUM_SHOWN]) + (", ..." if len(names) > _NUM_SHOWN else "")
        raise ValueError(f"{len(names)} of its weights {problem} ({shown}).")
