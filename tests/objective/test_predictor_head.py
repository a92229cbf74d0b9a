"""A linear or MLP head on the state at the last [PRED]."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig
from llm_jepa.objective.predictor import PredictorHead
from llm_jepa.training.view_embeddings import view_embeddings

HEADS = ["linear", "mlp"]


def stirred(jepa):
    """Move the head away from its start, where it is the identity."""
    torch.manual_seed(7)
    for each in jepa.predictor.head.parameters():
        each.data.add_(torch.randn_like(each) * 0.2)
    return jepa


def test_each_head_by_its_formula():
    """x + W x + b, and x + W gelu(W1 x + b1) + b with the exact GELU."""
    torch.manual_seed(0)
    states, table = torch.randn(3, 4), torch.randn(9, 4)
    for hidden in (False, True):
        head = PredictorHead(table, hidden)
        for each in head.parameters():
            each.data.normal_()
        inner = states
        if hidden:
            z = states @ head.hidden_weight.T + head.hidden_bias
            inner = z * 0.5 * (1 + torch.erf(z / 2**0.5))
        torch.testing.assert_close(head(states), states + inner @ head.weight.T + head.bias)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("model", ["llama", "gpt2", "mistral"])
def test_a_head_in_the_fused_pass_equals_separate_forwards(
    model, head, tiny_model, make_mixed_pairs, assert_equals_reference
):
    """Every target and direction in turn, with and without [PRED], before the view and after it."""
    network, pairs = tiny_model(model), make_mixed_pairs(5, seed=5)
    cases = [("stop_grad", "text_to_code", 0), ("shared", "both", 2), ("ema", "code_to_text", 1)]
    for number, (target, direction, k) in enumerate(cases):
        config = JEPAConfig(
            jepa_lambda=0.7,
            jepa_target=target,
            jepa_direction=direction,
            jepa_k=k,
            jepa_predictor=head,
            jepa_pred_position=("append", "prepend")[number % 2],
        )
        assert_equals_reference(stirred(LLMJEPA(network, config, check=False)), pairs, packing=number % 2 == 1)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_starts_as_the_identity_and_learns(head, make_jepa, make_pairs, gradients):
    """At the start loss and [PRED] are those without a head, to the bit; then all of it has a gradient."""
    plain, ours, pairs = make_jepa(), make_jepa(jepa_predictor=head), make_pairs(4)
    batch = FusedCollator(ours.config, pad_token_id=0)(pairs)
    assert torch.equal(ours.predictor.embedding, plain.predictor.embedding)
    assert torch.equal(ours(batch).loss, plain(batch).loss)
    assert gradients(ours, ours(batch).loss)["predictor.head.weight"].abs().sum() > 0
    found = gradients(stirred(ours), ours(batch).loss)
    assert all(each.abs().sum() > 0 for name, each in found.items() if name.startswith("predictor.head"))


def test_a_head_draws_from_a_stream_of_its_own(tiny_model):
    """The same seed gives the same head and leaves the global stream alone; its numbers are not [PRED]'s."""
    model, heads = tiny_model("llama"), []
    config = JEPAConfig(jepa_predictor="mlp", jepa_k=4, jepa_pred_tokens="distinct")
    for seed in (1, 1, 2):
        state = torch.get_rng_state()
        jepa = LLMJEPA(model, config, seed=seed, check=False)
        heads.append(jepa.predictor.head.hidden_weight)
        assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    correlation = F.cosine_similarity(heads[2][:4].flatten(), jepa.predictor.embedding.flatten(), dim=0)
    assert correlation.abs() < 0.3


def test_monitors_look_through_the_head(make_jepa, make_pairs):
    jepa, pairs = stirred(make_jepa(jepa_predictor="mlp")), make_pairs(4)
    output = jepa(FusedCollator(jepa.config, pad_token_id=0)(pairs))
    views = view_embeddings(jepa, pairs, pad_token_id=0)
    torch.testing.assert_close(views.text_pred, output.text_pred.detach(), atol=1e-5, rtol=1e-5)


def test_without_a_jepa_term_the_head_is_not_trained(make_jepa):
    """And it is the identity, so that a baseline is looked at as it is."""
    jepa = make_jepa(jepa_lambda=0.0, jepa_predictor="mlp")
    assert not any(each.requires_grad for each in jepa.predictor.parameters())
    assert all(each.requires_grad for each in make_jepa(jepa_predictor="mlp", jepa_k=0).predictor.head.parameters())
