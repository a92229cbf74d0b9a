"""[PRED]: the learned tokens that turn Enc into Pred.

The paper adds k tokens to the vocabulary (section 2.2). Here they are a small module beside the model, so
that tokenizer, embedding table and head stay as they were, adapters leave them trainable, and a saved model
loads anywhere. Letters: k [PRED] tokens, C hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PredTokens(nn.Module):
    """k [PRED] embeddings: one learned vector repeated (`shared`), or k learned vectors (`distinct`).

    Args:
        num_tokens: k, 0 or more. With 0 there is nothing to learn and Pred(x) = Enc(x).
        like: The model's embedding table, (V, C). [PRED] starts from a normal distribution with the table's
            own mean square, so that it enters the first layer at the size of a word; in models of this
            package's presets that is the 0.02 of the original notebook.
        distinct: Whether the k tokens differ.
    """

    def __init__(self, num_tokens: int, like: Tensor, distinct: bool = False) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        num_vectors = min(num_tokens, 1) if not distinct else num_tokens
        # A generator of its own: a model with [PRED] and one without see the same global random stream.
        generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        start = torch.randn(num_vectors, like.shape[1], generator=generator)
        scale = like.detach().float().square().mean().sqrt() if like.numel() else torch.tensor(0.02)
        self.embedding = nn.Parameter((start.to(like.device) * scale).to(like.dtype))

    def forward(self) -> Tensor:
        """Return the embeddings in order, (k, C)."""
        return self.embedding.expand(self.num_tokens, -1) if len(self.embedding) == 1 else self.embedding
