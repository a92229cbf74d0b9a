"""A limited child process: whatever its work does, the parent gets an answer, a timeout or one error."""

from __future__ import annotations

import io
import os
import queue
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from llm_jepa.sandbox import DiedError, Sandbox, _forward, _kill

TARGET = """
import os, time

def answer(request, send):
    print("a library's own words")
    if "sleep_s" in request:
        time.sleep(request["sleep_s"])
    if "spin" in request:
        while True:
            pass
    if "bytes" in request:
        try:
            bytearray(request["bytes"])
        except MemoryError:
            send({"error": "memory"})
            return
    if "file" in request:
        try:
            with open(request["file"], "wb") as file:
                file.write(bytes(100))
        except OSError as error:
            send({"error": type(error).__name__})
            return
    if "exit" in request:
        os._exit(request["exit"])
    send({"echo": request, "pid": os.getpid()})
"""


@pytest.fixture
def sandbox(tmp_path) -> Iterator[Callable[..., Sandbox]]:
    """Make a child whose target is `TARGET`; all are closed at the end."""
    target = tmp_path / "target.py"
    target.write_text(TARGET)
    made = []

    def make(**limits: int) -> Sandbox:
        made.append(Sandbox(target, **{"memory_bytes": 192 * 2**20, "file_bytes": 0} | limits))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_only_the_thread_that_reads_a_pipe_closes_it():
    """Closed by another, its number is that of the next child's pipe, whose answer the thread would then take."""
    child = SimpleNamespace(kill=lambda: None, wait=lambda: None, stdin=io.BytesIO(), stdout=io.BytesIO(b"1\n2\n"))
    _kill(child)
    assert child.stdin.closed and not child.stdout.closed
    lines = queue.Queue()
    _forward(child.stdout, lines)
    assert [lines.get() for _ in range(3)] == [b"1", b"2", b""] and child.stdout.closed


def test_one_child_answers_one_request_after_the_other(sandbox):
    """What its libraries print is no answer."""
    child = sandbox()
    for number in (1, 2):
        child.ask({"n": number})
        assert child.read(30) == {"echo": {"n": number}, "pid": child.pid}


def test_a_child_that_does_not_answer_is_ended_and_the_next_request_has_another(sandbox):
    child = sandbox()
    child.ask({"sleep_s": 60})
    pid = child.pid
    assert child.read(0.2) is None and child.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    child.ask({})
    assert child.read(30)["pid"] != pid


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process is forked here")
def test_a_process_that_was_forked_meanwhile_lets_go_of_it(sandbox):
    """Loader workers and the ranks of tests are forked, and collect garbage; the child stays the parent's."""
    child = sandbox()
    child.ask({})
    pid = child.read(30)["pid"]
    forked = os.fork()
    if forked == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)  # where it hangs it ends by SIGALRM
            child.close()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
    child.ask({})
    assert child.read(30)["pid"] == pid


def test_a_death_is_named_by_its_signal_or_its_exit_code(sandbox):
    child = sandbox()
    child.ask({"exit": 9})
    with pytest.raises(DiedError, match="exit code 9"):
        child.read(30)
    child.ask({"sleep_s": 60})
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(DiedError, match="SIGKILL"):
        child.read(30)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's limits are Linux's")
def test_memory_files_and_processor_time_are_limited(sandbox, tmp_path: Path):
    """Too much memory and any file are errors in the child; too much processor time ends it, as a timeout does."""
    child = sandbox(cpu_s=1)
    child.ask({"bytes": 2**30})
    assert child.read(30) == {"error": "memory"}
    child.ask({"file": str(tmp_path / "new")})
    assert child.read(30) == {"error": "OSError"}
    child.ask({"spin": True})
    assert child.read(30) is None
