"""What a process says on standard error: its log, why it ends, and the exit code that goes with it.

The command line and the processes of a sweep's runs share it, so that a run ends in the same way in both.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from llm_jepa.errors import ConfigError, LLMJEPAError
from llm_jepa.processes import is_main, rank
from llm_jepa.progress import AboveProgress, draw_on_terminal

WIDTH = 80
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM

# An OSError of one of these kinds is a wrong path in the call; any other (a full disk, say) is work that failed.
_WRONG_PATH = ("ENOENT", "EACCES", "EPERM", "ENOTDIR", "EISDIR", "EEXIST", "EROFS", "ENAMETOOLONG")
WRONG_PATH = frozenset(getattr(errno, name) for name in _WRONG_PATH)


def exit_code_of(work: Callable[[], object], *, debug: bool = False) -> int:
    """Do some work; print the error or the signal that ended it, and return the exit code.

    Args:
        work: The work.
        debug: Raise an error, with its traceback, instead of printing it.
    """
    try:
        with sigterm_as_exit():
            work()
    except KeyboardInterrupt:
        _print_parting("\nInterrupted.")
        return INTERRUPTED
    except SystemExit as stop:
        if stop.code == TERMINATED:
            _print_parting("Stopped.")
        return int(stop.code or 0)
    except BrokenPipeError:
        # The reader of a pipe has gone (`| head`). Python's flush at exit must not meet the broken pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return LLMJEPAError.exit_code
    except (LLMJEPAError, OSError) as error:
        if debug:
            raise
        message, exit_code = _describe(error)
        if not getattr(error, "told_by_main", False):
            print_error(message if is_main() else f"process {rank()}: {message}")
        return exit_code
    return 0


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Turn SIGTERM into SystemExit(143), which runs every `finally` on its way: no file stays half written."""

    def stop(*_: object) -> NoReturn:
        raise SystemExit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():  # Python sets handlers in the main thread only
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def print_error(message: str) -> None:
    """Print to standard error: the first line wrapped, the others as they are."""
    first, *rest = message.split("\n")
    wrap = wrapper(initial_indent="llm-jepa: ")
    print(wrap.fill(first), file=sys.stderr)
    for line in rest:
        print(line, file=sys.stderr)


def wrapper(**options: Any) -> textwrap.TextWrapper:
    """Return what wraps text but leaves paths in one piece, which a terminal can then open."""
    return textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False, **options)


def log_to_standard_error(debug: bool = False) -> None:
    """Log our own lines to standard error, and leave the libraries' messages and telemetry out."""
    logging.basicConfig(handlers=[AboveProgress(sys.stderr)], format="%(message)s", level=logging.WARNING)
    logging.getLogger("llm_jepa").setLevel(logging.DEBUG if debug else logging.INFO)
    if is_main():
        draw_on_terminal()
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(name, "1")
    if debug:
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    for name in ("huggingface_hub", "datasets", "httpx", "bitsandbytes"):  # of every retry of a missing hub, say
        logging.getLogger(name).setLevel(logging.ERROR)
    import warnings

    warnings.filterwarnings("ignore", module="torch|transformers|accelerate")


def _describe(error: LLMJEPAError | OSError) -> tuple[str, int]:
    """Return what to print of an error, and the exit code."""
    if isinstance(error, LLMJEPAError):
        return f"{error} [{error.code}]" if error.code else str(error), error.exit_code
    name = error.filename2 or error.filename  # of a renaming, the target: the other name is ours
    where = f"{name}: " if name else ""
    problem = (error.strerror or str(error)).rstrip(".")
    exit_code = ConfigError.exit_code if error.errno in WRONG_PATH else LLMJEPAError.exit_code
    return f"{where}{problem}. What was written before is kept; --debug shows where this happened.", exit_code


def _print_parting(word: str) -> None:
    if is_main():
        print(f"{word} What was written is kept; the same command goes on from there.", file=sys.stderr)
