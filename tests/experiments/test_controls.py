"""The shuffled control breaks the match between the views and changes nothing else."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch

from llm_jepa.experiments.controls import shuffle_code_views
from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, Pair


def with_codes(*codes):
    return [Pair([5, number], [*code, 1], source=f"row {number}") for number, code in enumerate(codes)]


def assert_no_pair_keeps_its_code(pairs, shuffled):
    assert all(one.code_view != two.code_view for one, two in zip(pairs, shuffled, strict=True))


@pytest.mark.parametrize("seed", range(10))
def test_no_pair_keeps_its_own_code(seed, make_pairs):
    """Promise 8: every pair has the code view of another, and each code view is used as often as before."""
    pairs = make_pairs(31, seed=seed)
    shuffled = shuffle_code_views(pairs, seed)
    assert_no_pair_keeps_its_code(pairs, shuffled)
    before, after = (Counter(tuple(pair.code_view) for pair in each) for each in (pairs, shuffled))
    assert before == after


@pytest.mark.parametrize("seed", range(10))
def test_pairs_that_share_a_code_do_not_get_it_back(seed):
    """Half of the rows have one code, a third of the rest another: still none meets its own."""
    pairs = with_codes(*[[8]] * 6, *[[9]] * 2, *[[n] for n in range(10, 14)])
    assert_no_pair_keeps_its_code(pairs, shuffle_code_views(pairs, seed))


def test_two_pairs_exchange_their_codes():
    """The smallest case, by hand."""
    shuffled = shuffle_code_views(with_codes([8, 9], [10]), seed=0)
    assert [pair.code_view for pair in shuffled] == [[10], [8, 9]]


def test_a_code_on_most_rows_stays_where_nothing_else_is_left():
    """Four of five rows have one code: the odd one moves to one of them, and nobody gets a code that was not there."""
    pairs = with_codes([8], [8], [8], [8], [9])
    shuffled = shuffle_code_views(pairs, seed=0)
    assert shuffled[4].code_view == [8]
    assert sorted(pair.code_view[0] for pair in shuffled) == [8, 8, 8, 8, 9]


def test_the_exchange_is_a_function_of_the_seed(make_pairs):
    """The same seed gives the same exchange, another seed another; neither the rows nor a random stream is touched."""
    pairs, state = make_pairs(20), torch.get_rng_state()
    views = [[tuple(pair.code_view) for pair in shuffle_code_views(pairs, seed)] for seed in (3, 3, 4)]
    assert views[0] == views[1] != views[2]
    assert torch.equal(state, torch.get_rng_state())
    assert all(pair.other_code_ids is None for pair in pairs)


def test_nothing_else_changes(make_pairs, tiny_model):
    """Promise 8: rows, lengths, labels, order and sources are the same; cross-entropy and text side have the same bits,
    and only the target differs."""
    pairs = make_pairs(12)
    shuffled = shuffle_code_views(pairs, seed=1)
    for one, two in zip(pairs, shuffled, strict=True):
        assert (one.text_ids, one.bridge_ids, one.code_ids, one.source) == (
            two.text_ids,
            two.bridge_ids,
            two.code_ids,
            two.source,
        )
        assert len(one) == len(two)
    for config in (JEPAConfig(jepa_k=2), JEPAConfig(jepa_lambda=0.0)):
        collate = FusedCollator(config, pad_token_id=0)
        matched, mixed = collate(pairs), collate(shuffled)
        assert torch.equal(matched.labels, mixed.labels)
        assert torch.equal(matched.rows.input_ids, mixed.rows.input_ids)
        jepa = LLMJEPA(tiny_model("llama"), config)
        one, two = jepa(matched), jepa(mixed)
        assert torch.equal(one.ce_loss, two.ce_loss)
        if config.uses_views:
            assert torch.equal(one.text_pred, two.text_pred)
            assert not torch.isclose(one.code_emb, two.code_emb).all(1).any()
            assert one.jepa_loss != two.jepa_loss
        else:
            assert torch.equal(one.loss, two.loss)


@pytest.mark.parametrize("target", ["stop_grad", "shared", "ema"])
def test_the_other_code_is_what_the_target_encodes(target, tiny_model):
    """Enc(Code) of the control is that of the pair which has the code as its own."""
    pairs = with_codes([8, 9], [10, 11, 12])
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_target=target))
    collate = FusedCollator(jepa.config, pad_token_id=0)
    matched, mixed = jepa(collate(pairs)), jepa(collate(shuffle_code_views(pairs, seed=0)))
    torch.testing.assert_close(mixed.code_emb, matched.code_emb.flip(0), atol=1e-5, rtol=1e-5)


def test_one_code_for_all_rows_is_refused():
    with pytest.raises(ValueError, match="at least two different codes"):
        shuffle_code_views(with_codes([8], [8]), seed=0)


def test_rows_without_a_jepa_term_neither_give_nor_get_a_code():
    """Their code views may match nothing, so the control must not learn from them either."""
    pairs = with_codes([8], [9], [10], [11])
    pairs[1] = dataclasses.replace(pairs[1], use_jepa=False)
    shuffled = shuffle_code_views(pairs, seed=0)
    assert shuffled[1] == pairs[1]
    assert sorted(shuffled[row].code_view[0] for row in (0, 2, 3)) == [8, 10, 11]
    assert_no_pair_keeps_its_code([pairs[row] for row in (0, 2, 3)], [shuffled[row] for row in (0, 2, 3)])


def test_code_views_of_their_own_are_what_is_exchanged():
    """With jepa_views=rendered, or a code_view column: rows keep their codes, views move."""
    pairs = [dataclasses.replace(pair, code_view_ids=[20 + row]) for row, pair in enumerate(with_codes([8], [8], [9]))]
    shuffled = shuffle_code_views(pairs, seed=0)
    assert_no_pair_keeps_its_code(pairs, shuffled)
    assert sorted(pair.code_view for pair in shuffled) == [[20], [21], [22]]
    assert [pair.code_ids for pair in shuffled] == [pair.code_ids for pair in pairs]


def test_rendered_code_views_move_with_their_codes_among_the_rows_that_have_views(make_mixed_pairs):
    """No pair keeps its view, each view is used as often as before, and rows without views stay as they are."""
    pairs = make_mixed_pairs(20)
    shuffled = shuffle_code_views(pairs, seed=1)
    with_views = [number for number, pair in enumerate(pairs) if pair.use_jepa]
    before, after = ([each[number] for number in with_views] for each in (pairs, shuffled))
    assert_no_pair_keeps_its_code(before, after)
    assert Counter(tuple(pair.code_view) for pair in before) == Counter(tuple(pair.code_view) for pair in after)
    assert all(one.text_view == two.text_view for one, two in zip(pairs, shuffled, strict=True))
    assert all(shuffled[number] is pairs[number] for number in set(range(20)) - set(with_views))
