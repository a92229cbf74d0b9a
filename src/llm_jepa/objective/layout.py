"""From pairs of views to the rows that one fused forward reads.

Second station on a batch's way (docs/method.md): `data/` makes the pairs, this module lays them out, and
`llm_jepa.py` runs the model on them.

Letters: B pairs, T tokens in a row, k [PRED] tokens. A row of a pair is

    text | bridge | code <end> | [PRED] x k

and, where the objective needs the code's own encoding inside the same forward, a second document follows:

    ... | code | [PRED] x k          (the code alone, without its end token, positions from 0)

Every token has a document, a role and a position, and one predicate, `may_attend`, says who attends to whom.
The masks below are renderings of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from .config import JEPAConfig

IGNORED = -100  # the label that cross-entropy skips, as everywhere in PyTorch
PADDING = 0  # the document of padding; real documents count from 1


class Role(IntEnum):
    """What a token is. A [PRED] is named after the view it follows, the only tokens it reads."""

    TEXT = 0
    CODE = 1
    BRIDGE = 2
    TEXT_PRED = 3
    CODE_PRED = 4


# A [PRED]'s role minus this is the role of the view that it reads.
PRED_OFFSET = Role.TEXT_PRED - Role.TEXT


@dataclass
class Pair:
    """One example as token ids: the text view, the bridge between the views, the code view.

    Attributes:
        text_ids: Tokens of the text view; at least one.
        code_ids: Tokens of the code view; at least one, then the end token, which is always the last.
        bridge_ids: Tokens between the views (separator, chat header); part of neither view; may be empty.
        source: Where the pair came from ("train.jsonl:17"), for messages.
        other_code_ids: Code view of the JEPA term where it is not the row's own: the shuffled control. Like
            `code_ids` it ends with an end token, which is no part of the view.
        text_view_ids: Tokens of the text view where it is not `text_ids`: a row of its own, after which [PRED]
            stands.
        code_view_ids: Tokens that Enc(Code) encodes where they are not `code_ids` without the end token.
        use_jepa: Whether the pair has a JEPA term; without, its row trains cross-entropy alone.
        group: Name of the rows that belong together ("chapter 3"), if the data has groups.
    """

    text_ids: list[int]
    code_ids: list[int]
    bridge_ids: list[int] = field(default_factory=list)
    source: str = ""
    other_code_ids: list[int] | None = None
    text_view_ids: list[int] | None = None
    code_view_ids: list[int] | None = None
    use_jepa: bool = True
    group: str | None = None

    @property
    def code_view(self) -> list[int]:
        """Tokens that Enc(Code) encodes: the code without its end token, or the view given in its place."""
        if self.other_code_ids is not None:
            return self.other_code_ids[:-1]
        return self.code_ids[:-1] if self.code_view_ids is None else self.code_view_ids

    def __len__(self) -> int:
        """Tokens of the pair in a row, [PRED] not counted."""
        return len(self.text_ids) + len(self.bridge_ids) + len(self.code_ids)


@dataclass
class TensorGroup:
    """Tensors (and groups of them) that move between devices together."""

    def map(self, change: Any) -> Any:
        """Return a copy with `change` applied to each tensor; other values stay."""
        changed: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Tensor):
                changed[entry.name] = change(value)
            elif isinstance(value, TensorGroup):
                changed[entry.name] = value.map(change)
        return replace(self, **changed)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Any:
        """Return a copy on `device`."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Any:
        """Return a copy in page-locked memory, for the data loader."""
        return self.map(Tensor.pin_memory)


@dataclass
class Rows(TensorGroup):
    """Tokens in rows, padded on the right: what one forward of the model reads. All tensors are (B, T).

    Attributes:
        input_ids: Token ids; the pad token's id at [PRED] and padding.
        position_ids: Positions, from 0 in each document. [PRED] j stands at (length of its view) + j.
        documents: Number of the document, from 1; 0 on padding.
        roles: A `Role` each.
        is_plain: Whether each row is one ordinary causal sequence, so that no mask of ours is needed.
    """

    input_ids: Tensor
    position_ids: Tensor
    documents: Tensor
    roles: Tensor
    is_plain: bool

    @property
    def real(self) -> Tensor:
        """True on tokens, False on padding, (B, T)."""
        return self.documents != PADDING

    @property
    def is_pred(self) -> Tensor:
        """True on [PRED] tokens, (B, T)."""
        return self.roles >= PRED_OFFSET


