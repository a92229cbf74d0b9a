"""Pairs with an equal code, an equal text or one group are no negatives of each other in InfoNCE."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from llm_jepa.objective import FusedCollator, JEPAConfig, Pair
from llm_jepa.objective.distances import get_distance
from llm_jepa.objective.pair import pair_keys, share_alike


def repeated(make_pairs):
    """Eight pairs: two with one code, two with one text, two of one group, two with nothing in common."""
    pairs = make_pairs(8, seed=3)
    pairs[1] = dataclasses.replace(pairs[1], code_ids=pairs[0].code_ids)
    pairs[3] = dataclasses.replace(pairs[3], text_ids=pairs[2].text_ids)
    pairs[4], pairs[5] = (dataclasses.replace(pair, group="one thing") for pair in pairs[4:6])
    return pairs


@pytest.mark.parametrize("direction", ["text_to_code", "code_to_text", "both"])
@pytest.mark.parametrize("distance", ["infonce", "infonce_symmetric"])
@pytest.mark.parametrize("target", ["shared", "stop_grad"])
def test_the_fused_pass_equals_the_reference(
    distance, target, direction, make_jepa, make_pairs, assert_equals_reference
):
    """The reference compares token by token; loss within 1e-5, gradients within 1e-4."""
    jepa = make_jepa(jepa_distance=distance, jepa_target=target, jepa_direction=direction)
    assert_equals_reference(jepa, repeated(make_pairs))


def test_only_what_is_alike_is_left_out():
    """By the rule, pair by pair; a pair is never alike to itself, and no group is no group in common."""
    pairs = [Pair([5], [8, 1]), Pair([6], [8, 1]), Pair([5], [9, 1]), Pair([7], [10, 1], group="g")]
    pairs.append(Pair([9], [11, 1], group="g"))
    keys = pair_keys(pairs)
    assert keys[0, 0] == keys[1, 0] and keys[0, 1] == keys[2, 1] and keys[3, 2] == keys[4, 2]
    assert len({*keys[:, 0].tolist()}) == 4 and len({*keys[:, 1].tolist()}) == 4
    assert keys[:3, 2].tolist() == [0, 0, 0]
    assert share_alike(pairs) == pytest.approx(3 / 10)


def test_equal_codes_are_not_pushed_apart():
    """Two pairs with one code and nothing else in the batch: no negative is left, and the loss is 0."""
    pred, code = torch.randn(2, 4, requires_grad=True), torch.ones(2, 4)
    infonce = get_distance("infonce", temperature=0.1)
    alike = torch.tensor([[False, True], [True, False]])
    assert infonce(pred, code, 0, None, alike).tolist() == [0.0, 0.0]
    assert infonce(pred, code).tolist() == pytest.approx([math.log(2)] * 2)


def test_without_repeats_the_bits_are_those_of_plain_infonce(make_jepa, make_pairs):
    """On data in which nothing is alike the rule changes nothing, forward and backward."""
    jepa = make_jepa(jepa_distance="infonce", jepa_target="shared")
    batch = FusedCollator(jepa.config, pad_token_id=0)(make_pairs(6, seed=2))
    found = []
    for keys in (batch.keys, None):
        jepa.zero_grad()
        output = jepa(dataclasses.replace(batch, keys=keys))
        output.loss.backward()
        found.append((output.jepa_loss, jepa.predictor.embedding.grad.clone()))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_other_distances_carry_no_keys(make_pairs):
    """They do not compare a pair with others."""
    assert FusedCollator(JEPAConfig(), pad_token_id=0)(make_pairs(3)).keys is None
