"""The two views of a row: how long text and code are, and one line about them for nanoGPT's own training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llm_jepa.errors import ConfigError
from llm_jepa.objective.backbone import evaluating
from llm_jepa.training.monitors import embedding_monitors, looks_collapsed

MIN_VIEW = 2  # tokens; a view of one token has almost no meaning


def view_lengths(
    B: int, T: int, jepa_split: float, views: Tensor | Sequence[Sequence[int]] | None
) -> tuple[list[int], list[int]]:
    """Return the number of tokens of text and of code in each of B rows of T tokens, as `GPT.jepa_loss` explains.

    Raises:
        ConfigError: If a share or a number is out of range; the text names the row.

    >>> view_lengths(1, 10, 0.25, None), view_lengths(2, 10, 0.5, [(3, 4), (0, 0)])
    (([2], [8]), ([3, 0], [4, 0]))
    """
    if views is None:
        if not 0 <= jepa_split <= 1:
            text = f"jepa_split={jepa_split}: expected a share of the row, from 0 to 1."
            raise ConfigError("value_out_of_range", text)
        num_text = max(MIN_VIEW, int(T * jepa_split))
        return [num_text] * B, [max(0, T - num_text)] * B
    pairs = views.tolist() if isinstance(views, Tensor) else [list(map(int, each)) for each in views]
    if len(pairs) != B or any(len(each) != 2 for each in pairs):
        text = f"views: expected two numbers for each of {B} rows, the tokens of text and of code."
        raise ConfigError("wrong_shape", text)
    for row, (num_text, num_code) in enumerate(pairs):
        if min(num_text, num_code) < 0 or num_text + num_code > T or (num_code >= MIN_VIEW and num_text == 0):
            raise ConfigError(
                "value_out_of_range",
                f"views: row {row} has {num_text} tokens of text and {num_code} of code; expected at least one of "
                f"text, and no more than {T} together, the length of the row.",
            )
    return [num_text for num_text, _ in pairs], [num_code for _, num_code in pairs]


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
    B, T = idx.shape
    rows = zip(idx.tolist(), *view_lengths(B, T, jepa.get("jepa_split", 0.5), jepa.get("views")), strict=True)
    codes = [row[text : text + code] for row, text, code in rows if code >= MIN_VIEW]
    groups = torch.tensor([codes.index(code) for code in codes])
    look = embedding_monitors(out.text_pred, out.code_emb, groups)
    if "gap" not in look:
        return f"{line}, gap needs two different codes"
    collapsed = ", looks collapsed" if looks_collapsed(look) else ""
    found = f"retrieval@1 {look['retrieval@1']:.0%} (chance {look['retrieval_chance']:.0%})"
    return f"{line}, gap {look['gap']:+.3f}, {found}{collapsed}"
