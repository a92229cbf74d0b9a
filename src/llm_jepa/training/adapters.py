"""LoRA through PEFT: a few matrices are trained on top of frozen weights, and saved without them, in PEFT's own format.

[PRED] is not a part of the adapter, nor a row of the vocabulary. It is a module next to the model
(`objective/predictor.py`); it is trained whatever the adapter freezes, and saved in jepa.safetensors.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from llm_jepa.data.hub import why_offline
from llm_jepa.errors import ConfigError, DataError, first_line
from llm_jepa.fields import setting
from llm_jepa.files import expanded

from .whole_model import load_whole_model

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
ALL_LINEAR = "all-linear"
FROZEN_VALUES = 256  # values of a frozen weight by which it is known; any training changes nearly all
QUANTIZATIONS = ("none", "4bit")
_FACTS = {name: f"lora_{name.removeprefix('lora_')}" for name in ("r", "lora_alpha", "lora_dropout", "target_modules")}
_NO_FACTS = ("task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "init_lora_weights")
"""Settings of PEFT by our names, and those on which the next step does not depend."""


@dataclass
class AdapterConfig:
    """Whether all weights are trained, or an adapter on top of them."""

    lora_r: int = setting(0, "Rank of the LoRA matrices, such as 16. 0 trains all weights. Needs model_name_or_path.")
    lora_alpha: float = setting(32.0, "Scale of the LoRA matrices: their product is multiplied by lora_alpha / lora_r.")
    lora_dropout: float = setting(0.0, "Dropout before the LoRA matrices.")
    lora_target_modules: list[str] | str = setting(
        ALL_LINEAR,
        "Layers that get LoRA matrices: all-linear (every linear layer except the head), a list of names, or a regular "
        "expression.",
    )
    quantization: str = setting(
        "none",
        "none, or 4bit: the frozen weights in 4 bits (QLoRA), on a GPU or, slowly, a CPU. Needs lora_r and "
        "`pip install llm-jepa[qlora]`.",
    )

    def __post_init__(self) -> None:
        if self.lora_r < 0 or not self.lora_alpha > 0:
            text = f"lora_r={self.lora_r} must be 0 or more, and lora_alpha={self.lora_alpha} above 0."
            raise ConfigError("value_out_of_range", text)
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError("value_out_of_range", f"lora_dropout={self.lora_dropout} must be in [0, 1).")
        if not self.lora_target_modules:
            raise ConfigError("value_empty", f"lora_target_modules is empty. Name layers, or leave it at {ALL_LINEAR}.")
        if self.quantization not in QUANTIZATIONS:
            text = f"quantization={self.quantization!r} is not one of: {', '.join(QUANTIZATIONS)}."
            raise ConfigError("value_not_allowed", text)
        if self.lora_r == 0:
            for each in fields(self):
                if getattr(self, each.name) != each.default:
                    raise ConfigError(
                        "setting_without_effect",
                        f"{each.name}={getattr(self, each.name)!r} has no meaning if all weights are trained. "
                        f"Set lora_r (to 16, for example), or remove {each.name}.",
                    )

    @property
    def uses_lora(self) -> bool:
        """Whether there is an adapter at all."""
        return self.lora_r > 0


def add_lora(model: Any, config: AdapterConfig, *, base: str, revision: str | None = None) -> PeftModel:
    """Put LoRA matrices into a pretrained model and freeze the rest; the matrices come from the global random stream.

    `base` and `revision` are where the model came from: a folder or a name on the hub. They are written into the
    adapter's config, so that any program finds the weights that the adapter belongs to.

    Raises:
        ConfigError: If no layer has one of the names, or a name is that of the embedding table or the head.
    """
    settings = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_target_modules,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(model, settings)
    except (ValueError, re.error) as error:
        raise ConfigError(
            "layers_not_found",
            f"lora_target_modules={config.lora_target_modules!r}: {first_line(error)} Set it to "
            f"{ALL_LINEAR}, or to names of the model's linear layers.",
        ) from error
    names = config.lora_target_modules if isinstance(config.lora_target_modules, list) else []
    adapter: Any = adapted.base_model
    found = [f".{each}" for each in adapter.targeted_module_names]
    if lost := [name for name in names if not any(each.endswith(f".{name}") for each in found)]:
        raise ConfigError(
            "layers_not_found",
            f"lora_target_modules={names!r}: no layer is called {' or '.join(lost)}. Set it to {ALL_LINEAR}, "
            "or to names of the model's linear layers.",
        )
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        if isinstance(table, BaseTunerLayer):
            raise ConfigError(
                "layers_not_adaptable",
                f"lora_target_modules={config.lora_target_modules!r} names the embedding table or the head, which "
                f"are not adapted. Remove these names, or set it to {ALL_LINEAR}.",
            )
    written = adapted.peft_config["default"]
    written.base_model_name_or_path = _place(base)
    written.revision = revision
    return adapted


def describe_adapter(model: nn.Module) -> dict[str, Any]:
    """Return the settings of the adapter that a resumed run must share; an empty dict without an adapter."""
    if not isinstance(model, PeftModel):
        return {}
    found = {name: _as_written(each) for name, each in model.active_peft_config.to_dict().items()}
    facts = {ours: found.pop(theirs, None) for theirs, ours in _FACTS.items()}
    usual = LoraConfig().to_dict()
    other = {name: each for name, each in found.items() if name not in _NO_FACTS and each != usual.get(name)}
    return facts | ({"adapter": json.loads(json.dumps(other, default=str))} if other else {}) | _describe_frozen(model)


def _describe_frozen(model: PeftModel) -> dict[str, str]:
    """Return the sha256 of some values of each frozen weight of the base, which a checkpoint does not hold.

    Weights in four bits are left out: their packing changes with the first forward.
    """
    digest, of_adapters = hashlib.sha256(), getattr(model.base_model, "prefix", "") or " "
    for name, each in model.named_parameters():
        is_base = not each.requires_grad and of_adapters not in name
        if is_base and each.is_floating_point() and each.numel() and not each.is_meta:
            values = each.detach().flatten()
            some = values[:: max(1, len(values) // FROZEN_VALUES)].float().cpu()
            digest.update(name.encode() + some.numpy().tobytes())
    return {"base_weights": digest.hexdigest()}


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter to `folder`, as PEFT does, but without its empty model card and in a fixed order."""
    weights = {name: each.detach().contiguous() for name, each in adapter_weights(model).items()}
    save_file(weights, folder / ADAPTER, metadata={"format": "pt"})
    settings = copy.copy(model.active_peft_config)
    settings.inference_mode = True
    settings.base_model_name_or_path = settings.base_model_name_or_path or model.get_base_model().name_or_path
    settings.target_modules = _as_written(settings.target_modules)
    settings.save_pretrained(str(folder))


