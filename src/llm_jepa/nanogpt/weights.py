"""nanoGPT checkpoints and transformers GPT-2 folders: the same weights in two kinds of file, either way.

    nanoGPT        ckpt.pt      {"model": ..., "model_args": ..., "optimizer": ...}, [PRED] among the weights
    transformers   a folder     config.json, model.safetensors, and [PRED] in the files of `saving.py`

GPT-2 of transformers stores its linear layers transposed, always has biases, and has other names for its sizes.
Otherwise the two are one model. A .pt file is a pickle, which can hold code: it is read as plain weights or not at all.

Letters: C n_embd, V vocab_size.
"""

from __future__ import annotations

import pickle
import re
import textwrap
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.models.gpt2 import GPT2Config, GPT2LMHeadModel

from llm_jepa.errors import DataError, first_line
from llm_jepa.files import expanded, whole_file
from llm_jepa.objective import LLMJEPA, JEPAConfig
from llm_jepa.training.saving import PREDICTOR, WEIGHTS, save_jepa

from . import GPT, GPTConfig
from .state_dicts import unwrapped

CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")  # stored transposed
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new"}  # transformers' name -> ours
BIAS_KEY = "nanogpt_bias"  # false in config.json: the model had no biases, those in the folder are zeros

SIZES = {name: name for name in ("n_layer", "n_head", "n_embd", "vocab_size")} | {"block_size": "n_positions"}
"""nanoGPT's names of sizes, and those of transformers."""
MODEL_ARGS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")  # nanoGPT's, in its order

GPT2_END_ID = 50256
GPT2_VOCAB_SIZES = (50257, 50304)  # of GPT-2's tokenizer, and nanoGPT's rounding of it

# What nanoGPT's train.py begins with. They are part of an optimizer's state, so a checkpoint without a history must
# name them; `learning_rate` is set again at each step.
OPTIMIZER = {"weight_decay": 0.1, "learning_rate": 6e-4, "betas": (0.9, 0.95)}
NO_VAL_LOSS = 1e9  # nanoGPT's best_val_loss before the first evaluation


# ---- GPT-2 of transformers ----


def load_gpt2(name: str, dropout: float = 0.0) -> GPT:
    """Return a GPT-2 of transformers, by its folder or its name on the hub, as our GPT, in float32.

    [PRED] is loaded, too, if the folder has it.

    Raises:
        DataError: If it cannot be loaded, or has a setting that our class does not have.
    """
    model = from_transformers(load_transformers(name), dropout)
    take_pred_token(model, expanded(name) / PREDICTOR)
    return model


def from_transformers(model: GPT2LMHeadModel, dropout: float = 0.0) -> GPT:
    """Return a model of transformers as our GPT, with copied weights and a fresh [PRED].

    It is bias-free where `to_transformers` made the model of a bias-free one, and no bias was trained since.

    Raises:
        DataError: If the model has a setting that our class does not have.
    """
    size = model.config
    _check_config(size)
    weights = model.state_dict()
    _check_one_table("The model", weights)
    biases = [each for key, each in weights.items() if key.endswith(".bias")]
    bias = getattr(size, BIAS_KEY, True) is not False or any(bool(each.any()) for each in biases)
    sizes = {name: getattr(size, theirs) for name, theirs in SIZES.items()}
    activation = ACTIVATIONS[size.activation_function]
    ours = GPT(GPTConfig(**sizes, dropout=dropout, bias=bias, activation=activation))
    copied = {key: _transposed(key, each) for key, each in weights.items() if bias or not key.endswith(".bias")}
    ours.load_state_dict({**ours.state_dict(), **copied})  # [PRED] and the activation are ours
    return ours.to(weights["lm_head.weight"])  # its device and dtype


