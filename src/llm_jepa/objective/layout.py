"""From pairs of views to the rows that one fused forward reads.

The second step of a batch (docs/method.md): `data/` makes the pairs, `documents.py` says which documents a pair
has, this module puts them into rows, and `llm_jepa.py` runs the model on them.

Every token has a document, a role and a position. One predicate, `may_attend` in `masks.py`, says which token attends
to which. So several pairs can share a row (packing) without seeing each other.
Letters: B rows, P pairs with a JEPA term, T tokens in a row, k [PRED] tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from llm_jepa.errors import ConfigError

from .config import JEPAConfig
from .distances import IN_BATCH
from .documents import IGNORED, PRED_OFFSET, SOURCES, Document, Role, Where, documents_of
from .pair import Pair, pair_keys
from .tube import MIN_TOKENS, Tubes, key_of

PADDING = 0  # the document of padding; real documents count from 1

# Two pairs that together have every document that a pair may have; their tokens do not matter.
_PLAIN, _RENDERED = Pair([0], [0, 0]), Pair([0], [0, 0], text_view_ids=[0])


@dataclass
class TensorGroup:
    """Tensors, and groups of tensors, that move between devices together."""

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
        position_ids: Positions, from 0 in each document. [PRED] j is at (length of its view) + j, or at j if it leads.
        documents: Number of the document, from 1; 0 on padding.
        roles: A `Role` each.
        is_plain: Whether each row is one ordinary causal sequence, which needs no special mask.
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
    """Where the two sides of the JEPA term are read, for one direction, in the P pairs that have the term.

    Attributes:
        pred_at: Index of each pair's prediction among the flattened states (B * T) of the main rows, (P,); or of
            `FusedBatch.probe_rows`, if the batch has such rows.
        target_at: Index of each pair's target among the flattened states of its rows, (P,).
        target_in_rows: Whether the target is read in the main rows; otherwise, in `FusedBatch.target_rows`.
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
        labels: The token's own id if it is under cross-entropy, else IGNORED, (B, T). The state one position earlier
            predicts it, as in transformers.
        target_rows: What a second forward without gradient reads, or None.
        text_to_code: Where the two sides of that direction are read, or None.
        code_to_text: Where the two sides of that direction are read, or None.
        num_pairs: Pairs that have a JEPA term, P.
        num_labels: Number of tokens under cross-entropy.
        is_own: True on the tokens of the pairs' own sequences: text, bridge, code and end token, (B, T).
        sources: Where each pair came from, for messages.
        keys: Numbers of the code view, the text view and the group of each pair that has a JEPA term, (P, 3). 0: no
            group. Two pairs that share a number are no negatives of each other. None if the distance has no negatives.
        probe_rows: With `jepa_detach_backbone`, what a forward reads that trains no weight of the model; else None.
        tubes: With `jepa_term` stp or stp_released, where the pairs' own tokens are; else None.
    """

    rows: Rows
    labels: Tensor
    target_rows: Rows | None
    text_to_code: Views | None
    code_to_text: Views | None
    num_pairs: int
    num_labels: int
    is_own: Tensor
    sources: list[str] = field(default_factory=list)
    keys: Tensor | None = None
    probe_rows: Rows | None = None
    tubes: Tubes | None = None

    @property
    def views(self) -> list[Views]:
        """The directions of the batch; empty if it was laid out without views."""
        return [views for views in (self.text_to_code, self.code_to_text) if views is not None]

    def without_views(self) -> FusedBatch:
        """Return the same pairs as plain rows, without views: a step without a JEPA term needs and costs no more."""
        if not self.views:
            return self
        width = int(self.is_own.sum(1).max())
        # A stable sort moves the kept tokens of each row to the left, in order.
        kept = self.is_own.int().argsort(dim=1, descending=True, stable=True)[:, :width]  # (B, width)
        own = self.is_own.gather(1, kept)
        rows = self.rows.map(lambda tensor: tensor.gather(1, kept))
        rows.documents = rows.documents.where(own, PADDING)
        rows.roles = rows.roles.where(own, int(Role.TEXT))
        rows.is_plain = not self.is_packed
        return replace(
            self,
            rows=rows,
            labels=self.labels.gather(1, kept).where(own, IGNORED),
            is_own=own,
            target_rows=None,
            text_to_code=None,
            code_to_text=None,
            probe_rows=None,
        )

    @property
    def is_packed(self) -> bool:
        """Whether a row holds more than one pair."""
        return bool((self.rows.position_ids.eq(0) & self.is_own).sum(1).max() > 1)

    def emptied(self) -> FusedBatch:
        """Return the same rows without any label or pair.

        A process that has no row in a step runs this, because the other processes need its forward. Its loss is 0.
        """

        def without_pairs(views: Views | None) -> Views | None:
            return None if views is None else replace(views, pred_at=views.pred_at[:0], target_at=views.target_at[:0])

        return replace(
            self,
            labels=torch.full_like(self.labels, IGNORED),
            text_to_code=without_pairs(self.text_to_code),
            code_to_text=without_pairs(self.code_to_text),
            num_pairs=0,
            num_labels=0,
            sources=[],
            keys=None if self.keys is None else self.keys[:0],
            tubes=None if self.tubes is None else Tubes([], [], []),
        )

    def __len__(self) -> int:
        return self.num_pairs


class _Row:
    """A row under construction: lists of the same length."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.documents: list[int] = []
        self.roles: list[int] = []
        self.labels: list[int] = []
        self.is_own: list[bool] = []

    def add(self, document: Document, number: int, pad_token_id: int) -> int:
        """Append a document; return the index in the row of its first token."""
        first, k = len(self.ids), len(document.pred)
        preds = [pad_token_id] * k, [document.pred_role] * k, document.pred, [IGNORED] * k, False
        tokens = document.tokens, document.role, document.positions, document.labels, document.where is Where.OWN
        for ids, roles, positions, labels, own in (preds, tokens) if document.pred_leads else (tokens, preds):
            self.ids += ids
            self.roles += roles
            self.positions += positions
            self.labels += labels
            self.is_own += [own] * len(ids)
        self.documents += [number] * len(document)
        return first


