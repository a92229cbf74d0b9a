"""Where tokens, labels and views stand, and who sees whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llm_jepa.objective import FusedCollator, JEPAConfig, Pair
from llm_jepa.objective.documents import IGNORED, Role
from llm_jepa.objective.masks import additive_mask, boolean_mask

PAIR = Pair(text_ids=[5, 6, 7], bridge_ids=[2], code_ids=[8, 9, 1])


def collate(*pairs, pad=0, monitor=False, **settings):
    return FusedCollator(JEPAConfig(**settings), pad_token_id=pad, monitor=monitor)(list(pairs))


def test_a_row_holds_text_bridge_code_and_pred():
    """text | bridge | code <end> | [PRED] x k, with [PRED] at the positions right after the text."""
    rows = collate(PAIR, jepa_k=2).rows
    assert rows.input_ids.tolist() == [[5, 6, 7, 2, 8, 9, 1, 0, 0]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 3, 4]]
    T, B, C, P = Role.TEXT, Role.BRIDGE, Role.CODE, Role.TEXT_PRED
    assert rows.roles.tolist() == [[T, T, T, B, C, C, C, P, P]]


def test_a_shared_target_rides_as_its_own_document():
    """With gradients through both views the code stands once more, alone, from position 0, without its end."""
    batch = collate(PAIR, jepa_target="shared")
    assert batch.target_rows is None
    assert batch.rows.input_ids.tolist() == [[5, 6, 7, 2, 8, 9, 1, 0, 8, 9]]
    assert batch.rows.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 3, 0, 1]]
    assert batch.rows.documents.tolist() == [[1, 1, 1, 1, 1, 1, 1, 1, 2, 2]]
    assert batch.text_to_code.target_at.tolist() == [9]


def test_prompt_tokens_are_never_supervised_with_loss_on_code():
    """loss_on=code labels the code and the end token; loss_on=all labels everything but the first token."""
    assert collate(PAIR, loss_on="code").labels[0].tolist() == [IGNORED] * 4 + [8, 9, 1] + [IGNORED]
    assert collate(PAIR, loss_on="all").labels[0].tolist() == [IGNORED, 6, 7, 2, 8, 9, 1, IGNORED]


def test_end_token_is_supervised_even_if_it_is_the_pad_token():
    """Labels come from lengths, so an id that is also the pad's keeps its label, and padding has none."""
    short = Pair([5], [8, 1])
    labels = collate(PAIR, short, pad=1, loss_on="code", jepa_k=0).labels
    assert labels[1].tolist() == [IGNORED, 8, 1] + [IGNORED] * 4
    assert labels[0, -1] == 1


def test_the_embeddings_are_read_at_the_last_token_before_the_end():
    """Enc(Code) is read before the end token, Pred at the last [PRED], Enc(Text) at the last text token."""
    batch = collate(PAIR, jepa_k=3)
    assert batch.text_to_code.pred_at.tolist() == [9]
    assert batch.target_rows.input_ids.tolist() == [[8, 9]]
    assert batch.text_to_code.target_at.tolist() == [1]
    assert collate(PAIR, jepa_k=0).text_to_code.pred_at.tolist() == [2]


def test_no_view_is_laid_out_without_a_jepa_term_unless_a_monitor_asks():
    """jepa_lambda=0: plain rows, no [PRED], no second forward."""
    plain = collate(PAIR, jepa_lambda=0)
    assert plain.rows.is_plain and plain.views == [] and plain.target_rows is None
    assert plain.rows.input_ids.shape == (1, 7)
    assert len(collate(PAIR, jepa_lambda=0, monitor=True).views) == 1


@pytest.mark.parametrize("direction", ["text_to_code", "code_to_text", "both"])
@pytest.mark.parametrize("target", ["shared", "stop_grad", "ema"])
def test_who_sees_whom(direction, target):
    """Token by token: same document, not later, a [PRED] sees its view and earlier [PRED]s, nothing sees a [PRED]."""
    rows = collate(PAIR, Pair([3], [4, 1]), jepa_k=2, jepa_direction=direction, jepa_target=target).rows
    mask = boolean_mask(rows)[:, 0]
    view_of = {Role.TEXT_PRED: Role.TEXT, Role.CODE_PRED: Role.CODE}
    for row in range(2):
        documents, roles = rows.documents[row].tolist(), [Role(role) for role in rows.roles[row].tolist()]
        for query, key in torch.cartesian_prod(*[torch.arange(len(roles))] * 2).tolist():
            allowed = documents[query] == documents[key] and key <= query
            if roles[query] in view_of:
                allowed &= roles[key] in (view_of[roles[query]], roles[query])
            else:
                allowed &= roles[key] not in view_of
            assert mask[row, query, key].item() == allowed, (row, query, key)


