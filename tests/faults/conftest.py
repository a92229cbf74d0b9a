"""What the fault tests share: a run that saves every step, and children that may be killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from llm_jepa.training.trainer import JEPATrainer
from tests.children import run_and_exit

STEPS = 6


class Child:
    """A forked process that runs a function: it exits with 0, or with 1 after an exception."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            # tqdm's own lock is shared with the parent: a child that is killed while it holds it would stop both.
            tqdm.set_lock(threading.RLock())
            run_and_exit(function)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Return the exit code, or minus the number of the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def run_child() -> Callable[[Callable[[], None]], Child]:
    return Child


@pytest.fixture
def make_run(make_jepa, make_trainer, make_pairs) -> Callable[..., JEPATrainer]:
    """Build a run of STEPS steps that saves each; the same weights, rows and order every time."""

    def make(out: str, **arguments) -> JEPATrainer:
        torch.manual_seed(3)
        defaults = {"max_steps": STEPS, "save_steps": 1, "logging_steps": 1}
        objective = arguments.pop("objective", {})
        pairs = arguments.pop("pairs", None) or make_pairs(12)
        return make_trainer(make_jepa(**objective), pairs, out=out, **{**defaults, **arguments})

    return make


@pytest.fixture
def final_weights() -> Callable[[JEPATrainer], dict[str, torch.Tensor]]:
    def read(trainer: JEPATrainer) -> dict[str, torch.Tensor]:
        return {name: each.clone() for name, each in trainer.jepa.state_dict().items()}

    return read


def wait_for(path: Path, timeout_s: float = 60.0) -> None:
    """Wait until a path is there."""
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.002)


@pytest.fixture
def wait_until_there() -> Callable[..., None]:
    return wait_for


@dataclass
class FaultRow:
    """One row of docs/reliability.md: a fault, how often it was tried, how often it was survived."""

    id: str
    fault: str
    tried: int
    passed: int = 0


@pytest.fixture
def fault_row() -> Callable[..., AbstractContextManager[FaultRow]]:
    """Give a context for a fault that, where LLM_JEPA_FAULTS names a file, adds a JSON line to it."""

    @contextmanager
    def measure(id: str, fault: str, tried: int) -> Iterator[FaultRow]:
        row = FaultRow(id, fault, tried)
        try:
            yield row
        finally:
            if path := os.environ.get("LLM_JEPA_FAULTS"):
                with open(path, "a") as file:  # one short write: lines of parallel tests do not mix
                    file.write(json.dumps(asdict(row)) + "\n")

    return measure
