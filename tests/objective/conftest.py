"""The comparison that every objective has to stand: the fused pass beside its literal reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from llm_jepa.objective import FusedCollator, JEPAOutput, reference_loss

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    return ((value - expected).norm() / expected.norm().clamp(min=1e-6)).item()


def gradients_of(jepa, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradient of every parameter, zeros where there is none."""
    jepa.zero_grad()
    loss.backward()
    return {
        name: torch.zeros_like(each) if each.grad is None else each.grad.clone()
        for name, each in jepa.named_parameters()
        if each.requires_grad
    }


@pytest.fixture
def gradients() -> Callable[..., dict[str, torch.Tensor]]:
    return gradients_of


@pytest.fixture
def assert_equals_reference() -> Callable[..., tuple[JEPAOutput, JEPAOutput]]:
    """Loss, terms and embeddings within 1e-5 and 1e-4, every gradient within 1e-4 of its length."""

    def compare(jepa, pairs, step: int | None = None, **layout) -> tuple[JEPAOutput, JEPAOutput]:
        at = {} if step is None else {"step": step}
        fused = jepa(FusedCollator(jepa.config, pad_token_id=0, **layout)(pairs), **at)
        slow = reference_loss(jepa, pairs, **at)
        for name in ("loss", "ce_loss", "jepa_loss"):
            assert getattr(fused, name).item() == pytest.approx(
                getattr(slow, name).item(), abs=LOSS_TOLERANCE, rel=LOSS_TOLERANCE
            ), name
        for name in ("text_pred", "code_emb"):
            mine, theirs = getattr(fused, name), getattr(slow, name)
            assert (mine is None) == (theirs is None)
            assert mine is None or relative_error(mine, theirs) < GRADIENT_TOLERANCE, name
        ours, theirs = gradients_of(jepa, fused.loss), gradients_of(jepa, slow.loss)
        assert ours.keys() == theirs.keys()
        for name, expected in theirs.items():
            assert relative_error(ours[name], expected) < GRADIENT_TOLERANCE, name
        return fused, slow

    return compare
