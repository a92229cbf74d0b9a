"""No orphans: a run ends with the comparison that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

CHILD = """
import time
from llm_jepa.processes import end_with_parent
end_with_parent()
print("up", flush=True)
time.sleep(60)
"""
PARENT = f"""
import os, subprocess, sys
own = os.environ | {{"LLM_JEPA_PARENT": str(os.getpid())}}
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], env=own, start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's parent-death signal")
def test_a_process_ends_with_a_parent_that_was_killed():
    """SIGKILL leaves the parent no time to stop its runs; they stop all the same."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        if not is_running(child):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child went on without its parent")


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_without_a_named_parent_nothing_changes(monkeypatch):
    """A run that a person started stays theirs."""
    from llm_jepa import processes

    monkeypatch.delenv(processes.PARENT, raising=False)
    monkeypatch.setattr(processes.ctypes, "CDLL", lambda name: pytest.fail("no call was due"))
    processes.end_with_parent()
