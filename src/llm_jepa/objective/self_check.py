"""Before training: does the fused pass give the same result as separate forwards, for this model?

Transformers has hundreds of architectures. If one of them ignored the mask or the positions, it would mix the views
without an error. Two tiny pairs are enough to find that out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llm_jepa.errors import LLMJEPAError

from .backbone import UnsupportedModelError, evaluating
from .layout import FusedCollator
from .output import Objective
from .pair import Pair
from .reference import reference_loss

# Relative error of states: float32 runs agree to about 1e-6, bfloat16 to about 1e-2; a mixed view is off by
# 1e-1 and more. float16 lies between.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}


def check_model(jepa: Objective) -> None:
    """Compare the fused pass with separate forwards on two pairs of different lengths, without gradient.

    It costs two forwards of about 20 tokens, draws no random number, and does not change the model. A model
    on the meta device has no values yet and is not checked.

    Raises:
        UnsupportedModelError: If the model refuses the fused rows, or gives another result for them.
    """
    device = jepa.predictor.embedding.device
    if device.type == "meta":
        return
    pairs = _pairs(len(jepa.backbone.embeddings.weight))  # type: ignore[arg-type]
    batch = FusedCollator(jepa.config, pad_token_id=0)(pairs).to(device)
    with evaluating(jepa):
        slow = reference_loss(jepa, pairs)
        try:
            fused = jepa(batch)
        except Exception as error:  # a model may raise anything; the user must see it
            raise UnsupportedModelError(
                error.code if isinstance(error, LLMJEPAError) else "model_not_supported",
                f"{jepa.backbone.name} does not take the fused rows of LLM-JEPA: {type(error).__name__}: {error}",
            ) from error
    assert slow.text_pred is not None and slow.code_emb is not None
    errors = {
        "text_pred": _relative_error(fused.text_pred, slow.text_pred),
        "code_emb": _relative_error(fused.code_emb, slow.code_emb),
        "ce_loss": _relative_error(fused.ce_loss, slow.ce_loss),
    }
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= TOLERANCE.get(slow.text_pred.dtype, 1e-3):  # nan fails, too
        raise UnsupportedModelError(
            "model_not_supported",
            f"{jepa.backbone.name} gives another {worst} in the fused pass than in separate forwards (relative "
            f"error {errors[worst]:.1e}). It does not follow the mask or the positions that it is given, so the views "
            "would see each other. This model is not supported.",
        )


@torch.no_grad()
def check_causal(model: Any) -> None:
    """Raise UnsupportedModelError if what a model predicts at a token depends on later ones, as in BERT.

    It costs one forward of eight tokens, and does not change the model. One without values is not checked.
    """
    table = model.get_input_embeddings().weight
    if table.is_meta or not table.numel():  # DeepSpeed may have divided the weights already
        return
    rows = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=table.device) % len(table)
    with evaluating(model):
        one, other = model(input_ids=rows, use_cache=False).logits[:, :-1]  # (T - 1, V) each
    if _relative_error(one, other) > TOLERANCE.get(one.dtype, 1e-3):  # not with nan, which training finds
        raise UnsupportedModelError(
            "model_not_supported",
            f"{type(model).__name__} sees later tokens, so it would learn to copy them. Use a causal language model.",
        )


def _pairs(vocab_size: int) -> list[Pair]:
    """Two pairs of different lengths over ids that any vocabulary has."""

    def ids(start: int, count: int) -> list[int]:
        return [(start + 7 * number) % vocab_size for number in range(count)]

    return [Pair(ids(3, 5), ids(5, 4), ids(2, 1), group="a"), Pair(ids(11, 3), ids(6, 6), ids(1, 2), group="a")]


def _relative_error(value: Tensor | None, expected: Tensor) -> float:
    assert value is not None
    difference = (value.float() - expected.float()).norm()
    return (difference / expected.float().norm().clamp(min=1e-6)).item()
