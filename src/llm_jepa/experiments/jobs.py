"""The runs of a sweep: which are still to be done, how each ended, and which are tried again.

`run_jobs` keeps the list of runs and logs what happens to them. A pool (`LocalPool`, `RayPool`) starts a run and
reports how it ended. The run folders alone say what has been done, so a second call continues with the rest.
"""

from __future__ import annotations

import logging
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from llm_jepa.evaluation.evaluate import EvaluationConfig
from llm_jepa.progress import duration
from llm_jepa.runs.folder import RunFolder
from llm_jepa.runs.settings import RunConfig, Settings
from llm_jepa.standard_error import INTERRUPTED, TERMINATED, sigterm_as_exit, wrapper

from .sweep_progress import SweepProgress

logger = logging.getLogger(__name__)

POLL_S = 0.05
GRACE_S = 10.0  # between asking a run to stop and ending it
TAIL_LINES = 15
# Exit code of a run whose process disappeared: a user killed it, or the kernel did because memory was short.
LOST = -int(signal.SIGKILL)


@dataclass(frozen=True)
class Job:
    """A run to be done, or to be read (`run` is None). `after`, its teacher's run, must be done before."""

    arm: str
    seed: int
    folder: RunFolder
    run: RunConfig | None = field(default=None, compare=False, repr=False)
    after: Job | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def settings(self) -> Settings:
        """What its config.yaml holds."""
        assert self.run is not None
        return self.run.settings | {"seed": self.seed}


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
    """One try of a run, on any machine."""

    def poll(self) -> int | None:
        """Return the exit code (negative: a signal's number), or None while it runs."""

    def ask_to_stop(self) -> None:
        """Ask it to finish its step, save, and end."""

    def kill(self) -> None: ...


class Pool(Protocol):
    """A place where runs are done."""

    def start(self, job: Job) -> Attempt: ...

    def close(self) -> None:
        """Release what the pool holds. No try is running when this is called."""


def run_jobs(
    jobs: Sequence[Job], workers: int, open_pool: Callable[[], Pool], *, max_retries: int = 0, progress: bool = False
) -> list[Failure]:
    """Do all jobs that are not done yet, `workers` at a time, in order; return those that failed.

    A job that fails does not stop the others. If a signal ended it, or its worker was lost, it is tried again, from its
    newest checkpoint if it has one. If it failed by itself, it is not tried again, because it would fail again. The
    folder of a failed run gets a file FAILED, which says how it failed and after how many tries. If this process is
    interrupted or terminated, the runs are stopped first, and the files that they have written stay. `open_pool` is
    called only if there is a run to do; `progress` is `bar` of `Progress`.
    """
    waiting = deque(job for job in jobs if not job.folder.is_done)
    if num_done := len(jobs) - len(waiting):
        logger.info("run    %d of %d runs are already done and stay as they are", num_done, len(jobs))
    if not waiting:
        return []
    tries: Counter[Job] = Counter()
    failures: list[Failure] = []
    with (
        sigterm_as_exit(),
        _opened(open_pool) as (pool, running),
        SweepProgress(len(jobs), num_done, bar=progress) as shown,
    ):
        while waiting or running:
            while len(running) < workers and (job := _next(waiting, running)):
                job.folder.unmark_failed()
                if job.after is not None and not job.after.folder.is_done:
                    failures.append(_not_taught(job, job.after.name))
                    shown.end(job.folder)
                    continue
                tries[job] += 1
                running[job] = pool.start(job)
            time.sleep(POLL_S)
            for job, exit_code in _ended(running):
                if exit_code == 0 and job.folder.is_done:
                    _report_done(job)
                elif (exit_code < 0 or exit_code in (INTERRUPTED, TERMINATED)) and tries[job] <= max_retries:
                    logger.warning("run    %s ended by %s; it is tried again", job.name, _ending(exit_code))
                    waiting.appendleft(job)
                    continue
                else:
                    failures.append(_failed(job, exit_code, tries[job]))
                shown.end(job.folder)
            shown.look([job.folder for job in running])
    return failures


def _next(waiting: deque[Job], running: Mapping[Job, Attempt]) -> Job | None:
    """Remove and return the first run of `waiting` whose teacher neither waits nor runs; None if there is none."""
    for job in waiting:
        if job.after is None or (job.after not in running and job.after not in waiting):
            waiting.remove(job)
            return job
    return None


@contextmanager
def _opened(open_pool: Callable[[], Pool]) -> Iterator[tuple[Pool, dict[Job, Attempt]]]:
    """Yield a pool and a dict of the running jobs; stop them when the block ends, also by an error."""
    pool, running = open_pool(), dict[Job, Attempt]()
    try:
        yield pool, running
    finally:
        stop(list(running.values()))
        pool.close()


def stop(attempts: Sequence[Attempt]) -> None:
    """Ask runs to save and stop; kill those that are still running after GRACE_S."""
    for attempt in attempts:
        attempt.ask_to_stop()
    deadline = time.monotonic() + GRACE_S
    for attempt in attempts:
        while attempt.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if attempt.poll() is None:
            attempt.kill()


def _ended(running: dict[Job, Attempt]) -> list[tuple[Job, int]]:
    """Remove the runs that have ended from `running`; return them with their exit codes."""
    codes = [(job, attempt.poll()) for job, attempt in running.items()]
    ended = [(job, code) for job, code in codes if code is not None]
    for job, _ in ended:
        del running[job]
    return ended


def _not_taught(job: Job, teacher: str) -> Failure:
    logger.error("run    %s cannot begin: its teacher %s failed", job.name, teacher)
    return _marked(Failure(job, 1, f"Its teacher {teacher} has no finished run."), f"no finished teacher {teacher}", 0)


def _failed(job: Job, exit_code: int, tries: int) -> Failure:
    failure = Failure(job, exit_code, job.folder.log_tail(TAIL_LINES))
    logger.error("run    %s failed with %s", job.name, failure.reason)
    return _marked(failure, failure.reason, tries)


def _marked(failure: Failure, reason: str, tries: int) -> Failure:
    record = {"exit_code": failure.exit_code, "reason": reason, "tries": tries, "log_tail": failure.log_tail}
    failure.job.folder.mark_failed(record)
    return failure


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"signal {-exit_code} ({signal.Signals(-exit_code).name})"
    except ValueError:
        return f"signal {-exit_code}"


def _report_done(job: Job) -> None:
    record = job.folder.evaluation()
    metric = job.folder.settings().get("metric", EvaluationConfig.metric)
    score = f"{metric} {record[metric]:.3f}, " if isinstance(record.get(metric), int | float) else ""
    total, trained, evaluated = (duration(record[f"{name}_time_s"]) for name in ("total", "training", "evaluation"))
    wrap = wrapper(initial_indent="run    ", subsequent_indent=" " * 7)
    logger.info(wrap.fill(f"{job.name}: {score}{total} (trained {trained}, evaluated {evaluated})"))
