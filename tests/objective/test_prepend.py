"""[PRED] before its view (paper, Table 3): the same rows, the same one forward, held to the reference."""

from __future__ import annotations

import itertools

import pytest
import torch

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, Pair, reference_loss
from llm_jepa.objective.config import CHOICES
from llm_jepa.objective.documents import Role
from llm_jepa.objective.masks import boolean_mask
from llm_jepa.training.view_embeddings import view_embeddings

PAIR = Pair(text_ids=[5, 6, 7], bridge_ids=[2], code_ids=[8, 9, 1])
RENDERED = Pair([5, 6, 7], [8, 9, 1], [2], text_view_ids=[3, 5, 6], code_view_ids=[4, 8])


def collate(*pairs, **settings):
    return FusedCollator(JEPAConfig(jepa_pred_position="prepend", **settings), pad_token_id=0)(list(pairs))


@pytest.mark.parametrize("target", CHOICES["jepa_target"])
@pytest.mark.parametrize("direction", CHOICES["jepa_direction"])
@pytest.mark.parametrize("model", ["llama", "gpt2", "mistral"])
def test_prepended_pred_equals_separate_forwards(
    model, direction, target, tiny_model, make_mixed_pairs, assert_equals_reference
):
    """Rendered, prefix and no views in one batch, packed and not, k from 0 to 4 over the cases."""
    network, pairs = tiny_model(model), make_mixed_pairs(5, seed=5)
    case = CHOICES["jepa_target"].index(target) + 3 * CHOICES["jepa_direction"].index(direction)
    for k in (case % 5, (case + 2) % 5):
        config = JEPAConfig(
            jepa_lambda=0.7,
            jepa_gamma=1.3,
            jepa_target=target,
            jepa_direction=direction,
            jepa_pred_position="prepend",
            jepa_k=k,
            jepa_distance=CHOICES["jepa_distance"][k],
            jepa_pred_tokens=CHOICES["jepa_pred_tokens"][k % 2],
            loss_on=CHOICES["loss_on"][k % 2],
        )
        assert_equals_reference(LLMJEPA(network, config, check=False), pairs, packing=k % 2 == 0, pack_length=60)


@pytest.mark.parametrize("model", ["llama", "gpt2", "qwen3", "mistral", "gemma2"])
def test_every_family_passes_its_check_with_pred_before_the_view(model, make_jepa):
    """The check before training lays its pairs out as the objective does."""
    make_jepa(model, jepa_pred_position="prepend", jepa_direction="both", jepa_target="shared")


def test_before_is_not_after(tiny_model, make_pairs):
    """Negative control: [PRED] before the view and after it are different functions."""
    model, pairs = tiny_model("llama"), make_pairs(3)
    before, after = (
        reference_loss(LLMJEPA(model, JEPAConfig(jepa_pred_position=place)), pairs) for place in ("prepend", "append")
    )
    assert (before.text_pred - after.text_pred).norm() > 1e-2 * after.text_pred.norm()


def test_a_row_text_that_saw_pred_is_seen(tiny_model, make_pairs):
    """Negative control: were [PRED] in the row's own document, its tokens would read it."""
    jepa, pairs = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_pred_position="prepend")), make_pairs(3)
    batch = FusedCollator(jepa.config, pad_token_id=0)(pairs)
    right = jepa(batch).text_pred
    batch.rows.documents = batch.rows.documents.clamp(max=1)
    assert (jepa(batch).text_pred - right).norm() > 1e-2 * right.norm()


def test_the_view_rides_with_pred_before_it_by_hand():
    """The row is plain training's; [PRED] x k and the view follow as a document of their own, from position 0."""
    batch = collate(PAIR, jepa_k=2)
    rows = batch.rows
    assert rows.input_ids.tolist() == [[5, 6, 7, 2, 8, 9, 1, 0, 0, 5, 6, 7]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]]
    assert rows.documents.tolist() == [[1] * 7 + [2] * 5]
    assert rows.roles[0, 7:].tolist() == [Role.LEADING_PRED] * 2 + [Role.TEXT] * 3
    assert batch.text_to_code.pred_at.tolist() == [11]
    assert rows.is_pred[0].tolist() == [False] * 7 + [True] * 2 + [False] * 3
    assert boolean_mask(rows)[0, 0, 7:, 7:].tolist() == torch.ones(5, 5).tril().bool().tolist()
    assert not boolean_mask(rows)[0, 0, 7:, :7].any()
    assert collate(PAIR, jepa_k=0).rows.input_ids.tolist() == [[5, 6, 7, 2, 8, 9, 1]]


def test_rendered_views_and_targets_with_gradient_have_documents_of_their_own_by_hand():
    """A view that is read with [PRED] and without stands twice: text, code, [PRED] text, [PRED] code."""
    rows = collate(RENDERED, jepa_direction="both", jepa_target="shared").rows
    assert rows.input_ids[0, 7:].tolist() == [3, 5, 6, 4, 8, 0, 3, 5, 6, 0, 4, 8]
    assert rows.documents[0].tolist() == [1] * 7 + [2] * 3 + [3] * 2 + [4] * 4 + [5] * 3
    alone = collate(RENDERED).rows
    assert alone.input_ids[0, 7:].tolist() == [0, 3, 5, 6] and alone.documents[0, 7:].tolist() == [2] * 4


@pytest.mark.parametrize(("direction", "target"), itertools.product(["text_to_code", "both"], ["shared", "stop_grad"]))
def test_who_sees_whom(direction, target):
    """Token by token: same document and not later; nothing else, for a [PRED] that leads is a token like any other."""
    rows = collate(PAIR, RENDERED, jepa_k=2, jepa_direction=direction, jepa_target=target).rows
    same = rows.documents[:, :, None] == rows.documents[:, None]
    assert torch.equal(boolean_mask(rows)[:, 0], same & torch.ones(same.shape[1:]).tril().bool())


def test_a_dropped_step_is_a_plain_step(tiny_model, make_mixed_pairs):
    """The views leave the rows, and the bits are those of plain training."""
    torch.manual_seed(0)
    pairs = make_mixed_pairs(5)
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_loss_dropout=0.5, jepa_pred_position="prepend"))
    batch = FusedCollator(jepa.config, pad_token_id=0)(pairs)
    dropped = next(step for step in range(50) if jepa.drops_term(step))
    plain = LLMJEPA(jepa.model, JEPAConfig(jepa_lambda=0))
    assert torch.equal(jepa(batch, step=dropped).loss, plain(FusedCollator(plain.config, pad_token_id=0)(pairs)).loss)


def test_monitors_look_at_the_same_prediction(make_jepa, make_pairs):
    """Held-out embeddings are those of the objective, [PRED] before the view."""
    jepa, pairs = make_jepa(jepa_pred_position="prepend", jepa_k=2), make_pairs(5)
    with torch.no_grad():
        slow = reference_loss(jepa, pairs)
    views = view_embeddings(jepa, pairs, pad_token_id=0, batch_size=2)
    torch.testing.assert_close(views.text_pred, slow.text_pred, atol=1e-5, rtol=1e-5)
