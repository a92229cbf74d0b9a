"""What the commands print: 80 columns, one JSON object as the last line, errors that name what to do."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import textwrap
from typing import Any

WIDTH = 80


def substitute_characters() -> None:
    """Let standard output and error write `\\u2713` for a character that their encoding does not have, and not fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
    """Print a label with its text beside it, at most `WIDTH` columns wide where the words allow it."""
    wrap = wrapper(initial_indent=label, subsequent_indent=" " * len(label))
    print(wrap.fill(text))


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


def be_quiet(debug: bool) -> None:
    """Log our own lines to standard error, and leave the libraries' chatter and telemetry out."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("llm_jepa").setLevel(logging.DEBUG if debug else logging.INFO)
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
