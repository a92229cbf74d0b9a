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

    `main_file` has keys of `result` in braces; it is "" if nothing is written.
    """
    with suppress(KeyError):  # a dry run writes nothing
        if main_file:
            print_hanging("Main file: ", main_file.format_map(result))
    if not as_json and sys.stdout.isatty():
        return
    result = json.loads(json.dumps(result), parse_constant=lambda _: None)  # nan and infinity, unknown in JSON: null
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
