"""Embeddings of many pairs are those of each pair alone, and looking at them changes nothing."""

from __future__ import annotations

import pytest
import torch

from llm_jepa.objective import Pair
from llm_jepa.objective.documents import documents_of
from llm_jepa.objective.reference import enc, pred
from llm_jepa.training.view_embeddings import code_groups, view_embeddings


@pytest.mark.parametrize("target", ["stop_grad", "shared", "ema"])
def test_embeddings_equal_a_forward_for_each_view(target, make_jepa, make_pairs):
    """Pred(Enc(Text)) and Enc(Code) of each pair by themselves, whatever the batch; the mean distance as well."""
    jepa, pairs = make_jepa(jepa_k=2, jepa_target=target, changes={"attention_dropout": 0.3}), make_pairs(7)
    views = view_embeddings(jepa, pairs, pad_token_id=0, batch_size=3)
    jepa.eval()
    with torch.no_grad():
        texts = torch.stack([pred(jepa, pair.text_ids) for pair in pairs])
        codes = torch.stack([enc(jepa.backbone.layers, pair.code_view, torch.device("cpu")) for pair in pairs])
        distance = jepa.distance(texts, codes).mean().item()
    torch.testing.assert_close(views.text_pred, texts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(views.code_emb, codes, atol=1e-5, rtol=1e-5)
    assert views.jepa_loss == pytest.approx(distance, abs=1e-5)


def test_without_a_jepa_term_the_text_side_is_the_text_itself(make_jepa, make_pairs):
    """[PRED] of a baseline was never trained, so Enc(Text) is looked at: k = 0."""
    jepa, pairs = make_jepa(jepa_lambda=0.0, jepa_k=3), make_pairs(4)
    views = view_embeddings(jepa, pairs, pad_token_id=0)
    with torch.no_grad():
        texts = torch.stack([enc(jepa.backbone.layers, pair.text_ids, torch.device("cpu")) for pair in pairs])
    torch.testing.assert_close(views.text_pred, texts, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("direction", ["text_to_code", "code_to_text", "both"])
def test_views_without_pred_are_the_two_encodings_whatever_predicts_what(direction, make_jepa, make_pairs):
    """Enc(Text) and Enc(Code); with [PRED], one of the two sides is another."""
    jepa, pairs = make_jepa(jepa_k=2, jepa_direction=direction, jepa_pred_tokens="distinct"), make_pairs(5)
    views = view_embeddings(jepa, pairs, pad_token_id=0, with_pred=False, batch_size=3)
    device, layers = torch.device("cpu"), jepa.backbone.layers
    with torch.no_grad():
        texts = torch.stack([enc(layers, pair.text_view, device) for pair in pairs])
        codes = torch.stack([enc(layers, pair.code_view, device) for pair in pairs])
    torch.testing.assert_close(views.text_pred, texts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(views.code_emb, codes, atol=1e-5, rtol=1e-5)
    trained = view_embeddings(jepa, pairs, pad_token_id=0)
    assert not torch.allclose(torch.cat([trained.text_pred, trained.code_emb]), torch.cat([texts, codes]), atol=1e-2)


def test_looking_changes_nothing(make_jepa, make_pairs):
    """Mode, gradients and random stream are as they were, with dropout in the model."""
    jepa = make_jepa("gpt2", changes={"resid_pdrop": 0.5})
    state = torch.get_rng_state()
    first = view_embeddings(jepa, make_pairs(4), pad_token_id=0)
    again = view_embeddings(jepa, make_pairs(4), pad_token_id=0)
    assert torch.equal(first.text_pred, again.text_pred) and not first.text_pred.requires_grad
    assert jepa.training and torch.equal(state, torch.get_rng_state())
    assert all(each.grad is None for each in jepa.parameters())


def test_only_views_are_encoded(make_jepa, make_mixed_pairs):
    """No row around a view is read, and no token has a label, for which the head would compute logits."""
    jepa, pairs, seen = make_jepa(jepa_k=2, jepa_target="shared"), make_mixed_pairs(7), []
    jepa.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    view_embeddings(jepa, pairs, pad_token_id=0, batch_size=7)
    assert [batch.num_labels for batch in seen] == [0]
    kept = [pair.of_views() for pair in pairs if pair.use_jepa]
    encoded = sum(len(each) for pair in kept for each in documents_of(pair, jepa.config))
    assert encoded == sum(len(pair.text_view) + 2 + len(pair.code_view) + 2 for pair in kept)  # [PRED]; code, end


def test_equal_codes_share_a_number():
    """Groups count up in order of appearance."""
    codes = [[8, 1], [9, 1], [8, 1], [8, 9, 1], [9, 1]]
    assert code_groups([Pair([5], code) for code in codes]).tolist() == [0, 1, 0, 2, 1]


def test_codes_with_views_of_their_own_are_told_apart_by_these():
    """What retrieval looks for is the view."""
    views = [[8], [9], [8]]
    assert code_groups([Pair([5], [7, 1], code_view_ids=view) for view in views]).tolist() == [0, 1, 0]


def test_rendered_views_are_what_is_looked_at_and_rows_without_views_are_passed_over(make_jepa, make_mixed_pairs):
    """Each embedding is that of its own rendered view; `numbers` says whose it is."""
    jepa, pairs = make_jepa(jepa_k=2), make_mixed_pairs(7)
    views = view_embeddings(jepa, pairs, pad_token_id=0, batch_size=2)
    assert views.numbers.tolist() == [0, 1, 2, 3, 5, 6]
    kept = [pairs[number] for number in views.numbers]
    with torch.no_grad():
        texts = torch.stack([pred(jepa, pair.text_view) for pair in kept])
        codes = torch.stack([enc(jepa.backbone.layers, pair.code_view, torch.device("cpu")) for pair in kept])
    torch.testing.assert_close(views.text_pred, texts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(views.code_emb, codes, atol=1e-5, rtol=1e-5)
    assert views.jepa_loss == pytest.approx(jepa.distance(texts, codes).mean().item(), abs=1e-5)
    assert len(views.code_groups) == 6


def test_where_no_row_has_views_there_is_nothing_to_look_at(make_jepa):
    views = view_embeddings(make_jepa(), [Pair([5], [8, 1], use_jepa=False)], pad_token_id=0)
    assert len(views.numbers) == len(views.text_pred) == len(views.code_groups) == 0


def test_codes_that_are_rendered_alike_share_a_number():
    """What counts is what Enc(Code) reads."""
    rendered = [([9, 1], None), ([8, 1], [9]), ([9, 1], [7])]
    pairs = [Pair([5], code, code_view_ids=view) for code, view in rendered]
    assert code_groups(pairs).tolist() == [0, 0, 1]
