"""Text-to-code retrieval: is Pred(Enc(Text)) nearer to its own Enc(Code) than to the others?

An effect of the JEPA term shows here first, and a collapse always shows here.
Letters: N queries, M candidates, C hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llm_jepa.errors import DataError
from llm_jepa.objective.distances import unit
from llm_jepa.training.monitors import TIE

# 1024 queries against 100,000 candidates take 0.4 GB a block; 10,000 against 10,000 take 40 MB.
QUERIES_PER_BLOCK = 1024


def gold_ranks(predictions: Tensor, targets: Tensor, gold: Tensor) -> Tensor:
    """Return the rank of each query's own candidate by cosine, (N,); 1 is the best, and ties count against the query.

    Every candidate whose cosine is not lower than the gold's by more than `TIE` ranks before it. So if all candidates
    are equal (a full collapse), each rank is M, whatever the order of the rows. The arguments are those of
    `retrieval_metrics`, of any float type; they are compared in float32.
    """
    queries, candidates = unit(predictions.detach().float()), unit(targets.detach().float())
    gold, ranks = gold.to(queries.device, torch.int64), []
    for block, own in zip(queries.split(QUERIES_PER_BLOCK), gold.split(QUERIES_PER_BLOCK), strict=True):
        cosines = block @ candidates.T  # (block, M)
        own_cosine = cosines.gather(1, own[:, None])  # (block, 1)
        ranks.append((cosines >= own_cosine - TIE).sum(1))  # counts the gold itself, so the best is 1
    return torch.cat(ranks)  # (N,)


def retrieval_metrics(predictions: Tensor, targets: Tensor, gold: Tensor) -> dict[str, float]:
    """Measure how well queries find their own candidate among all, by cosine.

    `recall@1` and `recall@10` are the shares of queries whose candidate ranks first, or among the first ten;
    `mrr` is the mean of 1/rank. All are in [0, 1]. Chance is 1/M, 10/M and about ln(M)/M. A full collapse
    gives 0, 0 and 1/M, because ties count against the query (see `gold_ranks`). With ten or fewer candidates
    `recall@10` is 1 for every model, so read it together with `num_candidates`. `constant@1` is the `recall@1` of a
    model that finds the same candidate for every query: the share of the most frequent one.

    Args:
        predictions: Queries, (N, C), N of at least 1, on the device of the targets.
        targets: Distinct candidates, (M, C). If pairs share a code, pass it once, and repeat its index in `gold`.
        gold: Index of each query's own candidate, integers in [0, M), (N,), on any device.

    Raises:
        DataError: If a value is not finite.
    """
    assert predictions.shape[1] == targets.shape[1] and gold.shape == predictions.shape[:1]
    assert 0 <= gold.min() <= gold.max() < len(targets)
    for name, states in {"predictions": predictions, "targets": targets}.items():
        if not torch.isfinite(states).all():
            text = f"The {name} have values that are not finite: the model that made them has diverged."
            raise DataError("embeddings_not_finite", text)
    ranks = gold_ranks(predictions, targets, gold).double()
    return {
        "recall@1": (ranks <= 1).double().mean().item(),
        "recall@10": (ranks <= 10).double().mean().item(),
        "mrr": (1 / ranks).mean().item(),
        "constant@1": gold.bincount().max().item() / len(gold),
        "num_queries": len(predictions),
        "num_candidates": len(targets),
    }
