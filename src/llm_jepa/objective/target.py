"""How the target of the JEPA term, Enc(Code) (or Enc(Text)), is made.

`shared` reads it in the main forward, with gradient. `stop_grad` uses the current model, without gradient. `ema` uses a
slow copy of the model, which is defined here.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .backbone import Backbone


class EMATarget(nn.Module):
    """A slow copy of the model's layers (not of its head): theta' <- decay * theta' + (1 - decay) * theta.

    Weights that are not trained never differ from the model's. They are shared with it and need no memory.

    Args:
        backbone: The layers to follow.
        decay: In [0, 1). With 0, the copy equals the model at the last update.
    """

    def __init__(self, backbone: Backbone, decay: float) -> None:
        super().__init__()
        self.decay = decay
        untrained = {id(each): each for each in backbone.layers.parameters() if not each.requires_grad}
        self.layers = copy.deepcopy(backbone.layers, untrained).requires_grad_(False).eval()
        self._shared = {
            f"layers.{name}"
            for (name, slow), fast in zip(self.layers.named_parameters(), backbone.layers.parameters(), strict=True)
            if slow is fast
        }

    def train(self, mode: bool = True) -> EMATarget:
        """Stay in evaluation mode: a target has no dropout."""
        return super().train(False)

    @torch.no_grad()
    def update(self, backbone: Backbone) -> None:
        """Move one step towards `backbone`; call it after each optimizer step."""
        for slow, fast in zip(self.layers.parameters(), backbone.layers.parameters(), strict=True):
            if slow is not fast:
                slow.lerp_(fast.detach().to(slow.dtype), 1 - self.decay)
        for slow_buffer, buffer in zip(self.layers.buffers(), backbone.layers.buffers(), strict=True):
            slow_buffer.copy_(buffer)

    def own_state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must save of the copy; no tensor shares its memory."""
        state = self.state_dict()
        return {name: each.detach().clone().contiguous() for name, each in state.items() if name not in self._shared}

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Load what `own_state` returned.

        Raises:
            RuntimeError: If the names or shapes differ.
        """
        shared = {name: each for name, each in self.state_dict().items() if name in self._shared}
        self.load_state_dict({**shared, **state})
