"""[PRED], and the head after it: together they compute Pred from Enc.

The paper adds k tokens to the vocabulary (section 2.2). Here they are a small module next to the model. So
tokenizer, embedding table and head do not change, [PRED] can be trained with an adapter, and other tools can load a
saved model. Letters: k [PRED] tokens, C hidden size, P predictions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PredTokens(nn.Module):
    """k [PRED] embeddings: one learned vector repeated (`shared`), or k learned vectors (`distinct`).

    Args:
        num_tokens: k, 0 or more. With 0 there is nothing to learn and Pred(x) = Enc(x).
        like: The model's embedding table, (V, C). The first values of [PRED] have a normal distribution with the
            table's own mean square, so that [PRED] is as large as other tokens in the first layer. In models of this
            package's presets that is the 0.02 of the original notebook.
        distinct: Whether the k tokens differ.
        head: The head on the state of the last [PRED]: none, linear, mlp (`PredictorHead`).
        scale: What the model multiplies rows of its table by before the first layer.
        seed: Seed of the first values.

    Attributes:
        embedding: The learned vectors, (1 or k, C).
        head: The predictor head, or None.
    """

    def __init__(
        self,
        num_tokens: int,
        like: Tensor,
        distinct: bool = False,
        head: str = "none",
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        num_vectors = min(num_tokens, 1) if not distinct else num_tokens
        # It has its own generator, so that models with and without [PRED] get the same numbers from the global one.
        generator = torch.Generator().manual_seed(seed % 2**63)
        start = torch.randn(num_vectors, like.shape[1], generator=generator)
        size = like.detach().float().square().mean().sqrt() if like.numel() else torch.tensor(0.02)
        self.embedding = nn.Parameter((start.to(like.device) * (size * scale)).to(like.dtype))
        self.head = None if head == "none" else PredictorHead(like, hidden=head == "mlp", seed=seed)

    def forward(self) -> Tensor:
        """Return the embeddings in order, (k, C)."""
        return self.embedding.expand(self.num_tokens, -1) if len(self.embedding) == 1 else self.embedding

    @contextmanager
    def without_head(self) -> Iterator[None]:
        """Within the context, predictions are the states themselves."""
        head, self.head = self.head, None
        try:
            yield
        finally:
            self.head = head

    def predict(self, states: Tensor) -> Tensor:
        """Return the predictions for the states at the last [PRED], (P, C); without a head, the states themselves."""
        return states if self.head is None else self.head(states)


class PredictorHead(nn.Module):
    """x + W x + b, or x + W gelu(W1 x + b1) + b with a hidden layer of C features.

    W and b start at zero, so every head starts as the identity. The objective at step 0 is that without a head, and
    weight decay pulls towards that. W1 starts like a linear layer of PyTorch, but from its own generator.

    Args:
        like: The model's embedding table, (V, C). The head has its device, its type and its C.
        hidden: Whether there is a hidden layer.
        seed: Seed of the first values.
    """

    def __init__(self, like: Tensor, hidden: bool, seed: int = 0) -> None:
        super().__init__()
        size = like.shape[1]
        generator = torch.Generator().manual_seed((seed + 1) % 2**63)  # other numbers than those of [PRED]

        def uniform(*shape: int) -> nn.Parameter:
            start = (2 * torch.rand(*shape, generator=generator) - 1) / size**0.5
            return nn.Parameter(start.to(like.device, like.dtype))

        self.hidden_weight = uniform(size, size) if hidden else None
        self.hidden_bias = uniform(size) if hidden else None
        self.weight = nn.Parameter(like.new_zeros(size, size))
        self.bias = nn.Parameter(like.new_zeros(size))

    def forward(self, states: Tensor) -> Tensor:
        """Return the predictions, (P, C)."""
        inner = states = states.to(self.weight.dtype)
        if self.hidden_weight is not None:
            inner = F.gelu(F.linear(states, self.hidden_weight, self.hidden_bias))
        return states + F.linear(inner, self.weight, self.bias)
