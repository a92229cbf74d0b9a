"""The processes of a run: which one this is, what one of them does for all, and how they end.

A run of several processes is started by `torchrun` or `accelerate launch`, which tell each its rank in the
environment. Rank 0 is the main one: it alone writes the run's folder and speaks to the user. This module imports
torch late, for the command line asks it who is speaking before torch is there.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")

PARENT = "LLM_JEPA_PARENT"  # in the environment of a process that is to end with its parent: the parent's pid

_PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>

_met_here = False  # whether `join` made the group


def end_with_parent() -> None:
    """If the environment names this process's parent, have SIGTERM sent here when that one dies, even by SIGKILL.

    Linux only; elsewhere nothing happens, and a killed parent leaves its children to finish.
    """
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before the call
        os.kill(os.getpid(), signal.SIGTERM)


def num_launched() -> int:
    """Return the number of processes that the launcher started, whether they have met or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def world_size() -> int:
    """Return the number of processes that have met (`join`); 1 before."""
    distributed = _group()
    return distributed.get_world_size() if distributed else 1


def rank() -> int:
    """Return the number of this process among those of the run, from 0."""
    distributed = _group()
    return distributed.get_rank() if distributed else int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process writes and speaks for all."""
    return rank() == 0


def join(*, use_cpu: bool = False) -> None:
    """Meet the other processes of the run, if there are any; nothing happens where that was done before.

    Tensors of a GPU go by NCCL, those of the CPU and plain objects by gloo. Who meets here parts by `leave`, at the
    latest as the interpreter ends; a group that the caller made stays the caller's.
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
    """Part from the processes that `join` met, and end the threads that carry messages to them.

    Those threads end with the last object that holds the group. Trainers hold it, and are cycles, so garbage is
    collected first. A thread of gloo that outlives the interpreter, and then lets go of a tensor that Python has seen,
    asks for a lock that is gone, and the process ends by SIGABRT ("terminate called without an active exception").
    """
    global _met_here  # noqa: PLW0603  one group of processes, as in torch.distributed
    distributed = _group()
    if not (_met_here and distributed):
        return
    _met_here = False
    gc.collect()
    distributed.destroy_process_group()


def _leave_at_exit() -> None:
    for name in ("last_exc", "last_value", "last_traceback"):  # of an error that nobody caught: its frames hold all
        sys.__dict__.pop(name, None)
    leave()


def gather(value: Any) -> list[Any]:
    """Return the value that each process brought, by rank; every process must call it."""
    distributed = _group()
    if distributed is None or distributed.get_world_size() == 1:
        return [value]
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def on_main(function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """Let rank 0 do something once, and give every process its result.

    Raises:
        Exception: What rank 0 raised, in every process, so that none waits for one that has gone. In the others it
            is marked as told, for rank 0 says it.
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
    """Mark an error that all processes raise: rank 0 says it, the others do not say it again."""
    error.told_by_main = not is_main()  # type: ignore[attr-defined]
    return error


def turns(count: int) -> Iterator[tuple[int, bool]]:
    """Share `count` pieces of work out in rounds; yield, for each, its number and whether it is this process's own.

    Every process takes as many turns, since the parts of a sharded model are brought together in each forward. One
    that would have none in the last round does the last piece once more, and its result is not used.

    >>> list(turns(3))  # one process
    [(0, True), (1, True), (2, True)]
    """
    for start in range(0, count, world_size()):
        number = start + rank()
        yield min(number, count - 1), number < count


def _group() -> Any:
    """Return torch.distributed where the processes have met; None before, and for a single process."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None
