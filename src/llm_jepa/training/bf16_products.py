"""Products of bf16 weights on a processor without bf16 instructions: in float32, with the result rounded to bf16.

On such a processor PyTorch's own bf16 products take about ten times as long as float32 products. A matrix product in
bf16 is summed in float32 and rounded once, so the results differ by the order of the sum. In attention they differ a
little more: here the weights of the softmax are not rounded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers.modeling_layers import GradientCheckpointingLayer

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""The names of bf16 instructions in /proc/cpuinfo: two of x86, and Arm's."""

_PRODUCTS = {
    *(nn.functional.linear, nn.functional.scaled_dot_product_attention),
    *(torch.addmm, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__),
}


class _Float32Products(TorchFunctionMode):
    """Does products of bf16 tensors on the CPU in float32. Autograd records the casts, so gradients are rounded too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _PRODUCTS or not any(_is_bf16(each) for each in args):
            return func(*args, **kwargs)
        wide = {key: _widened(value) for key, value in kwargs.items()}
        return func(*(_widened(each) for each in args), **wide).to(torch.bfloat16)


_MODE = _Float32Products()


def has_bf16_instructions(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether the processor has instructions for products in bfloat16; a system without `cpuinfo` has none.

    Without them PyTorch converts every number to float32 and back, and bf16 is slower than float32
    (`benchmarks/pretrained_step.py` measures it).
    """
    if not cpuinfo.is_file():
        return False
    lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
    return any(BF16_FLAGS & set(flags.split()) for key, _, flags in lines if key.strip() in ("flags", "Features"))


def is_needed(model: Any) -> bool:
    """Return whether weights are in bf16, there is no CUDA GPU, and the processor does not multiply in bf16."""
    in_bf16 = any(each.dtype == torch.bfloat16 for each in model.parameters())
    return in_bf16 and not torch.cuda.is_available() and not has_bf16_instructions()


def multiply_in_float32(model: Any) -> None:
    """Make the layers and the output of a Hugging Face model compute products in float32, and round them to bf16.

    The hooks are on each part of a layer (attention, MLP), because gradient checkpointing runs the parts a second time
    without calling the layer.
    """
    layers = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
    parts = [part for layer in layers for part in layer.children()]
    for module in (*parts, model.get_output_embeddings()):
        module.register_forward_pre_hook(_enter)
        module.register_forward_hook(_leave, always_call=True)


def _enter(module: nn.Module, args: Any) -> None:
    _MODE.__enter__()


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    _MODE.__exit__(None, None, None)


def _is_bf16(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 and value.device.type == "cpu"


def _widened(value: Any) -> Any:
    return value.float() if _is_bf16(value) else value
