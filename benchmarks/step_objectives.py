"""The ways to compute a training loss that `step_cost.py` times against each other.

    Plain               next-token cross-entropy as transformers computes it
    Fused               this library: one forward for the row and its [PRED], one short one for the target
    Separate            separate passes, batched: three padded forwards (row, text + [PRED], code)
    PublishedThreePass  the shape of the published recipe: row, text and code in one batch of 3 B padded rows
    PublishedAdditive   its shape with an additive mask: row, and text beside code, in 2 B padded rows

The published shapes are written from a description of the recipe. They have what causes its cost: every row
padded to PUBLISHED_WIDTH, gradients through all views, logits for every token of every row. They do not have
what would change the loss: here the end token is trained, and positions start from 0 in each view. So each
class computes a loss of this library, which tests/benchmarks checks.

Letters: B pairs, T tokens in a row, C hidden size, k [PRED] tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llm_jepa.objective import LLMJEPA, FusedCollator, Pair
from llm_jepa.objective.documents import IGNORED
from llm_jepa.objective.layout import TensorGroup

PUBLISHED_WIDTH = 512  # tokens that the published code pads every row to


class Objective(Protocol):
    """What a step of training needs: what is trained, the layout of a batch, its loss."""

    @property
    def module(self) -> nn.Module:
        """Holds all parameters, and the slow copy of the target if there is one."""

    def collate(self, pairs: Sequence[Pair]) -> Any:
        """Lay out a batch on the CPU; it moves with `.to(device)`."""

    def loss(self, batch: Any) -> Tensor:
        """Return the loss of a batch, a scalar with gradient."""

    def after_step(self) -> None:
        """Do what must be done after the optimizer step."""


@dataclass
class Padded(TensorGroup):
    """Rows padded on the right.

    Attributes:
        input_ids: Token ids, (B, T).
        attention_mask: 1 on tokens, 0 on padding, (B, T).
        last_at: Index of each row's last token among the flattened B * T.
    """

    input_ids: Tensor
    attention_mask: Tensor
    last_at: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], pad_id: int, width: int | None = None) -> Padded:
        """Pad `rows` to the longest, or to `width`."""
        width = width or max(map(len, rows))
        if too_long := [len(row) for row in rows if len(row) > width]:
            raise ValueError(f"A row has {max(too_long)} tokens; this layout has room for {width}.")
        ends = [number * width + len(row) - 1 for number, row in enumerate(rows)]
        return cls(
            input_ids=torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows]),
            attention_mask=torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
            last_at=torch.tensor(ends),
        )

    @property
    def labels(self) -> Tensor:
        """The tokens' own ids, IGNORED on padding, (B, T)."""
        return self.input_ids.masked_fill(self.attention_mask == 0, IGNORED)


class Plain:
    """Next-token cross-entropy: the model's own forward with labels, without this library."""

    @dataclass
    class Batch(TensorGroup):
        rows: Padded
        labels: Tensor

    def __init__(self, model: nn.Module, pad_id: int) -> None:
        self.module = model
        self.pad_id = pad_id

    def collate(self, pairs: Sequence[Pair]) -> Batch:
        rows = Padded.of([whole_row(pair) for pair in pairs], self.pad_id)
        return self.Batch(rows, rows.labels)

    def loss(self, batch: Batch) -> Tensor:
        return cross_entropy(self.module, batch.rows, batch.labels)

    def after_step(self) -> None:
        pass


class Fused:
    """This library's own pass, with any configuration; `ema` updates its slow copy after the step."""

    def __init__(self, jepa: LLMJEPA, pad_id: int) -> None:
        self.module = jepa
        self.collate = FusedCollator(jepa.config, pad_id)

    def loss(self, batch: Any) -> Tensor:
        return self.module(batch).loss

    def after_step(self) -> None:
        self.module.update_target()


class _ByHand:
    """What the three baselines share: the parameters of an `LLMJEPA`, and its loss from given terms."""

    def __init__(self, jepa: LLMJEPA, pad_id: int) -> None:
        self.module = jepa
        self.pad_id = pad_id
        self.num_preds = jepa.config.jepa_k

    def after_step(self) -> None:
        pass

    def text_row(self, pair: Pair) -> list[int]:
        """The text view and k slots that [PRED] is put into."""
        return pair.text_ids + [self.pad_id] * self.num_preds

    def embed(self, input_ids: Tensor, preds_end_at: Tensor) -> Tensor:
        """Return the embeddings of `input_ids`, [PRED] in the k slots that end at each of `preds_end_at`, (B, T, C)."""
        embeds = self.module.backbone.embeddings(input_ids)
        if self.num_preds:
            back = torch.arange(1 - self.num_preds, 1, device=input_ids.device)
            slots = (preds_end_at[:, None] + back).flatten()  # (B * k,)
            embeds.flatten(0, 1)[slots] = self.module.predictor().to(embeds.dtype).repeat(len(preds_end_at), 1)
        return embeds

    def total(self, ce_loss: Tensor, text_pred: Tensor, code_emb: Tensor) -> Tensor:
        """gamma * CE + lambda * mean distance over the pairs."""
        config = self.module.config
        return config.jepa_gamma * ce_loss + config.jepa_lambda * self.module.distance(text_pred, code_emb).mean()


