"""What a process prints on standard error: its log, and why it ends, with the right exit code.

The command line and the processes of a sweep's runs use it, so that a run ends in the same way in both.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from llm_jepa.errors import ConfigError, LLMJEPAError
from llm_jepa.processes import is_main, rank
from llm_jepa.progress import WIDTH, AboveProgress, draw_on_terminal

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM

# The code of an OSError. With one of these, a path in the call is wrong; with any other, the work failed.
_WRONG_PATH = {
    errno.ENOENT: "file_missing",
    errno.EACCES: "access_denied",
    errno.EPERM: "access_denied",
    errno.EROFS: "access_denied",
    errno.ENOTDIR: "not_a_folder",
    errno.EISDIR: "not_a_file",
    errno.EEXIST: "file_exists",
    errno.ENAMETOOLONG: "name_too_long",
}
_WORK_FAILED = {errno.ENOSPC: "disk_full"}


@contextmanager
def only_errors() -> Iterator[None]:
    """Log nothing but errors: what is tried here, or done by another process, says the rest."""
    log = logging.getLogger("llm_jepa")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def exit_code_of(work: Callable[[], object], *, debug: bool = False) -> int:
    """Call `work`; print the error or the signal that ended it, and return the exit code.

    With `debug`, an error is raised, with its traceback, instead of printed.
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
        # The reader of the pipe has ended (`| head`). Python's flush at exit must not fail because of that again.
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
    """Turn SIGTERM into SystemExit(143), so that every `finally` is run, and no file stays incomplete."""

    def stop(*_: object) -> NoReturn:
        raise SystemExit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def print_error(message: str) -> None:
    """Print to standard error, with the first line wrapped and the others unchanged."""
    first, *rest = message.split("\n")
    print(wrapper(initial_indent="llm-jepa: ").fill(first), *rest, sep="\n", file=sys.stderr)


def wrapper(**options: Any) -> textwrap.TextWrapper:
    """Return a wrapper of text that does not split paths, so that a terminal can open them."""
    return textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False, **options)


def log_to_standard_error(debug: bool = False) -> None:
    """Log our own lines to standard error, and turn off the messages and telemetry of libraries."""
    logging.basicConfig(handlers=[AboveProgress(sys.stderr)], format="%(message)s", level=logging.WARNING)
    logging.getLogger("llm_jepa").setLevel(logging.DEBUG if debug else logging.INFO)
    if is_main():
        draw_on_terminal()
    quiet = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TRANSFORMERS_NO_ADVISORY_WARNINGS")
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", *(() if debug else quiet)):
        os.environ.setdefault(name, "1")
    if debug:
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("huggingface_hub", "datasets", "httpx", "bitsandbytes"):  # of retries if the hub is offline, say
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="torch|transformers|accelerate")


def _describe(error: LLMJEPAError | OSError) -> tuple[str, int]:
    """Return what to print about an error, and the exit code."""
    if isinstance(error, LLMJEPAError):
        return f"{error} [{error.code}]", error.exit_code
    name = error.filename2 or error.filename  # of a renaming, the target: the other name is temporary
    where = f"{name}: " if name else ""
    problem = (error.strerror or str(error)).rstrip(".")
    exit_code = ConfigError.exit_code if error.errno in _WRONG_PATH else LLMJEPAError.exit_code
    code = (_WRONG_PATH | _WORK_FAILED).get(error.errno or 0, "system_error")
    text = f"{where}{problem}. Files that were written before are kept; --debug shows where this happened."
    return f"{text} [{code}]", exit_code


def _print_parting(word: str) -> None:
    if is_main():
        print(f"{word} Files that were written are kept; the same command continues from there.", file=sys.stderr)
