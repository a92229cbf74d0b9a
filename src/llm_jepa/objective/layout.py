"""From pairs of views to the rows that one fused forward reads.

Second station on a batch's way (docs/method.md): `data/` makes the pairs, this module lays them out, and
`llm_jepa.py` runs the model on them.

Letters: B pairs, T tokens in a row, k [PRED] tokens. A row of a pair is

    text | bridge | code <end> | [PRED] x k

and, where a view is not a part of that row as it stands, it follows as a document of its own, positions from 0:

    ... | text view | [PRED] x k     (a text that was rendered apart, by a chat template say; [PRED] moves here)
    ... | code view | [PRED] x k     (the code alone, without its end token, where its encoding gets gradients)
    ... | [PRED] x k | view          (`jepa_pred_position: prepend`; the view's other readers have it without [PRED])

Every token has a document, a role and a position, and one predicate, `may_attend` in `masks.py`, says who attends
to whom. So several pairs can share a row (packing) and stay apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from .config import JEPAConfig
from .distances import IN_BATCH
from .tube import MIN_TOKENS, Tubes, key_of

IGNORED = -100  # the label that cross-entropy skips, as everywhere in PyTorch
PADDING = 0  # the document of padding; real documents count from 1


class Role(IntEnum):
    """What a token is.

    A [PRED] after a view is named after that view, the only tokens it reads. One that leads a document is read by all
    that follows in it.
    """

    TEXT = 0
    CODE = 1
    BRIDGE = 2
    TEXT_PRED = 3
    CODE_PRED = 4
    LEADING_PRED = 5


# Roles from here on are [PRED]s; a [PRED]'s role minus this is the role of the view that it follows and reads.
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
        text_view_ids: Tokens of the text view where it is not `text_ids`: a document of its own, after which [PRED]
            stands.
        code_view_ids: Tokens that Enc(Code) encodes where they are not `code_ids` without the end token.
        use_jepa: Whether the pair has a JEPA term. Without, it trains cross-entropy alone and counts in no mean
            of the JEPA term.
        use_ce: Whether the pair is under cross-entropy. Without, none of its tokens is labelled: its row is there for
            its views alone.
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
    use_ce: bool = True

    @property
    def text_view(self) -> list[int]:
        """Tokens that Enc(Text) encodes, and that [PRED] follows."""
        return self.text_ids if self.text_view_ids is None else self.text_view_ids

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
        position_ids: Positions, from 0 in each document. [PRED] j stands at (length of its view) + j, or leads at j.
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
    """Where the two sides of the JEPA term are read, for one direction; of the pairs that have one, P of them.

    Attributes:
        pred_at: Index of each pair's prediction among the flattened states (B * T) of the main rows, (P,); of
            `FusedBatch.probe_rows` where the batch has such rows.
        target_at: Index of each pair's target among the flattened states of its rows, (P,).
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
        num_pairs: Pairs that have a JEPA term, P.
        num_labels: Number of tokens under cross-entropy.
        is_own: True on the tokens of the pairs' own sequences: text, bridge, code and end token, (B, T).
        sources: Where each pair came from, for messages.
        keys: Numbers of the code view, the text view and the group of each pair that has a JEPA term, (P, 3), where the
            distance is among a batch's pairs: two pairs that share one are no negatives of each other. 0: no group.
        probe_rows: What a forward that trains no weight of the model reads, with `jepa_detach_backbone`, or None.
        tubes: Where the pairs' own tokens stand, with `jepa_term` stp or stp_released, or None.
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
        """The directions of the batch; empty where it was laid out without views."""
        return [views for views in (self.text_to_code, self.code_to_text) if views is not None]

    def without_views(self) -> FusedBatch:
        """Return the same pairs as plain rows: what a step without a JEPA term reads, and all that it pays for."""
        if not self.views:
            return self
        width = int(self.is_own.sum(1).max())
        # A stable sort brings the kept tokens of each row to its left, in order.
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
        """Return the same rows with nothing that counts in them: no label, no pair.

        A process that has no row in a step runs this: its forward meets those of the other processes, its loss is 0.
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
    """A row under construction: lists of one length."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.documents: list[int] = []
        self.roles: list[int] = []
        self.labels: list[int] = []
        self.is_own: list[bool] = []

    def add(self, ids: Sequence[int], role: Role, document: int, start: int, own: bool = False) -> int:
        """Append tokens at positions from `start`; return the index in the row of the last one."""
        self.ids += ids
        self.positions += range(start, start + len(ids))
        self.documents += [document] * len(ids)
        self.roles += [role] * len(ids)
        self.labels += [IGNORED] * len(ids)
        self.is_own += [own] * len(ids)
        return len(self.ids) - 1

    def label(self, first: int, but: int | None = None) -> None:
        """Put the tokens from index `first` on under cross-entropy, but for those of the id `but`."""
        self.labels[first:] = [IGNORED if each == but else each for each in self.ids[first:]]

    def extend(self, other: _Row) -> int:
        """Append the tokens of another row, its documents counted on from here; return the index of its first."""
        first, last_document = len(self.ids), max(self.documents, default=PADDING)
        self.ids += other.ids
        self.positions += other.positions
        self.documents += [last_document + document for document in other.documents]
        self.roles += other.roles
        self.labels += other.labels
        self.is_own += other.is_own
        return first

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class FusedCollator:
    """Lay pairs out in rows: the only place that knows where a view, a label or a [PRED] stands.

    Args:
        config: The objective. With `jepa_lambda` 0 rows are plain and hold no view.
        pad_token_id: Id that fills padding and the slots of [PRED]; it may equal the end token's, for the
            layout is told by length and role, never by id.
        monitor: Lay out the views even with `jepa_lambda` 0, to look at embeddings without training them.
        packing: Put several pairs into a row, where they fit; the document rule keeps them apart. The loss is the
            same to rounding, not to the bit.
        pack_length: Tokens that a packed row has room for. Default: those of the longest pair of the batch. A
            longer pair makes the rows of its batch longer.
        same_forwards: Give every batch the forwards that any batch of this objective may have, one without a pair
            too: processes that share weights out (FSDP) must call each layer equally often.

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
        """Lay out `pairs`; embeddings come in their order, however they share rows.

        Raises:
            ValueError: If there is no pair, or one has an empty view.
        """
        if not pairs:
            raise ValueError("A batch needs at least one pair.")
        for number, pair in enumerate(pairs):
            _check(pair, number)
        laid_out = [self._row(pair) for pair in pairs]
        row_of = self._row_of([len(row) for row, _ in laid_out])
        packed = [_Row() for _ in range(max(row_of) + 1)]
        starts = [packed[number].extend(row) for number, (row, _) in zip(row_of, laid_out, strict=True)]
        views_in_row = self._has_pred or self._code_in_row or any(self._text_apart(pair) for pair in pairs)
        rows = self._pad(packed, is_plain=not views_in_row and len(packed) == len(pairs))
        width = rows.input_ids.shape[1]
        # Where each embedding of each pair that has any stands among the flattened states.
        reads = [
            {name: number * width + start + at for name, at in read.items()}
            for number, start, (_, read) in zip(row_of, starts, laid_out, strict=True)
            if read
        ]
        with_term = [pair for pair in pairs if pair.use_jepa]
        tubes = self._tubes(pairs, [number * width + at for number, at in zip(row_of, starts, strict=True)])
        probe_rows = self._probe_rows(with_term, reads, capacity=width) if self._is_probe and with_term else None
        target_rows, text_to_code, code_to_text = self._views(with_term, reads, width)
        labels = _padded([row.labels for row in packed], IGNORED)
        return FusedBatch(
            rows=rows,
            labels=labels,
            target_rows=target_rows,
            text_to_code=text_to_code,
            code_to_text=code_to_text,
            num_pairs=len(with_term) if tubes is None else len(tubes.starts),
            num_labels=int((labels != IGNORED).sum()),
            is_own=_padded([row.is_own for row in packed], False),
            sources=[pair.source for pair in pairs if pair.source],
            keys=pair_keys(with_term) if self.config.jepa_distance in IN_BATCH else None,
            probe_rows=probe_rows,
            tubes=tubes,
        )

    def _tubes(self, pairs: Sequence[Pair], starts: Sequence[int]) -> Tubes | None:
        """Return where the tokens of each pair stand, of the pairs that have enough of them."""
        if not self.config.uses_tube:
            return None
        tubes = Tubes([], [], [])
        for pair, start in zip(pairs, starts, strict=True):
            ids = [*pair.text_ids, *pair.bridge_ids, *pair.code_ids[:-1]]
            if pair.use_jepa and len(ids) >= MIN_TOKENS:
                tubes.starts.append(start)
                tubes.lengths.append(len(ids))
                tubes.keys.append(key_of(ids))
        return tubes

    def _probe_rows(self, pairs: Sequence[Pair], reads: list[dict[str, int]], capacity: int) -> Rows:
        """Lay out each view that is predicted from, with its [PRED]s, as a document of its own, several to a row.

        Args:
            pairs: The pairs that have a JEPA term.
            reads: Gets where each prediction is read among the flattened states of these rows.
            capacity: Tokens that a row has room for.
        """
        preds = [self.pad_token_id] * self.config.jepa_k
        sources: list[tuple[int, str, list[int], Role]] = []
        for number, pair in enumerate(pairs):
            sources += [(number, "text_pred", pair.text_view, Role.TEXT)] if self._from_text else []
            sources += [(number, "code_pred", pair.code_view, Role.CODE)] if self._from_code else []
        row_of = pack([len(view) + len(preds) for _, _, view, _ in sources], capacity)
        packed = [_Row() for _ in range(max(row_of) + 1)]
        ends = []
        for document, (row, (_, _, view, role)) in enumerate(zip(row_of, sources, strict=True), start=1):
            if self.config.pred_leads:
                packed[row].add(preds, Role.LEADING_PRED, document, 0)
                ends.append(packed[row].add(view, role, document, len(preds)))
                continue
            end = packed[row].add(view, role, document, 0)
            after = Role(role + PRED_OFFSET)
            ends.append(packed[row].add(preds, after, document, len(view)) if preds else end)
        rows = self._pad(packed, is_plain=False)
        width = rows.input_ids.shape[1]
        for row, end, (number, name, _, _) in zip(row_of, ends, sources, strict=True):
            reads[number][name] = row * width + end
        return rows

    def _row_of(self, lengths: Sequence[int]) -> list[int]:
        """Return the row that each pair goes to: its own, or a shared one."""
        return pack(lengths, self.pack_length or max(lengths)) if self.packing else list(range(len(lengths)))

    @property
    def _from_text(self) -> bool:
        return (self.config.uses_views or self.monitor) and self.config.jepa_direction != "code_to_text"

    @property
    def _from_code(self) -> bool:
        return (self.config.uses_views or self.monitor) and self.config.jepa_direction != "text_to_code"

    @property
    def _is_probe(self) -> bool:
        return self.config.jepa_detach_backbone and (self._from_text or self._from_code)

    @property
    def _has_pred(self) -> bool:
        return self.config.jepa_k > 0 and (self._from_text or self._from_code) and not self._is_probe

    @property
    def _code_in_row(self) -> bool:
        """Whether the code stands in the row once more, alone: to predict from it, or to share its gradient."""
        is_source = self._from_code and not self.config.pred_leads and not self._is_probe
        return is_source or (self._from_text and self.config.jepa_target == "shared")

    def _text_apart(self, pair: Pair) -> bool:
        """Whether the pair's text view stands in the row as a document of its own: rendered apart, with gradient."""
        is_source = self._from_text and not self.config.pred_leads and not self._is_probe
        has_gradient = is_source or (self._from_code and self.config.jepa_target == "shared")
        return has_gradient and pair.use_jepa and pair.text_view_ids is not None

    def _targets_in_rows(self, pairs: Sequence[Pair]) -> bool:
        """Whether the main forward encodes all that is a target, so that targets need no forward of their own."""
        codes_in_rows = self._code_in_row or not self._from_text
        texts_in_rows = not self._from_code or all(
            pair.text_view_ids is None or self._text_apart(pair) for pair in pairs
        )
        return codes_in_rows and texts_in_rows and self.config.jepa_target != "ema" and not self._is_probe

    @property
    def _never_apart(self) -> bool:
        """Whether targets need no forward of their own, whatever pairs a batch may have."""
        likely, rendered = Pair([0], [0, 0]), Pair([0], [0, 0], text_view_ids=[0])
        return self._targets_in_rows([likely]) and self._targets_in_rows([rendered])

    def _row(self, pair: Pair) -> tuple[_Row, dict[str, int]]:
        """Lay out one pair; return the row, and where in it each embedding is read (none without a JEPA term)."""
        row = _Row()
        read: dict[str, int] = {}
        document, text = 1, pair.text_ids
        text_end = row.add(text, Role.TEXT, 1, 0, own=True)
        row.add(pair.bridge_ids, Role.BRIDGE, 1, len(row), own=True)
        row.add(pair.code_ids, Role.CODE, 1, len(row), own=True)
        if pair.use_ce:
            first = 1 if self.config.loss_on == "all" else len(row) - len(pair.code_ids)  # nothing predicts the first
            row.label(first, but=None if self.config.train_end_token else pair.code_ids[-1])
        if not pair.use_jepa or not (self._from_text or self._from_code):
            return row, read
        preds = [self.pad_token_id] * self.config.jepa_k
        follows = bool(preds) and not self.config.pred_leads and not self._is_probe
        if self._text_apart(pair):
            document, text = 2, pair.text_view
            text_end = row.add(text, Role.TEXT, document, 0)
        read["text"] = read["text_pred"] = text_end
        if self._from_text and follows:
            read["text_pred"] = row.add(preds, Role.TEXT_PRED, document, len(text))
        if self._code_in_row:
            code, document = pair.code_view, document + 1
            read["code"] = read["code_pred"] = row.add(code, Role.CODE, document, 0)
            if self._from_code and follows:
                read["code_pred"] = row.add(preds, Role.CODE_PRED, document, len(code))
        if self.config.pred_leads and not self._is_probe:
            sources = [("text_pred", pair.text_view, Role.TEXT)] if self._from_text else []
            sources += [("code_pred", pair.code_view, Role.CODE)] if self._from_code else []
            for number, (name, view, role) in enumerate(sources, start=document + 1):
                row.add(preds, Role.LEADING_PRED, number, 0)
                read[name] = row.add(view, role, number, len(preds))
        return row, read

    def _pad(self, rows: list[_Row], is_plain: bool) -> Rows:
        return Rows(
            input_ids=_padded([row.ids for row in rows], self.pad_token_id),
            position_ids=_padded([row.positions for row in rows], 0),
            documents=_padded([row.documents for row in rows], PADDING),
            roles=_padded([row.roles for row in rows], Role.TEXT),
            is_plain=is_plain,
        )

    def _views(
        self, pairs: Sequence[Pair], reads: list[dict[str, int]], width: int
    ) -> tuple[Rows | None, Views | None, Views | None]:
        """Return the rows of the targets' own forward, if there is one, and the read-outs of each direction.

        Args:
            pairs: The pairs that have a JEPA term.
            reads: Where their embeddings are among the flattened states of the main rows.
            width: Tokens of a main row.
        """

        def in_rows(name: str) -> Tensor:
            return torch.tensor([read[name] for read in reads], dtype=torch.long)

        inside = self._targets_in_rows(pairs) or not pairs
        if self.same_forwards:
            inside = self._never_apart
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
            views += [(pair.text_view, Role.TEXT) for pair in pairs]
        row_of = pack([len(ids) for ids, _ in views], capacity)
        packed = [_Row() for _ in range(max(row_of, default=0) + 1)]
        if not views:  # a row that nobody reads (`same_forwards`)
            packed[0].add([self.pad_token_id], Role.CODE, 1, 0)
        last = [
            packed[row].add(ids, role, document, 0)
            for document, (row, (ids, role)) in enumerate(zip(row_of, views, strict=True), start=1)
        ]
        rows = self._pad(packed, is_plain=False)
        width = rows.input_ids.shape[1]
        ends = torch.tensor([row * width + column for row, column in zip(row_of, last, strict=True)], dtype=torch.long)
        return rows, ends[: len(pairs)], ends[len(ends) - len(pairs) :]


