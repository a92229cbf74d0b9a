"""Processes that end with the one that started them, however it ended."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "LLM_JEPA_PARENT"  # in the environment of a process that is to end with its parent: the parent's pid

_PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>


def end_with_parent() -> None:
    """If the environment names this process's parent, have SIGTERM sent here when that one dies, even by SIGKILL.

    Linux only; elsewhere nothing happens, and a killed parent leaves its children to finish.
    """
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before the call
        os.kill(os.getpid(), signal.SIGTERM)
