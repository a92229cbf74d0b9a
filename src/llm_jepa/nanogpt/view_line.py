"""One line for nanoGPT's own training loop: how near the two views of a batch are, and whether they collapsed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llm_jepa.objective.backbone import evaluating
from llm_jepa.training.monitors import embedding_monitors, looks_collapsed

from .view_lengths import MIN_VIEW, view_lengths


def view_line(model: nn.Module, idx: Tensor, targets: Tensor, **jepa: Any) -> str:
    """Return jepa_loss, gap and retrieval of a batch: `jepa_loss 0.1420, gap +0.323, retrieval@1 42% (chance 8%)`.

    It trains nothing and draws no random number, so it does not change the training. `gap` is how much nearer a
    prediction is to its own target than to those of other rows; `retrieval@1` is the share of predictions whose
    nearest target is their own. Rows with equal code count as right answers for each other.

    Args:
        model: The GPT, or what wraps it (DistributedDataParallel, torch.compile).
        idx: Tokens, (B, T), of at least two rows; more rows make retrieval harder.
        targets: The token that follows each, (B, T).
        jepa: Further arguments of `jepa_loss`; the same as in training.
    """
    gpt: Any = getattr(model, "module", model)
    with evaluating(gpt):
        out = gpt.jepa_loss(idx, targets, **{"jepa_lambda": 1.0, **jepa})
    line = f"jepa_loss {out.jepa_loss.item():.4f}"
    if not out.num_pairs:
        return f"{line}, no pair in this batch"
    codes = _codes_of(idx, jepa.get("jepa_split", 0.5), jepa.get("views"))
    groups = torch.tensor([codes.index(code) for code in codes])
    look = embedding_monitors(out.text_pred, out.code_emb, groups)
    if "gap" not in look:
        return f"{line}, gap needs two different codes"
    collapsed = ", looks collapsed" if looks_collapsed(look) else ""
    found = f"retrieval@1 {look['retrieval@1']:.0%} (chance {look['retrieval_chance']:.0%})"
    return f"{line}, gap {look['gap']:+.3f}, {found}{collapsed}"


def _codes_of(idx: Tensor, jepa_split: float, views: Tensor | Sequence[Sequence[int]] | None) -> list[list[int]]:
    """Return the tokens of the code of each row that has a JEPA term."""
    B, T = idx.shape
    text_len, code_len = view_lengths(B, T, jepa_split, views)
    rows = zip(idx.tolist(), text_len, code_len, strict=True)
    return [row[text : text + code] for row, text, code in rows if code >= MIN_VIEW]
