"""A child process with limits on time, memory and files, for work on SQL or PDFs that are not trusted.

    parent    child = Sandbox(target, ...); child.ask(request); child.read(timeout_s); child.close()
    child     calls `answer(request, send)` of the target for each request

A request is a line of JSON on the child's standard input, an answer is a line on its standard output. The child runs
this file, which imports only the standard library. If the target does the same, the child starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import runpy
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

_TOO_SLOW = {-getattr(signal, name) for name in ("SIGPROF", "SIGXCPU") if hasattr(signal, name)}


class DiedError(Exception):
    """The child ended without an answer; the text is its signal or its exit code."""

    def __init__(self, code: int | None) -> None:
        names = {-each: each.name for each in signal.Signals}
        super().__init__(names.get(code, f"exit code {code}") if code is not None else "no exit code")


class Sandbox:
    """A child process that is started by a request, and again by the next one if it has ended.

    Args:
        target: What has `answer`: a Python file that imports only the standard library, or the name of a module.
        memory_bytes: Limit of its address space; enforced if the system can do that (Linux).
        file_bytes: Limit of the size of a file that it writes.
        cpu_s: Limit of its processor time in whole seconds; None for no limit.
        environment: For a module, variables in addition to the environment of this process. A file gets almost none.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        memory_bytes: int,
        file_bytes: int,
        cpu_s: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        limits = {"memory_bytes": memory_bytes, "file_bytes": file_bytes, "cpu_s": cpu_s}
        flags, self._environment = ["-P"], {**os.environ, **(environment or {})}
        if isinstance(target, Path):
            flags, kept = ["-I", "-S", "-B"], ("LD_LIBRARY_PATH", "SYSTEMROOT")
            self._environment = {name: os.environ[name] for name in kept if name in os.environ}
        self._command = [sys.executable, *flags, __file__, str(target), json.dumps(limits)]
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._stop: Any = None

    @property
    def pid(self) -> int | None:
        """The child's process id; None if there is no child."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def ask(self, request: Mapping[str, Any]) -> None:
        """Send a request; raise a DiedError if the child has just died."""
        if self.pid is None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        line = json.dumps(request).encode() + b"\n"
        try:
            while line:
                line = line[self._process.stdin.write(line) :]
        except OSError:
            raise DiedError(self._end()) from None

    def read(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next answer; None if the child took too long, by the clock or of processor time; it is ended then.

        If it died for another reason, a DiedError is raised.
        """
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            self.close()
            return None
        if line:
            return json.loads(line)
        code = self._end()
        if code in _TOO_SLOW:
            return None
        raise DiedError(code)

    def close(self) -> None:
        """End the child."""
        if self._stop is not None:
            self._stop()
        self._process = None

    def _end(self) -> int | None:
        """End a child that has died; return its exit code."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        code = self._process.poll()
        self.close()
        return code

    def _start(self) -> None:
        self.close()
        self._lines = queue.Queue()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries warn about each damaged object, and a file may have millions
            bufsize=0,  # a buffer that a thread reads has a lock, which would stay locked in a fork of this process
            env=self._environment,
        )
        threading.Thread(target=_forward, args=(self._process.stdout, self._lines), daemon=True).start()
        self._stop = weakref.finalize(self, _kill, self._process)


def _forward(pipe: IO[bytes], to: queue.Queue[bytes]) -> None:
    """Put each line of a pipe into a queue, and an empty one at the end of the pipe; only this thread closes it.

    Closed by another thread, its number could be that of the next child's pipe, whose answer this one would take.
    """
    rest = b""
    with contextlib.suppress(ValueError, OSError), pipe:
        while piece := pipe.read(2**16):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                to.put(line)
    to.put(b"")


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()


# ---- in the child ----


def limit_process(memory_bytes: int, file_bytes: int, cpu_s: int | None = None) -> None:
    """Let the kernel enforce the limits of this process."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    limits = {
        resource.RLIMIT_AS: (memory_bytes, memory_bytes),
        resource.RLIMIT_FSIZE: (file_bytes, file_bytes),
        resource.RLIMIT_CORE: (0, 0),
    }
    if cpu_s is not None:
        limits[resource.RLIMIT_CPU] = (cpu_s, cpu_s + 1)  # first SIGXCPU, which shows the cause, then SIGKILL
    for limit, values in limits.items():
        with contextlib.suppress(ValueError, OSError):  # there is a lower limit, or the system has none (macOS: memory)
            resource.setrlimit(limit, values)


def _serve(target: str, limits: Mapping[str, Any]) -> None:
    """Answer requests until standard input ends."""
    limit_process(**limits)
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # the output of a library must not be read as an answer

    def send(message: Mapping[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    module = runpy.run_path(target) if target.endswith(".py") else vars(importlib.import_module(target))
    for line in sys.stdin:
        module["answer"](json.loads(line), send)


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]))