@dataclass
class Views(TensorGroup):
    """Where the two sides of the JEPA term are read, for one direction.

    Attributes:
        pred_at: Index of each pair's prediction among the flattened states (B * T) of the main rows, (B,).
        target_at: Index of each pair's target among the flattened states of its rows, (B,).
        target_in_rows: Whether the target is read in the main rows, not in `FusedBatch.target_rows`.
        from_text: Whether text predicts code; otherwise code predicts text.
    """

    pred_at: Tensor
    target_at: Tensor
    target_in_rows: bool
    from_text: bool


@dataclass
class FusedBatch(TensorGroup):
    """One batch of pairs, laid out for the fused forward.

    Attributes:
        rows: What the main forward reads.
        labels: The token's own id where it is under cross-entropy, IGNORED elsewhere, (B, T). The state one
            position earlier predicts it, as in transformers.
        target_rows: What a second forward without gradient reads, or None.
        text_to_code: Read-outs of that direction, or None.
        code_to_text: Read-outs of that direction, or None.
        num_pairs: B.
        num_labels: Number of tokens under cross-entropy.
        sources: Where each pair came from, for messages.
    """

    rows: Rows
    labels: Tensor
    target_rows: Rows | None
    text_to_code: Views | None
    code_to_text: Views | None
    num_pairs: int
    num_labels: int
    sources: list[str] = field(default_factory=list)

    @property
    def views(self) -> list[Views]:
        """The directions of the batch; empty where it was laid out without views."""
        return [views for views in (self.text_to_code, self.code_to_text) if views is not None]

    def without_views(self) -> FusedBatch:
        """Return the same pairs as plain rows: what a step without a JEPA term reads, and all that it pays for."""
        if not self.views:
            return self
        own = (self.rows.documents == 1) & ~self.rows.is_pred  # (B, T): text, bridge and code, at the row's start
        width = int(own.sum(1).max())
        rows = self.rows.map(lambda tensor: tensor[:, :width])
        rows.documents = rows.documents.where(own[:, :width], PADDING)
        rows.is_plain = True
        return replace(
            self, rows=rows, labels=self.labels[:, :width], target_rows=None, text_to_code=None, code_to_text=None
        )

    def __len__(self) -> int:
        return self.num_pairs


def may_attend(
    query_document: Tensor,
    key_document: Tensor,
    query_index: Tensor,
    key_index: Tensor,
    query_role: Tensor,
    key_role: Tensor,
) -> Tensor:
    """The one rule of attention, elementwise on any shapes that broadcast.

    Same document; not later in the row; a [PRED] reads only its own view and the [PRED]s before it; nothing
    else reads a [PRED].
    """
    query_is_pred, key_is_pred = query_role >= PRED_OFFSET, key_role >= PRED_OFFSET
    read_by_pred = (key_role == query_role) | (key_role == query_role - PRED_OFFSET)
    visible = (query_is_pred & read_by_pred) | (~query_is_pred & ~key_is_pred)
    return (query_document == key_document) & (key_index <= query_index) & visible


def boolean_mask(rows: Rows, window: int | None = None) -> Tensor:
    """Render `may_attend` for scaled-dot-product attention: True where the query (row) may see the key.

    Args:
        rows: The rows.
        window: For sliding-window layers: a query sees keys fewer than `window` positions back. Counted in
            positions, so that a [PRED] sees what a token right after its view would see.

    Returns:
        (B, 1, T, T), bool. Padding sees earlier padding, so no query is left without a key.

    >>> rows = FusedCollator(JEPAConfig(), pad_token_id=0)([Pair([5, 6], [8, 1], [2])]).rows
    >>> rows.input_ids.tolist(), rows.position_ids.tolist()
    ([[5, 6, 2, 8, 1, 0]], [[0, 1, 2, 3, 4, 2]])
    >>> boolean_mask(rows)[0, 0].int().tolist()  # the last row is [PRED]: it sees the text and itself
    [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], \
[1, 1, 0, 0, 0, 1]]
    """
    documents, roles, positions = rows.documents, rows.roles, rows.position_ids
    index = torch.arange(roles.shape[1], device=roles.device)
    allowed = may_attend(
        documents[:, :, None],
        documents[:, None, :],
        index[:, None],
        index,
        roles[:, :, None],
        roles[:, None, :],
    )  # (B, T, T)
    if window is not None:
        allowed &= positions[:, :, None] - positions[:, None, :] < window
    return allowed[:, None]


