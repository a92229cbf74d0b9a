"""LLM-JEPA the literal way: one ordinary forward for each row, each Pred and each Enc, one pair at a time.

This is the specification of `llm_jepa.py`: no padding, no mask of ours, no packing, nothing shared between
forwards. It is slow, and meant to be read beside Eq. 2 of arXiv 2509.14252. Letters: P pairs with a JEPA term,
T tokens, C hidden size, k [PRED] tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distances import full_precision
from .layout import Pair

if TYPE_CHECKING:
    from .llm_jepa import LLMJEPA, JEPAOutput


def reference_loss(jepa: LLMJEPA, pairs: Sequence[Pair]) -> JEPAOutput:
    """Return the terms of `pairs` by separate forwards, with the gradients that `jepa(batch)` gives.

    Args:
        jepa: The model under its objective. Loss dropout is not applied here.
        pairs: The batch.
    """
    from .llm_jepa import JEPAOutput

    config = jepa.config
    ce_loss = _cross_entropy(jepa, pairs)
    loss = config.jepa_gamma * ce_loss
    if not config.uses_views:
        return JEPAOutput(loss, ce_loss, torch.full_like(ce_loss, torch.nan))

    pairs = [pair for pair in pairs if pair.use_jepa]
    if not pairs:
        return JEPAOutput(loss, ce_loss, torch.zeros_like(ce_loss), lambda_eff=config.jepa_lambda)

    terms, sides = [], []
    if config.jepa_direction in ("text_to_code", "both"):
        preds = torch.stack([pred(jepa, pair.text_view) for pair in pairs])  # (P, C)
        targets = torch.stack([target(jepa, pair.code_view) for pair in pairs])  # (P, C)
        terms.append(jepa.distance(preds, targets).mean())
        sides.append((preds, targets))
    if config.jepa_direction in ("code_to_text", "both"):
        preds = torch.stack([pred(jepa, pair.code_view) for pair in pairs])  # (P, C)
        targets = torch.stack([target(jepa, pair.text_view) for pair in pairs])  # (P, C)
        terms.append(jepa.distance(preds, targets).mean())
        sides.append((targets, preds))
    jepa_loss = torch.stack(terms).mean()
    text_pred, code_emb = sides[0]
    return JEPAOutput(
        loss + config.jepa_lambda * jepa_loss, ce_loss, jepa_loss, text_pred, code_emb, config.jepa_lambda
    )


def enc(layers: nn.Module, ids: Sequence[int], device: torch.device) -> Tensor:
    """Enc(x): the final state at the last token of x, (C,)."""
    return layers(input_ids=_row(ids, device), use_cache=False).last_hidden_state[0, -1]


def pred(jepa: LLMJEPA, ids: Sequence[int]) -> Tensor:
    """Pred(x): the final state at the last of k [PRED] tokens after x, (C,); Enc(x) if k = 0."""
    backbone = jepa.backbone
    words = backbone.embeddings(_row(ids, _device(jepa)))  # (1, T, C)
    tokens = torch.cat([words, jepa.predictor()[None].to(words.dtype)], dim=1)  # (1, T + k, C)
    return backbone.layers(inputs_embeds=tokens, use_cache=False).last_hidden_state[0, -1]


def target(jepa: LLMJEPA, ids: Sequence[int]) -> Tensor:
    """Enc(x) as a target: with gradient (`shared`), without (`stop_grad`), or by the slow copy (`ema`)."""
    layers = jepa.target.layers if jepa.target is not None else jepa.backbone.layers
    with torch.set_grad_enabled(torch.is_grad_enabled() and jepa.config.jepa_target == "shared"):
        return enc(layers, ids, _device(jepa))


def _cross_entropy(jepa: LLMJEPA, pairs: Sequence[Pair]) -> Tensor:
    """Mean over the labelled tokens of all pairs of -log p(token | tokens before it), nats; 0 without any."""
    losses = [torch.zeros(0, device=_device(jepa))]
    for pair in pairs:
        if not pair.use_ce:
            continue
        ids = [*pair.text_ids, *pair.bridge_ids, *pair.code_ids]
        logits = jepa.model(input_ids=_row(ids, _device(jepa)), use_cache=False).logits[0]  # (T, V)
        each = F.cross_entropy(
            full_precision(logits[:-1]), _row(ids, _device(jepa))[0, 1:], reduction="none"
        )  # (T - 1,)
        losses.append(each if jepa.config.loss_on == "all" else each[-len(pair.code_ids) :])
    each = torch.cat(losses)
    return each.sum() / max(len(each), 1)


def _row(ids: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([list(ids)], device=device)


def _device(jepa: LLMJEPA) -> torch.device:
    return jepa.predictor.embedding.device