def to_transformers(model: GPT) -> GPT2LMHeadModel:
    """Return our GPT as a model of transformers, with copied weights and without [PRED].

    A bias-free model gets biases of zero; its config.json says so.
    """
    size = model.config
    end_id = GPT2_END_ID if size.vocab_size in GPT2_VOCAB_SIZES else None
    config = GPT2Config(
        **{theirs: getattr(size, name) for name, theirs in SIZES.items()},
        activation_function=size.activation,
        resid_pdrop=size.dropout,
        embd_pdrop=size.dropout,
        attn_pdrop=size.dropout,
        bos_token_id=end_id,
        eos_token_id=end_id,
    )
    if not size.bias:
        config.update({BIAS_KEY: False})
    theirs: Any = GPT2LMHeadModel(config)
    weights = model.state_dict()
    zeros = {key: torch.zeros_like(each) for key, each in theirs.state_dict().items() if key.endswith(".bias")}
    copied = {key: _transposed(key, each) for key, each in weights.items() if key not in ("pred_token", "gelu_new")}
    theirs.load_state_dict({**zeros, **copied})
    return theirs.to(weights["lm_head.weight"])


def _transposed(key: str, weight: Tensor) -> Tensor:
    return weight.T if key.endswith(CONV1D) else weight


def _check_one_table(where: str, weights: dict[str, Tensor]) -> None:
    """Refuse a head of its own. nan equals nan here, so that a model that diverged can be loaded."""
    head, table = weights["lm_head.weight"], weights["transformer.wte.weight"]
    if not torch.allclose(head, table, rtol=0, atol=0, equal_nan=True):
        text = f"{where}: lm_head.weight and transformer.wte.weight differ. nanoGPT has one table for both."
        raise DataError("model_not_supported", text)


def _check_config(config: GPT2Config) -> None:
    """Refuse a GPT-2 with a setting that nanoGPT's model does not have."""
    expected = {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
        "layer_norm_epsilon": 1e-5,
    }
    found = [f"{name}={getattr(config, name)}" for name, value in expected.items() if getattr(config, name) != value]
    if config.n_inner not in (None, 4 * config.n_embd):
        found.append(f"n_inner={config.n_inner} with n_embd={config.n_embd}")
    if config.activation_function not in ACTIVATIONS:
        found.append(f"activation_function={config.activation_function!r}")
    if found:
        raise DataError(
            "model_not_supported",
            f"This GPT-2 has {', '.join(found)}, which nanoGPT's model does not have. Use a model with plain scaled "
            "attention, one table for words and head, inner layers of 4 * n_embd, layer_norm_epsilon=1e-5 and one of "
            f"the activations {', '.join(ACTIVATIONS)}.",
        )


def load_transformers(name: str) -> GPT2LMHeadModel:
    """Load a GPT-2 of transformers from a folder or by its name on the hub, in float32, with all its weights."""
    local = expanded(name).is_dir()
    name = str(expanded(name)) if local else name
    try:
        values, _ = GPT2Config.get_config_dict(name, local_files_only=local)
        if values.get("model_type") != "gpt2":
            text = f"{name} holds a model of type {values.get('model_type')!r}. Expected one of type 'gpt2'."
            raise DataError("model_not_supported", text)
        config = GPT2Config.from_dict(values)
        _check_config(config)  # before the weights, which may be large
        loaded: Any = GPT2LMHeadModel.from_pretrained(
            name, config=config, dtype=torch.float32, local_files_only=local, output_loading_info=True
        )
    except DataError:
        raise
    except (
        *(OSError, RuntimeError, ValueError, TypeError, AttributeError, KeyError),
        *(pickle.UnpicklingError, SafetensorError, StrictDataclassError),
    ) as error:
        raise DataError(
            "model_not_loadable",
            f"{name} cannot be loaded as a GPT-2: {first_line(error).rstrip('.:')}. Expected a folder with "
            f"config.json and {WEIGHTS}, or the name of a model on the hub.",
        ) from error
    model, info = loaded
    if missing := sorted(set(info["missing_keys"]) - {"lm_head.weight"}):  # the head is the word table
        text = f"{name} lacks {len(missing)} of its weights, the first is {missing[0]}. Copy the folder again."
        raise DataError("weights_missing", text)
    return model


def pred_file(path: Path) -> Path:
    """Return the file next to a checkpoint that holds [PRED] if the checkpoint is for nanoGPT's own class."""
    return path.with_suffix(f".{PREDICTOR}")


