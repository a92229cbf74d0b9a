"""The lesson and the product say the same: Eq. 2 for one pair, loss and gradients."""

from __future__ import annotations

import pytest
import torch

from llm_jepa.objective import FusedCollator, Pair
from llm_jepa.objective.equation import llm_jepa_loss


@pytest.mark.parametrize("k", range(5))
@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_the_fused_pass_is_equation_2(model, k, make_jepa, gradients):
    """For k 0 to 4: the loss within 1e-5, each gradient, [PRED]'s too, within 1e-4 of its length."""
    jepa = make_jepa(model, jepa_k=k, jepa_lambda=0.7, jepa_pred_tokens="distinct")
    text, code = [5, 9, 12, 7, 30], [8, 4, 11, 1]
    fused = jepa(FusedCollator(jepa.config, pad_token_id=0)([Pair(text, code)])).loss
    lesson = llm_jepa_loss(jepa.model, torch.tensor(text), torch.tensor(code), jepa.predictor(), 0.7)
    torch.testing.assert_close(fused, lesson, atol=1e-5, rtol=1e-5)
    ours, theirs = gradients(jepa, fused), gradients(jepa, lesson)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert (ours[name] - expected).norm() <= 1e-4 * expected.norm().clamp(min=1e-6), name


def test_the_term_pulls_the_prediction_towards_the_code(make_jepa):
    """Only the term has a gradient for [PRED]; one step against it brings the two embeddings closer."""
    jepa = make_jepa("llama", jepa_k=1)
    text, code = torch.tensor([5, 9, 12]), torch.tensor([8, 4, 1])
    pred_tokens = jepa.predictor().detach().clone().requires_grad_()
    before = llm_jepa_loss(jepa.model, text, code, pred_tokens, jepa_lambda=1.0)
    (gradient,) = torch.autograd.grad(before, pred_tokens)
    after = llm_jepa_loss(jepa.model, text, code, pred_tokens - 0.01 * gradient / gradient.norm(), jepa_lambda=1.0)
    assert after < before
    (none,) = torch.autograd.grad(llm_jepa_loss(jepa.model, text, code, pred_tokens, 0.0), pred_tokens)
    assert none.norm() == 0
