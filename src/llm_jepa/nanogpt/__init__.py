"""LLM-JEPA on nanoGPT: a replacement for its `model.py`, to be read like a lesson.

    from llm_jepa.nanogpt import GPT, GPTConfig      # instead of: from model import GPTConfig, GPT
    logits, loss = model(X, Y, jepa_lambda=1.0)      # instead of: logits, loss = model(X, Y)

The first line alone changes nothing: same names, same state-dict keys, and with the same seed the same losses. (But a
checkpoint has one more weight, [PRED], which nanoGPT's own class does not know. `llm-jepa export` removes it.) The
second line adds the term of LLM-JEPA (arXiv 2509.14252, Eq. 2), with a cosine distance and a target without gradient:

    loss = CE(next token) + jepa_lambda * (1 - cos( Pred(text), Enc(code) ))

A row of tokens holds two views, the text and then the code. Enc(x) is the last layer's hidden state at the last token
of x. Pred(x) is the same after k more tokens, [PRED]: one learned embedding, k times. There the model predicts the
embedding of the code from the text that it has read.

A direct implementation runs the model three times: on the row, on text [PRED], and on the code. But a token sees only
the tokens before it, so the text's states in the row are those of the text alone, and one run serves both. Only [PRED]
is added, with a mask, and the code is read once more by itself, without gradient:

    row      t0 t1 t2 c0 c1 c2   P0 P1        each token sees itself and the tokens before it in the row;
    position  0  1  2  3  4  5    3  4        P0 and P1 see t0 t1 t2 and earlier P's, and nothing sees a P
    code     c0 c1 c2            (position 0 1 2)

Letters: B rows, T tokens in a row, C n_embd, V vocab_size, H heads, k [PRED] tokens, S tokens of the longest text
and L of the longest code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_jepa.errors import ConfigError
from llm_jepa.objective.distances import get_distance, without_autocast

from .state_dicts import accept_nanogpt, with_pred_group
from .views import MIN_VIEW, view_lengths, view_line

__all__ = ["GPT", "GPTConfig", "JEPALoss", "view_line"]

IGNORED = -1  # target of a token that is not trained on; nanoGPT's number
INIT_STD = 0.02
A100_BF16_FLOPS = 312e12  # peak of an A100 in bfloat16, a second: nanoGPT's unit of utilisation

States = tuple[Tensor, Tensor | None]  # of the rows, and of [PRED] if there are any


@dataclass
class GPTConfig:
    """The size of a GPT: nanoGPT's fields and defaults, and `activation`.

    Attributes:
        vocab_size: V. 50,304 is GPT-2's 50,257 rounded up to a multiple of 64, for speed.
        n_embd: C, the width of a hidden state; a multiple of n_head.
        dropout: Probability; 0 for pretraining, 0.1 or more for small data.
        activation: "gelu", exact, as in nanoGPT, or "gelu_new", its tanh form, with which GPT-2 was trained.
    """

    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True
    activation: str = "gelu"


class CausalSelfAttention(nn.Module):
    """Each token of a row attends to itself and the tokens before it; a [PRED] attends where its mask is True."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        if config.n_embd % config.n_head:
            text = f"n_embd={config.n_embd} is not a multiple of n_head={config.n_head}."
            raise ConfigError("settings_conflict", text)
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)  # queries, keys, values
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, pred: Tensor | None = None, mask: Tensor | None = None) -> States:
        """Return the output for the rows and for the [PRED] tokens, of the shapes of x and pred.

        Args:
            x: States of the rows, (B, T, C).
            pred: States of the [PRED] tokens, (B, k, C).
            mask: True where a [PRED] may attend, to the row and to [PRED], (B, 1, k, S + k).
        """
        dropout = self.dropout if self.training else 0.0
        q, k, v = self._heads(x)  # (B, H, T, C / H)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        if pred is None or mask is None:
            return self._joined(y), None
        # The row uses the fast causal kernel, as if there were no [PRED]. The few queries of [PRED] then read the row's
        # keys and values, up to the end of the longest text.
        pred_q, pred_k, pred_v = self._heads(pred)  # (B, H, k, C / H)
        S = mask.shape[-1] - pred.shape[1]
        k, v = torch.cat([k[:, :, :S], pred_k], dim=2), torch.cat([v[:, :, :S], pred_v], dim=2)  # (B, H, S + k, C / H)
        pred_y = F.scaled_dot_product_attention(pred_q, k, v, attn_mask=mask, dropout_p=dropout)  # (B, H, k, C / H)
        return self._joined(y), self._joined(pred_y)

    def _heads(self, x: Tensor) -> list[Tensor]:
        """Return queries, keys and values of (B, T, C) states, (B, H, T, C / H) each."""
        B, T, _ = x.shape
        return [each.view(B, T, self.n_head, -1).transpose(1, 2) for each in self.c_attn(x).chunk(3, dim=-1)]

    def _joined(self, y: Tensor) -> Tensor:
        """Return the output of the heads, (B, H, T, C / H), as (B, T, C)."""
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).flatten(2)))


