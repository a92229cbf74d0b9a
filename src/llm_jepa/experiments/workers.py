"""Does runs on this machine, each in a process of its own.

On Linux the standard library's fork server starts them. It imports torch and transformers once, which takes as long as
a short run, and then forks a process for each run. The server itself computes nothing, so there is no thread and no
CUDA context before a fork. A run therefore gives the same bits as in a new interpreter.
"""

from __future__ import annotations

import atexit
import gc
import io
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import torch

from llm_jepa.errors import ConfigError, LLMJEPAError
from llm_jepa.runs.run import train_run
from llm_jepa.standard_error import exit_code_of, log_to_standard_error

from .jobs import LOST, Attempt, Job

METHOD = "forkserver" if sys.platform.startswith("linux") else "spawn"  # macOS cannot fork what has imported torch
PRELOADED = [
    "llm_jepa.experiments.workers",
    "llm_jepa.training.adapters",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",  # the family of `nano` and the other presets
]
"""What a run imports. It imports the last two only when it builds its model."""

SERVER_GONE = 255  # what multiprocessing gives as the exit code of a process whose fork server was killed
PARENT_POLL_S = 0.5
ORPHAN_GRACE_S = 4.0  # between SIGTERM and SIGKILL, if the sweep has died: all its runs have ended after five seconds


class LocalPool:
    """Does runs in processes of this machine.

    A run has `cpus` threads (default: OMP_NUM_THREADS, or its share of the cores). If `gpus` is set, it has that number
    of devices for itself. The runs hold `lock`, a file descriptor, too, so it is held until the last of them has ended.

    Raises:
        ConfigError: If the machine does not have what the runs take.
    """

    def __init__(self, workers: int, resources: Mapping[str, float], lock: int | None = None) -> None:
        self.environment = {"TOKENIZERS_PARALLELISM": "false", **os.environ}
        if resources.get("cpus") or "OMP_NUM_THREADS" not in os.environ:
            self.environment["OMP_NUM_THREADS"] = str(threads_of_run(workers, resources))
        self._lock = lock
        self._is_ready = False
        self._devices = _devices_of_each(workers, resources.get("gpus", 0))
        self._attempts: list[tuple[Attempt, str]] = []

    def start(self, job: Job) -> Attempt:
        if not self._is_ready:
            wait_for_server(self.environment)
            self._is_ready = True
        if not self._devices:
            return start_run(job, self.environment, self._lock)
        self._attempts = [(each, devices) for each, devices in self._attempts if each.poll() is None]
        taken = [devices for _, devices in self._attempts]
        free = next(devices for devices in self._devices if devices not in taken)
        attempt = start_run(job, self.environment | {"CUDA_VISIBLE_DEVICES": free}, self._lock)
        self._attempts.append((attempt, free))
        return attempt

    def close(self) -> None:
        """Do nothing: the fork server ends with this process, or serves the next sweep."""


def threads_of_run(workers: int, resources: Mapping[str, float]) -> int:
    """Return the threads of each run: `cpus`, else OMP_NUM_THREADS, else a run's share of the cores."""
    if cpus := int(resources.get("cpus") or 0):
        return cpus
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdecimal() and int(named) else max(1, (os.cpu_count() or 1) // workers)


def _devices_of_each(workers: int, gpus: float) -> list[str]:
    """Return CUDA_VISIBLE_DEVICES for each of the runs at the same time; [] if runs have no devices for themselves."""
    if not gpus:
        return []
    count = int(gpus)
    if count != gpus:
        text = f"resources.gpus={gpus}: only Ray can share a GPU between runs. Set executor: ray."
        raise ConfigError("settings_conflict", text)
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [*map(str, range(torch.cuda.device_count()))] if named is None else [*filter(None, named.split(","))]
    if len(devices) < workers * count:
        raise ConfigError(
            "resources_missing",
            f"workers={workers} with resources.gpus={count} take {workers * count} GPUs, but this machine has "
            f"{len(devices)}. Lower one of them.",
        )
    return [",".join(devices[place * count : (place + 1) * count]) for place in range(workers)]


def start_run(job: Job, environment: dict[str, str], lock: int | None = None) -> Attempt:
    """Start a run in a process with exactly this environment, OMP_NUM_THREADS included, that holds `lock` open."""
    kept_open = None if lock is None else _Descriptor(lock)
    return _Process(_start(_be_run, (job, environment, kept_open), environment))


def wait_for_server(environment: dict[str, str]) -> None:
    """Start the fork server if necessary, and wait until it has imported everything.

    Before that, a lock that is sent to it waits in its socket. If the sweep were killed then, its folder would stay
    locked.
    """
    if METHOD == "forkserver":
        _start(_do_nothing, (), environment).join()


def _start(target: Callable[..., None], arguments: tuple[Any, ...], environment: dict[str, str]) -> BaseProcess:
    context: Any = multiprocessing.get_context(METHOD)
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=target, args=arguments)
    try:
        with _surroundings(environment):
            process.start()
    except (OSError, EOFError) as error:
        raise LLMJEPAError(
            "worker_not_started",
            "The process that starts the runs ended before a run began. It wrote the reason to standard error.",
        ) from error
    return process


def _do_nothing() -> None:
    pass


@dataclass
class _Process:
    process: BaseProcess

    def poll(self) -> int | None:
        code = self.process.exitcode
        return LOST if code == SERVER_GONE else code

    def ask_to_stop(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


class _Descriptor:
    """A file descriptor that is sent to a new process with its arguments."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self.number),)


def _received(descriptor: Any) -> _Descriptor:
    return _Descriptor(descriptor.detach())


@contextmanager
def _surroundings(environment: Mapping[str, str]) -> Iterator[None]:
    """Set the environment that the fork server inherits, and hide the caller's script from multiprocessing.

    It would import the script in the new process, but a run does not need it.
    """
    main, before = sys.modules["__main__"], dict(os.environ)
    sys.modules["__main__"] = types.ModuleType("__main__")
    os.environ.update(environment)
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        os.environ.clear()
        os.environ.update(before)


# ---- in the new process ----


def _be_run(job: Job, environment: dict[str, str], _: _Descriptor | None) -> None:
    """Do one run in this process; end with the exit code that `llm-jepa train` would have."""
    os.setsid()  # Ctrl-C then reaches only the sweep, which stops its runs in order
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method(None, force=True)  # processes that the run starts use the default method
    _write_to(job.folder.log_file)
    _end_with_sweep()
    log_to_standard_error()
    gc.freeze()  # a garbage collection would write to every page shared with the server, and so copy it
    threads = environment["OMP_NUM_THREADS"]
    if threads.isdigit() and torch.get_num_threads() != int(threads):  # an earlier sweep started the server
        torch.set_num_threads(int(threads))
    run = job.run
    assert run is not None
    code = exit_code_of(lambda: train_run(run, job.seed, job.folder.path))
    atexit._run_exitfuncs()  # multiprocessing ends a process without calling them
    sys.exit(code)


def _write_to(log: Path) -> None:
    """Append standard output and error, also those of libraries in C, to a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(file, stream.fileno())
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    os.close(file)


def _end_with_sweep() -> None:
    """Send SIGTERM to this process when the sweep or the fork server has died, and SIGKILL ORPHAN_GRACE_S later."""
    sweep, parent = multiprocessing.parent_process(), os.getppid()
    assert sweep is not None

    def watch() -> None:
        while not wait([sweep.sentinel], PARENT_POLL_S) and os.getppid() == parent:
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
