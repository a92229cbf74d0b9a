"""Commands that train nothing and read no run: `annotate`, `env`, `config`, `completion`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from llm_jepa.errors import ConfigError
from llm_jepa.files import expanded, write_whole
from llm_jepa.standard_error import wrapper

from .parsing import add_command, positive
from .printing import print_hanging


def register(commands: Any) -> None:
    """Add the commands of this module to the parser."""
    annotate = add_command(
        commands, "annotate", _annotate, "write reading notes into a copy of a paper's PDF", main_file="{out}"
    )
    annotate.add_argument("file", type=expanded, metavar="IN.pdf", help="the PDF; it is not changed")
    annotate.add_argument("--notes", metavar="NOTES.yaml", help="the notes, or llm-jepa-v1 for the built-in ones")
    text = "records of `reproduce`: write their values next to the paper's"
    annotate.add_argument("--results", type=expanded, metavar="DIR", help=text)
    annotate.add_argument("--out", type=expanded, required=True, metavar="OUT.pdf", help="the file to write")
    annotate.add_argument("--force", action="store_true", help="overwrite an existing file")
    annotate.add_argument("--skip-missing", action="store_true", help="leave out notes on pages that do not exist")
    annotate.add_argument("--max-seconds", type=positive, default=8, metavar="S", help="time limit in seconds (8)")
    annotate.add_argument("--max-memory", type=positive, default=448, metavar="MIB", help="memory limit in MiB (448)")

    add_command(commands, "env", _env, "show versions and hardware")
    config = add_command(commands, "config", _config, "list the keys of a CONFIG.yaml, or explain one")
    config.add_argument("key", nargs="?", metavar="KEY", help="the key to explain")
    completion = add_command(
        commands, "completion", _completion, "write a script for tab completion (extra [completion])", main_file="{out}"
    )
    completion.add_argument("shell", choices=["bash", "zsh", "fish"], help="the shell")
    completion.add_argument("--out", type=expanded, required=True, metavar="FILE", help="the script to write")


def _annotate(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.papers.notes import annotate_pdf, read_notes

    if arguments.notes is None and arguments.results is None:
        text = "There is nothing to write. Give notes with --notes, or records of `reproduce` with --results."
        raise ConfigError("setting_missing", text)
    if arguments.notes and arguments.out.exists() and arguments.out.resolve() == Path(arguments.notes).resolve():
        text = f"--out {arguments.out} is the file of notes, which is never changed. Choose another name."
        raise ConfigError("output_is_input", text)
    notes = read_notes(arguments.notes) if arguments.notes else []
    if arguments.results:
        from llm_jepa.papers.claims.paper_notes import measured_notes, merged

        notes = merged(notes, measured_notes(arguments.results))
    options = {"force": arguments.force, "skip_missing": arguments.skip_missing}
    limits = {"max_seconds": arguments.max_seconds, "max_memory_mib": arguments.max_memory}
    result = annotate_pdf(arguments.file, notes, arguments.out, **options, **limits)
    if result["skipped"]:
        pages = ", ".join(map(str, result["skipped"]))
        skipped = f"Skipped {len(result['skipped'])} notes on pages that the file does not have: {pages}"
        print(wrapper().fill(skipped), file=sys.stderr)
    counts = f"{result['notes']} notes | {result['pages']} pages, {result['inserted_pages']} of them inserted"
    print(f"{counts} | {result['bands']} pages enlarged to make room")
    return result


def _env(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.runs.environment import describe_environment

    environment = describe_environment()
    for name, value in environment.items():
        pairs = [f"{key} {each}" for key, each in value.items()] if isinstance(value, dict) else []
        shown = ", ".join(pairs) if pairs else " ".join(value) if isinstance(value, list) else str(value)
        print_hanging(f"{name:13}", shown)
    return environment


def _config(arguments: argparse.Namespace) -> dict[str, Any]:
    from llm_jepa.runs.settings import describe_setting

    rows = _settings()
    shown = rows if arguments.key is None else [describe_setting(arguments.key, rows)]
    for name, default, text in shown:
        print(f"{name}: {'null' if default == 'None' else default}")
        print_hanging("    ", text)
    if arguments.key is not None:
        return dict(zip(("key", "default", "help"), shown[0], strict=True))
    return {"keys": len(rows), "also": "every other field of transformers.TrainingArguments by its own name"}


def _settings() -> list[tuple[str, str, str]]:
    """Return name, default and help of every setting of ours."""
    from llm_jepa.experiments.experiment import ExperimentConfig
    from llm_jepa.runs.settings import PARTS, describe_fields

    return describe_fields([ExperimentConfig, *PARTS.values()])


_FOLDERS, _FILES = ("DIR", "RUN"), ("FILE", "SOURCE", "DEST", "TRAIN", "TEST")


def _completion(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        import shtab
    except ImportError as error:
        text = "Tab completion needs shtab: `pip install 'llm-jepa[completion]'`."
        raise ConfigError("package_missing", text) from error

    def complete(parser: argparse.ArgumentParser, keys: list[str]) -> None:
        for action in parser._actions:
            name = str(action.metavar)
            if isinstance(action, argparse._SubParsersAction):
                for each in action.choices.values():
                    complete(each, keys)
            elif name == "KEY":
                action.choices = keys
            elif name in _FOLDERS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif name in _FILES or "." in name:  # such as CONFIG.yaml
                action.complete = shtab.FILE  # type: ignore[attr-defined]

    complete(arguments.parser, [name for name, _, _ in _settings()])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(arguments.out, shtab.complete(arguments.parser, shell=arguments.shell))
    print(f"source {arguments.out}")
    return {"shell": arguments.shell, "out": str(arguments.out)}
