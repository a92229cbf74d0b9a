"""Do the two terms of the loss pull the weights the same way, and how hard does each pull?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from llm_jepa.objective import LLMJEPA, FusedBatch


def compare_gradients(jepa: LLMJEPA, batch: FusedBatch, *, step: int, num_steps: int) -> dict[str, float]:
    """Compare the gradients of the loss's terms over the model's trained weights, [PRED] not among them.

    The terms are weighted as in the loss: gamma times cross-entropy, lambda times all the rest. Neither `.grad` nor
    the global random streams change, and dropout draws what the training step after this will draw. Costs one forward
    and two backwards of the batch. With infonce in several processes all must call it.

    Args:
        jepa: The model under its objective, not wrapped, in training mode.
        batch: The batch, on the model's device, laid out with views.
        step: Number of the optimizer step.
        num_steps: Optimizer steps of the whole run.

    Returns:
        `monitor/grad_cosine`, from -1 to 1, and `monitor/grad_norm_ratio`, the norm of JEPA's gradient over that of
        cross-entropy's, 0 or more. Empty where the batch or the step has no JEPA term; nan where a gradient is 0.
    """
    weights = [each for each in jepa.model.parameters() if each.requires_grad]
    device = jepa.predictor.embedding.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        parts = jepa(batch, step=step, num_steps=num_steps, weighted=True).weighted
        others = [term for name, term in parts.items() if name != "ce" and term.requires_grad]
        if not others or not batch.num_pairs:
            return {}
        ce = torch.autograd.grad(parts["ce"], weights, retain_graph=True, allow_unused=True)
        jepa_term = torch.autograd.grad(torch.stack(others).sum(), weights, allow_unused=True)
    ce_norm, jepa_norm = (math.sqrt(_dot(each, each)) for each in (ce, jepa_term))
    both = ce_norm * jepa_norm
    return {
        "monitor/grad_cosine": _dot(ce, jepa_term) / both if both else math.nan,
        "monitor/grad_norm_ratio": jepa_norm / ce_norm if ce_norm else math.nan,
    }


def _dot(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> float:
    """Inner product of two gradients over all weights; a weight without a gradient counts as 0."""
    total = 0.0
    for one, other in zip(first, second, strict=True):
        if one is not None and other is not None:
            total += (one.double() * other.double()).sum().item()
    return total
