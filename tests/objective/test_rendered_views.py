"""Views that are rendered apart from the row, and pairs without views: held to the reference like all others."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, Pair, reference_loss
from llm_jepa.objective.config import CHOICES
from llm_jepa.objective.documents import IGNORED, Role
from llm_jepa.objective.masks import boolean_mask

MODELS = ["llama", "gemma2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "qwen3", "mistral"))]
RENDERED = Pair([5, 6, 7], [8, 9, 1], [2], text_view_ids=[3, 5, 6], code_view_ids=[4, 8])


def gradients(jepa, loss):
    jepa.zero_grad()
    loss.backward()
    return {name: torch.zeros_like(each) if each.grad is None else each.grad for name, each in jepa.named_parameters()}


def relative_error(value, expected):
    return ((value - expected).norm() / expected.norm().clamp(min=1e-6)).item()


def assert_equal_to_reference(jepa: LLMJEPA, pairs, **layout):
    fused = jepa(FusedCollator(jepa.config, pad_token_id=0, **layout)(pairs))
    slow = reference_loss(jepa, pairs)
    for name in ("loss", "ce_loss", "jepa_loss"):
        assert getattr(fused, name).item() == pytest.approx(getattr(slow, name).item(), abs=1e-5, rel=1e-5), name
    ours = {name: each.clone() for name, each in gradients(jepa, fused.loss).items()}
    for name, expected in gradients(jepa, slow.loss).items():
        assert relative_error(ours[name], expected) < 1e-4, name
    return fused, slow


@pytest.mark.parametrize("target", CHOICES["jepa_target"])
@pytest.mark.parametrize("direction", CHOICES["jepa_direction"])
@pytest.mark.parametrize("model", MODELS)
def test_rendered_views_equal_separate_forwards(model, direction, target, tiny_model, make_mixed_pairs):
    """Loss within 1e-5 and each gradient within 1e-4, rendered, prefix and no views in one batch, k from 0 to 4."""
    network, pairs = tiny_model(model), make_mixed_pairs(5, seed=5)
    for k, packing in itertools.product(range(5), (False, True)):
        config = JEPAConfig(
            jepa_lambda=0.7,
            jepa_gamma=1.3,
            jepa_distance=CHOICES["jepa_distance"][k],
            jepa_target=target,
            jepa_direction=direction,
            jepa_k=k,
            jepa_pred_tokens=CHOICES["jepa_pred_tokens"][k % 2],
            jepa_views="rendered",
            loss_on=CHOICES["loss_on"][k % 2],
        )
        fused, slow = assert_equal_to_reference(
            LLMJEPA(network, config, check=False), pairs, packing=packing, pack_length=60
        )
        assert relative_error(fused.text_pred, slow.text_pred) < 1e-4
        assert relative_error(fused.code_emb, slow.code_emb) < 1e-4


def test_the_prefix_in_the_place_of_a_rendered_view_is_seen(tiny_model, make_mixed_pairs):
    """Negative control: a layout that forgot the rendered views would be off by far more than the tolerance."""
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig())
    pairs = make_mixed_pairs(5, seed=5)
    plain = [Pair(pair.text_ids, pair.code_ids, pair.bridge_ids, use_jepa=pair.use_jepa) for pair in pairs]
    collate = FusedCollator(jepa.config, pad_token_id=0)
    right, wrong = jepa(collate(pairs)), jepa(collate(plain))
    assert relative_error(wrong.text_pred, right.text_pred) > 1e-2
    assert relative_error(wrong.code_emb, right.code_emb) > 1e-2


def test_a_rendered_text_rides_as_its_own_document_with_pred_after_it():
    """The row stays as it was; the text view stands beside it, from position 0, and [PRED] follows it."""
    batch = FusedCollator(JEPAConfig(jepa_k=2), pad_token_id=0)([RENDERED])
    rows = batch.rows
    assert rows.input_ids.tolist() == [[5, 6, 7, 2, 8, 9, 1, 3, 5, 6, 0, 0]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]]
    assert rows.documents.tolist() == [[1] * 7 + [2] * 5]
    assert rows.roles[0, 7:].tolist() == [Role.TEXT] * 3 + [Role.TEXT_PRED] * 2
    assert batch.labels.tolist() == [[IGNORED, 6, 7, 2, 8, 9, 1] + [IGNORED] * 5]
    assert batch.text_to_code.pred_at.tolist() == [11]
    assert batch.target_rows.input_ids.tolist() == [[4, 8]]
    assert boolean_mask(rows)[0, 0, 11].int().tolist() == [0] * 7 + [1] * 5


def test_a_rendered_code_target_is_the_rendered_code_alone():
    """Shared targets ride as the third document, with the tokens rendered for them."""
    rows = FusedCollator(JEPAConfig(jepa_target="shared"), pad_token_id=0)([RENDERED]).rows
    assert rows.input_ids[0, 11:].tolist() == [4, 8]
    assert rows.documents[0].tolist() == [1] * 7 + [2] * 4 + [3] * 2


@pytest.mark.parametrize("target", CHOICES["jepa_target"])
@pytest.mark.parametrize("direction", CHOICES["jepa_direction"])
def test_rows_without_views_change_cross_entropy_alone(direction, target, tiny_model, make_pairs):
    """Such rows count in no mean of the JEPA term, whatever the direction and the target."""
    config = JEPAConfig(jepa_target=target, jepa_direction=direction)
    jepa = LLMJEPA(tiny_model("llama"), config)
    pairs = make_pairs(5)
    for pair in pairs[3:]:
        pair.use_jepa = False
    collate = FusedCollator(config, pad_token_id=0)
    batch = collate(pairs)
    out, alone = jepa(batch), jepa(collate(pairs[:3]))
    assert batch.num_pairs == 3 and out.text_pred.shape[0] == 3
    torch.testing.assert_close(out.jepa_loss, alone.jepa_loss)
    assert out.ce_loss != alone.ce_loss


@pytest.mark.parametrize("target", CHOICES["jepa_target"])
@pytest.mark.parametrize("distance", CHOICES["jepa_distance"])
@pytest.mark.parametrize("k", [0, 2])
def test_a_batch_without_any_views_has_a_term_of_zero(distance, target, k, tiny_model, make_pairs):
    """Never 0 / 0 (B4): the loss is the cross-entropy, every gradient is finite, and [PRED] gets one of zero."""
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_distance=distance, jepa_target=target, jepa_k=k))
    pairs = make_pairs(3)
    for pair in pairs:
        pair.use_jepa = False
    fused, slow = assert_equal_to_reference(jepa, pairs)
    assert fused.jepa_loss == slow.jepa_loss == 0 and fused.text_pred.shape == (0, 32)
    gradients(jepa, jepa(FusedCollator(jepa.config, pad_token_id=0)(pairs)).loss)
    if k:  # processes that average gradients wait for every parameter's
        assert jepa.predictor.embedding.grad is not None and not jepa.predictor.embedding.grad.any()


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_the_jepa_mean_is_over_the_pairs_of_the_step_that_have_one(distance, tiny_model, make_mixed_pairs):
    """N5: micro-batches with three, one and no pair of the term add up to the whole batch."""
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_distance=distance))
    pairs = make_mixed_pairs(5)
    collate = FusedCollator(jepa.config, pad_token_id=0)
    whole = collate(pairs)
    counts = {"num_labels": whole.num_labels, "num_pairs": whole.num_pairs}
    expected = {name: each.clone() for name, each in gradients(jepa, jepa(whole).loss).items()}
    total = sum(jepa(collate(part), **counts).loss for part in (pairs[:3], pairs[3:4], pairs[4:]))
    for name, gradient in gradients(jepa, total).items():
        assert relative_error(gradient, expected[name]) < 5e-6, name


def test_a_dropped_step_of_rendered_views_is_a_plain_step(tiny_model, make_mixed_pairs):
    """The views leave the rows with all that they cost, and the bits are those of plain training."""
    torch.manual_seed(0)
    pairs = make_mixed_pairs(5)
    for target in CHOICES["jepa_target"]:
        jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_loss_dropout=0.5, jepa_target=target))
        plain = FusedCollator(JEPAConfig(jepa_lambda=0), pad_token_id=0)(pairs)
        batch = FusedCollator(jepa.config, pad_token_id=0)(pairs)
        dropped = next(step for step in range(50) if jepa.drops_term(step))
        assert batch.without_views().rows.input_ids.shape == plain.rows.input_ids.shape
        bare: nn.Module = LLMJEPA(jepa.model, JEPAConfig(jepa_lambda=0))
        assert torch.equal(jepa(batch, step=dropped).loss, bare(plain).loss)


def test_an_empty_rendered_view_is_refused_where_it_would_be_encoded(raises):
    collate = FusedCollator(JEPAConfig(), pad_token_id=0)
    with raises("view_empty", "Pair 0", "text_view_ids"):
        collate([Pair([5], [8, 1], text_view_ids=[])])
    collate([Pair([5], [8, 1], text_view_ids=[], use_jepa=False)])
