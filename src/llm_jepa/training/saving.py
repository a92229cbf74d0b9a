"""The files of a trained model: a plain transformers folder, with [PRED] in its own file.

    config.json, model.safetensors, tokenizer files      any transformers program loads these; weights of more than
                                                         max_shard_size are model-0000N-of-0000M.safetensors, listed
                                                         in model.safetensors.index.json
    adapter_config.json, adapter_model.safetensors       instead of the first two if LoRA was trained
    jepa.safetensors                                     [PRED], (number of vectors, C), and the predictor head
    jepa_config.json                                     the objective
    jepa_target.safetensors                              with jepa_target ema: the slow copy's weights that are not
                                                         shared with the model. The run's figures read Enc(Code) from
                                                         this copy. In several files if the model is

Only safetensors and JSON are written and read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from llm_jepa.errors import DataError, first_line
from llm_jepa.objective import LLMJEPA, JEPAConfig
from llm_jepa.objective.distances import declare_distance, is_known
from llm_jepa.processes import is_main

from . import bf16_products
from .adapters import ADAPTER, ADAPTER_CONFIG, PeftModel, load_adapted, restore_adapter, save_adapter
from .sharding import is_sharded, load_whole_state, part, whole_state
from .whole_model import load_whole_model

logger = logging.getLogger(__name__)

WEIGHTS, PREDICTOR, TARGET = "model.safetensors", "jepa.safetensors", "jepa_target.safetensors"
CONFIG = "jepa_config.json"
INDEX = ".index.json"  # added to the name of a weights file that is split: it says which tensor is in which file
MAX_SHARD_SIZE = "50GB"  # the default of `save_pretrained` in transformers 5; the hub accepts no larger file


def save_jepa(
    jepa: LLMJEPA,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    max_shard_size: str = MAX_SHARD_SIZE,
) -> None:
    """Write the model, [PRED], the objective and the tokenizer to `folder`, which is created if it is missing.

    In a run of several processes all must call it, and rank 0 writes.

    Args:
        max_shard_size: Size of the largest file of weights, of the model and of the slow copy, such as "5GB". Larger
            weights are split into several files. A tensor is never split.

    Raises:
        ConfigError: If the objective was changed by hand, so that its record would be wrong; nothing is written.
    """
    jepa.check_record()
    folder = Path(folder)
    whole = whole_state(jepa)
    if not is_main():
        return
    folder.mkdir(parents=True, exist_ok=True)
    state = jepa.state_dict() if whole is None else whole
    if isinstance(jepa.model, PeftModel):
        save_adapter(jepa.model, folder)
    else:
        for name in (ADAPTER, ADAPTER_CONFIG):  # of an earlier model of this name: any program would load it instead
            (folder / name).unlink(missing_ok=True)
        model_state = {} if whole is None else {"state_dict": part(whole, "model.")}
        jepa.model.save_pretrained(folder, max_shard_size=max_shard_size, **model_state)  # type: ignore[operator]
    save_file(_plain(part(state, "predictor.")), folder / PREDICTOR)
    (folder / CONFIG).write_text(jepa.config.to_json_string())
    if jepa.target is not None:
        target = jepa.target.own_state() if whole is None else _plain(part(whole, "target."))
        pattern = TARGET.replace(".", "{suffix}.")
        save_torch_state_dict(target, folder, filename_pattern=pattern, max_shard_size=max_shard_size)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def load_jepa(folder: str | Path) -> LLMJEPA:
    """Load what `save_jepa` wrote: a whole model, or an adapter with the model that it belongs to.

    If the folder has no slow copy, as after an export, the model itself is the slow copy. If the distance is the user's
    own and is not registered in this process, no loss is computed: training raises, and evaluation reports nan.

    Raises:
        DataError: If one of the folder's files is missing or damaged, or an adapter's model is missing.
    """
    folder = Path(folder)
    for name in (CONFIG, PREDICTOR):
        if not (folder / name).is_file():
            text = f"{folder} has no {name}, so it is not a model saved by llm-jepa. Give the folder RUN/model."
            raise DataError("not_a_saved_model", text)
    try:
        settings = json.loads((folder / CONFIG).read_text())
        declare_distance(settings.get("jepa_distance", JEPAConfig.jepa_distance))
        config = JEPAConfig(**settings)
    except (ValueError, TypeError, AttributeError) as error:
        text = f"{folder / CONFIG} is damaged or of another version of llm-jepa: {error}"
        raise DataError("checkpoint_damaged", text) from error
    if not is_known(config.jepa_distance):
        logger.warning("model  the distance %s is not registered here: no JEPA loss is computed", config.jepa_distance)
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    jepa = LLMJEPA(load_adapted(folder) if is_adapter else _load_whole(folder), config)
    _load_predictor(jepa, folder)
    target = folder / TARGET
    if jepa.target is not None and (target.is_file() or target.with_name(TARGET + INDEX).is_file()):
        jepa.target.load_own_state(_read_shards(target))
    return jepa


def _load_whole(folder: Path) -> nn.Module:
    options = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    try:
        model = load_whole_model(folder, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError("model_not_loadable", f"The model in {folder} cannot be loaded: {first_line(error)}") from error
    if bf16_products.is_needed(model):
        bf16_products.multiply_in_float32(model)
    return model


def restore_weights(jepa: LLMJEPA, folder: str | Path) -> None:
    """Put the weights of a checkpoint folder into `jepa`, in place; those of another model are a DataError."""
    folder = Path(folder)
    if is_sharded(jepa):
        _restore_sharded(jepa, folder)
        return
    if isinstance(jepa.model, PeftModel):
        restore_adapter(jepa.model, _read(folder / ADAPTER), folder / ADAPTER)
    else:
        _restore_whole(jepa.model, folder)
    _load_predictor(jepa, folder)
    if jepa.target is not None:
        jepa.target.load_own_state(_read_shards(folder / TARGET))


def _restore_whole(model: nn.Module, folder: Path) -> None:
    try:
        result = model.load_state_dict(_read_shards(folder / WEIGHTS), strict=False)
    except RuntimeError as error:  # a tensor of another shape
        raise _of_other_model(folder / WEIGHTS, f"is not of this model: {' '.join(str(error).split()[:40])}") from error
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    missing = [name for name in result.missing_keys if name not in tied]
    if missing or result.unexpected_keys:
        differing = f"it lacks {missing[:3]} and has {result.unexpected_keys[:3]}"
        raise _of_other_model(folder / WEIGHTS, f"is not of this model: {differing}")


def _restore_sharded(jepa: LLMJEPA, folder: Path) -> None:
    files = {"model.": WEIGHTS, "predictor.": PREDICTOR} | ({"target.": TARGET} if jepa.target is not None else {})
    parts = {prefix: _read_shards(folder / file) for prefix, file in files.items()}
    state = {prefix + name: each for prefix, tensors in parts.items() for name, each in tensors.items()}
    tied: Any = getattr(jepa.model, "all_tied_weights_keys", None) or {}
    for name, source in tied.items():  # tied weights are not in the file
        state.setdefault(f"model.{name}", state[f"model.{source}"])
    load_whole_state(jepa, state)


def _load_predictor(jepa: LLMJEPA, folder: Path) -> None:
    file = folder / PREDICTOR
    state = _read(file)
    if "embedding" not in state:
        raise DataError("not_a_saved_model", f"{file} has no [PRED] embedding: it was not written by llm-jepa.")
    own = {name: tuple(each.shape) for name, each in jepa.predictor.state_dict().items()}
    found = {name: tuple(each.shape) for name, each in state.items()}
    if found != own:
        text = f"holds {found}; jepa_k, jepa_pred_tokens and jepa_predictor={jepa.config.jepa_predictor} ask for {own}"
        raise _of_other_model(file, text)
    jepa.predictor.load_state_dict(state)


def _of_other_model(file: Path, problem: str) -> DataError:
    text = f"{file} {problem}. Resume with the model's own settings, or start a new output folder."
    return DataError("weights_of_other_model", text)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        code, problem = ("checkpoint_damaged", "is damaged") if path.exists() else ("weights_missing", "is missing")
        raise DataError(code, f"{path} {problem}: {error}. Use another checkpoint, or train again.") from error


def _read_shards(path: Path) -> dict[str, Tensor]:
    """Read a file of weights, or the files that its index lists if the weights were split."""
    if path.is_file() or not path.with_name(path.name + INDEX).is_file():
        return _read(path)
    return {name: each for shard in shards(path) for name, each in _read(shard).items()}


def shards(path: Path) -> list[Path]:
    """Return the files that the index of an unsplit file, such as `model.safetensors`, lists in its folder.

    It is a DataError if the index is damaged, or a name in it leads out of the folder.
    """
    index = path.with_name(path.name + INDEX)
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names or any(Path(name).name != name or not name.endswith(path.suffix) for name in names):
            raise ValueError("it must list files of its own folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"{index} is damaged: {error}. Use another checkpoint, or train again."
        raise DataError("checkpoint_damaged", text) from error
    return [path.with_name(name) for name in names]


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict with each tensor in its own memory, as safetensors requires."""
    return {name: each.detach().clone().contiguous() for name, each in state.items()}
