"""Many runs at the same time, each in a process of its own, on this machine."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from llm_jepa.files import read_json_lines
from llm_jepa.processes import PARENT

logger = logging.getLogger(__name__)

POLL_S = 0.5
GRACE_S = 10.0  # between asking a run to stop and ending it
TAIL_LINES = 15


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


@dataclass(frozen=True)
class Failure:
    """A run that ended without DONE: its exit code (negative: a signal's number) and the end of its log."""

    job: Job
    exit_code: int
    log_tail: str


def run_jobs(jobs: Sequence[Job], workers: int, *, progress: bool = False) -> list[Failure]:
    """Do all jobs that are not done yet, `workers` at a time, in order; return those that failed.

    A job that fails does not stop the others. If this process is interrupted or terminated, the runs are
    stopped first, and what they have written stays.

    Args:
        jobs: The runs.
        workers: Processes at the same time; each gets its share of the cores.
        progress: Show a progress bar on standard error.
    """
    waiting = deque(job for job in jobs if not job.is_done)
    if len(waiting) < len(jobs):
        logger.info("run    %d of %d runs are done already and stay as they are", len(jobs) - len(waiting), len(jobs))
    running: dict[Job, subprocess.Popen] = {}
    failures: list[Failure] = []
    with _stopped_at_the_end(running), tqdm(total=len(jobs), desc="runs", unit="run", disable=not progress) as bar:
        bar.update(len(jobs) - len(waiting))
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.popleft()
                running[job] = _start(job, workers)
            time.sleep(POLL_S)
            for job in [job for job, process in running.items() if process.poll() is not None]:
                exit_code = running.pop(job).returncode
                bar.update()
                if exit_code or not job.is_done:
                    failures.append(Failure(job, exit_code, _log_tail(job)))
                    logger.error("run    %s failed with exit code %d", job.name, exit_code)
                else:
                    _report_done(job)
            bar.set_postfix_str(", ".join(f"{job.name} step {_last_step(job)}" for job in running))
    return failures


def _start(job: Job, workers: int) -> subprocess.Popen:
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", **os.environ}
    environment[PARENT] = str(os.getpid())  # were this process killed, its runs would go on beside its successor's
    command = [sys.executable, "-m", "llm_jepa", "train", str(job.folder / "config.yaml"), "--out", str(job.folder)]
    with (job.folder / "log.txt").open("ab") as log:
        # Apart from the terminal: Ctrl-C reaches this process alone, which then stops its runs in order.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


@contextmanager
def _stopped_at_the_end(running: dict[Job, subprocess.Popen]) -> Iterator[None]:
    """Turn SIGTERM into SystemExit(143), and leave no run behind, however the block is left."""

    def terminate(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for process in running.values():
            process.terminate()
        deadline = time.monotonic() + GRACE_S
        for process in running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _report_done(job: Job) -> None:
    record = json.loads((job.folder / "eval.json").read_text())
    scores = " | ".join(f"{name} {record[name]:.3f}" for name in ("exact_match", "starts_with") if name in record)
    logger.info("run    %-24s done in %4.0f s | %s", job.name, record["training_time_s"], scores)


def _last_step(job: Job) -> int:
    path = job.folder / "metrics.jsonl"
    lines = read_json_lines(path) if path.is_file() else []
    return lines[-1]["step"] if lines else 0


def _log_tail(job: Job) -> str:
    text = (job.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])
