"""Both views of many pairs as vectors; nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from llm_jepa.objective import LLMJEPA, FusedCollator, Pair
from llm_jepa.objective.backbone import evaluating
from llm_jepa.processes import gather, turns
from llm_jepa.progress import Progress


@dataclass
class ViewEmbeddings:
    """Embeddings of the pairs that have a JEPA term, N of them, in float32 on the CPU."""

    text_pred: Tensor  # (N, C)
    code_emb: Tensor  # (N, C)
    code_groups: Tensor  # (N,), a number for each distinct code view
    jepa_loss: float  # mean distance per pair; nan if there is no pair
    numbers: Tensor  # (N,), the index of each pair among the given pairs


def view_embeddings(
    jepa: LLMJEPA,
    pairs: Sequence[Pair],
    pad_token_id: int,
    *,
    with_pred: bool = True,
    batch_size: int = 128,
    context: Callable[[], AbstractContextManager] = nullcontext,
) -> ViewEmbeddings:
    """Encode both views of `pairs` that have a JEPA term, in evaluation mode and without gradient.

    Only the views are encoded, not the rows that they are part of in training, and no logits are computed.
    Several processes divide the batches among them, and each gets all embeddings, so every process must call it. A
    model trained with `jepa_lambda` 0, or without views, never learned [PRED], so its text side is Enc(Text): k = 0.

    Args:
        with_pred: Encode what the distance compares. If false, Enc(Text) and Enc(Code), whichever side predicts.
        batch_size: Pairs in one forward.
        context: Entered around each forward (mixed precision).
    """
    config = jepa.config
    if not config.uses_views:
        config = replace(config, jepa_term="views", jepa_k=0, jepa_detach_backbone=False)
    if not with_pred:
        config = replace(config, jepa_k=0, jepa_direction="text_to_code", jepa_detach_backbone=False)
    collate = FusedCollator(config, pad_token_id, monitor=True)
    device = jepa.predictor.embedding.device
    numbers = [number for number, pair in enumerate(pairs) if pair.use_jepa]
    index = torch.tensor(numbers, dtype=torch.long)
    if not numbers:
        return ViewEmbeddings(torch.empty(0, 0), torch.empty(0, 0), index, math.nan, index)
    pairs = [pairs[number].of_views() for number in numbers]
    own: dict[int, tuple[Tensor, Tensor, float]] = {}
    head = nullcontext() if with_pred else jepa.predictor.without_head()
    with evaluating(jepa), head, Progress("embed", len(pairs), "pairs") as shown:
        for number, is_own in turns(math.ceil(len(pairs) / batch_size)):
            batch = collate(pairs[number * batch_size : (number + 1) * batch_size])
            with context():
                output = jepa(batch.to(device), monitor=True)
            assert output.text_pred is not None and output.code_emb is not None
            if is_own:
                distance = output.jepa_loss.item() * batch.num_pairs
                own[number] = output.text_pred.float().cpu(), output.code_emb.float().cpu(), distance
            shown.set(min((number + 1) * batch_size, len(pairs)))
    batches = {number: batch for share in gather(own) for number, batch in share.items()}
    texts, codes, distances = zip(*(batches[number] for number in sorted(batches)), strict=True)
    return ViewEmbeddings(torch.cat(texts), torch.cat(codes), code_groups(pairs), sum(distances) / len(pairs), index)


def code_groups(pairs: Sequence[Pair]) -> Tensor:
    """Number the distinct code views in order of appearance, (N,): pairs with equal numbers have equal Enc(Code)."""
    numbers: dict[tuple[int, ...], int] = {}
    groups = [numbers.setdefault(tuple(pair.code_view), len(numbers)) for pair in pairs]
    return torch.tensor(groups, dtype=torch.long)


def first_of_each(groups: Tensor) -> Tensor:
    """Return the row at which each number of `groups`, (N,), appears first, in order of appearance."""
    return torch.from_numpy(np.sort(np.unique(groups.numpy(), return_index=True)[1]))
