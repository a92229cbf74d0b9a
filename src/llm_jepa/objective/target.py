"""How the target of the JEPA term, Enc(Code) (or Enc(Text)), is made.

`shared` reads it in the main forward, with gradient. `stop_grad` uses the model as it stands, without
gradient. `ema` uses a slow copy of it. The last two are here.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from .backbone import Backbone


class EMATarget(nn.Module):
    """A slow copy of the model's layers (not of its head): theta' <- decay * theta' + (1 - decay) * theta.

    Args:
        backbone: The layers to follow.
        decay: In [0, 1). 0 is the model of the last update.
    """

    def __init__(self, backbone: Backbone, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.layers = copy.deepcopy(backbone.layers).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> EMATarget:
        """Stay in evaluation mode: a target has no dropout."""
        return super().train(False)

    @torch.no_grad()
    def update(self, backbone: Backbone) -> None:
        """Move one step towards `backbone`; call it after each optimizer step."""
        for slow, fast in zip(self.layers.parameters(), backbone.layers.parameters(), strict=True):
            slow.lerp_(fast.detach().to(slow.dtype), 1 - self.decay)
        for slow_buffer, buffer in zip(self.layers.buffers(), backbone.layers.buffers(), strict=True):
            slow_buffer.copy_(buffer)
