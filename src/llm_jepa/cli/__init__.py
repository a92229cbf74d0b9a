"""The command line: parsing and printing, nothing else.

Results go to standard output, whose last line is one JSON object; progress and log go to standard error.
Exit codes: 0 done, 1 the work failed, 2 the call, the configuration or the data was wrong, 3 a requested check
failed, 130 interrupted, 143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import NoReturn

from llm_jepa import __version__
from llm_jepa.errors import ConfigError, LLMJEPAError
from llm_jepa.processes import end_with_parent, is_main, leave, num_launched, rank, told

from . import data_commands, experiment_commands, reproduce_command, run_commands, tool_commands
from .parsing import Parser
from .printing import WIDTH, be_quiet, print_error, print_json, substitute_characters

__all__ = ["WIDTH", "main"]

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM

# An OSError of one of these kinds is a wrong path in the call; any other (a full disk, say) is work that failed.
_WRONG_PATH = ("ENOENT", "EACCES", "EPERM", "ENOTDIR", "EISDIR", "EEXIST", "EROFS", "ENAMETOOLONG")
WRONG_PATH = frozenset(getattr(errno, name) for name in _WRONG_PATH)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    substitute_characters()
    arguments = _parser().parse_args(argv)
    be_quiet(arguments.debug)
    exit_code = _run(arguments)
    leave()  # not before an error has been dealt with and is gone: its traceback holds the trainer
    return exit_code


def _run(arguments: argparse.Namespace) -> int:
    try:
        with _sigterm_as_exit(), _one_voice():
            end_with_parent()
            _check_launch(arguments)
            print_json(arguments.command(arguments))
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
        if arguments.debug:
            raise
        message, exit_code = _describe(error)
        if not getattr(error, "told_by_main", False):
            print_error(message if is_main() else f"process {rank()}: {message}")
        return exit_code
    return 0


@contextmanager
def _one_voice() -> Iterator[None]:
    """Let rank 0 alone write to standard output, and log, where several processes do one command."""
    if is_main():
        yield
        return
    log = logging.getLogger("llm_jepa")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w", encoding="utf-8", errors="backslashreplace") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        log.setLevel(level)


def _check_launch(arguments: argparse.Namespace) -> None:
    """Refuse to do as often as there are processes what one does: only some commands share their work out."""
    if num_launched() > 1 and not arguments.shared_out:
        raise told(
            ConfigError(
                f"{num_launched()} processes were started for one command, which only train and evaluate share out. "
                "Start it without torchrun or accelerate launch; `compare` takes --workers."
            )
        )


def _print_parting(word: str) -> None:
    if is_main():
        print(f"{word} What was written is kept; the same command goes on from there.", file=sys.stderr)


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
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


def _describe(error: LLMJEPAError | OSError) -> tuple[str, int]:
    """Return what to print of an error, and the exit code."""
    if isinstance(error, LLMJEPAError):
        return str(error), error.exit_code
    name = error.filename2 or error.filename  # of a renaming, the target: the other name is ours
    where = f"{name}: " if name else ""
    problem = (error.strerror or str(error)).rstrip(".")
    exit_code = ConfigError.exit_code if error.errno in WRONG_PATH else LLMJEPAError.exit_code
    return f"{where}{problem}. What was written before is kept; --debug shows where this happened.", exit_code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="llm-jepa",
        description="Train language models with LLM-JEPA, and learn honestly whether it helped.",
        epilog="`llm-jepa config` lists the keys of a CONFIG.yaml. Exit codes: 0 done, 1 the work failed, 2 the call, "
        "the config or the data was wrong, 3 a requested check failed, 130 interrupted, 143 stopped.",
    )
    parser.add_argument("--version", action="version", version=f"llm-jepa {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and the log of transformers")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for family in (experiment_commands, reproduce_command, run_commands, data_commands, tool_commands):
        family.register(commands)
    return parser
