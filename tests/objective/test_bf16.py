"""bf16 autocast on a CPU: the same promises, as far as eight bits of a number can keep them."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, reference_loss
from llm_jepa.objective.config import CHOICES

# bfloat16 rounds to 2^-9 (0.2%); a tiny model of two layers chains about ten such roundings.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-2, 5e-2


def loss_and_gradient(jepa, compute, *, bf16=True):
    """Return the output, and all gradients as one vector."""
    jepa.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext():
        output = compute()
    output.loss.backward()
    return output, torch.cat([each.grad.flatten() for each in jepa.parameters() if each.grad is not None])


@pytest.mark.parametrize("target", CHOICES["jepa_target"])
@pytest.mark.parametrize("distance", ["cosine", "infonce"])
@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_the_fused_pass_equals_separate_forwards_in_bf16(model, distance, target, tiny_model, make_pairs):
    """Both within bf16: loss and terms within 1%, the gradient within 5% of its length; what is summed is float32."""
    config = JEPAConfig(jepa_distance=distance, jepa_target=target, jepa_k=2)
    jepa, pairs = LLMJEPA(tiny_model(model), config), make_pairs(6, seed=3)
    batch = FusedCollator(config, pad_token_id=0)(pairs)
    fused, ours = loss_and_gradient(jepa, lambda: jepa(batch))
    slow, theirs = loss_and_gradient(jepa, lambda: reference_loss(jepa, pairs))
    exact, _ = loss_and_gradient(jepa, lambda: jepa(batch), bf16=False)
    assert fused.loss.dtype == torch.float32
    for name in ("loss", "ce_loss", "jepa_loss"):
        found = getattr(fused, name).item()
        assert found == pytest.approx(getattr(slow, name).item(), rel=LOSS_TOLERANCE, abs=LOSS_TOLERANCE), name
        assert found == pytest.approx(getattr(exact, name).item(), rel=LOSS_TOLERANCE, abs=LOSS_TOLERANCE), name
    assert ((ours - theirs).norm() / theirs.norm()).item() < GRADIENT_TOLERANCE
    assert fused.loss.item() != exact.loss.item()  # it was bf16


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_lambda_zero_in_bf16_is_the_models_own_loss_to_the_bit(model, tiny_model, make_pairs):
    """Rounding changes nothing about it: the same rows go through the same products."""
    config = JEPAConfig(jepa_lambda=0, loss_on="all")
    jepa, pairs = LLMJEPA(tiny_model(model), config), make_pairs(4)
    batch = FusedCollator(config, pad_token_id=0)(pairs)
    ours, mine = loss_and_gradient(jepa, lambda: jepa(batch))
    inputs = {"input_ids": batch.rows.input_ids, "attention_mask": batch.rows.real.long(), "labels": batch.labels}
    theirs, own = loss_and_gradient(jepa, lambda: jepa.model(**inputs))
    assert torch.equal(ours.loss, theirs.loss)
    assert torch.equal(mine, own)
