"""Many runs at the same time, each in a process of its own: on this machine, or on a Ray cluster.

`run_jobs` knows runs, tries and what to say of them; a pool knows how a run is started somewhere, and how it ended.
What has been done is known from the run folders alone, so whoever calls it again goes on with the rest.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from llm_jepa.errors import ConfigError, LLMJEPAError
from llm_jepa.evaluation.evaluate import EvaluationConfig
from llm_jepa.files import read_json_lines, write_json
from llm_jepa.processes import PARENT
from llm_jepa.yaml_loading import load_yaml

from .fork_server import Lines, send

logger = logging.getLogger(__name__)

POLL_S = 0.05
SHOW_S = 1.0  # between two looks at the runs' logs for the progress bar
GRACE_S = 10.0  # between asking a run to stop and ending it
TAIL_LINES = 15
FAILED_FILE = "FAILED"
LOST = -int(signal.SIGKILL)
"""Exit code of a run whose process went without a word: whoever kills it, or the kernel for want of memory."""

STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass(frozen=True)
class Job:
    """A run to be done: its folder, which holds its `config.yaml`, and its arm and seed."""

    arm: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def is_done(self) -> bool:
        """Whether the run is whole."""
        return (self.folder / "DONE").is_file()

    @property
    def has_failed(self) -> bool:
        """Whether the last sweep gave the run up."""
        return not self.is_done and (self.folder / FAILED_FILE).is_file()

    @property
    def arguments(self) -> list[str]:
        """The command line of the run, without the program."""
        return ["train", str(self.folder / "config.yaml"), "--out", str(self.folder)]

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"


@dataclass(frozen=True)
class Failure:
    """A run that ended without DONE: its exit code (negative: a signal's number) and the end of its log."""

    job: Job
    exit_code: int
    log_tail: str

    @property
    def reason(self) -> str:
        """How the run ended, in words."""
        return _ending(self.exit_code)


class Attempt(Protocol):
    """One try of a run, somewhere."""

    def poll(self) -> int | None:
        """Return the exit code (negative: a signal's number), or None as long as it runs."""

    def ask_to_stop(self) -> None:
        """Have it finish its step, save, and end."""

    def kill(self) -> None:
        """End it at once."""


class Pool(Protocol):
    """A place where runs are done."""

    def start(self, job: Job) -> Attempt:
        """Start a try of a run."""

    def close(self) -> None:
        """Give back what the pool holds; no try of it runs any more."""


def run_jobs(
    jobs: Sequence[Job],
    workers: int,
    *,
    executor: str = "local",
    resources: Mapping[str, float] | None = None,
    max_retries: int = 0,
    lock: int | None = None,
    progress: bool = False,
) -> list[Failure]:
    """Do all jobs that are not done yet, `workers` at a time, in order; return those that failed.

    A job that fails does not stop the others. One that a signal ended, or that was lost with its worker, is tried
    again, from its newest checkpoint where it has one; one that ended by itself would do so again. What has failed for
    good is marked in its folder (FAILED: how, and after how many tries). If this process is interrupted or
    terminated, the runs are stopped first, and what they have written stays.

    Args:
        jobs: The runs.
        workers: Runs at the same time.
        executor: `local`, processes of this machine, or `ray`, a Ray cluster.
        resources: What a run takes: `cpus` and `gpus`.
        max_retries: How often a run that was stopped or lost is tried again.
        lock: File descriptor of a lock that local runs are to hold too, as long as one of them is alive.
        progress: Show a progress bar on standard error.
    """
    waiting = deque(job for job in jobs if not job.is_done)
    if len(waiting) < len(jobs):
        logger.info("run    %d of %d runs are done already and stay as they are", len(jobs) - len(waiting), len(jobs))
    if not waiting:
        return []
    tries: Counter[Job] = Counter()
    failures: list[Failure] = []
    with (
        _sigterm_as_exit(),
        _open_pool(executor, workers, dict(resources or {}), lock) as (pool, running),
        _Bar(len(jobs), len(waiting), progress) as bar,
    ):
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.popleft()
                (job.folder / FAILED_FILE).unlink(missing_ok=True)
                tries[job] += 1
                running[job] = pool.start(job)
            time.sleep(POLL_S)
            for job, exit_code in _ended(running):
                if exit_code == 0 and job.is_done:
                    _report_done(job)
                elif (exit_code < 0 or exit_code in STOPPED) and tries[job] <= max_retries:
                    logger.warning("run    %s ended by %s; it is tried again", job.name, _ending(exit_code))
                    waiting.appendleft(job)
                    continue
                else:
                    failures.append(_failed(job, exit_code, tries[job]))
                bar.update()
            bar.show(running)
    return failures


@contextmanager
def _open_pool(
    executor: str, workers: int, resources: dict[str, float], lock: int | None
) -> Iterator[tuple[Pool, dict[Job, Attempt]]]:
    """Yield a pool and a dict of what runs in it; leave no run behind, however the block is left."""
    pool: Pool
    if executor == "ray":
        from .ray_workers import RayPool

        pool = RayPool(resources)
    else:
        pool = local_pool(workers, resources, lock)
    running: dict[Job, Attempt] = {}
    try:
        yield pool, running
    finally:
        stop(list(running.values()))
        pool.close()


def stop(attempts: Sequence[Attempt]) -> None:
    """Ask runs to save and stop; end those that have not after GRACE_S."""
    for attempt in attempts:
        attempt.ask_to_stop()
    deadline = time.monotonic() + GRACE_S
    for attempt in attempts:
        while attempt.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if attempt.poll() is None:
            attempt.kill()


def _ended(running: dict[Job, Attempt]) -> list[tuple[Job, int]]:
    """Take the runs that have ended out of `running`; return them with their exit codes."""
    codes = [(job, attempt.poll()) for job, attempt in running.items()]
    ended = [(job, code) for job, code in codes if code is not None]
    for job, _ in ended:
        del running[job]
    return ended


def _failed(job: Job, exit_code: int, tries: int) -> Failure:
    failure = Failure(job, exit_code, _log_tail(job))
    record = {"exit_code": exit_code, "reason": failure.reason, "tries": tries, "log_tail": failure.log_tail}
    write_json(job.folder / FAILED_FILE, record)
    logger.error("run    %s failed with %s", job.name, failure.reason)
    return failure


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"signal {-exit_code} ({signal.Signals(-exit_code).name})"
    except ValueError:
        return f"signal {-exit_code}"


# ---- on this machine ----


def local_pool(workers: int, resources: dict[str, float], lock: int | None) -> Pool:
    """Return the pool of this machine.

    A run has `cpus` threads (default: its share of the cores, or what OMP_NUM_THREADS says) and, with `gpus`, as many
    devices of its own.

    Raises:
        ConfigError: If the machine has not what the runs take.
    """
    threads = int(resources.get("cpus") or 0)
    environment = {"TOKENIZERS_PARALLELISM": "false", **os.environ}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    else:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    devices = _devices_of_each(workers, resources.get("gpus", 0))
    return kind_of_pool()(environment, devices, lock)


def kind_of_pool() -> type[ForkingPool] | type[StartingPool]:
    """Return how runs are started on this system: macOS does not fork a process that has imported torch."""
    return ForkingPool if sys.platform.startswith("linux") else StartingPool


def _devices_of_each(workers: int, gpus: float) -> list[str]:
    """Return CUDA_VISIBLE_DEVICES of each run at the same time; nothing where runs have no device of their own."""
    if not gpus:
        return []
    count = int(gpus)
    if count != gpus:
        raise ConfigError(f"resources.gpus={gpus}: parts of a GPU are given out by Ray only. Set executor: ray.")
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        import torch

        named = ",".join(map(str, range(torch.cuda.device_count())))
    devices = [each for each in named.split(",") if each]
    if len(devices) < workers * count:
        raise ConfigError(
            f"workers={workers} with resources.gpus={count} take {workers * count} GPUs, and {len(devices)} are here. "
            "Lower one of them."
        )
    return [",".join(devices[place * count : (place + 1) * count]) for place in range(workers)]


class _LocalPool:
    """What the two local pools share: the environment of a run, and devices that are given out and taken back."""

    def __init__(self, environment: dict[str, str], devices: list[str], lock: int | None) -> None:
        self.environment = environment
        self.lock = lock
        self._free = list(devices)
        self._taken: dict[Any, str] = {}

    def _take_devices(self, key: object) -> dict[str, str]:
        """Return what a run's environment has of its own."""
        if not self._free:
            return {}
        self._taken[key] = self._free.pop(0)
        return {"CUDA_VISIBLE_DEVICES": self._taken[key]}

    def give_back(self, key: object) -> None:
        """Take a run's devices back, once."""
        if key in self._taken:
            self._free.append(self._taken.pop(key))

    @property
    def _kept_open(self) -> list[int]:
        return [] if self.lock is None else [self.lock]


class StartingPool(_LocalPool):
    """Starts an interpreter for each run."""

    def start(self, job: Job, own: Mapping[str, str] | None = None) -> Attempt:
        parent = {PARENT: str(os.getpid())}  # so that no run outlives this process
        own = self._take_devices(job) | dict(own or {}) | parent
        with job.log.open("ab") as log:
            # Apart from the terminal: Ctrl-C reaches this process alone, which then stops its runs in order.
            process = subprocess.Popen(
                [sys.executable, "-m", "llm_jepa", *job.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment | own,
                start_new_session=True,
                pass_fds=self._kept_open,
            )
        return _Started(self, job, process)

    def close(self) -> None:
        pass


@dataclass
class _Started:
    pool: StartingPool
    job: Job
    process: subprocess.Popen

    def poll(self) -> int | None:
        code = self.process.poll()
        if code is not None:
            self.pool.give_back(self.job)
        return code

    def ask_to_stop(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class ForkingPool(_LocalPool):
    """Has a server, which imported everything once, fork a child for each run (see `forks`)."""

    def __init__(self, environment: dict[str, str], devices: list[str], lock: int | None) -> None:
        super().__init__(environment, devices, lock)
        self._server: _Server | None = None
        self._count = 0

    def start(self, job: Job, own: Mapping[str, str] | None = None) -> Attempt:
        if self._server is None or self._server.ended:
            self._server = _Server(launch_server(self.environment, self._kept_open))
        self._count += 1
        order = {
            "number": self._count,
            "arguments": job.arguments,
            "log": str(job.log),
            "environment": self._take_devices(self._count) | dict(own or {}),
        }
        self._server.send({"start": order})
        return _Forked(self, self._server, self._count)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


class _Server:
    """This side of a server: what it was sent, and what it has told of."""

    def __init__(self, launched: tuple[subprocess.Popen, socket.socket, Any]) -> None:
        self._process, self._connection, self._log = launched
        self._lines = Lines(self._connection)
        self._codes: dict[int, int] = {}
        self._is_ready = False

    @property
    def ended(self) -> bool:
        """Whether the server is gone."""
        self._read()
        return self._lines.ended

    def send(self, message: dict[str, Any]) -> None:
        send(self._connection, message)

    def code(self, number: int) -> int | None:
        """Return the exit code of a run; LOST if the server went before it told of one."""
        self._read()
        return self._codes.get(number, LOST if self._lines.ended else None)

    def close(self) -> None:
        self._connection.close()
        self._process.wait()
        self._log.close()

    def _read(self) -> None:
        for message in self._lines.read():
            self._is_ready |= "ready" in message
            if "ended" in message:
                self._codes[message["ended"]] = message["code"]
        if self._lines.ended and not self._is_ready:
            self._is_ready = True  # told once
            self._log.seek(0)
            tail = self._log.read().decode(errors="replace").strip().splitlines()[-TAIL_LINES:]
            raise LLMJEPAError("The process that starts the runs ended before any began:\n" + "\n".join(tail))


@dataclass
class _Forked:
    pool: ForkingPool
    server: _Server
    number: int

    def poll(self) -> int | None:
        code = self.server.code(self.number)
        if code is not None:
            self.pool.give_back(self.number)
        return code

    def ask_to_stop(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        self.server.send({"signal": {"number": self.number, "signal": int(number)}})


def launch_server(environment: dict[str, str], kept_open: Sequence[int]) -> tuple[Any, socket.socket, Any]:
    """Start the server of a `ForkingPool`; return its process, the connection to it, and what it writes."""
    ours, theirs = socket.socketpair()
    log = tempfile.TemporaryFile()  # noqa: SIM115 (the caller reads it, and closes it)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "llm_jepa.experiments.fork_server", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process alone
            pass_fds=[theirs.fileno(), *kept_open],
        )
    return process, ours, log


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Turn SIGTERM into SystemExit(143), which stops the runs on its way."""

    def terminate(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- what is said ----


class _Bar:
    """The progress bar: runs done, and the step that those under way have reached."""

    def __init__(self, num_jobs: int, num_waiting: int, progress: bool) -> None:
        self._bar = tqdm(total=num_jobs, initial=num_jobs - num_waiting, desc="runs", unit="run", disable=not progress)
        self._shown = 0.0

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self) -> None:
        self._bar.update()

    def show(self, running: Mapping[Job, Attempt]) -> None:
        if not self._bar.disable and time.monotonic() - self._shown > SHOW_S:
            self._shown = time.monotonic()
            self._bar.set_postfix_str(", ".join(f"{job.name} step {_last_step(job)}" for job in running))


def _report_done(job: Job) -> None:
    record = json.loads((job.folder / "eval.json").read_text())
    metric = load_yaml((job.folder / "config.yaml").read_text(encoding="utf-8")).get("metric", EvaluationConfig.metric)
    score = f" | {metric} {record[metric]:.3f}" if isinstance(record.get(metric), int | float) else ""
    logger.info("run    %-24s done in %4.0f s%s", job.name, record["training_time_s"], score)


def _last_step(job: Job) -> int:
    path = job.folder / "metrics.jsonl"
    lines = read_json_lines(path) if path.is_file() else []
    return lines[-1]["step"] if lines else 0


def _log_tail(job: Job) -> str:
    text = job.log.read_text(encoding="utf-8", errors="replace") if job.log.is_file() else ""
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])
