"""What the fault tests share: a run that saves every step, and children that may be killed."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from llm_jepa.training.trainer import JEPATrainer

STEPS = 6


class Child:
    """A forked process that runs a function: it exits with 0, or with 1 after an exception."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            gc.freeze()  # what the parent has left to collect may wait for a thread, and here there is none
            code = 1
            # tqdm's own lock is shared with the parent: a child that is killed while it holds it would stop both.
            tqdm.set_lock(threading.RLock())
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(240)  # a child that hangs ends by SIGALRM
            try:
                function()
                code = 0
            except BaseException as error:
                code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
                if code == 1:
                    traceback.print_exc()
            finally:
                os._exit(code)

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
