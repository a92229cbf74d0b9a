"""Residual targets: the mean of the batch, or of each group, is taken from both sides before the distance."""

from __future__ import annotations

import pytest
import torch

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig
from llm_jepa.objective.config import CHOICES
from llm_jepa.objective.residual import group_number, without_mean
from llm_jepa.training.view_embeddings import view_embeddings


def grouped(pairs, names="aabab"):
    for number, pair in enumerate(pairs):
        pair.group = names[number % len(names)]
    return pairs


def test_means_by_hand():
    """Of all; of each group, in any order; an embedding that is alone becomes exactly zero."""
    rows = torch.tensor([[1.0, 0.0], [3.0, 2.0], [0.3, 0.7], [5.0, 4.0]])
    assert without_mean(rows[:2]).tolist() == [[-1.0, -1.0], [1.0, 1.0]]
    groups = torch.tensor([7, 9, 2**62, 7])
    assert without_mean(rows, groups).tolist() == [[-2.0, -2.0], [0.0, 0.0], [0.0, 0.0], [2.0, 2.0]]
    assert without_mean(rows[:0]).shape == (0, 2)


def test_names_have_the_same_number_everywhere():
    """A hash of the name alone, so that processes agree."""
    assert group_number("chapter 3") == group_number("chapter 3") != group_number("chapter 4")
    assert 0 <= group_number("") < 2**63


@pytest.mark.parametrize("residual", ["batch", "group"])
@pytest.mark.parametrize("target", ["stop_grad", "shared"])
@pytest.mark.parametrize("model", ["llama", "gpt2", "mistral"])
def test_residuals_equal_separate_forwards(
    model, target, residual, tiny_model, make_mixed_pairs, assert_equals_reference
):
    """Every distance over the cases; pairs without a term are in no mean; a group of one is in the batch."""
    network, pairs = tiny_model(model), grouped(make_mixed_pairs(7, seed=5), "aabcabd")
    for number in range(("stop_grad", "shared").index(target), len(CHOICES["jepa_distance"]), 2):
        distance = CHOICES["jepa_distance"][number]
        config = JEPAConfig(
            jepa_lambda=0.7,
            jepa_distance=distance,
            jepa_temperature=0.5,
            jepa_target=target,
            jepa_residual=residual,
            jepa_direction=CHOICES["jepa_direction"][number % 3],
        )
        assert_equals_reference(LLMJEPA(network, config, check=False), pairs, packing=number % 2 == 0)


def test_whole_embeddings_in_the_place_of_residuals_are_seen(tiny_model, make_pairs):
    """Negative control: the three settings are three losses."""
    model, pairs = tiny_model("llama"), grouped(make_pairs(5))
    losses = [
        LLMJEPA(model, JEPAConfig(jepa_residual=residual))(
            FusedCollator(JEPAConfig(jepa_residual=residual), pad_token_id=0)(pairs)
        ).jepa_loss.item()
        for residual in CHOICES["jepa_residual"]
    ]
    assert min(abs(a - b) for number, a in enumerate(losses) for b in losses[:number]) > 1e-2


@pytest.mark.parametrize("distance", CHOICES["jepa_distance"])
def test_a_pair_that_is_alone_has_a_constant_distance_and_no_gradient(distance, make_jepa, make_pairs, gradients):
    """Its residual is the zero vector on both sides: cosine 1, others 0; the bits of the gradient are zero."""
    jepa = make_jepa(jepa_gamma=0.0, jepa_residual="batch", jepa_distance=distance, jepa_target="shared")
    out = jepa(FusedCollator(jepa.config, pad_token_id=0)(make_pairs(1)))
    assert out.jepa_loss.item() == (1.0 if distance == "cosine" else 0.0)
    assert not any(each.any() for each in gradients(jepa, out.loss).values())


def test_a_row_without_a_group_is_refused_by_place(make_pairs):
    """In training; a look at held-out rows takes it as a group of its own."""
    config, pairs = JEPAConfig(jepa_residual="group"), make_pairs(3)
    pairs[0].group = pairs[1].group = "a"
    pairs[2].source = "train.jsonl:3"
    with pytest.raises(ValueError, match=r"Pair 2 of the batch \(train.jsonl:3\) has no group"):
        FusedCollator(config, pad_token_id=0)(pairs)
    pairs[2].use_jepa = False
    assert len(FusedCollator(config, pad_token_id=0)(pairs).groups.unique()) == 1
    pairs[2].use_jepa = True
    groups = FusedCollator(config, pad_token_id=0, monitor=True)(pairs).groups
    assert groups[0] == groups[1] != groups[2]


def test_held_out_embeddings_are_whole(make_jepa, make_pairs):
    """What monitors and retrieval look at does not depend on the batch: nothing is taken from it."""
    jepa, pairs = make_jepa(jepa_residual="group"), make_pairs(5)
    plain = LLMJEPA(jepa.model, JEPAConfig(), check=False)
    plain.predictor = jepa.predictor
    ours, theirs = (view_embeddings(each, pairs, pad_token_id=0, batch_size=2) for each in (jepa, plain))
    assert torch.equal(ours.text_pred, theirs.text_pred) and torch.equal(ours.code_emb, theirs.code_emb)


def test_an_unknown_residual_is_refused():
    with pytest.raises(ValueError, match="jepa_residual='row' is not one of"):
        JEPAConfig(jepa_residual="row")