def test_windows_are_counted_in_positions():
    """A [PRED] right after a text of 3 sees, with a window of 2, itself and the last text token."""
    rows = collate(PAIR).rows
    assert boolean_mask(rows, window=2)[0, 0, 7].tolist() == [
        False,
        False,
        True,
        False,
        False,
        False,
        False,
        True,
    ]


def test_no_query_is_left_without_a_key():
    """Padding sees padding, so a softmax over its row stays finite in eager attention (row B3)."""
    rows = collate(PAIR, Pair([5], [8, 1])).rows
    assert boolean_mask(rows, window=1).any(-1).all()
    assert additive_mask(rows, torch.float32).isfinite().all()


def test_an_empty_view_is_refused_with_its_number(raises):
    with raises("view_empty", "Pair 1", "text view"):
        collate(PAIR, Pair([], [8, 1]))
    with raises("view_empty", "Pair 0", "code_ids=[1]"):
        collate(Pair([5], [1]))
    with raises("no_rows"):
        collate()


@pytest.mark.parametrize("direction", ["text_to_code", "both"])
def test_targets_share_rows_and_stay_apart(direction):
    """Several target views share a row, each a document from position 0, each read at its own last token."""
    pairs = [Pair([5], [8] * size + [1]) for size in (6, 2, 3, 5)]
    batch = collate(*pairs, jepa_target="ema", jepa_direction=direction)
    rows, at = batch.target_rows, batch.text_to_code.target_at
    assert len(rows.input_ids) < len(pairs)
    for index, pair in zip(at.tolist(), pairs, strict=True):
        row, column = divmod(index, rows.input_ids.shape[1])
        own = rows.documents[row] == rows.documents[row, column]
        assert own.sum() == len(pair.code_ids) - 1
        assert rows.position_ids[row][own].tolist() == list(range(len(pair.code_ids) - 1))
        assert own.nonzero().max() == column


@pytest.mark.parametrize("target", ["stop_grad", "ema", "shared"])
@pytest.mark.parametrize("direction", ["text_to_code", "code_to_text", "both"])
def test_with_same_forwards_every_batch_has_those_that_any_batch_may_have(direction, target):
    """Pairs of every kind, and none with a term: targets have a forward of their own in all of them, or in none."""
    config = JEPAConfig(jepa_direction=direction, jepa_target=target)
    collate = FusedCollator(config, pad_token_id=0, same_forwards=True)
    kinds = [replace(PAIR, use_jepa=False), PAIR, replace(PAIR, text_view_ids=[7]), replace(PAIR, code_view_ids=[7])]
    batches = [collate([kind]) for kind in kinds]
    assert len({batch.target_rows is None for batch in batches}) == 1
    if direction == "text_to_code":
        assert (batches[0].target_rows is None) == (target == "shared")
    assert [batch.num_pairs for batch in batches] == [0, 1, 1, 1]


def test_a_forward_that_is_there_for_the_others_changes_no_number(make_jepa):
    """Embeddings, losses and gradients are those of the batch without it."""
    pairs = [PAIR, replace(PAIR, use_jepa=False, text_ids=[9, 4])]
    for direction in ("text_to_code", "code_to_text"):
        for some in (pairs, pairs[1:]):
            seen = []
            for same in (False, True):
                jepa = make_jepa(jepa_direction=direction)
                out = jepa(FusedCollator(jepa.config, pad_token_id=0, same_forwards=same)(some))
                out.loss.backward()
                seen.append([out.loss, out.text_pred, out.code_emb, *(each.grad for each in jepa.parameters())])
            for one, two in zip(*seen, strict=True):
                assert (one is None) == (two is None)
                if one is not None:
                    torch.testing.assert_close(one, two)