class MLP(nn.Module):
    """Two linear layers, with four times the width between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.gelu = nn.GELU(approximate="tanh" if config.activation == "gelu_new" else "none")
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.gelu(self.c_fc(x))))


class Block(nn.Module):
    """Attention, then MLP, each added to its input."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, pred: Tensor | None = None, mask: Tensor | None = None) -> States:
        if pred is None:
            x = x + self.attn(self.ln_1(x))[0]
            return x + self.mlp(self.ln_2(x)), None
        from_row, from_pred = self.attn(self.ln_1(x), self.ln_1(pred), mask)
        x, pred = x + from_row, pred + from_pred
        return x + self.mlp(self.ln_2(x)), pred + self.mlp(self.ln_2(pred))


@dataclass
class JEPALoss:
    """The terms of one batch; `loss, ce_loss, jepa_loss = model.jepa_loss(X, Y)` unpacks the first three.

    Attributes:
        loss: ce_loss + jepa_lambda * jepa_loss, a scalar with gradient.
        ce_loss: Nats per trained token, scalar.
        jepa_loss: Mean distance over `num_pairs`, scalar; 0 without a pair, nan where jepa_lambda is 0.
        text_pred: Pred(text) of each pair, (num_pairs, C); None if no view was encoded.
        code_emb: Enc(code) of each pair, (num_pairs, C), without gradient.
        note: Why rows have no JEPA term; empty if all have one.
    """

    loss: Tensor
    ce_loss: Tensor
    jepa_loss: Tensor
    logits: Tensor
    text_pred: Tensor | None = None
    code_emb: Tensor | None = None
    num_pairs: int = 0
    note: str = ""

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.loss, self.ce_loss, self.jepa_loss))


