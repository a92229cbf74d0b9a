"""The command line: parsing and printing, nothing else.

Results go to standard output. Its last line is one JSON object, except on a terminal. Progress and log go to standard
error.
Exit codes: 0 done, 1 the work failed, 2 the call, the configuration or the data was wrong, 3 a requested check
failed, 130 interrupted, 143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from llm_jepa import __version__
from llm_jepa.errors import ConfigError
from llm_jepa.processes import is_main, leave, num_launched, told
from llm_jepa.standard_error import exit_code_of, log_to_standard_error, only_errors

from . import data_commands, experiment_commands, plan_command, reproduce_command, run_commands, tool_commands
from .parsing import Parser
from .printing import print_closing, substitute_characters


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    substitute_characters()
    arguments = _parser().parse_args(argv)
    log_to_standard_error(arguments.debug)
    exit_code = exit_code_of(lambda: _do(arguments), debug=arguments.debug)
    leave()  # only after an error has been handled: its traceback keeps the trainer alive
    return exit_code


def _do(arguments: argparse.Namespace) -> None:
    with _one_voice():
        _check_launch(arguments)
        print_closing(arguments.command(arguments), arguments.main_file, as_json=arguments.json)


@contextmanager
def _one_voice() -> Iterator[None]:
    """If several processes do one command, let only rank 0 log and write to standard output."""
    if is_main():
        yield
        return
    out = Path(os.devnull)
    with out.open("w", encoding="utf-8", errors="backslashreplace") as nowhere, only_errors(), redirect_stdout(nowhere):
        yield


def _check_launch(arguments: argparse.Namespace) -> None:
    """Refuse several processes for a command that does not share its work between them: each would do all of it."""
    if num_launched() > 1 and not arguments.shared_out:
        text = f"{num_launched()} processes were started for one command, but only train and evaluate use several. "
        text += "Start it without torchrun or accelerate launch. For `compare`, use --workers."
        raise told(ConfigError("too_many_processes", text))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="llm-jepa",
        description="Train language models with LLM-JEPA, and learn honestly whether it helped.",
        epilog="`llm-jepa config` lists the keys of a CONFIG.yaml. Exit codes: 0 done, 1 the work failed, 2 the call, "
        "the config or the data was wrong, 3 a requested check failed, 130 interrupted, 143 stopped.",
    )
    parser.add_argument("--version", action="version", version=f"llm-jepa {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and the log of transformers")
    parser.set_defaults(parser=parser)  # for `completion`
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for family in (experiment_commands, plan_command, reproduce_command, run_commands, data_commands, tool_commands):
        family.register(commands)
    return parser
