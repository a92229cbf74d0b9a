"""Reads and writes a model whose parameters are sharded over processes (FSDP2) as a whole.

`fully_shard` makes each parameter a DTensor, of which every process holds a part. Every process must call these
functions, because they bring the parts together. For a model that is not sharded they do nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def is_sharded(module: nn.Module) -> bool:
    """Whether any parameter of the module is sharded over processes."""
    return any(isinstance(each, DTensor) for each in module.parameters())


def whole_state(module: nn.Module) -> dict[str, Tensor] | None:
    """Return the plain state dict of a sharded module, on the CPU: whole on rank 0, empty on the others.

    None if the module is not sharded, because then its own `state_dict` is plain.
    """
    if not is_sharded(module):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(module, options=options))


def load_whole_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give each process its part of a plain state dict, which every process has read."""
    set_model_state_dict(module, dict(state), options=StateDictOptions(full_state_dict=True, strict=False))


def part(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the entries whose names start with `prefix`, without the prefix.

    >>> part({"model.weight": 1, "predictor.embedding": 2}, "model.")
    {'weight': 1}
    """
    return {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}


@contextmanager
def whole_at_root(module: nn.Module) -> Iterator[None]:
    """Make the parameters of a sharded module's outermost unit (embeddings, head) whole within the context.

    The layers are made whole whenever they are called. The outermost unit is made whole only when the module itself is
    called, but generation calls the model inside it.
    """
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()
