"""What a process does that a test has started: a function, under a deadline, and nothing of pytest's afterwards."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

DEADLINE_S = 240


def run_and_exit(function: Callable[[], Any]) -> NoReturn:
    """Call `function`, and end this process: with 0, with the code of a SystemExit, or with 1 after another exception.

    One that hangs is ended by SIGALRM after `DEADLINE_S`, and says where it stood.
    """
    gc.freeze()  # what the parent has left to collect may wait for a thread, and here there is none
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.register(signal.SIGALRM, file=2, chain=True)  # then it ends by the signal
        signal.alarm(DEADLINE_S)
        function()
        code = 0
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        if code == 1:
            traceback.print_exc()
    finally:
        os._exit(code)
