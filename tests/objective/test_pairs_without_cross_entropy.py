"""A pair with `use_ce=False` feeds the JEPA term and labels nothing."""

from __future__ import annotations

import pytest
import torch

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, reference_loss
from llm_jepa.objective.documents import IGNORED


def some_without_ce(pairs):
    for number, pair in enumerate(pairs):
        pair.use_ce = number % 2 == 0
    return pairs


def gradients(jepa, loss):
    jepa.zero_grad()
    loss.backward()
    return {name: each.grad.clone() for name, each in jepa.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("loss_on", ["all", "code"])
@pytest.mark.parametrize("target", ["stop_grad", "shared"])
def test_the_fused_pass_equals_separate_forwards(target, loss_on, packing, tiny_model, make_mixed_pairs):
    """Promise 1, with pairs of every kind: both terms within 1e-5, each gradient within 1e-4 relative."""
    pairs = some_without_ce(make_mixed_pairs(10, seed=3))
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_target=target, loss_on=loss_on, jepa_k=2))
    fused = jepa(FusedCollator(jepa.config, pad_token_id=0, packing=packing)(pairs))
    found = gradients(jepa, fused.loss)
    slow = reference_loss(jepa, pairs)
    expected = gradients(jepa, slow.loss)
    for name in ("loss", "ce_loss", "jepa_loss"):
        assert getattr(fused, name).item() == pytest.approx(getattr(slow, name).item(), abs=1e-5)
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        assert (found[name] - each).norm() <= 1e-4 * each.norm().clamp(min=1e-4), name


def test_a_pair_without_cross_entropy_labels_nothing_and_keeps_its_views(make_pairs):
    """Its row is laid out as before; the other pairs' labels stay, and the number of pairs of the JEPA term too."""
    pairs, config = make_pairs(4), JEPAConfig()
    before = FusedCollator(config, pad_token_id=0)(pairs)
    pairs[1].use_ce = False
    batch = FusedCollator(config, pad_token_id=0)(pairs)
    assert torch.equal(batch.rows.input_ids, before.rows.input_ids)
    assert (batch.labels[1] == IGNORED).all() and batch.num_pairs == 4
    others = [0, 2, 3]
    assert torch.equal(batch.labels[others], before.labels[others])
    assert before.num_labels - batch.num_labels == len(pairs[1]) - 1


@pytest.mark.parametrize("jepa_lambda", [0.0, 1.0])
def test_the_others_cross_entropy_is_what_it_would_be_alone(jepa_lambda, tiny_model, make_pairs):
    """In plain rows (lambda 0) and in rows with views; with the pair under cross-entropy it would be another."""
    pairs = make_pairs(4, seed=2)
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_lambda=jepa_lambda))
    collate = FusedCollator(jepa.config, pad_token_id=0)
    alone, whole = jepa(collate(pairs[:3])).ce_loss.item(), jepa(collate(pairs)).ce_loss.item()
    pairs[3].use_ce = False
    assert jepa(collate(pairs)).ce_loss.item() == pytest.approx(alone, abs=1e-6)
    assert abs(alone - whole) > 1e-3


def test_a_batch_without_any_label_has_the_jepa_term_alone(tiny_model, make_pairs):
    """Cross-entropy is 0, not nan, in both ways."""
    pairs = make_pairs(3)
    for pair in pairs:
        pair.use_ce = False
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig())
    for output in (jepa(FusedCollator(jepa.config, pad_token_id=0)(pairs)), reference_loss(jepa, pairs)):
        assert output.ce_loss.item() == 0
        assert output.loss.item() == pytest.approx(output.jepa_loss.item()) and output.jepa_loss.item() > 0
