"""`llm-jepa export CKPT --to STOCK.pt`: a checkpoint of our GPT as one that nanoGPT's own class loads.

nanoGPT's scripts refuse a checkpoint with an unknown weight, such as [PRED]. So [PRED] is written to a file next to the
checkpoint, where `GPT.from_checkpoint` finds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from llm_jepa.errors import ConfigError, DataError
from llm_jepa.files import staged_beside, whole_file

from .state_dicts import WRAPPERS, without_pred_group
from .weights import load_plain, pred_file, read_checkpoint


def export_stock(source: Path, out: Path, *, force: bool = False) -> dict[str, Any]:
    """Write the checkpoint `source` without [PRED] to `out`, and [PRED] next to it; all else stays as it is.

    `convert.export` has checked `out`.

    Returns:
        What `convert.export` returns, with the format "stock".

    Raises:
        ConfigError: If the file for [PRED] exists already.
        DataError: If the source is no checkpoint, has no [PRED], or has an activation that nanoGPT's class lacks.
    """
    model, _ = read_checkpoint(source)
    checkpoint = load_plain(source)
    weights = {WRAPPERS.sub("", str(key), count=1): each for key, each in checkpoint["model"].items()}
    if "pred_token" not in weights:
        text = f"{source} has no [PRED] among its weights: nanoGPT's own class loads it as it is."
        raise DataError("nothing_to_export", text)
    if model.config.activation != "gelu":
        raise DataError(
            "model_not_supported",
            f"{source} has the activation {model.config.activation}. nanoGPT's own class has gelu, so it would give "
            "other logits. Sample with llm_jepa.nanogpt instead.",
        )
    if pred_file(out).exists() and not force:
        text = f"{pred_file(out)} exists already. Choose another --to, or overwrite it with --force."
        raise ConfigError("file_exists", text)
    pred_token = weights.pop("pred_token")
    stock = {**checkpoint, "model": weights}
    if "optimizer" in stock:
        stock["optimizer"] = without_pred_group(stock["optimizer"])
    out.parent.mkdir(parents=True, exist_ok=True)
    with staged_beside(pred_file(out)) as beside:
        save_file({"embedding": pred_token[0].float().contiguous()}, beside)  # (1, C)
        with whole_file(out) as file:
            torch.save(stock, file)
        beside.replace(pred_file(out))
    return {
        "source": str(source),
        "out": str(out),
        "format": "stock",
        "parameters": model.get_num_params(non_embedding=False) - model.pred_token.numel(),
        "pred_token": "kept",
        "max_logit_difference": 0.0,
    }
