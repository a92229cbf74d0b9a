"""Another way to fuse, experimental and used by benchmarks alone: [PRED] reads the text in the key-value cache.

The next-token pass runs on plain rows, untouched, and keeps its keys and values; then k queries a row, the [PRED]s,
read those of the text, with gradient. So the long pass needs no mask of ours and may use the fastest attention there
is. What it does not serve: targets or predictions that ride in the row, views rendered apart, packing, windows (their
caches are cut), gradient checkpointing (which keeps no cache). `LLMJEPA` is what to train with.

Letters: B pairs, T tokens in a row, C hidden size, k [PRED] tokens, S tokens of the longest text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import UnsupportedModelError
from .distances import full_precision
from .layout import IGNORED, FusedBatch, FusedCollator, Pair, Rows, TensorGroup
from .llm_jepa import LLMJEPA, JEPAOutput


@dataclass
class CachedBatch(TensorGroup):
    """One batch of pairs.

    Attributes:
        plain: The rows and labels of plain training; row b is pair b.
        text_lengths: Tokens of each text, (B,).
        target_rows: What the targets' forward reads.
        target_at: Index of each target among its flattened states, (B,).
    """

    plain: FusedBatch
    text_lengths: Tensor
    target_rows: Rows
    target_at: Tensor


class CachedLLMJEPA(nn.Module):
    """The objective of an `LLMJEPA`, computed with a cache: the same terms and gradients.

    Args:
        jepa: The model under its objective; its parameters are shared, not copied.

    Raises:
        UnsupportedModelError: If the objective or the model is one that a cache does not serve.
    """

    def __init__(self, jepa: LLMJEPA) -> None:
        super().__init__()
        config, backbone = jepa.config, jepa.backbone
        if config.pred_leads:
            raise UnsupportedModelError(
                "The cached pass serves jepa_pred_position=append alone: [PRED] reads the cache."
            )
        if config.jepa_direction != "text_to_code" or config.jepa_target == "shared" or config.jepa_k == 0:
            raise UnsupportedModelError(
                "The cached pass serves jepa_direction=text_to_code, jepa_target=stop_grad or ema, and jepa_k of 1 or "
                f"more; this objective has {config.jepa_direction}, {config.jepa_target}, {config.jepa_k}."
            )
        windows = backbone.windows if isinstance(backbone.windows, dict) else {"all": backbone.windows}
        if any(window is not None for window in windows.values()):
            raise UnsupportedModelError(
                f"{backbone.name} has a sliding window, which cuts the cache that is to be read."
            )
        if backbone.attention not in ("sdpa", "eager"):
            raise UnsupportedModelError(f"The cached pass needs attention sdpa or eager, not {backbone.attention!r}.")
        self.jepa = jepa

    def collate(self, pairs: Sequence[Pair], pad_token_id: int) -> CachedBatch:
        """Lay out `pairs`.

        Raises:
            ValueError: If a pair has no JEPA term, or a text view of its own.
        """
        if any(not pair.use_jepa or pair.text_view_ids is not None for pair in pairs):
            raise ValueError("The cached pass serves pairs whose text view is the beginning of the row, all of them.")
        batch = FusedCollator(self.jepa.config, pad_token_id)(pairs)
        assert batch.target_rows is not None and batch.text_to_code is not None
        lengths = torch.tensor([len(pair.text_ids) for pair in pairs])
        return CachedBatch(batch.without_views(), lengths, batch.target_rows, batch.text_to_code.target_at)

    def forward(self, batch: CachedBatch) -> JEPAOutput:
        """Compute the loss of a batch, without loss dropout."""
        config = self.jepa.config
        ce_loss, cache = self._cross_entropy(batch.plain)
        text_pred = self._text_pred(cache, batch.text_lengths)
        with torch.no_grad():
            layers = self.jepa.target.layers if self.jepa.target is not None else None
            code_emb = self.jepa.backbone.states(batch.target_rows, layers=layers)[batch.target_at]
        jepa_loss = self.jepa.distance(text_pred, code_emb).mean()
        loss = config.jepa_gamma * ce_loss + config.jepa_lambda * jepa_loss
        return JEPAOutput(loss, ce_loss.detach(), jepa_loss.detach(), text_pred, code_emb, config.jepa_lambda)

    def _cross_entropy(self, batch: FusedBatch) -> tuple[Tensor, Any]:
        """Return nats per labelled token, and the cache of the pass."""
        labels = F.pad(batch.labels[:, 1:], (0, 1), value=IGNORED).flatten()  # (B * T,)
        at = (labels != IGNORED).nonzero().squeeze(1)
        logits, cache = self.jepa.backbone.logits_and_cache(batch.rows, at)
        if cache is None:
            raise UnsupportedModelError("The model kept no cache. Turn gradient checkpointing off for the cached pass.")
        return F.cross_entropy(full_precision(logits), labels[at]), cache

    def _text_pred(self, cache: Any, text_lengths: Tensor) -> Tensor:
        """Let [PRED] read the texts in the cache; return the state at the last of each row, (B, C)."""
        backbone, k = self.jepa.backbone, self.jepa.config.jepa_k
        longest = int(text_lengths.max())
        for layer in cache.layers:  # what stands after the longest text is read by no [PRED]
            layer.keys, layer.values = layer.keys[:, :, :longest], layer.values[:, :, :longest]
        device, B = text_lengths.device, len(text_lengths)
        own_text = torch.arange(longest, device=device) < text_lengths[:, None]  # (B, S)
        earlier = torch.ones(k, k, dtype=torch.bool, device=device).tril()
        mask = torch.cat([own_text[:, None].expand(B, k, longest), earlier.expand(B, k, k)], dim=-1)[:, None]
        dtype = backbone.embeddings.weight.dtype
        if backbone.attention == "eager":
            mask = torch.zeros((), dtype=dtype, device=device).where(mask, torch.finfo(dtype).min)  # type: ignore[arg-type]
        output = backbone.layers(
            inputs_embeds=self.jepa.predictor().to(dtype).expand(B, k, -1),
            position_ids=text_lengths[:, None] + torch.arange(k, device=device),
            attention_mask=mask,  # (B, 1, k, S + k)
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1]