def take_pred_token(model: GPT, path: Path) -> bool:
    """Put the [PRED] of a file into our GPT, in place; return whether there is one."""
    if not path.is_file():
        return False
    try:
        saved = load_file(path).get("embedding")
    except (OSError, SafetensorError) as error:
        text = f"{path} is damaged: {error}. Copy it again, or remove it for a fresh [PRED]."
        raise DataError("checkpoint_damaged", text) from error
    if saved is not None and len(saved) == 0:  # jepa_k 0: there is nothing to learn
        return False
    expected = (1, model.config.n_embd)
    if saved is None or saved.shape != expected:
        found = "no embedding" if saved is None else f"[PRED] of shape {tuple(saved.shape)}"
        raise DataError(
            "weights_of_other_model",
            f"{path} holds {found}; this model has one vector for all [PRED], of shape {expected}. Convert a model "
            "with jepa_pred_tokens: shared, or a copy of the folder without that file, for a fresh [PRED].",
        )
    with torch.no_grad():
        model.pred_token.copy_(saved[None])  # (1, 1, C)
    return True


def save_folder(model: GPT, folder: Path) -> None:
    """Write our GPT as a plain transformers folder, with [PRED] next to it, which `saving.load_jepa` reads."""
    config = JEPAConfig(jepa_k=1, jepa_pred_tokens="shared", jepa_target="stop_grad")
    jepa = LLMJEPA(to_transformers(model), config, check=False)
    jepa.predictor.load_state_dict({"embedding": model.pred_token.detach()[0]})  # (1, C)
    save_jepa(jepa, folder)


# ---- checkpoints of nanoGPT ----


def save_checkpoint(model: GPT, path: str | Path, **extra: Any) -> None:
    """Write a checkpoint that nanoGPT's train.py resumes and its sample.py loads, with our class instead of theirs.

    It is the start of a training: iteration 0, no best loss yet, and an optimizer without a history, with the weight
    decay and betas of nanoGPT's train.py. `extra` replaces `iter_num`, `best_val_loss`, `optimizer` or `config`.
    """
    config = model.config
    model_args = {name: getattr(config, name) for name in MODEL_ARGS}
    if config.activation != "gelu":
        model_args["activation"] = config.activation
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": model.configure_optimizers(device_type="cpu", **OPTIMIZER).state_dict(),  # type: ignore[arg-type]
        "model_args": model_args,
        "iter_num": 0,
        "best_val_loss": NO_VAL_LOSS,
        "config": {},
        **extra,
    }
    with whole_file(expanded(path)) as file:
        torch.save(checkpoint, file)


def read_checkpoint(path: Path) -> tuple[GPT, bool]:
    """Return the model of a checkpoint, and whether [PRED] was in it or next to it. If not, it is fresh.

    Raises:
        DataError: If the file is missing, damaged, holds code, or its weights do not fit its `model_args`.
    """
    path = expanded(path)
    if not path.is_file():
        code, found = ("not_a_file", "is a folder") if path.is_dir() else ("file_missing", "does not exist")
        text = f"{path} {found}. Expected a checkpoint that nanoGPT's train.py wrote, such as out/ckpt.pt."
        raise DataError(code, text)
    checkpoint = load_plain(path)
    is_dict = isinstance(checkpoint, dict)
    saved, model_args = (checkpoint.get(name) if is_dict else None for name in ("model", "model_args"))
    if not isinstance(saved, dict) or not isinstance(model_args, dict):
        found = f"the keys {listed(checkpoint)}" if is_dict else f"a {type(checkpoint).__name__}"
        text = f"{path} is not a nanoGPT checkpoint: it holds {found}. Expected model and model_args."
        raise DataError("not_a_checkpoint", text)
    weights = unwrapped(saved)
    if len(weights) < len(saved):
        text = f"{path} holds weights twice, with and without _orig_mod. or module. before their names."
        raise DataError("weights_repeated", text)
    if other := [key for key, each in weights.items() if not isinstance(each, Tensor)]:
        text = f"{path} is not a nanoGPT checkpoint: some of its weights are not tensors ({listed(other)})."
        raise DataError("not_a_checkpoint", text)
    config = _config_of(path, model_args)
    _check_sizes(path, config, weights)
    if config.activation == "gelu_new":
        weights.setdefault("gelu_new", torch.tensor(True))
    model = GPT(config)
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:  # missing or unknown names, other shapes: PyTorch lists them
        listing = textwrap.shorten(str(error), 400, placeholder=" ...")
        text = f"{path}: the weights do not fit its model_args. {listing}"
        raise DataError("weights_of_other_model", text) from error
    return model, "pred_token" in weights or take_pred_token(model, pred_file(path))


