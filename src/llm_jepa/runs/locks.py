"""Only one process may work in a folder: a second sweep in an experiment, or a second training of a run, is an error.

The lock is the kernel's (`flock`): it ends when the last process that holds it ends, for any reason. The lock file of a
sweep says who holds it, for the error message. Processes that a sweep forks or starts may hold the lock too. So if the
sweep is killed, it keeps its folder until its last run has stopped.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from llm_jepa.errors import ConfigError

from .folder import OWNER_FILE

logger = logging.getLogger(__name__)

PATIENCE_S = 15.0
"""How long to wait for the runs of a sweep that was killed; they stop within five seconds."""
POLL_S = 0.05


@contextmanager
def sole_owner(folder: Path) -> Iterator[int]:
    """Lock an experiment's folder, which is made if it is missing, for the duration of the block.

    Yields:
        The lock's file descriptor, for processes that should hold it too. If the folder is already locked, it is a
        ConfigError with the pid and host of the process that holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _take(folder / OWNER_FILE)
    try:
        yield lock
    finally:
        (folder / OWNER_FILE).unlink(missing_ok=True)  # while the lock is held: see _take
        os.close(lock)


@contextmanager
def sole_trainer(folder: Path) -> Iterator[None]:
    """Lock a run's folder, which must exist, for the duration of the block.

    The lock is on the folder itself and leaves no file. If the file system has no such locks, nothing is locked.
    If another process trains in the folder, wait for it: it may belong to a sweep that was killed, and be saving. If it
    continues, that is a ConfigError.
    """
    lock = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + PATIENCE_S
    try:
        if not _locked(lock):
            logger.info("wait   another process is training in %s", folder)
            while not _locked(lock):
                if time.monotonic() > deadline:
                    text = f"{folder} is being trained by another process. Wait for it, or choose another --out."
                    raise ConfigError("folder_in_use", text)
                time.sleep(POLL_S)
        yield
    finally:
        os.close(lock)


def _take(file: Path) -> int:
    """Lock the owner's file, write pid and host of this process into it, and return its descriptor."""
    folder, deadline = file.parent, None
    while True:
        with ExitStack() as opened:
            lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            opened.callback(os.close, lock)
            is_locked = _locked(lock)
            owner = _read(lock)
            who = f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'unknown')}"
            if is_locked and _is_at(lock, file):  # else its owner has just removed the file
                if owner:
                    text = "note   the last sweep in %s (%s) did not end by itself; this one continues its runs"
                    logger.info(text, folder, who)
                now = datetime.now().astimezone().isoformat(timespec="seconds")
                me = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
                os.ftruncate(lock, 0)
                os.pwrite(lock, json.dumps(me).encode(), 0)
                opened.pop_all()  # it stays open
                return lock
            if not is_locked:
                if _is_alive(owner) or (deadline is not None and time.monotonic() > deadline):
                    since = f", since {owner['since']}" if "since" in owner else ""
                    raise ConfigError(
                        "folder_in_use",
                        f"{folder} belongs to a sweep that is running: {who}{since}. Wait for it, stop it, or choose "
                        "another --out.",
                    )
                if deadline is None:
                    deadline = time.monotonic() + PATIENCE_S
                    logger.info("wait   the sweep in %s was killed (%s); its runs are stopping", folder, who)
        time.sleep(POLL_S)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EBADF, errno.EINVAL):
            raise
        logger.debug("this file system has no locks: %s", error)
    return True


def _is_at(lock: int, file: Path) -> bool:
    """Whether the file that was opened is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(lock), file.stat())
    except FileNotFoundError:
        return False


def _read(lock: int) -> dict[str, Any]:
    """Return who wrote the file; empty if it has just been created, or is not complete."""
    try:
        return dict(json.loads(os.pread(lock, 4096, 0)))
    except (ValueError, TypeError):
        return {}


def _is_alive(owner: dict[str, Any]) -> bool:
    """Whether the owner may still run. On another host that cannot be checked, but the lock shows that it does."""
    if owner.get("host") != socket.gethostname() or not isinstance(owner.get("pid"), int):
        return bool(owner)
    try:
        os.kill(owner["pid"], 0)
        state = Path(f"/proc/{owner['pid']}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:  # another user's process, or a system without /proc
        return True
    return state != "Z"  # a zombie: it has ended, but its parent has not waited for it