class _Builder:
    """Rows under construction, and the places where embeddings are read in them."""

    def __init__(self, num_rows: int, pad_token_id: int) -> None:
        self.rows = [_Row() for _ in range(num_rows)]
        self.pad_token_id = pad_token_id
        self.reads: list[tuple[str, int, int]] = []  # what is read in which row, at which column

    def add(self, document: Document, row: int, number: int) -> None:
        """Append a document to a row, under a number that no other document of the row has."""
        first = self.rows[row].add(document, number, self.pad_token_id)
        self.reads += [(name, row, first + at) for name, at in document.read_as.items()]

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.ids) for row in self.rows)

    def indices_of(self, name: str) -> Tensor:
        """Return where an embedding is read among the flattened states, in the order of the documents, (P,)."""
        width = self.width
        return torch.tensor([row * width + at for each, row, at in self.reads if each == name], dtype=torch.long)

    def finished(self, is_plain: bool = False) -> Rows:
        """Return the rows as tensors."""
        return Rows(
            input_ids=_padded([row.ids for row in self.rows], self.pad_token_id),
            position_ids=_padded([row.positions for row in self.rows], 0),
            documents=_padded([row.documents for row in self.rows], PADDING),
            roles=_padded([row.roles for row in self.rows], Role.TEXT),
            is_plain=is_plain,
        )


