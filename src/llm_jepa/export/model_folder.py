"""The model of a run as a plain folder that any program can load: whole, merged, or as an adapter.

What only this package reads ([PRED], the objective) stays in the run. Answers do not use it, and servers that read
every *.safetensors of a folder would fail on it.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from llm_jepa.data.encode import PairEncoder
from llm_jepa.errors import DataError, LLMJEPAError
from llm_jepa.files import write_json
from llm_jepa.training.adapters import ADAPTER_CONFIG, adapter_settings, load_adapted, merged
from llm_jepa.training.saving import CONFIG, INDEX, PREDICTOR, TARGET, WEIGHTS, shards

MAX_DIFFERENCE = 1e-3  # of the largest logit; merging adds two float32 matrices, and rounds to about 1e-6 a layer
CHECKED_TOKENS = 32
OURS = (PREDICTOR, CONFIG, f"{PurePath(TARGET).stem}*")
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def export_weights(model: Path, out: Path, encoder: PairEncoder, *, merge: bool) -> dict[str, Any]:
    """Write the model of a run, of which `model` is the folder, to `out`, with its tokenizer.

    Generation will stop at all end tokens of the run's encoder. `merge` adds an adapter's matrices into the weights of
    its model; without an adapter it changes nothing.

    Returns:
        `kind` ("model", "merged" or "adapter"), `base` (an adapter's model, else None), and for a merged model
        `max_logit_difference`, the largest over a few random tokens.

    Raises:
        DataError: If the model is damaged, or its base cannot be found.
        LLMJEPAError: If the merged model gives other logits than the adapter.
    """
    is_adapter = (model / ADAPTER_CONFIG).is_file()
    base = adapter_settings(model).base_model_name_or_path if is_adapter else None
    if is_adapter and merge:
        out.mkdir()
        difference = _save_merged(model, out)
        encoder.tokenizer.save_pretrained(out)
        _let_generation_stop(out, encoder.end_ids, encoder.pad_id)
        return {"kind": "merged", "base": base, "max_logit_difference": difference}
    _check_weights(model)
    shutil.copytree(model, out, ignore=shutil.ignore_patterns(*OURS))
    if is_adapter:
        return {"kind": "adapter", "base": base}
    _let_generation_stop(out, encoder.end_ids, encoder.pad_id)
    return {"kind": "model", "base": None}


def _check_weights(model: Path) -> None:
    """Open each file of weights, so that a damaged one is found here, and not later by a server."""
    files = sorted(model.glob("*.safetensors"))
    if (model / (WEIGHTS + INDEX)).is_file():
        files += shards(model / WEIGHTS)  # opening one that is missing fails below
    if not files:
        raise DataError("weights_missing", f"{model} has no *.safetensors. Use another run, or train again.")
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                weights.keys()
        except (OSError, SafetensorError) as error:
            text = f"{file} is missing or damaged: {error}. Use another run, or train again."
            raise DataError("checkpoint_damaged", text) from error


@torch.no_grad()
def _save_merged(model: Path, out: Path) -> float:
    """Merge an adapter and save the model; return the largest difference of the logits before and after."""
    adapted = load_adapted(model).eval()
    vocab_size, draw = len(adapted.get_input_embeddings().weight), torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (1, CHECKED_TOKENS), generator=draw)
    expected = _logits(adapted, tokens)
    plain = merged(adapted)
    difference, largest = (_logits(plain, tokens) - expected).abs().max().item(), expected.abs().max().item()
    if not math.isfinite(largest):
        text = f"The logits of {model} are not finite numbers: its training has diverged. Use another run."
        raise DataError("weights_not_finite", text)
    if not difference <= MAX_DIFFERENCE * largest:  # nan fails, too
        raise LLMJEPAError(
            "merge_differs",
            f"The logits of the merged model differ from the adapter's by up to {difference:.1e}; the largest is "
            f"{largest:.1e}. Nothing was written. Export the adapter, without --merge; it is exact.",
        )
    plain.save_pretrained(out)
    return difference


def _logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return model(input_ids=tokens, use_cache=False).logits.float()  # (1, T, V)


def _let_generation_stop(out: Path, end_ids: list[int], pad_id: int) -> None:
    """Write generation_config.json with every token that ended an answer in training.

    The pretrained model's other settings, such as a repetition penalty, are left out: the run's answers are made
    without them (`evaluation/generation.py`).
    """
    file = out / "generation_config.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    settings = {name: found[name] for name in TOKENS if name in found}
    before = settings.get("eos_token_id")
    known = [] if before is None else [before] if isinstance(before, int) else list(before)
    ends = list(dict.fromkeys([*end_ids, *known]))
    settings["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    if settings.get("pad_token_id") is None:
        settings["pad_token_id"] = pad_id
    write_json(file, settings)
