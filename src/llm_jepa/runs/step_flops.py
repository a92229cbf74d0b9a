"""Counts the floating-point operations of an optimizer step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from llm_jepa.training.trainer import JEPATrainer

# Number of batches whose FLOPs are counted. In simulations with lengths of a large spread the result was within 4% of
# the mean over all batches (packed rows: 6%).
FLOP_BATCHES = 16

_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}


class _ZeroProducts(TorchDispatchMode):
    """Gives zeros of the right shape instead of a matrix product: its FLOPs follow from the shapes alone.

    Of a step on a CPU, the products take most of the time.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _PRODUCTS:
            return func(*args, **(kwargs or {}))
        *_, left, right = args
        return left.new_zeros(*left.shape[:-1], right.shape[-1])


@contextmanager
def counting_flops(device: torch.device) -> Iterator[FlopCounterMode]:
    """Count the FLOPs of a block: matrix products and attention, including padding.

    On a CPU, attention is split into single operations, because the counter knows only the fused kernels of GPUs.
    """
    attention = nullcontext() if device.type == "cuda" else sdpa_kernel(SDPBackend.MATH)
    counter = FlopCounterMode(display=False)
    with counter, attention:
        yield counter


def count_step_flops(trainer: JEPATrainer, num_batches: int = FLOP_BATCHES, *, dropped: bool = False) -> float:
    """Return the mean FLOPs of forward and backward of a batch of epoch 0, from some batches of all sizes.

    The step has its views or, if `dropped`, it is one whose JEPA term loss dropout leaves out. Arms with equal batches
    count the same rows.
    """
    model = trainer.jepa.train()
    num_steps = trainer.state.max_steps
    steps = range(max(num_steps, 10_000))  # loss dropout may have dropped all of a short run, or none
    step = next((step for step in steps if (model.lambda_at(step, num_steps) > 0) != dropped), 0)
    shares = []
    for batch, weight in trainer.sample_of_first_epoch(num_batches):
        products = nullcontext() if trainer.args.device.type == "cuda" else _ZeroProducts()
        with products, counting_flops(trainer.args.device) as counter:
            with trainer.compute_loss_context_manager():
                loss = model(batch.to(trainer.args.device), step=step, num_steps=num_steps).loss
            loss.backward()
            model.zero_grad()
        shares.append(weight * counter.get_total_flops())
    model.eval()
    return math.fsum(shares)
