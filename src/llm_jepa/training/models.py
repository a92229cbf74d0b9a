"""Where the model of a run comes from: a preset with random weights, or a pretrained one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerBase
from transformers.models.gpt2 import GPT2Config

from llm_jepa.data.tokenizer import check_tokenizer_fits
from llm_jepa.errors import ConfigError

# Sizes by name. `nano` is the prototype's; `gpt2-124m` and `llama-1b` are the published shapes of GPT-2
# (Radford et al., 2019) and Llama-3.2-1B (its model card). vocab_size None: as many as the tokenizer has.
PRESETS: dict[str, dict[str, Any]] = {
    "nano": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4},
    "mini": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6},
    "gpt2-124m": {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12},
    "llama-1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "max_position_embeddings": 8192,
    },
}


@dataclass
class ModelConfig:
    """Which model is trained.

    Raises:
        ValueError: If no preset has the name.
    """

    model: str = field(
        default="nano",
        metadata={
            "help": "Preset with random weights: nano (about 1 million parameters), mini (about 15 million), "
            "gpt2-124m or llama-1b. Not used with model_name_or_path."
        },
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A pretrained causal language model: a folder, or a name on the hub."}
    )
    dropout: float = field(default=0.0, metadata={"help": "Dropout of a preset (attention; in GPT-2 also the rest)."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "sdpa or eager; by default what transformers chooses for the model."}
    )

    def __post_init__(self) -> None:
        if self.model not in PRESETS:
            raise ValueError(
                f"model={self.model!r} is not one of: {', '.join(PRESETS)}. For a model of yours, set "
                "model_name_or_path."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be in [0, 1).")


def build_model(
    config: ModelConfig, tokenizer: PreTrainedTokenizerBase, *, end_id: int, pad_id: int, max_length: int = 0
) -> nn.Module:
    """Return the model of a run, in float32; a preset's weights come from PyTorch's global random stream.

    Args:
        config: Which model.
        tokenizer: Its tokenizer, which must fit.
        end_id: Token that ends an answer.
        pad_id: Token that fills padding.
        max_length: Positions that the longest row needs, [PRED] included.

    Raises:
        ConfigError: If the model cannot be loaded, the tokenizer has ids that it lacks, or a row is too long.
    """
    if config.model_name_or_path:
        model = _load_pretrained(config)
    else:
        model = AutoModelForCausalLM.from_config(
            preset_config(config, len(tokenizer), end_id=end_id, pad_id=pad_id),
            attn_implementation=config.attn_implementation,
        )
    check_tokenizer_fits(tokenizer, model.get_input_embeddings().num_embeddings)
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise ConfigError(
            f"Rows need up to {max_length} positions, [PRED] included, but the model has {positions}. "
            f"Set max_length to {positions} or less, with on_overflow: truncate or drop if rows are longer."
        )
    return model


def preset_config(config: ModelConfig, vocab_size: int, *, end_id: int, pad_id: int) -> Any:
    """Return the transformers configuration of a preset."""
    ids = {"bos_token_id": None, "eos_token_id": end_id, "pad_token_id": pad_id}
    size = {"vocab_size": vocab_size, **PRESETS[config.model], **ids}
    if config.model == "gpt2-124m":
        dropout: dict[str, Any] = {name: config.dropout for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
        return GPT2Config(**size, **dropout)
    return LlamaConfig(**size, attention_dropout=config.dropout, tie_word_embeddings=True)


def num_parameters(model: nn.Module) -> int:
    """Return the number of parameters, tied ones counted once."""
    return sum(each.numel() for each in model.parameters())


def _load_pretrained(config: ModelConfig) -> Any:
    name = str(config.model_name_or_path)
    try:
        AutoConfig.from_pretrained(name)
        return AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, attn_implementation=config.attn_implementation
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model_name_or_path={name!r} cannot be loaded: {str(error).splitlines()[0]} "
            "Expected a folder with config.json and model.safetensors, or the name of a model on the hub."
        ) from error
