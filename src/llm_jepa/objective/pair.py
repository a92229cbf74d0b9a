"""One example as token ids, and which examples are alike.

Letters: B pairs of a batch, P pairs, N pairs of all processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass
class Pair:
    """One example as token ids: the text view, the bridge between the views, the code view.

    Attributes:
        text_ids: Tokens of the text view; at least one.
        code_ids: Tokens of the code view; at least one, then the end token, which is always the last.
        bridge_ids: Tokens between the views (separator, chat header); part of neither view; may be empty.
        source: Where the pair came from ("train.jsonl:17"), for messages.
        other_code_ids: Code view of the JEPA term if it is not the row's own: the shuffled control. Like
            `code_ids` it ends with an end token, which is not part of the view.
        text_view_ids: Tokens of the text view if it is not `text_ids`. They are a document of their own, followed by
            [PRED].
        code_view_ids: Tokens that Enc(Code) encodes if they are not `code_ids` without the end token.
        use_jepa: Whether the pair has a JEPA term. If false, it is under cross-entropy only, and not counted in means
            of the JEPA term.
        use_ce: Whether the pair is under cross-entropy. If false, none of its tokens has a label, and only its views
            are used.
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
        """Tokens that Enc(Text) encodes; [PRED] is after them."""
        return self.text_ids if self.text_view_ids is None else self.text_view_ids

    @property
    def code_view(self) -> list[int]:
        """Tokens that Enc(Code) encodes: the code without its end token, or the view that is given instead."""
        if self.other_code_ids is not None:
            return self.other_code_ids[:-1]
        return self.code_ids[:-1] if self.code_view_ids is None else self.code_view_ids

    def of_views(self) -> Pair:
        """Return a pair with the same views and no label, whose own sequence ends after the first token of its code."""
        return replace(
            self,
            text_ids=self.text_view,
            bridge_ids=[],
            code_ids=[self.code_ids[0], self.code_ids[-1]],
            text_view_ids=None,
            code_view_ids=self.code_view,
            other_code_ids=None,
            use_ce=False,
        )

    def __len__(self) -> int:
        """Tokens of the pair in a row, without [PRED]."""
        return len(self.text_ids) + len(self.bridge_ids) + len(self.code_ids)


def pair_keys(pairs: Sequence[Pair]) -> Tensor:
    """Return numbers for each pair's code view, text view and group, (P, 3), the same in every batch and process.

    Equal views and groups have equal numbers; a pair without a group has 0 there.
    """
    rows = [
        (_number_of(pair.code_view), _number_of(pair.text_view), 0 if pair.group is None else _hash(pair.group))
        for pair in pairs
    ]
    return torch.tensor(rows, dtype=torch.long).reshape(-1, 3)


def share_alike(pairs: Sequence[Pair]) -> float:
    """Return the share, in [0, 1], of combinations of two pairs that are no negatives of each other; 0 without any."""
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