class GPT(nn.Module):
    """nanoGPT's GPT, with one more embedding: `pred_token`, that of [PRED], (1, 1, C)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
                "drop": nn.Dropout(config.dropout),
                "h": nn.ModuleList([Block(config) for _ in range(config.n_layer)]),
                "ln_f": nn.LayerNorm(config.n_embd, bias=config.bias),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer["wte"].weight = self.lm_head.weight  # one table for input and output
        self.apply(_init_weights)
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):  # the two of each block that add to the residual stream (GPT-2)
                nn.init.normal_(parameter, std=INIT_STD / math.sqrt(2 * config.n_layer))
        # It has its own generator, so that with one seed, weights, batches and dropout are the same as in nanoGPT.
        generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        self.pred_token = nn.Parameter(torch.randn(1, 1, config.n_embd, generator=generator) * INIT_STD)
        if config.activation == "gelu_new":
            self.mark_gelu_new()
        self.register_load_state_dict_pre_hook(accept_nanogpt)

    # ---- the language model ----

    def forward(self, idx: Tensor, targets: Tensor | None = None, **jepa: Any) -> tuple[Tensor, Tensor | None]:
        """Run the model.

        Args:
            idx: Tokens, (B, T).
            targets: The token that follows each, (B, T); -1 where none is trained on.
            jepa: Further arguments of `jepa_loss`, to train on its loss through this call, the only one that
                DistributedDataParallel and torch.compile know.

        Returns:
            Logits and loss. Without targets: the last token's logits, (B, 1, V), and None.
        """
        if jepa:
            if targets is None:
                raise ConfigError("targets_missing", f"{', '.join(jepa)} are for the loss, which needs targets.")
            out = self.jepa_loss(idx, targets, **jepa)
            return out.logits, out.loss
        states, _ = self._states(idx)
        if targets is None:
            return self.lm_head(states[:, [-1]]), None
        logits = self.lm_head(states)  # (B, T, V)
        return logits, self._with_pred_token(_cross_entropy(logits, targets))

    def _states(self, idx: Tensor, num_pred: int = 0, text_len: Sequence[int] = ()) -> States:
        """Return the last hidden states of the rows, (B, T, C), and of k [PRED] after each row's text, (B, k, C).

        `text_len` holds the number of tokens of each row's text view, B numbers; needed if k is not 0.
        """
        T = idx.shape[1]
        if self.config.block_size < T:
            raise ConfigError("row_too_long", f"The rows have {T} tokens, block_size is {self.config.block_size}.")
        embed, place, drop = (self.transformer[name] for name in ("wte", "wpe", "drop"))
        x = drop(embed(idx) + place(torch.arange(T, device=idx.device)))  # (B, T, C)
        pred = mask = None
        if num_pred:
            lengths = torch.tensor(text_len, device=idx.device)[:, None]  # (B, 1)
            positions = lengths + torch.arange(num_pred, device=idx.device)  # (B, k): they continue the text's
            # A row without a pair may leave no position. Its [PRED] can be anywhere, because it is not read.
            pred = drop(self.pred_token + place(positions.clamp(max=self.config.block_size - 1)))  # (B, k, C)
            mask = _pred_mask(lengths, max(text_len), num_pred)
        for block in cast(nn.ModuleList, self.transformer["h"]):
            x, pred = block(x, pred, mask)
        norm = self.transformer["ln_f"]
        return norm(x), None if pred is None else norm(pred)

    # ---- LLM-JEPA ----

    @torch.no_grad()
    def encode_last(self, idx: Tensor) -> Tensor:
        """Return Enc(x): the last hidden state at the last token of (B, T) tokens, (B, C), without gradient.

        In training mode, dropout applies here as well: call `eval()` for embeddings to keep.
        """
        return self._states(idx)[0][:, -1]

    def encode_last_with_pred(self, idx: Tensor, k_pred: int = 1) -> Tensor:
        """Return Pred(x): the state at the last of k [PRED] after (B, T) tokens, (B, C). With k 0 it is Enc(x).

        Raises:
            ConfigError: If T + k is over block_size.
        """
        lengths = [idx.shape[1]] * len(idx)
        self._check_room(lengths, k_pred)
        states, pred = self._states(idx, k_pred, lengths)
        return (states if pred is None else pred)[:, -1]

    def jepa_loss(
        self,
        idx: Tensor,
        targets: Tensor,
        jepa_lambda: float = 1.0,
        jepa_k: int = 1,
        jepa_split: float = 0.5,
        *,
        views: Tensor | Sequence[Sequence[int]] | None = None,
        jepa_distance: str = "cosine",
    ) -> JEPALoss:
        """Return cross-entropy plus `jepa_lambda` times the distance from Pred(text) to Enc(code), in one fused pass.

        Args:
            idx: Tokens, (B, T).
            targets: The token that follows each, (B, T); -1 where none is trained on.
            jepa_lambda: Weight of the term. 0: no view is encoded, and the loss is `forward`'s, bit for bit.
            jepa_k: k. With 0, Pred(text) is Enc(text).
            jepa_split: The text is a row's first max(2, int(T * jepa_split)) tokens, the code is the rest.
            views: For real pairs, the number of tokens of text and of code in each row, (B, 2): the row begins with
                the text, the code follows. Do not count an end token, a separator or padding as code: the code is
                read at its last token. Rows of (0, 0) hold no pair. `views` replaces jepa_split.
            jepa_distance: "cosine", or another of `llm_jepa.objective.distances`.

        Rows whose code view has fewer than 2 tokens have no term; `note` says how many.

        Raises:
            ConfigError: If no position is left for [PRED] after a text, or the views do not fit their rows.
        """
        if jepa_lambda < 0 or jepa_k < 0:
            text = f"jepa_lambda={jepa_lambda} and jepa_k={jepa_k} must not be negative."
            raise ConfigError("value_out_of_range", text)
        distance = get_distance(jepa_distance)
        if jepa_lambda == 0:
            return self._plain_loss(idx, targets, math.nan, "jepa_lambda is 0: no view was encoded.")

        B, T = idx.shape
        text_len, code_len = view_lengths(B, T, jepa_split, views)
        rows = [row for row in range(B) if code_len[row] >= MIN_VIEW]
        note = f"{B - len(rows)} of {B} rows have a code view of fewer than {MIN_VIEW} tokens, so no JEPA term."
        if not rows:
            return self._plain_loss(idx, targets, 0.0, note)
        texts, codes = [text_len[row] for row in rows], [code_len[row] for row in rows]
        self._check_room(texts, jepa_k)

        states, pred = self._states(idx, jepa_k, text_len)  # (B, T, C), (B, k, C)
        logits = self.lm_head(states)
        ce_loss = _cross_entropy(logits, targets)

        text_pred = states[rows, [length - 1 for length in texts]] if pred is None else pred[rows, -1]
        code_emb = self._encode_codes(idx[rows], texts, codes)
        with without_autocast(text_pred):
            jepa_loss = distance(text_pred, code_emb).mean()

        loss = self._with_pred_token(ce_loss + jepa_lambda * jepa_loss)
        note = note if len(rows) < B else ""
        return JEPALoss(
            loss, ce_loss.detach(), jepa_loss.detach(), logits, text_pred, code_emb, num_pairs=len(rows), note=note
        )

    def _plain_loss(self, idx: Tensor, targets: Tensor, jepa_loss: float, note: str) -> JEPALoss:
        logits, loss = self(idx, targets)
        return JEPALoss(loss, loss.detach(), torch.full_like(loss.detach(), jepa_loss), logits, note=note)

    @torch.no_grad()
    def _encode_codes(self, idx: Tensor, text_len: Sequence[int], code_len: Sequence[int]) -> Tensor:
        """Return Enc(code), (B, C): each row's code by itself, from position 0."""
        T, device = idx.shape[1], idx.device
        start, length = torch.tensor(text_len, device=device), torch.tensor(code_len, device=device)
        columns = start[:, None] + torch.arange(max(code_len), device=device)  # (B, L)
        codes = idx.gather(1, columns.clamp(max=T - 1))  # the last token of a code cannot see what is after it
        return self._states(codes)[0][torch.arange(len(idx), device=device), length - 1]

    def _check_room(self, text_len: Sequence[int], num_pred: int) -> None:
        """Refuse [PRED] that would be past the last position."""
        needed = max(text_len) + num_pred
        if num_pred and needed > self.config.block_size:
            raise ConfigError(
                "row_too_long",
                f"{num_pred} [PRED] after a text of {max(text_len)} tokens take {needed} positions, block_size is "
                f"{self.config.block_size}. Use a smaller k, a shorter text (jepa_split, views), a larger block_size.",
            )

    def _with_pred_token(self, loss: Tensor) -> Tensor:
        """Give [PRED] a gradient of 0 if it has none, as DistributedDataParallel waits for one of each parameter."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return loss + 0.0 * self.pred_token.sum()
        return loss

    # ---- what nanoGPT's scripts call in addition to `forward` ----

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
        """Sample `max_new_tokens` tokens after (B, T) tokens, from the `top_k` likeliest; return (B, T + new)."""
        for _ in range(max_new_tokens):
            logits = self(idx[:, -self.config.block_size :])[0][:, -1] / temperature  # (B, V)
            if top_k is not None:
                least = torch.topk(logits, min(top_k, logits.shape[-1])).values[:, [-1]]
                logits = logits.masked_fill(logits < least, -math.inf)
            idx = torch.cat([idx, torch.multinomial(logits.softmax(-1), num_samples=1)], dim=1)
        return idx

    def get_num_params(self, non_embedding: bool = True) -> int:
        """Count parameters; by default without the position table and [PRED]. The tied word table always counts."""
        total = sum(parameter.numel() for parameter in self.parameters())
        left_out = cast(Tensor, self.transformer["wpe"].weight).numel() + self.pred_token.numel()
        return total - left_out if non_embedding else total

    def crop_block_size(self, block_size: int) -> None:
        """Keep the first `block_size` positions, in place."""
        if block_size > self.config.block_size:
            text = f"block_size={block_size} is larger than the model's own, {self.config.block_size}."
            raise ConfigError("value_out_of_range", text)
        self.config.block_size = block_size
        table = self.transformer["wpe"]
        table.weight = nn.Parameter(cast(Tensor, table.weight)[:block_size].detach().clone())

    def configure_optimizers(
        self, weight_decay: float, learning_rate: float, betas: tuple[float, float], device_type: str
    ) -> torch.optim.AdamW:
        """Return AdamW, fused on "cuda": matrices and embeddings decay; biases, norms and [PRED] do not.

        It also loads the state of an optimizer that nanoGPT saved, which has no [PRED].
        """
        trained = [each for each in self.parameters() if each.requires_grad and each is not self.pred_token]
        groups = [
            {"params": [each for each in trained if each.dim() >= 2], "weight_decay": weight_decay},
            {"params": [each for each in trained if each.dim() < 2], "weight_decay": 0.0},
            {"params": [self.pred_token], "weight_decay": 0.0},
        ]
        fused = {"fused": True} if device_type == "cuda" else {}
        optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, **fused)
        optimizer.register_load_state_dict_pre_hook(with_pred_group)
        return optimizer

    def estimate_mfu(self, fwdbwd_per_iter: float, dt: float) -> float:
        """Return the share of an A100's bfloat16 peak that `fwdbwd_per_iter` rows of block_size in `dt` seconds use.

        The FLOPs are those of plain training, as PaLM counts them (arXiv 2204.02311, appendix B), without JEPA's.
        """
        config = self.config
        flops_per_token = 6 * self.get_num_params() + 12 * config.n_layer * config.n_embd * config.block_size
        return flops_per_token * config.block_size * fwdbwd_per_iter / dt / A100_BF16_FLOPS

    @classmethod
    def from_pretrained(cls, model_type: str, override_args: dict[str, Any] | None = None) -> GPT:
        """Return GPT-2 with its published weights.

        `model_type` is "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", or the folder of any GPT-2 of transformers, and
        `override_args` may hold "dropout".
        """
        from .weights import load_gpt2

        if unknown := set(override_args or {}) - {"dropout"}:
            text = f"override_args may hold only dropout, not {', '.join(sorted(unknown))}."
            raise ConfigError("key_unknown", text)
        return load_gpt2(model_type, **(override_args or {}))

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> GPT:
        """Return the model of a `ckpt.pt` that nanoGPT's `train.py` wrote, with this class or with its own.

        Only plain weights are read. [PRED] is fresh if neither the checkpoint nor the file next to it has one.

        Raises:
            DataError: If the file is missing, damaged, or not such a checkpoint.
        """
        from .weights import read_checkpoint

        return read_checkpoint(Path(path))[0]

    def mark_gelu_new(self) -> None:
        """Write the activation into the state dict, because nanoGPT's checkpoints do not save this field."""
        self.config.activation = "gelu_new"
        self.register_buffer("gelu_new", torch.tensor(True, device=self.lm_head.weight.device))
        for block in cast(nn.ModuleList, self.transformer["h"]):
            cast(MLP, block.mlp).gelu.approximate = "tanh"


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _pred_mask(text_len: Tensor, S: int, k: int) -> Tensor:
    """Return where each [PRED] may attend, (B, 1, k, S + k), from the lengths of the texts, (B, 1).

    >>> _pred_mask(torch.tensor([[2]]), S=3, k=2).int()[0, 0].tolist()  # t0 t1 c0 P0 P1
    [[1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]
    """
    columns = torch.arange(S + k, device=text_len.device)
    text = columns < text_len[:, :, None]  # (B, 1, S + k)
    earlier_pred = (columns >= S) & (columns <= torch.arange(S, S + k, device=text_len.device)[:, None])  # (k, S + k)
    return (text | earlier_pred)[:, None]


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
