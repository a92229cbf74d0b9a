"""The processes of a run: which one this is, what one of them does for all, and how they end.

A run of several processes is started by `torchrun` or `accelerate launch`, which set the rank of each process in the
environment. Rank 0 is the main process: only it writes the run's folder and prints messages. This module imports torch
late, because the command line needs the rank before torch is imported.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")

_met_here = False  # whether `join` created the group


def num_launched() -> int:
    """Return the number of processes that the launcher started, whether `join` has connected them or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def world_size() -> int:
    """Return the number of processes that `join` has connected; 1 before."""
    distributed = _group()
    return distributed.get_world_size() if distributed else 1


def rank() -> int:
    """Return the rank of this process in the run, from 0."""
    distributed = _group()
    return distributed.get_rank() if distributed else int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process writes files and prints for all."""
    return rank() == 0


def join(*, use_cpu: bool = False) -> None:
    """Connect to the other processes of the run, if there are any and they are not connected yet.

    NCCL carries tensors of a GPU; gloo carries tensors of the CPU and plain objects. `leave` ends the connection, or
    the end of the interpreter does. A group that the caller has created is neither changed nor ended.
    """
    global _met_here  # noqa: PLW0603  one group of processes, as in torch.distributed
    import torch

    if num_launched() == 1 or torch.distributed.is_initialized():
        return
    on_gpu = torch.cuda.is_available() and not use_cpu
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    _met_here = True
    atexit.register(_leave_at_exit)


def leave() -> None:
    """End the connection of `join`, and the threads that carry its messages.

    Those threads end with the last object that refers to the group. Trainers refer to it, and are in reference cycles,
    so garbage is collected first. If a thread of gloo outlived the interpreter and then freed a tensor that Python has
    used, it would need a lock that no longer exists, and the process would end with SIGABRT ("terminate called without
    an active exception").
    """
    global _met_here  # noqa: PLW0603  one group of processes, as in torch.distributed
    distributed = _group()
    if not (_met_here and distributed):
        return
    _met_here = False
    gc.collect()
    distributed.destroy_process_group()


def _leave_at_exit() -> None:
    for name in ("last_exc", "last_value", "last_traceback"):  # of an uncaught error, whose frames refer to everything
        sys.__dict__.pop(name, None)
    leave()


def gather(value: Any) -> list[Any]:
    """Return the value of each process, by rank; every process must call it."""
    distributed = _group()
    if distributed is None or distributed.get_world_size() == 1:
        return [value]
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def on_main(function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """Call a function in rank 0 only, and return its result in every process.

    Raises:
        Exception: What the function raised, in every process, so that none waits for a process that has ended.
    """
    if world_size() == 1:
        return function(*arguments, **options)
    result, error = None, None
    if is_main():
        try:
            result = function(*arguments, **options)
        except Exception as raised:
            error = raised
    result, error = gather((result, error))[0]
    if error is not None:
        raise told(error)
    return result


def told(error: Exception) -> Exception:
    """Mark an error that all processes raise, so that only rank 0 reports it."""
    error.told_by_main = not is_main()  # type: ignore[attr-defined]
    return error


def turns(count: int) -> Iterator[tuple[int, bool]]:
    """Divide `count` pieces of work among the processes; yield each one's number, and whether its result is used.

    All processes have the same number of turns, because each forward of a sharded model needs all of them. A process
    that has no piece in the last round does the last piece again, and that result is not used.

    >>> list(turns(3))  # one process
    [(0, True), (1, True), (2, True)]
    """
    for start in range(0, count, world_size()):
        number = start + rank()
        yield min(number, count - 1), number < count


def _group() -> Any:
    """Return torch.distributed if the processes are connected; None before, and for a single process."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None
