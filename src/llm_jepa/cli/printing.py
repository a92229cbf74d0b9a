"""What the commands print on standard output: 80 columns; for programs, one JSON object as the last line."""

from __future__ import annotations

import io
import json
import sys
from contextlib import suppress
from typing import Any

from llm_jepa.standard_error import wrapper


def substitute_characters() -> None:
    """Let standard output and error write `\\u2713` for a character that their encoding does not have, and not fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_closing(result: dict[str, Any], main_file: str, *, as_json: bool) -> None:
    """Print where the main file is, and what programs read: on a terminal that is left out unless it is asked for.

    Args:
        result: What the JSON line holds.
        main_file: The path of the main file, with keys of `result` in braces; "" where nothing is written.
        as_json: Whether the JSON line is asked for.
    """
    with suppress(KeyError):  # a dry run writes nothing
        if main_file:
            print_hanging("Main file: ", main_file.format_map(result))
    if as_json or not sys.stdout.isatty():
        print_json(result)


def print_json(result: dict[str, Any]) -> None:
    """Print the last line; what is nan or infinite, which JSON does not have, is null."""
    result = json.loads(json.dumps(result), parse_constant=lambda _: None)
    line = json.dumps(result, ensure_ascii=False)
    try:
        line.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # the substitutes of the stream are no JSON
        line = json.dumps(result)
    print(line, flush=True)


def print_hanging(label: str, text: str) -> None:
    """Print a label with its text beside it, at most 80 columns wide where the words allow it."""
    wrap = wrapper(initial_indent=label, subsequent_indent=" " * len(label))
    print(wrap.fill(text))
