"""Which token attends to which: one predicate, and a mask made from it for each kind of attention.

The rows come from `layout.py`; `backbone.py` chooses the kind of mask that the model takes.
Letters: B rows, T tokens in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .documents import PRED_OFFSET, Role
from .layout import Rows

MaskRule = Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]


def may_attend(
    query_document: Tensor,
    key_document: Tensor,
    query_index: Tensor,
    key_index: Tensor,
    query_role: Tensor,
    key_role: Tensor,
) -> Tensor:
    """Return where the query may attend to the key, elementwise on any shapes that broadcast.

    It may if both are in the same document and the key is not later in the row. A [PRED] after a view reads only that
    view and the [PRED]s before it, and only the [PRED]s after it read it. A [PRED] at the start of its document is like
    any other token.
    """
    query_is_apart, key_is_apart = _stands_apart(query_role), _stands_apart(key_role)
    read_by_pred = (key_role == query_role) | (key_role == query_role - PRED_OFFSET)
    visible = (query_is_apart & read_by_pred) | (~query_is_apart & ~key_is_apart)
    return (query_document == key_document) & (key_index <= query_index) & visible


def _stands_apart(role: Tensor) -> Tensor:
    """Whether a token is a [PRED] that the rest of its document must not see."""
    return (role >= PRED_OFFSET) & (role != Role.LEADING_PRED)


def mask_rule(rows: Rows, window: int | None = None) -> MaskRule:
    """Return `may_attend` on the tokens of `rows`, with a layer's window, in the form that FlexAttention asks for.

    The function gets indices of rows, heads, queries and keys as tensors that broadcast, and returns which queries may
    attend to which keys. All heads have the same mask.

    Args:
        rows: The rows.
        window: For sliding-window layers: a query sees keys that are fewer than `window` positions back. The distance
            is that of positions, so that a [PRED] sees the same as a token right after its view.
    """
    documents, roles, positions = rows.documents, rows.roles, rows.position_ids

    def rule(row: Tensor, head: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
        allowed = may_attend(documents[row, query], documents[row, key], query, key, roles[row, query], roles[row, key])
        if window is None:
            return allowed
        return allowed & (positions[row, query] - positions[row, key] < window)

    return rule


def boolean_mask(rows: Rows, window: int | None = None) -> Tensor:
    """Return the mask for scaled-dot-product attention: True where the query (row) may see the key.

    Returns:
        (B, 1, T, T), bool. Padding sees earlier padding, so no query is left without a key.

    >>> from llm_jepa.objective import FusedCollator, JEPAConfig, Pair
    >>> rows = FusedCollator(JEPAConfig(), pad_token_id=0)([Pair([5, 6], [8, 1], [2])]).rows
    >>> rows.input_ids.tolist(), rows.position_ids.tolist()
    ([[5, 6, 2, 8, 1, 0]], [[0, 1, 2, 3, 4, 2]])
    >>> boolean_mask(rows)[0, 0].int().tolist()  # the last row is [PRED]: it sees the text and itself
    [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], \
[1, 1, 0, 0, 0, 1]]
    """
    index = torch.arange(rows.roles.shape[1], device=rows.roles.device)
    row = torch.arange(len(rows.roles), device=rows.roles.device)
    return mask_rule(rows, window)(row[:, None, None], None, index[:, None], index)[:, None]


def additive_mask(rows: Rows, dtype: torch.dtype, window: int | None = None) -> Tensor:
    """Return the mask for eager attention: 0 where allowed, the lowest number of `dtype` elsewhere, (B, 1, T, T)."""
    mask = torch.zeros((), dtype=dtype, device=rows.roles.device)
    return torch.where(boolean_mask(rows, window), mask, torch.finfo(dtype).min)


def block_mask(rows: Rows, window: int | None = None) -> Any:
    """Return the mask for FlexAttention, which skips blocks of 128 by 128 in which nothing is allowed."""
    # Imported late, because it imports a compiler that no other attention needs.
    from torch.nn.attention.flex_attention import create_block_mask

    (B, T), device = rows.roles.shape, rows.roles.device
    return create_block_mask(mask_rule(rows, window), B, None, T, T, device=str(device))
