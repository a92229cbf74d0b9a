"""Changes what nanoGPT saved so that the GPT of this folder loads it: names of weights, groups of an optimizer."""

from __future__ import annotations

import re
from typing import Any

import torch

WRAPPERS = re.compile(r"(?:_orig_mod\.|module\.)+")  # before names: torch.compile, DDP, or both in any order


def unwrapped(weights: dict[Any, Any]) -> dict[str, Any]:
    """Return weights with the prefixes of torch.compile and DDP removed from their names."""
    return {WRAPPERS.sub("", str(key), count=1): each for key, each in weights.items()}


def accept_nanogpt(module: Any, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Before loading, remove prefixes of torch.compile and DDP and attention masks, and add [PRED] if it is missing."""
    *_, errors = rest
    for key in list(state_dict):
        if key.startswith(prefix) and (wrapped := WRAPPERS.match(key, len(prefix))):
            state_dict[prefix + key[wrapped.end() :]] = state_dict.pop(key)
    for key in list(state_dict):
        if key.startswith(prefix) and key.endswith((".attn.bias", ".attn.masked_bias")):
            del state_dict[key]
    state_dict.setdefault(prefix + "pred_token", module.pred_token.detach())
    if prefix + "gelu_new" in state_dict and module.config.activation != "gelu_new":
        module.mark_gelu_new()
    elif prefix + "gelu_new" not in state_dict and module.config.activation == "gelu_new":
        state_dict[prefix + "gelu_new"] = module.get_buffer("gelu_new")
        errors.append('The weights are of a model with activation="gelu"; this model has "gelu_new".')


def with_pred_group(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any] | None:
    """Before loading a state of nanoGPT's optimizer, which has two groups, add that of [PRED], without a history."""
    groups = state_dict["param_groups"]
    if len(groups) != len(optimizer.param_groups) - 1:
        return None
    number = sum(len(group["params"]) for group in groups)
    return {**state_dict, "param_groups": [*groups, {**groups[-1], "weight_decay": 0.0, "params": [number]}]}


def without_pred_group(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return the state of our optimizer as nanoGPT's own has it: without [PRED], which is its last group and number."""
    groups = state_dict["param_groups"]
    if len(groups) != 3 or len(groups[-1]["params"]) != 1:  # it has two groups already
        return state_dict
    (number,) = groups[-1]["params"]
    state = {key: each for key, each in state_dict["state"].items() if key != number}
    return {**state_dict, "state": state, "param_groups": groups[:-1]}