@dataclass
class FusedCollator:
    """Lay the documents of pairs out in rows.

    Args:
        config: The objective. With `jepa_lambda` 0 rows are plain and hold no view.
        pad_token_id: Id at padding and at the places of [PRED]. It may equal the end token's, because padding is known
            from length and role, never from the id.
        monitor: Lay out the views even with `jepa_lambda` 0, to measure embeddings without training them.
        packing: Put several pairs into a row if they fit; the mask keeps them apart. The loss is the same up to
            rounding, not bit for bit.
        pack_length: Length of a packed row in tokens. Default: the length of the longest pair of the batch. A
            longer pair makes the rows of its batch longer.
        same_forwards: Give every batch, even one without a pair, each forward that a batch of this objective may have.
            Processes that divide the weights among them (FSDP) must call each layer equally often.

    >>> batch = FusedCollator(JEPAConfig(loss_on="code"), pad_token_id=0)([Pair([5, 6], [8, 1], [2])])
    >>> batch.labels.tolist()
    [[-100, -100, -100, 8, 1, -100]]
    >>> batch.text_to_code.pred_at.tolist(), batch.target_rows.input_ids.tolist()
    ([5], [[8]])
    """

    config: JEPAConfig
    pad_token_id: int
    monitor: bool = False
    packing: bool = False
    pack_length: int | None = None
    same_forwards: bool = False

    def __call__(self, pairs: Sequence[Pair]) -> FusedBatch:
        """Lay out `pairs`; the embeddings have the order of the pairs, also with packing.

        Raises:
            ConfigError: If there is no pair, or one has an empty view.
        """
        if not pairs:
            raise ConfigError("no_rows", "A batch needs at least one pair.")
        for number, pair in enumerate(pairs):
            _check(pair, number)
        config = self.config.with_views() if self.monitor else self.config
        documents, targets_apart = self._documents(pairs, config)
        main, starts = self._main_rows(documents)
        probe = self._rows_of(documents, Where.PROBE, main.width)
        targets = self._rows_of(documents, Where.TARGET, main.width) if targets_apart else None
        if targets_apart and targets is None:  # a row that is not used (`same_forwards`)
            targets = _Builder(1, self.pad_token_id)
            targets.add(Document([self.pad_token_id], [Role.CODE], Where.TARGET), 0, 1)
        may_have_views = _has_views_in_row(documents_of(_PLAIN, config)) or any(map(_has_views_in_row, documents))
        labels = _padded([row.labels for row in main.rows], IGNORED)
        with_term = [pair for pair in pairs if pair.use_jepa]
        tubes = self._tubes(pairs, [row * main.width + at for row, at in starts]) if self.config.uses_tube else None

        def views(source: Role, target: str) -> Views | None:
            if not config.uses_views or source not in SOURCES[config.jepa_direction]:
                return None
            from_text = source is Role.TEXT
            pred_at = (probe or main).indices_of("text_pred" if from_text else "code_pred")
            return Views(pred_at, (targets or main).indices_of(target), targets is None, from_text)

        return FusedBatch(
            rows=main.finished(is_plain=not may_have_views and len(main.rows) == len(pairs)),
            labels=labels,
            target_rows=None if targets is None else targets.finished(),
            text_to_code=views(Role.TEXT, "code"),
            code_to_text=views(Role.CODE, "text"),
            num_pairs=len(with_term) if tubes is None else len(tubes.starts),
            num_labels=int((labels != IGNORED).sum()),
            is_own=_padded([row.is_own for row in main.rows], False),
            sources=[pair.source for pair in pairs if pair.source],
            keys=pair_keys(with_term) if self.config.jepa_distance in IN_BATCH else None,
            probe_rows=None if probe is None else probe.finished(),
            tubes=tubes,
        )

    def _documents(self, pairs: Sequence[Pair], config: JEPAConfig) -> tuple[list[list[Document]], bool]:
        """Return the documents of each pair, and whether targets have their own rows: those of all pairs, or none."""
        documents = [documents_of(pair, config) for pair in pairs]
        apart = [any(each.where is Where.TARGET for each in own) for own in documents]
        if self.same_forwards:
            targets_apart = any(each.where is Where.TARGET for each in documents_of(_RENDERED, config))
        else:
            targets_apart = any(apart)
        if targets_apart:
            documents = [
                own if is_apart else documents_of(pair, config, targets_apart=True)
                for pair, own, is_apart in zip(pairs, documents, apart, strict=True)
            ]
        return documents, targets_apart

    def _main_rows(self, documents: list[list[Document]]) -> tuple[_Builder, list[tuple[int, int]]]:
        """Return the main rows, and the row and the column of each pair's first token."""
        in_rows = [[each for each in own if each.where in (Where.OWN, Where.BESIDE)] for own in documents]
        lengths = [sum(map(len, own)) for own in in_rows]
        row_of = pack(lengths, self.pack_length or max(lengths)) if self.packing else list(range(len(lengths)))
        builder = _Builder(max(row_of) + 1, self.pad_token_id)
        numbers = [0] * len(builder.rows)
        starts = []
        for row, own in zip(row_of, in_rows, strict=True):
            starts.append((row, len(builder.rows[row].ids)))
            for document in own:
                numbers[row] += 1
                builder.add(document, row, numbers[row])
        return builder, starts

    def _rows_of(self, documents: list[list[Document]], where: Where, capacity: int) -> _Builder | None:
        """Return the documents of one kind in rows of up to `capacity` tokens, several in a row; None if there is none.

        Batches are grouped by the length of whole rows, so with one row per document, a third would be padding.
        """
        chosen = [each for own in documents for each in own if each.where is where]
        if not chosen:
            return None
        if where is Where.TARGET:
            chosen.sort(key=lambda document: document.role[0], reverse=True)  # codes first
        row_of = pack([len(document) for document in chosen], capacity)
        builder = _Builder(max(row_of) + 1, self.pad_token_id)
        for number, (document, row) in enumerate(zip(chosen, row_of, strict=True), start=1):
            builder.add(document, row, number)
        return builder

    def _tubes(self, pairs: Sequence[Pair], starts: Sequence[int]) -> Tubes:
        """Return where the tokens of each pair are; pairs with too few tokens are left out."""
        tubes = Tubes([], [], [])
        for pair, start in zip(pairs, starts, strict=True):
            ids = [*pair.text_ids, *pair.bridge_ids, *pair.code_ids[:-1]]
            if pair.use_jepa and len(ids) >= MIN_TOKENS:
                tubes.starts.append(start)
                tubes.lengths.append(len(ids))
                tubes.keys.append(key_of(ids))
        return tubes


def _has_views_in_row(documents: list[Document]) -> bool:
    """Whether a pair has more in the main rows than its own plain sequence."""
    own, *others = documents
    return len(own.pred) > 0 or any(each.where is Where.BESIDE for each in others)


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


def _padded(lists: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return the lists as one tensor, (rows, longest), filled up with `value`."""
    width = max(map(len, lists))
    return torch.tensor([[*values, *[value] * (width - len(values))] for values in lists])


def _check(pair: Pair, number: int) -> None:
    if not pair.text_ids:
        raise ConfigError(
            "view_empty", f"Pair {number} of the batch has an empty text view; it needs at least one token."
        )
    if len(pair.code_ids) < 2:
        raise ConfigError(
            "view_empty",
            f"Pair {number} of the batch has code_ids={pair.code_ids}. The code view needs at least one token, and "
            "after it the end token.",
        )
    for name in ("text_view_ids", "code_view_ids"):
        if pair.use_jepa and getattr(pair, name) == []:
            text = f"Pair {number} of the batch has an empty {name}. Set it to None, or set use_jepa=False."
            raise ConfigError("view_empty", text)
