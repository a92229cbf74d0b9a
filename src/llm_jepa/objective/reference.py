"""LLM-JEPA computed literally: one ordinary forward for each row, each Pred and each Enc, one pair at a time.

This is the specification of `llm_jepa.py`: it has no padding, no special mask, no packing, and nothing shared between
forwards. It is slow, and meant to be read together with Eq. 2 of arXiv 2509.14252. Letters: P pairs with a JEPA term,
T tokens, C hidden size, k [PRED] tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from .distances import IN_BATCH, full_precision
from .output import JEPAOutput, Objective
from .pair import Pair
from .tube import MIN_TOKENS, draw_places, key_of


def reference_loss(jepa: Objective, pairs: Sequence[Pair], step: int = 0) -> JEPAOutput:
    """Return the terms of `pairs`, computed by separate forwards, with the same gradients as `jepa(batch)`.

    Args:
        jepa: The model under its objective. Loss dropout is not applied here.
        pairs: The batch.
        step: Number of the optimizer step, from which SIGReg and Semantic Tube Prediction draw.
    """
    config = jepa.config
    ce_loss = _cross_entropy(jepa, pairs)
    loss = config.jepa_gamma * ce_loss
    if config.uses_tube:
        jepa_loss = _tube_loss(jepa, [pair for pair in pairs if pair.use_jepa], step, like=ce_loss)
        return JEPAOutput(loss + config.jepa_lambda * jepa_loss, ce_loss, jepa_loss, lambda_eff=config.jepa_lambda)
    if not config.uses_views:
        return JEPAOutput(loss, ce_loss, torch.full_like(ce_loss, torch.nan))

    pairs = [pair for pair in pairs if pair.use_jepa]
    if not pairs:
        return JEPAOutput(loss, ce_loss, torch.zeros_like(ce_loss), lambda_eff=config.jepa_lambda)

    distances, sides, trained = [], [], []
    if config.jepa_direction in ("text_to_code", "both"):
        preds = torch.stack([pred(jepa, pair.text_view) for pair in pairs])  # (P, C)
        targets = torch.stack([target(jepa, pair.code_view) for pair in pairs])  # (P, C)
        distances.append(_distance(jepa, preds, targets, pairs))
        sides.append((preds, targets))
        trained += [preds, targets] if config.jepa_target == "shared" else [preds]
    if config.jepa_direction in ("code_to_text", "both"):
        preds = torch.stack([pred(jepa, pair.code_view) for pair in pairs])  # (P, C)
        targets = torch.stack([target(jepa, pair.text_view) for pair in pairs])  # (P, C)
        distances.append(_distance(jepa, preds, targets, pairs))
        sides.append((targets, preds))
        trained += [preds, targets] if config.jepa_target == "shared" else [preds]
    jepa_loss = torch.stack(distances).mean()
    jepa_term, terms = jepa_loss, jepa.anti_collapse(trained, step)
    for name, term in terms.items():
        jepa_term = jepa_term + jepa.anti_collapse.weights[name] * term
    text_pred, code_emb = sides[0]
    return JEPAOutput(
        loss + config.jepa_lambda * jepa_term, ce_loss, jepa_loss, text_pred, code_emb, config.jepa_lambda, terms
    )


def _tube_loss(jepa: Objective, pairs: Sequence[Pair], step: int, like: Tensor) -> Tensor:
    """Mean of 1 - cos of two parts of the path of states of each pair's row; pairs with too few tokens are left out."""
    each = []
    for pair in pairs:
        ids = [*pair.text_ids, *pair.bridge_ids, *pair.code_ids]
        content = ids[:-1]  # without the end token, which the forward still reads
        if len(content) < MIN_TOKENS:
            continue
        h = jepa.backbone.layers(input_ids=_row(ids, _device(jepa)), use_cache=False).last_hidden_state[0]  # (T, C)
        places = draw_places(jepa.config.jepa_term, len(content), key_of(content), jepa.seed, step)
        if jepa.config.jepa_term == "stp":
            r, s, t = places
            one, other = h[t] - h[s], h[s] - h[r]
        else:
            a, b = places
            one, other = h[b] - h[a], (h[a] - h[0]) + (h[len(content) - 1] - h[b])
        each.append(1 - F.cosine_similarity(full_precision(one), full_precision(other), dim=0))
    return torch.stack(each).mean() if each else torch.zeros_like(like)