def adapter_weights(model: PeftModel) -> dict[str, Tensor]:
    """Return the active adapter's matrices by the names under which they are saved."""
    return get_peft_model_state_dict(model, adapter_name=model.active_adapter, save_embedding_layers=False)


def restore_adapter(model: PeftModel, weights: dict[str, Tensor], source: Path) -> None:
    """Put saved matrices into the adapter, in place; those of another adapter are a DataError."""
    shapes = {name: tuple(each.shape) for name, each in adapter_weights(model).items()}
    found = {name: tuple(each.shape) for name, each in weights.items()}
    if differing := sorted(name for name in {**shapes, **found} if shapes.get(name) != found.get(name)):
        name = differing[0]
        raise DataError(
            "weights_of_other_model",
            f"{source} is not of this model: {name} is {found.get(name, 'missing')} in the file and "
            f"{shapes.get(name, 'missing')} in the model. Resume with the model's own settings (lora_r, "
            "lora_target_modules), or start a new output folder.",
        )
    set_peft_model_state_dict(model, weights, adapter_name=model.active_adapter)


def adapter_settings(folder: Path) -> PeftConfig:
    """Return the settings of a saved adapter; a DataError if they are damaged."""
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError("checkpoint_damaged", f"{folder / ADAPTER_CONFIG} is damaged: {first_line(error)}") from error


def load_adapted(folder: Path) -> PeftModel:
    """Load an adapter with the model that it belongs to, in float32; the matrices can be trained further.

    It is a DataError if the adapter is damaged, or its base model cannot be found.
    """
    if not (folder / ADAPTER).is_file():  # PEFT would search for it on the hub
        raise DataError("file_missing", f"{folder / ADAPTER} is missing. Use another folder, or train again.")
    settings = adapter_settings(folder)
    base, revision = settings.base_model_name_or_path, settings.revision or "main"
    if not expanded(str(base)).exists():
        why_offline()  # it asks the hub once; transformers would ask many times
    try:
        model = load_whole_model(base, revision=revision, dtype=torch.float32, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            "base_not_loadable",
            f"{folder} is an adapter of {base}, which cannot be loaded: {first_line(error)} Put the model back, or "
            f"write its new place as base_model_name_or_path into {folder / ADAPTER_CONFIG}.",
        ) from error
    try:
        adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=True)
        with safe_open(folder / ADAPTER, framework="pt") as file:
            lost = sorted(adapter_weights(adapted).keys() - set(file.keys()))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        text = f"The adapter in {folder} cannot be loaded on {base}: {first_line(error)}"
        raise DataError("model_not_loadable", text) from error
    if lost:
        text = f"{folder / ADAPTER} lacks {len(lost)} of the adapter's matrices, such as {lost[0]}. Use another folder."
        raise DataError("checkpoint_damaged", text)
    return adapted


def merged(model: PeftModel) -> Any:
    """Return the plain model with the adapter's matrices merged into it, or DataError if they are not finite.

    `model` cannot be used afterwards.
    """
    try:
        return model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        text = f"The adapter cannot be merged: {first_line(error)} Use another checkpoint."
        raise DataError("weights_not_finite", text) from error


def _place(base: str) -> str:
    """Return a folder's name so that it is never read as a name on the hub, where `a/b` may be somebody's model."""
    folder = expanded(base)
    return str(folder) if folder.is_absolute() else f"./{folder}" if folder.exists() else base


def _as_written(value: Any) -> Any:
    """Return a setting as a JSON value; PEFT keeps names in a set, whose order changes from run to run."""
    return sorted(value) if isinstance(value, set) else value