class Separate(_ByHand):
    """Three forwards a step, each padded to its own longest row; the head runs only on the row.

    With target `stop_grad` the code's forward keeps no gradient; with `shared` all three do.
    """

    @dataclass
    class Batch(TensorGroup):
        rows: Padded
        labels: Tensor
        texts: Padded
        codes: Padded

    def collate(self, pairs: Sequence[Pair]) -> Batch:
        rows = Padded.of([whole_row(pair) for pair in pairs], self.pad_id)
        texts = Padded.of([self.text_row(pair) for pair in pairs], self.pad_id)
        return self.Batch(rows, rows.labels, texts, Padded.of([pair.code_view for pair in pairs], self.pad_id))

    def loss(self, batch: Batch) -> Tensor:
        ce_loss = cross_entropy(self.module.model, batch.rows, batch.labels)
        text_pred = self.encode(batch.texts, batch.texts.last_at)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.module.config.jepa_target == "shared"):
            code_emb = self.encode(batch.codes)
        return self.total(ce_loss, text_pred, code_emb)

    def encode(self, rows: Padded, preds_end_at: Tensor | None = None) -> Tensor:
        """Return the final state at the last token of each row, (B, C)."""
        if preds_end_at is None:
            tokens = {"input_ids": rows.input_ids}
        else:
            tokens = {"inputs_embeds": self.embed(rows.input_ids, preds_end_at)}
        output = self.module.backbone.layers(**tokens, attention_mask=rows.attention_mask, use_cache=False)
        return output.last_hidden_state.flatten(0, 1)[rows.last_at]


class _Published(_ByHand):
    """One forward of the whole model over several padded rows a pair; the first B rows carry the labels."""

    def __init__(self, jepa: LLMJEPA, pad_id: int, width: int = PUBLISHED_WIDTH) -> None:
        super().__init__(jepa, pad_id)
        self.width = width

    def labels_of_first(self, rows: Padded, num_pairs: int) -> Tensor:
        """Labels of the first `num_pairs` rows; the views below them have none, (rows, T)."""
        labels = rows.labels
        labels[num_pairs:] = IGNORED
        return labels

    def run(self, batch: Any, **inputs: Tensor) -> Tensor:
        """Return the loss, both views read at `batch.text_at` and `batch.code_at` of the flattened states."""
        embeds = self.embed(batch.rows.input_ids, batch.text_at)
        output = self.module.model(
            inputs_embeds=embeds, labels=batch.labels, output_hidden_states=True, use_cache=False, **inputs
        )
        states = output.hidden_states[-1].flatten(0, 1)
        return self.total(output.loss, states[batch.text_at], states[batch.code_at])


class PublishedThreePass(_Published):
    """Rows, then texts with [PRED], then codes: 3 B rows of the full width, as much work as three passes."""

    @dataclass
    class Batch(TensorGroup):
        rows: Padded
        labels: Tensor
        text_at: Tensor
        code_at: Tensor

    def collate(self, pairs: Sequence[Pair]) -> Batch:
        views = [whole_row(pair) for pair in pairs] + [self.text_row(pair) for pair in pairs]
        rows = Padded.of(views + [pair.code_view for pair in pairs], self.pad_id, self.width)
        B = len(pairs)
        return self.Batch(rows, self.labels_of_first(rows, B), rows.last_at[B : 2 * B], rows.last_at[2 * B :])

    def loss(self, batch: Batch) -> Tensor:
        return self.run(batch, attention_mask=batch.rows.attention_mask)


class PublishedAdditive(_Published):
    """Rows, then text with [PRED] next to code: 2 B rows of the full width, with a 4D additive mask.

    The mask is built in the step, as in the recipe. Padding sees earlier padding, because attention over nothing
    would be 0 / 0.
    """

    @dataclass
    class Batch(TensorGroup):
        rows: Padded
        labels: Tensor
        text_at: Tensor
        code_at: Tensor
        documents: Tensor  # 0 on padding; in the lower rows 1 on the text and its [PRED], 2 on the code, (2 B, T)
        position_ids: Tensor  # from 0 in each document, (2 B, T)

    def collate(self, pairs: Sequence[Pair]) -> Batch:
        parts = [[whole_row(pair)] for pair in pairs] + [[self.text_row(pair), pair.code_view] for pair in pairs]
        rows = Padded.of([list(chain(*row)) for row in parts], self.pad_id, self.width)
        documents, positions = torch.zeros(2, *rows.input_ids.shape, dtype=torch.long)
        for number, row in enumerate(parts):
            lengths = torch.tensor([len(part) for part in row])
            documents[number, : lengths.sum()] = torch.arange(1, len(row) + 1).repeat_interleave(lengths)
            positions[number, : lengths.sum()] = torch.cat([torch.arange(len(part)) for part in row])
        code_at = rows.last_at[len(pairs) :]
        text_at = code_at - torch.tensor([len(pair.code_view) for pair in pairs])
        return self.Batch(rows, self.labels_of_first(rows, len(pairs)), text_at, code_at, documents, positions)

    def loss(self, batch: Batch) -> Tensor:
        return self.run(batch, attention_mask=self.mask(batch.documents), position_ids=batch.position_ids)

    def mask(self, documents: Tensor) -> Tensor:
        """0 on earlier tokens of the same document, the lowest number elsewhere, (2 B, 1, T, T)."""
        device = documents.device
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else self.module.predictor.embedding.dtype
        allowed = (documents[:, :, None] == documents[:, None, :]).tril()
        zero = torch.zeros((), dtype=dtype, device=device)
        return torch.where(allowed, zero, torch.finfo(dtype).min)[:, None]


def whole_row(pair: Pair) -> list[int]:
    """Text, bridge, code and end token."""
    return [*pair.text_ids, *pair.bridge_ids, *pair.code_ids]


def cross_entropy(model: nn.Module, rows: Padded, labels: Tensor) -> Tensor:
    """Return transformers' own loss: the mean over all labelled tokens but the first of each row, nats."""
    return model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, labels=labels, use_cache=False).loss