def _distance(jepa: Objective, preds: Tensor, targets: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """Mean distance of predictions and targets, (P, C) each."""
    if jepa.config.jepa_distance in IN_BATCH:
        alike = [[one is not other and _are_alike(one, other) for other in pairs] for one in pairs]
        return jepa.distance(preds, targets, 0, None, torch.tensor(alike, device=preds.device)).mean()
    return jepa.distance(preds, targets).mean()


def _are_alike(one: Pair, other: Pair) -> bool:
    """Whether two pairs are no negatives of each other: equal codes, equal texts, or one group."""
    same_group = one.group is not None and one.group == other.group
    return one.code_view == other.code_view or one.text_view == other.text_view or same_group


def enc(layers: nn.Module, ids: Sequence[int], device: torch.device) -> Tensor:
    """Enc(x): the final state at the last token of x, (C,)."""
    return layers(input_ids=_row(ids, device), use_cache=False).last_hidden_state[0, -1]


def pred(jepa: Objective, ids: Sequence[int]) -> Tensor:
    """Pred(x): the final state at the last token of x and the k [PRED]s after it (prepend: before it), (C,).

    With k = 0, it is Enc(x). The predictor head is applied, if there is one. With `jepa_detach_backbone`, the model's
    weights are constants.
    """
    backbone = jepa.backbone
    words = backbone.embeddings(_row(ids, _device(jepa)))  # (1, T, C)
    if jepa.config.jepa_detach_backbone:
        words = words.detach()
    parts = [words, jepa.predictor()[None].to(words.dtype)]
    order = -1 if jepa.config.jepa_pred_position == "prepend" else 1
    tokens = torch.cat(parts[::order], dim=1)  # (1, T + k, C)
    inputs = {"inputs_embeds": tokens, "use_cache": False}
    if jepa.config.jepa_detach_backbone:
        weights = {name: each.detach() for name, each in backbone.layers.state_dict(keep_vars=True).items()}
        output = functional_call(backbone.layers, weights, kwargs=inputs)
    else:
        output = backbone.layers(**inputs)
    return jepa.predictor.predict(output.last_hidden_state[0, -1])


def target(jepa: Objective, ids: Sequence[int]) -> Tensor:
    """Enc(x) as a target: with gradient (`shared`), without (`stop_grad`), or by the slow copy (`ema`)."""
    layers = jepa.target.layers if jepa.target is not None else jepa.backbone.layers
    with torch.set_grad_enabled(torch.is_grad_enabled() and jepa.config.jepa_target == "shared"):
        return enc(layers, ids, _device(jepa))


def _cross_entropy(jepa: Objective, pairs: Sequence[Pair]) -> Tensor:
    """Mean over the labelled tokens of all pairs of -log p(token | tokens before it), nats; 0 without any."""
    losses: list[Tensor] = []
    for pair in pairs:
        if not pair.use_ce:
            continue
        ids = [*pair.text_ids, *pair.bridge_ids, *pair.code_ids]
        logits = jepa.model(input_ids=_row(ids, _device(jepa)), use_cache=False).logits[0]  # (T, V)
        each = F.cross_entropy(
            full_precision(logits[:-1]), _row(ids, _device(jepa))[0, 1:], reduction="none"
        )  # (T - 1,)
        first = 1 if jepa.config.loss_on == "all" else len(ids) - len(pair.code_ids)
        left_out = None if jepa.config.train_end_token else pair.code_ids[-1]
        losses += [each[number - 1] for number in range(first, len(ids)) if ids[number] != left_out]
    return torch.stack(losses).mean() if losses else torch.zeros((), device=_device(jepa))


def _row(ids: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([list(ids)], device=device)


def _device(jepa: Objective) -> torch.device:
    return jepa.predictor.embedding.device
