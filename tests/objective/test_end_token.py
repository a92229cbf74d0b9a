"""`train_end_token: false` leaves the end token out of the labels, as the published collator does."""

from __future__ import annotations

import pytest

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, Pair, reference_loss
from llm_jepa.objective.documents import IGNORED


def published_labels(pair, end_id):
    """Labels of a pair's row as a collator makes them that overwrites them by the ids, and hides padding by its id."""
    return [IGNORED if each == end_id else each for each in [*pair.text_ids, *pair.bridge_ids, *pair.code_ids]]


def test_labels_are_those_of_a_collator_that_takes_the_end_token_for_padding(make_pairs):
    """Also an end token that closes the question, in the bridge, is lost."""
    pairs = [*make_pairs(3), Pair([5, 6], [8, 9, 1], bridge_ids=[7, 1, 3])]
    batch = FusedCollator(JEPAConfig(jepa_lambda=0, train_end_token=False), pad_token_id=1)(pairs)
    for row, pair in zip(batch.labels.tolist(), pairs, strict=True):
        expected = published_labels(pair, 1)
        assert row[1 : len(expected)] == expected[1:]
        assert set(row[len(expected) :]) <= {IGNORED}
    assert batch.num_labels == sum(label != IGNORED for pair in pairs for label in published_labels(pair, 1)[1:])


@pytest.mark.parametrize("loss_on", ["all", "code"])
@pytest.mark.parametrize("jepa_lambda", [0.0, 1.0])
@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_is_that_of_separate_forwards_without_the_end_token(
    loss_on, jepa_lambda, packing, tiny_model, make_pairs
):
    """Loss and gradients, padded and packed; and the loss is another one than with the end token."""
    pairs = [*make_pairs(4, seed=5), Pair([5, 6], [8, 9, 1], bridge_ids=[7, 1, 3])]
    config = JEPAConfig(jepa_lambda=jepa_lambda, loss_on=loss_on, train_end_token=False, jepa_target="shared")
    jepa = LLMJEPA(tiny_model("llama"), config)
    fused = jepa(FusedCollator(config, pad_token_id=0, packing=packing)(pairs))
    slow = reference_loss(jepa, pairs)
    assert fused.ce_loss.item() == pytest.approx(slow.ce_loss.item(), abs=1e-5)
    assert fused.loss.item() == pytest.approx(slow.loss.item(), abs=1e-5)
    gradients = []
    for output in (fused, slow):
        jepa.zero_grad()
        output.loss.backward()
        gradients.append([each.grad.clone() for each in jepa.parameters() if each.grad is not None])
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm().clamp(min=1e-6)
    trained = LLMJEPA(jepa.model, JEPAConfig(jepa_lambda=jepa_lambda, loss_on=loss_on, jepa_target="shared"))
    other = reference_loss(trained, pairs)
    assert abs(other.ce_loss - slow.ce_loss).item() > 1e-3


def test_the_row_of_the_end_token_in_the_head_gets_its_gradient_from_the_softmax_alone(tiny_model, make_pairs):
    """No step ever makes the end token likelier: its bias in the loss only falls."""
    model = tiny_model("llama", tie_word_embeddings=False)
    pull = {}
    for trained in (True, False):
        config = JEPAConfig(jepa_lambda=0, train_end_token=trained)
        model.zero_grad()
        seen = []
        handle = model.lm_head.register_full_backward_hook(lambda module, _, grads, seen=seen: seen.append(grads[0]))
        LLMJEPA(model, config)(FusedCollator(config, pad_token_id=0)(make_pairs(4))).loss.backward()
        handle.remove()
        pull[trained] = seen[0][..., 1]  # gradient of the end token's logit at each position
    assert (pull[True] < 0).any()
    assert not (pull[False] < 0).any()
