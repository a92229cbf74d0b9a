"""Where the model of a run comes from: a preset with random weights, or a pretrained one, with or without LoRA."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft import PeftConfig
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, PreTrainedTokenizerBase
from transformers.models.gpt2 import GPT2Config
from transformers.utils import find_adapter_config_file

from llm_jepa.data.hub import not_downloaded, why_offline
from llm_jepa.data.tokenizer import check_tokenizer_fits, load_tokenizer
from llm_jepa.errors import ConfigError, first_line
from llm_jepa.fields import setting
from llm_jepa.files import expanded, is_path
from llm_jepa.objective.backbone import ATTENTION

from . import bf16_products
from .adapters import ADAPTER_CONFIG, AdapterConfig, add_lora
from .gguf_files import check_gguf, load_gguf_model, load_gguf_tokenizer
from .whole_model import load_config, load_whole_model

WEIGHTS_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What a tokenizer is made of, in a repository of the hub.
_TOKENIZER_FILES = ["*token*", "*.jinja", "*.model", "vocab*", "merges.txt", "config.json"]

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
    """Which model is trained. A value that is not possible, or code that is not pinned, is a ConfigError."""

    model: str = setting(
        "nano",
        "Preset with random weights: nano (about 1 million parameters), mini (about 15 million), "
        "gpt2-124m or llama-1b. Not used with model_name_or_path.",
    )
    model_name_or_path: str | None = setting(
        None, "A pretrained causal language model: a folder, or a name on the hub."
    )
    model_revision: str | None = setting(
        None, "Branch, tag or commit of model_name_or_path on the hub; the newest if not set."
    )
    gguf_file: str | None = setting(
        None,
        "Name of a GGUF file in the folder model_name_or_path, to read model and tokenizer from (docs/models.md). "
        "Needs the extra [gguf]. Not with LoRA.",
    )
    trust_remote_code: bool = setting(
        False,
        "Run the model's own Python code. Needs model_revision: the 40 digits of the commit whose code you have read.",
    )
    weights_dtype: str = setting(
        "float32",
        "float32, or bf16: weights, optimizer states and forward in bf16, as in the published code; a step below 1/512 "
        "of a weight is lost. Not with LoRA, nor with jepa_target ema.",
    )
    dropout: float = setting(0.0, "Dropout of a preset (attention; in GPT-2 also the rest).")
    attn_implementation: str | None = setting(
        None, "sdpa, eager or, on a GPU, flex_attention. Default: what transformers chooses for the model."
    )

    def __post_init__(self) -> None:
        if self.model not in PRESETS:
            text = f"model={self.model!r} is not one of: {', '.join(PRESETS)}. For your own, set model_name_or_path."
            raise ConfigError("value_not_allowed", text)
        if self.weights_dtype not in WEIGHTS_DTYPES:
            text = f"weights_dtype={self.weights_dtype!r} is not one of: {', '.join(WEIGHTS_DTYPES)}."
            raise ConfigError("value_not_allowed", text)
        if self.attn_implementation not in (None, *ATTENTION):
            raise ConfigError(
                "value_not_allowed",
                f"attn_implementation={self.attn_implementation!r} accepts no mask that separates the views. Set it to "
                f"one of: {', '.join(ATTENTION)}.",
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError("value_out_of_range", f"dropout={self.dropout} must be in [0, 1).")
        if self.dropout and self.model_name_or_path:
            text = f"dropout={self.dropout} is for presets. Remove it; a pretrained model's is in its config.json."
            raise ConfigError("setting_without_effect", text)
        self._check_source()

    def _check_source(self) -> None:
        """Check the settings that say where a pretrained model comes from."""
        for name in ("model_revision", "trust_remote_code", "gguf_file"):
            if getattr(self, name) and not self.model_name_or_path:
                text = f"{name} has no meaning for a preset. Set model_name_or_path, or remove {name}."
                raise ConfigError("setting_without_effect", text)
        if self.gguf_file and (self.model_revision or self.trust_remote_code):
            raise ConfigError(
                "settings_conflict",
                f"gguf_file={self.gguf_file!r} is a file of a folder on this disk. Remove model_revision and "
                "trust_remote_code.",
            )
        if self.trust_remote_code and not _COMMIT.fullmatch(self.model_revision or ""):
            raise ConfigError(
                "code_not_pinned",
                f"trust_remote_code runs code that can change from day to day; model_revision={self.model_revision!r} "
                "does not pin it. Set model_revision to the 40 digits of the commit whose code you have read.",
            )


def check_adapter(config: ModelConfig, adapter: AdapterConfig) -> None:
    """Raise ConfigError if LoRA is asked for with weights in bf16, a GGUF file, or a preset with random weights."""
    if not adapter.uses_lora:
        return
    if config.weights_dtype != "float32":
        raise ConfigError(
            "settings_conflict",
            f"weights_dtype={config.weights_dtype} is for training all weights; with lora_r={adapter.lora_r} it is not "
            "supported. Set weights_dtype: float32, or remove lora_r.",
        )
    if config.gguf_file:
        raise ConfigError(
            "settings_conflict",
            f"lora_r={adapter.lora_r} with gguf_file={config.gguf_file!r}: PEFT could not load the model of such an "
            "adapter. Write a plain folder first with `llm-jepa export NAME.gguf --to FOLDER`, and set "
            "model_name_or_path to it.",
        )
    if not config.model_name_or_path:
        raise ConfigError(
            "setting_missing",
            f"lora_r={adapter.lora_r} adapts a pretrained model, and {config.model!r} is a preset with random weights. "
            "Set model_name_or_path, or remove lora_r.",
        )


def build_model(
    config: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    adapter: AdapterConfig | None = None,
    *,
    end_id: int,
    pad_id: int,
    use_cpu: bool = False,
) -> nn.Module:
    """Return the model of a run; random weights come from PyTorch's global random stream.

    In bf16 the weights are those of float32, rounded. So runs in float32 and in bf16 start from the same weights.

    Args:
        tokenizer: Its tokenizer; the model must have a row for each of its ids.
        adapter: Whether LoRA matrices are trained instead of the weights.
        use_cpu: Load weights in four bits on the CPU even where there is a GPU; they stay where they are loaded.

    Raises:
        ConfigError: If the model cannot be loaded, the tokenizer has ids that the model lacks, or `check_adapter` does.
    """
    adapter = adapter or AdapterConfig()
    check_adapter(config, adapter)
    if config.model_name_or_path:
        model = _load_pretrained(config, adapter, use_cpu)
    else:
        shape = preset_config(config, len(tokenizer), end_id=end_id, pad_id=pad_id)
        model = AutoModelForCausalLM.from_config(shape, attn_implementation=config.attn_implementation)
    check_tokenizer_fits(tokenizer, len(model.get_input_embeddings().weight))
    if adapter.uses_lora:
        return add_lora(model, adapter, base=str(config.model_name_or_path), revision=config.model_revision)
    if config.weights_dtype == "bf16":
        for each in model.parameters():  # the frequencies of rotary positions stay in float32, as in a saved model
            each.data = each.data.to(torch.bfloat16)
        model.config.dtype = torch.bfloat16
        if bf16_products.is_needed(model):
            bf16_products.multiply_in_float32(model)
    return model


def check_model_fits(model: Any, tokenizer: PreTrainedTokenizerBase, *, max_length: int, jepa_k: int = 0) -> None:
    """Raise ConfigError unless a model has a row for each id of the tokenizer, and positions for the longest row.

    `max_length` is its tokens, without the `jepa_k` positions of [PRED].
    """
    check_tokenizer_fits(tokenizer, len(model.get_input_embeddings().weight))
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and max_length + jepa_k > positions:
        raise ConfigError(
            "row_too_long",
            f"Rows need up to {max_length + jepa_k} positions, {jepa_k} of them for [PRED], but the model has "
            f"{positions}. Set max_length to {positions - jepa_k} or less, with on_overflow: truncate or drop if rows "
            "are longer.",
        )


def load_own_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """Return the tokenizer that came with a pretrained model, of the same revision; ConfigError if there is none."""
    name = find_model(config)
    if config.gguf_file:
        return load_gguf_tokenizer(Path(name), config.gguf_file)
    if config.model_revision is None or Path(name).exists():
        return load_tokenizer(name)
    try:
        folder = snapshot_download(name, revision=config.model_revision, allow_patterns=_TOKENIZER_FILES)
    except (OSError, ValueError) as error:
        if missing := not_downloaded(f"model_name_or_path={name!r}", "tokenizer"):
            raise ConfigError("not_downloaded", missing) from error
        raise ConfigError(
            "tokenizer_not_loadable",
            f"model_name_or_path={name!r} has no tokenizer that can be loaded at model_revision="
            f"{config.model_revision!r}: {first_line(error)}",
        ) from error
    return load_tokenizer(folder)


def find_model(config: ModelConfig) -> str:
    """Return the folder of a pretrained model, or its name on the hub.

    It is a ConfigError if it is a path where no model is: nothing, a file, an adapter, or a run of ours.
    """
    name = str(config.model_name_or_path)
    place = expanded(name)
    what = f"model_name_or_path={name!r}"
    if not place.exists():
        if is_path(name):
            hint = " Folders are separated by '/' here." if "\\" in name and os.sep == "/" else ""
            text = f"{what} cannot be loaded: there is no such folder.{hint} Expected a folder with config.json."
            raise ConfigError("folder_missing", text)
        if config.gguf_file:
            text = f"{what} is not a folder. gguf_file={config.gguf_file!r} needs one that holds it."
            raise ConfigError("folder_missing", text)
        why_offline()
        return name
    if not place.is_dir():
        hint = f" Set gguf_file to {place.name}." if place.suffix == ".gguf" else ""
        raise ConfigError("not_a_folder", f"{what} is a file. Expected the folder that it is in, {place.parent}.{hint}")
    if config.model_revision and not config.trust_remote_code:
        text = f"model_revision={config.model_revision!r} is for the hub, and {what} is a folder. Remove it."
        raise ConfigError("setting_without_effect", text)
    if config.gguf_file:
        check_gguf(place, config.gguf_file)
        return str(place)
    if (place / ADAPTER_CONFIG).is_file():
        raise _adapter_error(what, str(place))
    if not (place / "config.json").is_file() and (place / "model" / "config.json").is_file():
        text = f"{what} is the folder of a run. Set it to the model inside: {place / 'model'}."
        raise ConfigError("model_is_run", text)
    packed = sorted(each.name for each in place.glob("*.gguf"))
    if packed and not (place / "config.json").is_file():
        text = f"{what} has no config.json, but a GGUF file. Set gguf_file to {' or '.join(packed)}."
        raise ConfigError("setting_missing", text)
    return str(place)


def _adapter_error(what: str, place: str) -> ConfigError:
    """Return the error for an adapter where a model is expected; it names the model that the adapter belongs to."""
    try:
        base = PeftConfig.from_pretrained(place).base_model_name_or_path
    except (OSError, ValueError, TypeError, KeyError):
        base = None
    return ConfigError(
        "model_is_adapter",
        f"{what} is an adapter (LoRA), not a model. Set model_name_or_path to its base, "
        f"{base or 'which it does not name'}. To continue training from the adapter, merge it into the base first.",
    )


def check_same_ids(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise ConfigError if a tokenizer that did not come with the model has other ids than the model has learned.

    With other ids, the model would train and score without an error, on embeddings of other words. The tokenizer may
    have more tokens or fewer, but not none in common. A model that came without a tokenizer is not checked. `name` is
    where the tokenizer came from.
    """
    try:
        own = load_own_tokenizer(config).get_vocab()
    except ConfigError:
        return
    vocab = tokenizer.get_vocab()
    shared = own.keys() & vocab.keys()
    differing = sorted((own[token], token) for token in shared if own[token] != vocab[token])
    what = "they have no token in common"
    if differing:
        place, token = differing[0]
        what = (
            f"{len(differing):,} of {len(shared):,} tokens have another id ({token!r} is {vocab[token]}, the model "
            f"learned it as {place})"
        )
    elif shared:
        return
    raise ConfigError(
        "tokenizer_of_other_model",
        f"tokenizer_name_or_path={name!r} is not the tokenizer of {config.model_name_or_path}: {what}. Remove "
        "tokenizer_name_or_path to use the model's own.",
    )


