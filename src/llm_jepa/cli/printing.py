"""Prints what commands write to standard output: 80 columns; for programs, one JSON object as the last line."""

from __future__ import annotations

import io
import json
import sys
from contextlib import suppress
from typing import Any

from llm_jepa.standard_error import wrapper


def substitute_characters() -> None:
    """Let standard output and error write `\\u2713`, for example, for a character that their encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_closing(result: dict[str, Any], main_file: str, *, as_json: bool) -> None:
    """Print the path of the main file, and the JSON line for programs. On a terminal, JSON needs `as_json`.

    Args:
        result: What the JSON line holds.
        main_file: The path of the main file, with keys of `result` in braces; "" if nothing is written.
        as_json: Whether the user asked for the JSON line.
    """
    with suppress(KeyError):  # a dry run writes nothing
        if main_file:
            print_hanging("Main file: ", main_file.format_map(result))
    if as_json or not sys.stdout.isatty():
        print_json(result)


def print_json(result: dict[str, Any]) -> None:
    """Print the last line; nan and infinity, which JSON does not have, become null."""
    result = json.loads(json.dumps(result), parse_constant=lambda _: None)
    line = json.dumps(result, ensure_ascii=False)
    try:
        line.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # the stream's own substitutes are not valid JSON
        line = json.dumps(result)
    print(line, flush=True)


def print_hanging(label: str, text: str) -> None:
    """Print a label and its text, at most 80 columns wide unless a word is longer."""
    wrap = wrapper(initial_indent=label, subsequent_indent=" " * len(label))
    print(wrap.fill(text))
