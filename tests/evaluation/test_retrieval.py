"""Retrieval: ranks are right, and a collapse never looks like success."""

from __future__ import annotations

import math

import pytest
import torch

from llm_jepa.evaluation import retrieval
from llm_jepa.evaluation.retrieval import gold_ranks, retrieval_metrics


def test_ranks_equal_those_of_a_plain_sort():
    """Independent reference: sort the float64 cosines of each query and find the gold's place."""
    torch.manual_seed(0)
    predictions, targets = torch.randn(50, 8), torch.randn(30, 8)
    gold = torch.randint(30, (50,))
    cosines = torch.nn.functional.cosine_similarity(predictions[:, None].double(), targets[None].double(), dim=-1)
    places = [
        sorted(range(30), key=lambda m: -row[m].item()).index(g) + 1
        for row, g in zip(cosines, gold.tolist(), strict=True)
    ]
    assert gold_ranks(predictions, targets, gold).tolist() == places
    metrics = retrieval_metrics(predictions, targets, gold)
    assert metrics["recall@1"] == pytest.approx(sum(p <= 1 for p in places) / 50)
    assert metrics["recall@10"] == pytest.approx(sum(p <= 10 for p in places) / 50)
    assert metrics["mrr"] == pytest.approx(sum(1 / p for p in places) / 50)


def test_three_queries_by_hand():
    """Ranks 1, 1 and 3 of 3: recall@1 is 2/3, mrr (1 + 1 + 1/3) / 3. Lengths do not matter, directions do."""
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    predictions = torch.tensor([[9.0, 1.0], [0.1, 0.5], [5.0, 0.2]])
    metrics = retrieval_metrics(predictions, targets, torch.tensor([0, 1, 2]))
    assert metrics["recall@1"] == pytest.approx(2 / 3)
    assert metrics["mrr"] == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert (metrics["num_queries"], metrics["num_candidates"]) == (3, 3)


@pytest.mark.parametrize("vector", [torch.ones(16), torch.zeros(16), torch.randn(16)])
def test_a_full_collapse_retrieves_nothing(vector: torch.Tensor):
    """If all embeddings are equal, every candidate ties with the gold and stands before it."""
    same = vector.repeat(500, 1)
    metrics = retrieval_metrics(same, same, torch.arange(500))
    assert metrics["recall@1"] == metrics["recall@10"] == 0
    assert metrics["mrr"] == pytest.approx(1 / 500)


def test_rounding_noise_on_a_collapse_does_not_retrieve_either():
    """Differences below float32's own error are ties, also when they happen to favour the gold."""
    torch.manual_seed(0)
    base = torch.randn(64).repeat(200, 1)
    targets = base * (1 + 1e-7 * torch.randn(200, 1))
    assert retrieval_metrics(targets, targets, torch.arange(200))["recall@1"] == 0


def test_pairs_with_the_same_code_share_one_candidate():
    """`gold` may repeat: both queries find the one candidate that is theirs."""
    metrics = retrieval_metrics(torch.eye(2)[[0, 0, 1]], torch.eye(2), torch.tensor([0, 0, 1]))
    assert metrics["recall@1"] == 1 and metrics["constant@1"] == 2 / 3


def test_with_fewer_than_ten_candidates_recall_at_ten_is_one():
    """It is said in the docstring, and the number of candidates stands beside it."""
    metrics = retrieval_metrics(-torch.eye(3), torch.eye(3), torch.arange(3))
    assert metrics["recall@1"] == 0
    assert metrics["recall@10"] == 1
    assert metrics["num_candidates"] == 3


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch):
    """Queries are compared in blocks, so that 10,000 by 10,000 fits in memory."""
    torch.manual_seed(0)
    predictions, targets = torch.randn(40, 6), torch.randn(25, 6)
    gold = torch.randint(25, (40,))
    whole = retrieval_metrics(predictions, targets, gold)
    monkeypatch.setattr(retrieval, "QUERIES_PER_BLOCK", 7)
    assert retrieval_metrics(predictions, targets, gold) == whole


def test_half_precision_states_are_compared_in_float32():
    """Models train in bfloat16; ranks must not be rounded with them."""
    torch.manual_seed(0)
    states = torch.randn(64, 32)
    assert retrieval_metrics(states.bfloat16(), states.bfloat16(), torch.arange(64))["recall@1"] == 1


@pytest.mark.parametrize(
    ("predictions", "targets", "name"),
    [
        (torch.full((2, 3), math.nan), torch.ones(2, 3), "predictions"),
        (torch.ones(2, 3), torch.full((2, 3), math.inf), "targets"),
    ],
)
def test_embeddings_that_are_not_finite_are_named(predictions, targets, name, raises):
    """A nan compares as neither lower nor higher; it must never count as a hit."""
    with raises("embeddings_not_finite", name):
        retrieval_metrics(predictions, targets, torch.arange(2))
