"""Reads a call: the parser, the types of its values, and the settings that it names."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from llm_jepa.errors import ConfigError, nearest
from llm_jepa.runs.setting_hints import hint_of
from llm_jepa.standard_error import print_error

if TYPE_CHECKING:
    from llm_jepa.experiments.experiment import ExperimentConfig
    from llm_jepa.runs.settings import RunConfig

Command = Callable[[argparse.Namespace], dict[str, Any]]


class Parser(argparse.ArgumentParser):
    """argparse with our error messages, and no abbreviated flags: `--seed` is not `--seeds`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        flag = re.match(r"unrecognized arguments: --?([\w-]+)(?:[= ](\S+))?", message)
        hint = _about_flag(flag[1].replace("-", "_"), flag[2]) if flag else ""
        code = "unknown_flag" if flag else "wrong_call"
        print_error(f"{message}.{hint} `{self.prog} --help` says more. [{code}]")
        raise SystemExit(ConfigError.exit_code)


def _about_flag(name: str, value: str | None) -> str:
    """Return the end of the error for a flag that does not exist: settings are often written as flags."""
    from llm_jepa.experiments.experiment import ExperimentConfig
    from llm_jepa.runs.settings import field_types

    if name in field_types() or name in ExperimentConfig.__dataclass_fields__:
        is_config = value is None or value.endswith((".yaml", ".yml"))  # then its value was taken for CONFIG.yaml
        return f" {name} is a setting: write --set {name}={'VALUE' if is_config else value}."
    return f"{hint_of(name)} A setting is given as --set key=value."


def positive(text: str) -> int:
    """Return a whole number, 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def text_view(text: str) -> str:
    """Return a text view of the command line. A text without a token, or that is not UTF-8, would have no embedding."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; expected a text such as 'lines with a number'")
    return utf8(text)


def utf8(text: str) -> str:
    """Return a text of the command line; refuse it if it is not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("it is not valid UTF-8") from None
    return text


def add_command(
    commands: Any, name: str, command: Command, text: str, *, shared_out: bool = False, main_file: str = ""
) -> argparse.ArgumentParser:
    """Add a command to the parser.

    Args:
        commands: The subparsers.
        name: What is typed.
        command: Does the work and returns what the JSON line at the end holds.
        text: What it does, in lower case, without a full stop.
        shared_out: Whether several processes (torchrun, accelerate launch) may do it together.
        main_file: The written file that a user should open first, with keys of the JSON line in braces.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=command, shared_out=shared_out, main_file=main_file)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON also on a terminal")
    # Also accepted after the command, where people write it. The default is that of the flag before the command.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add CONFIG.yaml and `--set`."""
    parser.add_argument("config", metavar="CONFIG.yaml", help="settings; `llm-jepa config` lists the keys")
    add_set(parser)


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add `--set key=value`."""
    text = "override one key; may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help=text)


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of `--set`."""
    from llm_jepa.runs.settings import parse_override

    return dict(map(parse_override, arguments.set))


def read_call(arguments: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    """Return the settings of CONFIG.yaml, if one is named, with those of `--set` and then `changes` over them."""
    from llm_jepa.runs.data_paths import read_config

    changes = overrides(arguments) | changes
    return changes if arguments.config is None else read_config(arguments.config, changes)


def without_experiment(settings: dict[str, Any]) -> dict[str, Any]:
    """Return only the settings of a run: no arms, no seeds."""
    from llm_jepa.experiments.experiment import ExperimentConfig

    return {key: value for key, value in settings.items() if key not in ExperimentConfig.__dataclass_fields__}


def run_of(settings: dict[str, Any], arm: str | None) -> tuple[RunConfig, ExperimentConfig, int]:
    """Return the run of an arm, or of settings without arms, its experiment, and its seed, by default the first."""
    from llm_jepa.experiments.experiment import ExperimentConfig, read_experiment
    from llm_jepa.runs.settings import read_run

    seed = settings.pop("seed", None)  # the config.yaml of a run has one
    if arm is None:
        own = {key: value for key, value in settings.items() if key in ExperimentConfig.__dataclass_fields__}
        experiment, run = read_experiment(own)[0], read_run(without_experiment(settings))
    else:
        experiment, runs = read_experiment(settings)
        if arm not in runs:
            text = f"--arm {arm}: the arms are {', '.join(runs)}.{nearest(arm, runs)} Name one of them."
            raise ConfigError("unknown_arm", text)
        run = runs[arm]
    seed = experiment.seeds[0] if seed is None else seed
    text = f"seed={seed!r}: expected a whole number from 0 to 2**32 - 1."
    if not isinstance(seed, int):
        raise ConfigError("wrong_type", text)
    if not 0 <= seed < 2**32:
        raise ConfigError("value_out_of_range", text)
    return run, experiment, seed


def seeds_in(text: str) -> list[int]:
    """Return the seeds of `--seeds 82,23,37`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        wrong = f"--seeds {text!r}: expected whole numbers, such as --seeds 82,23,37."
        raise ConfigError("wrong_type", wrong) from None