def preset_config(config: ModelConfig, vocab_size: int, *, end_id: int, pad_id: int) -> Any:
    """Return the transformers configuration of a preset."""
    ids = {"bos_token_id": None, "eos_token_id": end_id, "pad_token_id": pad_id}
    size = {"vocab_size": vocab_size, **PRESETS[config.model], **ids}
    if config.model == "gpt2-124m":
        dropout: dict[str, Any] = {name: config.dropout for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
        return GPT2Config(**size, **dropout)
    return LlamaConfig(**size, attention_dropout=config.dropout, tie_word_embeddings=True)


def num_parameters(model: nn.Module, *, trained: bool = False) -> int:
    """Return the number of parameters, or of those that are trained; tied ones are counted once."""
    return sum(each.numel() for each in model.parameters() if each.requires_grad or not trained)


def _load_pretrained(config: ModelConfig, adapter: AdapterConfig, use_cpu: bool) -> Any:
    name = find_model(config)
    if config.gguf_file:
        dtype = WEIGHTS_DTYPES[config.weights_dtype]
        return load_gguf_model(Path(name), config.gguf_file, dtype=dtype, attention=config.attn_implementation)
    source: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if config.model_revision is not None:
        source |= {"revision": config.model_revision}
    if config.trust_remote_code:  # code may be in another repository than the weights
        source |= {"code_revision": config.model_revision}
    in_4bit = adapter.quantization == "4bit"
    how = _quantized(use_cpu) if in_4bit else {"dtype": WEIGHTS_DTYPES[config.weights_dtype]}
    try:
        _check_attention(load_config(name, **source), name)
        return load_whole_model(name, attn_implementation=config.attn_implementation, **source, **how)
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        what, is_of_hub = f"model_name_or_path={name!r}", not Path(name).exists()
        if is_of_hub and _is_adapter_of_the_hub(name, config.model_revision):
            raise _adapter_error(what, name) from error
        if is_of_hub and isinstance(error, OSError) and (missing := not_downloaded(what, "folder")):
            raise ConfigError("not_downloaded", missing) from error
        code = "model_not_loadable"
        hint = "Expected a folder with config.json and model.safetensors, or the name of a model on the hub."
        if isinstance(error, ImportError):
            code, hint = "package_missing", "Install the package, or use a model that does not need it."
        if "trust_remote_code" in str(error):
            code = "code_not_trusted"
            hint = "Its own Python code is not run. If you have read it, set trust_remote_code and model_revision."
        raise ConfigError(code, f"{what} cannot be loaded: {first_line(error)} {hint}") from error


def _is_adapter_of_the_hub(name: str, revision: str | None) -> bool:
    try:
        return find_adapter_config_file(name, revision=revision) is not None
    except (OSError, ValueError):
        return False


def _check_attention(found: Any, name: str) -> None:
    """Refuse a configuration that asks for a kernel of the hub, which would be fetched and run."""
    for each in ("_attn_implementation", "_experts_implementation"):
        asked = getattr(found, each, None)
        if isinstance(asked, str) and "/" in asked:
            raise ConfigError(
                "kernel_not_trusted",
                f"The config.json of {name} asks for the kernel {asked!r} of the hub, which is code and is not run. "
                "Copy the model, and remove that line from the copy.",
            )


def _quantized(use_cpu: bool) -> dict[str, Any]:
    """Return the options that load a model in 4 bits, as in QLoRA (arXiv 2305.14314): NF4, double quantization."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "package_missing",
            "quantization=4bit needs bitsandbytes, which is not installed: `pip install 'llm-jepa[qlora]'`. Or set "
            "quantization to none.",
        )
    on_gpu = torch.cuda.is_available() and not use_cpu
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {
        "quantization_config": settings,
        "dtype": torch.bfloat16,
        "device_map": {"": torch.cuda.current_device() if on_gpu else "cpu"},
    }