def load_plain(path: Path) -> Any:
    """Return what a file of torch.save holds, if that is plain data; never run code in it."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly any error in PyTorch's reader
        if isinstance(error, pickle.UnpicklingError) and (code := re.search(r"GLOBAL (\S+)", str(error))):
            raise DataError(
                "checkpoint_holds_code",
                f"{path} holds code ({code[1]}), which could do anything, so it was not loaded. Save the checkpoint "
                "with plain tensors, numbers and text only.",
            ) from error
        raise DataError(
            "checkpoint_damaged",
            f"{path} is damaged, or is not a file of torch.save. Expected a checkpoint that nanoGPT's train.py wrote. "
            "Copy it again.",
        ) from error


def _config_of(path: Path, model_args: dict[Any, Any]) -> GPTConfig:
    """Return the config of a checkpoint's model_args, each value checked."""
    optional = {name: getattr(GPTConfig, name) for name in ("bias", "dropout", "activation")}
    known = (*SIZES, *optional)
    if unknown := [name for name in model_args if name not in known]:
        raise DataError(
            "key_unknown",
            f"{path}: model_args has {listed(unknown)}, which nanoGPT's model does not know. Expected only "
            f"{', '.join(known)}. Another model wrote this checkpoint.",
        )
    if missing := [name for name in SIZES if name not in model_args]:
        text = f"{path}: model_args lacks {listed(missing)}, so the size of the model is not known."
        raise DataError("key_missing", text)
    values = optional | model_args
    fits = {name: type(values[name]) is int and values[name] > 0 for name in SIZES}
    fits["bias"] = isinstance(values["bias"], bool)
    fits["dropout"] = type(values["dropout"]) in (int, float) and 0 <= values["dropout"] < 1
    fits["activation"] = values["activation"] in ("gelu", "gelu_new")
    if wrong := [f"{name}={values[name]!r}" for name, is_right in fits.items() if not is_right]:
        raise DataError(
            "value_not_allowed",
            f"{path}: model_args has {', '.join(wrong)}. Expected whole numbers above 0 for sizes, True or False for "
            "bias, dropout from 0 up to 1, and gelu or gelu_new for activation.",
        )
    if values["n_embd"] % values["n_head"]:
        text = f"{path}: n_embd={values['n_embd']} is not a multiple of n_head={values['n_head']}."
        raise DataError("settings_conflict", text)
    return GPTConfig(**values)


def _check_sizes(path: Path, config: GPTConfig, weights: dict[str, Tensor]) -> None:
    """Check that the sizes fit the weights, before such a model is built, and that head and word table are equal."""
    tables = {
        "transformer.wte.weight": (config.vocab_size, config.n_embd),
        "transformer.wpe.weight": (config.block_size, config.n_embd),
        "lm_head.weight": (config.vocab_size, config.n_embd),
    }
    wrong = [
        f"{key} has shape {tuple(weights[key].shape)} instead of {shape}" if key in weights else f"{key} is missing"
        for key, shape in tables.items()
        if key not in weights or weights[key].shape != shape
    ]
    layers = {key.split(".")[2] for key in weights if key.startswith("transformer.h.")}
    if len(layers) != config.n_layer:
        wrong.append(f"there are {len(layers)} layers instead of {config.n_layer}")
    if wrong:
        text = f"{path}: the weights do not fit its model_args: {'; '.join(wrong)}. Use another checkpoint."
        raise DataError("weights_of_other_model", text)
    _check_one_table(str(path), weights)


def listed(values: Any) -> str:
    """Return the first few names of a list, for an error."""
    shown = [str(each) for each in values]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "") or "(none)"
