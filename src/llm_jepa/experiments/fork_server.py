"""A process that has imported everything once, and forks a child for each run: the local way to many short runs.

Importing torch and transformers takes seconds, as long as a short run trains. The server below does it once and then
only forks. It computes nothing itself: no thread and no CUDA context is there before a fork, so that a child is what a
process of its own would have been.

Orders and answers go through a socket, a JSON object a line: `start` and `signal` to the server, `ready` and `ended`
back. When the other side is gone, however it went, the server stops its children and ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from llm_jepa.processes import PARENT

POLL_S = 0.05
ORPHAN_GRACE_S = 4.0
"""Between asking and ending the children of a sweep that is gone: nothing is left of it after five seconds."""

MODULES = (
    "llm_jepa.cli",
    "llm_jepa.runs.run",
    "llm_jepa.evaluation.evaluate",
    "llm_jepa.training.adapters",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",  # that of `nano` and the other presets
)
"""What a run imports, of which the second half only once it builds its model."""


def serve(connection: socket.socket) -> int:
    """Fork children as they are asked for, until the other side closes the connection.

    Returns:
        The exit code of this process: 0 in the server, and that of its run in each child, which returns from here too.
    """
    for module in MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page that holds an object
    children: dict[int, int] = {}  # pid -> number of the run
    server = os.getpid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    send(connection, {"ready": True})
    lines = Lines(connection)
    while not lines.ended:
        select.select([connection], [], [], POLL_S)
        for order in lines.read():
            if "start" in order:
                pid = os.fork()
                if not pid:
                    connection.close()
                    return _train(order["start"], server)
                children[pid] = order["start"]["number"]
            else:
                for pid, number in children.items():  # none of them has been waited for: no pid is somebody else's
                    if number == order["signal"]["number"]:
                        os.kill(pid, order["signal"]["signal"])
        for pid, code in _ended(children):
            send(connection, {"ended": children.pop(pid), "code": code})
    _stop(children)
    return 0


class Lines:
    """The JSON objects that come through a socket, a line each.

    Attributes:
        ended: Whether the other side has closed it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.ended = False
        self._connection = connection
        self._rest = b""

    def read(self) -> list[dict[str, Any]]:
        """Return the objects that have come, without waiting for any."""
        try:
            while received := self._connection.recv(65536, socket.MSG_DONTWAIT):
                self._rest += received
            self.ended = True
        except BlockingIOError:
            pass
        except ConnectionError:
            self.ended = True
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines]


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send one line; one that nobody reads any more is let go, the next reading tells."""
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _train(order: dict[str, Any], parent: int) -> int:
    """Be the process of one run: `llm-jepa` with the order's arguments, its output going to the run's log."""
    os.setsid()
    os.environ |= order["environment"]
    os.environ[PARENT] = str(parent)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115 (until the end)
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    sys.argv = ["llm-jepa", *order["arguments"]]
    logging.getLogger().handlers.clear()  # of the process that was forked; the command makes its own
    from llm_jepa.cli import main

    try:
        return main(order["arguments"])
    except Exception:
        traceback.print_exc()
        return 1


def _ended(children: dict[int, int]) -> list[tuple[int, int]]:
    """Return pid and exit code (of a signal, minus its number) of each child that has ended since the last look."""
    found = []
    for pid in children:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            found.append((pid, os.waitstatus_to_exitcode(status)))
    return found


def _stop(children: dict[int, int]) -> None:
    """Ask the children to save and stop; end those that have not after ORPHAN_GRACE_S."""
    deadline = time.monotonic() + ORPHAN_GRACE_S
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in children:
            os.kill(pid, number)
        while children and (number == signal.SIGKILL or time.monotonic() < deadline):
            for pid, _ in _ended(children):
                del children[pid]
            time.sleep(POLL_S)


def main(arguments: Sequence[str]) -> int:
    """Serve through the socket whose file descriptor is the first argument."""
    return serve(socket.socket(fileno=int(arguments[0])))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
