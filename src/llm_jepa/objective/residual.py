"""Residual embeddings: what is left of predictions and targets without the mean that they share.

Last states of a language model lie in a narrow cone, and rows of one group (a chapter, a table) in a narrower one: most
of a cosine is then the cone's. Without the mean, the distance is about what tells the pairs of a batch apart.
Letters: N embeddings, C hidden size.
"""

from __future__ import annotations

import hashlib

from torch import Tensor


def without_mean(embeddings: Tensor, groups: Tensor | None = None) -> Tensor:
    """Return the embeddings minus the mean of all, or of those of their own group, (N, C); gradients flow through it.

    An embedding that is alone is its own mean: it becomes the zero vector, whose distance is a constant, without
    gradient.

    Args:
        embeddings: (N, C).
        groups: A number for each group, (N,); None: all are one.

    >>> import torch
    >>> without_mean(torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([0, 0, 5])).tolist()
    [[-1.0], [1.0], [0.0]]
    """
    if len(embeddings) == 0:
        return embeddings
    if groups is None:
        return embeddings - embeddings.mean(0)
    _, index, sizes = groups.unique(return_inverse=True, return_counts=True)
    sums = embeddings.new_zeros(len(sizes), embeddings.shape[1]).index_add(0, index, embeddings)
    return embeddings - (sums / sizes[:, None])[index]


def group_number(name: str) -> int:
    """Return a number for the name of a group, the same in every batch and process, in [0, 2^63)."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