def pair_keys(pairs: Sequence[Pair]) -> Tensor:
    """Return numbers of each pair's code view, text view and group, (P, 3), the same in every batch and process.

    Equal views and groups have equal numbers; a pair without a group has 0 there.
    """
    rows = [
        (_number_of(pair.code_view), _number_of(pair.text_view), 0 if pair.group is None else _hash(pair.group))
        for pair in pairs
    ]
    return torch.tensor(rows, dtype=torch.long).reshape(-1, 3)


def share_alike(pairs: Sequence[Pair]) -> float:
    """Return the share of pairs of pairs that are no negatives of each other, in [0, 1]; 0 with fewer than two."""
    if len(pairs) < 2:
        return 0.0
    keys = pair_keys(pairs)
    return float(are_alike(keys, keys).sum() - len(pairs)) / (len(pairs) * (len(pairs) - 1))


def are_alike(keys: Tensor, others: Tensor) -> Tensor:
    """Return which pairs share a code view, a text view or a group, (B, N), by their `pair_keys`, (B, 3) and (N, 3)."""
    equal = keys[:, None] == others[None]  # (B, N, 3)
    equal[:, :, 2] &= keys[:, None, 2] != 0
    return equal.any(2)


def _number_of(ids: Sequence[int]) -> int:
    return _hash(",".join(map(str, ids)))


def _hash(text: str) -> int:
    """Return a number for a text, the same in every batch and process, in [0, 2^63)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


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
        raise ValueError(f"Pair {number} of the batch has an empty text view; it needs at least one token.")
    if len(pair.code_ids) < 2:
        raise ValueError(
            f"Pair {number} of the batch has code_ids={pair.code_ids}: the code view needs at least one token "
            "and, after it, the end token."
        )
    for name in ("text_view_ids", "code_view_ids"):
        if pair.use_jepa and getattr(pair, name) == []:
            raise ValueError(f"Pair {number} of the batch has an empty {name}. Leave it out (None), or use_jepa=False.")