def additive_mask(rows: Rows, dtype: torch.dtype, window: int | None = None) -> Tensor:
    """Render `may_attend` for eager attention: 0 where allowed, the lowest number of `dtype` elsewhere."""
    mask = torch.zeros((), dtype=dtype, device=rows.roles.device)
    return torch.where(boolean_mask(rows, window), mask, torch.finfo(dtype).min)


class _Row:
    """A row under construction: four lists of one length."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.documents: list[int] = []
        self.roles: list[int] = []

    def add(self, ids: Sequence[int], role: Role, document: int, start: int) -> int:
        """Append tokens at positions from `start`; return the index in the row of the last one."""
        self.ids += ids
        self.positions += range(start, start + len(ids))
        self.documents += [document] * len(ids)
        self.roles += [role] * len(ids)
        return len(self.ids) - 1


@dataclass
class FusedCollator:
    """Lay pairs out in rows: the only place that knows where a view, a label or a [PRED] stands.

    Args:
        config: The objective. With `jepa_lambda` 0 rows are plain and hold no view.
        pad_token_id: Id that fills padding and the slots of [PRED]; it may equal the end token's, for the
            layout is told by length and role, never by id.
        monitor: Lay out the views even with `jepa_lambda` 0, to look at embeddings without training them.

    >>> batch = FusedCollator(JEPAConfig(loss_on="code"), pad_token_id=0)([Pair([5, 6], [8, 1], [2])])
    >>> batch.labels.tolist()
    [[-100, -100, -100, 8, 1, -100]]
    >>> batch.text_to_code.pred_at.tolist(), batch.target_rows.input_ids.tolist()
    ([5], [[8]])
    """

    config: JEPAConfig
    pad_token_id: int
    monitor: bool = False

    def __call__(self, pairs: Sequence[Pair]) -> FusedBatch:
        """Lay out `pairs`, in order.

        Raises:
            ValueError: If there is no pair, or one has an empty view.
        """
        if not pairs:
            raise ValueError("A batch needs at least one pair.")
        for number, pair in enumerate(pairs):
            _check(pair, number)
        laid_out = [self._row(pair) for pair in pairs]
        rows = self._pad([row for row, _ in laid_out], is_plain=not self._has_pred and not self._code_in_row)
        labels = self._labels(pairs, rows.input_ids.shape[1])
        target_rows, text_to_code, code_to_text = self._views(pairs, [read for _, read in laid_out], rows)
        return FusedBatch(
            rows=rows,
            labels=labels,
            target_rows=target_rows,
            text_to_code=text_to_code,
            code_to_text=code_to_text,
            num_pairs=len(pairs),
            num_labels=int((labels != IGNORED).sum()),
            sources=[pair.source for pair in pairs if pair.source],
        )

    @property
    def _from_text(self) -> bool:
        return (self.config.uses_views or self.monitor) and self.config.jepa_direction != "code_to_text"

    @property
    def _from_code(self) -> bool:
        return (self.config.uses_views or self.monitor) and self.config.jepa_direction != "text_to_code"

    @property
    def _has_pred(self) -> bool:
        return self.config.jepa_k > 0 and (self._from_text or self._from_code)

    @property
    def _code_in_row(self) -> bool:
        """Whether the code stands in the row once more, alone: to predict from it, or to share its gradient."""
        return self._from_code or (self._from_text and self.config.jepa_target == "shared")

    @property
    def _targets_in_rows(self) -> bool:
        """Whether both views' encodings are in the main forward already, so that targets need none of their own."""
        return self._code_in_row and self.config.jepa_target != "ema"

    def _row(self, pair: Pair) -> tuple[_Row, dict[str, int]]:
        """Lay out one pair; return the row and where in it each embedding is read."""
        row, read = _Row(), {}
        preds = [self.pad_token_id] * self.config.jepa_k
        read["text"] = read["text_pred"] = row.add(pair.text_ids, Role.TEXT, 1, 0)
        row.add(pair.bridge_ids, Role.BRIDGE, 1, len(row.ids))
        row.add(pair.code_ids, Role.CODE, 1, len(row.ids))
        if self._from_text and preds:
            read["text_pred"] = row.add(preds, Role.TEXT_PRED, 1, len(pair.text_ids))
        if self._code_in_row:
            code = pair.code_view
            read["code"] = read["code_pred"] = row.add(code, Role.CODE, 2, 0)
            if self._from_code and preds:
                read["code_pred"] = row.add(preds, Role.CODE_PRED, 2, len(code))
        return row, read

    def _pad(self, rows: list[_Row], is_plain: bool) -> Rows:
        width = max(len(row.ids) for row in rows)

        def padded(lists: list[list[int]], value: int) -> Tensor:
            return torch.tensor([values + [value] * (width - len(values)) for values in lists])

        return Rows(
            input_ids=padded([row.ids for row in rows], self.pad_token_id),
            position_ids=padded([row.positions for row in rows], 0),
            documents=padded([row.documents for row in rows], PADDING),
            roles=padded([row.roles for row in rows], Role.TEXT),
            is_plain=is_plain,
        )

    def _labels(self, pairs: Sequence[Pair], width: int) -> Tensor:
        """Label the pair's own tokens: all but the first, which nothing predicts, or code and end token only."""
        labels = []
        for pair in pairs:
            ids = [*pair.text_ids, *pair.bridge_ids, *pair.code_ids]
            first = 1 if self.config.loss_on == "all" else len(ids) - len(pair.code_ids)
            labels.append([IGNORED] * first + ids[first:] + [IGNORED] * (width - len(ids)))
        return torch.tensor(labels)

    def _views(
        self, pairs: Sequence[Pair], reads: list[dict[str, int]], rows: Rows
    ) -> tuple[Rows | None, Views | None, Views | None]:
        """Return the rows of the targets' own forward, if there is one, and the read-outs of each direction."""
        width = rows.input_ids.shape[1]

        def in_rows(name: str) -> Tensor:
            return torch.tensor([number * width + read[name] for number, read in enumerate(reads)])

        inside = self._targets_in_rows
        target_rows, code_ends, text_ends = None, None, None
        if (self._from_text or self._from_code) and not inside:
            target_rows, code_ends, text_ends = self._target_rows(pairs, capacity=width)
        text_to_code = code_to_text = None
        if self._from_text:
            target_at = in_rows("code") if code_ends is None else code_ends
            text_to_code = Views(in_rows("text_pred"), target_at, inside, from_text=True)
        if self._from_code:
            target_at = in_rows("text") if text_ends is None else text_ends
            code_to_text = Views(in_rows("code_pred"), target_at, inside, from_text=False)
        return target_rows, text_to_code, code_to_text

    def _target_rows(self, pairs: Sequence[Pair], capacity: int) -> tuple[Rows, Tensor, Tensor]:
        """Lay each target view out as a document of its own, several to a row of up to `capacity` tokens.

        Batches are grouped by the length of whole rows, so a row for each code would be a third padding.

        Returns:
            The rows, and the flat index of the last token of each code, (B,), and of each text, (B,).
        """
        views: list[tuple[list[int], Role]] = []
        if self._from_text:
            views += [(pair.code_view, Role.CODE) for pair in pairs]
        if self._from_code:
            views += [(pair.text_ids, Role.TEXT) for pair in pairs]
        row_of = pack([len(ids) for ids, _ in views], capacity)
        packed = [_Row() for _ in range(max(row_of) + 1)]
        last = [
            packed[row].add(ids, role, document, 0)
            for document, (row, (ids, role)) in enumerate(zip(row_of, views, strict=True), start=1)
        ]
        rows = self._pad(packed, is_plain=False)
        width = rows.input_ids.shape[1]
        ends = torch.tensor([row * width + column for row, column in zip(row_of, last, strict=True)])
        return rows, ends[: len(pairs)], ends[-len(pairs) :]


def pack(lengths: Sequence[int], capacity: int) -> list[int]:
    """Put items into rows of `capacity`: the longest first, each into the first row with room for it.

    An item longer than `capacity` raises the capacity to its own length.

    Returns:
        The row of each item.

    >>> pack([3, 5, 2, 4], capacity=7)  # 5 and 2, 4 and 3
    [1, 0, 0, 1]
    """
    capacity = max([capacity, *lengths])
    used: list[int] = []
    row_of = [0] * len(lengths)
    for item in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        row = next((row for row, size in enumerate(used) if size + lengths[item] <= capacity), len(used))
        if row == len(used):
            used.append(0)
        used[row] += lengths[item]
        row_of[item] = row
    return row_of


def _check(pair: Pair, number: int) -> None:
    if not pair.text_ids:
        raise ValueError(f"Pair {number} of the batch has an empty text view; it needs at least one token.")
    if len(pair.code_ids) < 2:
        raise ValueError(
            f"Pair {number} of the batch has code_ids={pair.code_ids}: the code view needs at least one token "
            "and, after it, the end token."
        )
