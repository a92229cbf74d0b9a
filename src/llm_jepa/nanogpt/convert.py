"""`llm-jepa export`: a nanoGPT checkpoint to a transformers folder and back, checked before it gets its name.

From a checkpoint to a .pt file, it is the same model for nanoGPT's own class, which refuses an unknown weight such as
[PRED]: this is written to a file next to the checkpoint, where `GPT.from_checkpoint` finds it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.models.gpt2 import GPT2LMHeadModel

from llm_jepa.errors import ConfigError, DataError, LLMJEPAError
from llm_jepa.files import put_in_place, staged_beside, whole_file
from llm_jepa.training.saving import CONFIG, PREDICTOR, WEIGHTS

from . import GPT
from .state_dicts import unwrapped, without_pred_group
from .weights import (
    from_transformers,
    listed,
    load_plain,
    load_transformers,
    pred_file,
    read_checkpoint,
    save_checkpoint,
    save_folder,
    take_pred_token,
)

MAX_DIFFERENCE = 1e-4  # of the largest logit; float32 sums in another order differ by about 1e-6
CHECKED_ROWS, CHECKED_TOKENS = 2, 64

# What an export writes into a folder. `force` removes only a folder that holds nothing else.
EXPORTED = frozenset({"config.json", "generation_config.json", WEIGHTS, PREDICTOR, CONFIG})


def export(source: str | Path, to: str | Path, *, force: bool = False) -> dict[str, Any]:
    """Convert a nanoGPT checkpoint to a transformers folder, or a GPT-2 folder to a nanoGPT checkpoint.

    What was written is read back, and gets its name only if it gives the logits of the source.

    Args:
        source: A checkpoint file, a GPT-2 folder, or the folder of a run that trained a GPT-2. It is only read.
        to: The folder or the .pt file to write. Folders above it are made if need be.
        force: Overwrite an earlier export of that name.

    Returns:
        `source`, `out`, `format` ("transformers", "nanogpt" or "stock"), `parameters` (without [PRED]), `pred_token`
        ("kept" or "fresh") and `max_logit_difference`, the largest over a few random tokens.

    Raises:
        ConfigError: If `to` exists already, has the wrong ending, or is in the source or around it.
        DataError: If the source cannot be converted.
        LLMJEPAError: If what was written gives other logits. Nothing is left at `to`.
    """
    source, out = Path(source), Path(to).resolve()
    folder = _model_folder(source)
    is_stock = folder is None and out.suffix == ".pt"
    _check_out(source, out, to_file=is_stock or folder is not None, is_run=folder != source, force=force)
    if is_stock:
        model, is_kept, difference = _export_stock(source, out, force=force), True, 0.0
    else:
        model, is_kept, difference = _export_checked(source, folder, out)
    return {
        "source": str(source),
        "out": str(to),
        "format": "stock" if is_stock else "transformers" if folder is None else "nanogpt",
        "parameters": model.get_num_params(non_embedding=False) - model.pred_token.numel(),
        "pred_token": "kept" if is_kept else "fresh",
        "max_logit_difference": difference,
    }


def _export_checked(source: Path, folder: Path | None, out: Path) -> tuple[GPT, bool, float]:
    """Convert; return our model, whether [PRED] was kept, and the largest difference of the logits."""
    with staged_beside(out) as beside:
        if folder is None:
            ours, is_kept = read_checkpoint(source)
            out.parent.mkdir(parents=True, exist_ok=True)
            save_folder(ours, beside)
            theirs = load_transformers(str(beside))
        else:
            theirs = load_transformers(str(folder))
            converted = from_transformers(theirs, dropout=theirs.config.resid_pdrop)
            is_kept = take_pred_token(converted, folder / PREDICTOR)
            out.parent.mkdir(parents=True, exist_ok=True)
            save_checkpoint(converted, beside)
            ours, _ = read_checkpoint(beside)
        difference = _max_logit_difference(ours, theirs, out)
        put_in_place(beside, out)
    return ours, is_kept, difference


def _export_stock(source: Path, out: Path, *, force: bool) -> GPT:
    """Write the checkpoint without [PRED], and [PRED] next to it; all else stays as it is."""
    model, _ = read_checkpoint(source)
    checkpoint = load_plain(source)
    weights = unwrapped(checkpoint["model"])
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
    return model


def _model_folder(source: Path) -> Path | None:
    """Return the folder that holds the source's model; None if the source is a file, a checkpoint."""
    if source.is_file():
        return None
    if not source.is_dir():
        text = f"{source} does not exist. Expected a nanoGPT checkpoint (ckpt.pt), a GPT-2 folder, or a run."
        raise DataError("file_missing", text)
    for folder in (source, source / "model"):
        if (folder / "config.json").is_file():
            return folder
    text = f"{source} has neither config.json nor model/config.json, so it is neither a GPT-2 folder nor a run."
    raise DataError("not_a_saved_model", text)


def _check_out(source: Path, out: Path, *, to_file: bool, is_run: bool, force: bool) -> None:
    """Refuse a destination that has the wrong ending, is in the source or around it, or exists already."""
    real = source.resolve()
    if out == real or real in out.parents or out in real.parents:
        text = f"--to {out} and the source {real} are the same, or one is inside the other. Choose another --to."
        raise ConfigError("output_is_input", text)
    if to_file and out.suffix != ".pt":
        what = "of a run to a folder is made by `export_run`" if is_run else "from folder to folder changes nothing"
        text = f"--to {out}: an export {what}. For a nanoGPT checkpoint, choose a name that ends in .pt."
        raise ConfigError("wrong_ending", text)
    if not out.exists():
        return
    if not force:
        raise ConfigError("file_exists", f"{out} exists already. Choose another name, or overwrite it with --force.")
    if not (out.is_file() if to_file else out.is_dir()):
        code, kind = ("not_a_file", "file") if to_file else ("not_a_folder", "folder")
        raise ConfigError(code, f"{out} is not a {kind}, so --force does not replace it. Choose another --to.")
    if not to_file and (other := sorted(each.name for each in out.iterdir() if each.name not in EXPORTED)):
        text = f"{out} has {listed(other)}, which no export wrote. --force would remove it. Choose another --to."
        raise ConfigError("not_an_export", text)


@torch.no_grad()
def _max_logit_difference(ours: GPT, theirs: GPT2LMHeadModel, out: Path) -> float:
    """Return the largest difference of the logits of a few random tokens; refuse one larger than a rounding error."""
    shape = (CHECKED_ROWS, min(CHECKED_TOKENS, ours.config.block_size))
    tokens = torch.randint(ours.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    expected = theirs.eval()(tokens).logits  # (B, T, V)
    found = ours.eval()(tokens, tokens)[0]
    difference, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    if not math.isfinite(largest):
        text = "The model's logits are not finite numbers: its training has diverged. Use another checkpoint."
        raise DataError("weights_not_finite", text)
    if not difference <= MAX_DIFFERENCE * largest:  # nan fails, too
        raise LLMJEPAError(
            "export_differs",
            f"The logits of the two models differ by up to {difference:.1e}; the largest is {largest:.1e}. Nothing was "
            f"written to {out}. This is a fault of llm-jepa; please report it with the model's config.",
        )
    return difference
