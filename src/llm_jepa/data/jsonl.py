"""Reading JSON lines so that every complaint names the file and the line.

The file is read as bytes and split at `\\n` alone: `str.splitlines` would also break a row at a U+2028 inside
a string. Memory is bounded by the longest line that is allowed, not by the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

MAX_LINE_BYTES = 16 * 2**20
"""Longest line that is read. Our choice: far above any row that fits a context, far below any memory."""

BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Plain json.loads keeps the last of two equal keys and says nothing: half of the row would be lost.
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r} stands twice in one object")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_object_without_repeats)  # made once: json.loads would for each row


class RowError(Exception):
    """One row cannot be used; whether it stops the run or is counted and left out is the caller's policy.

    Attributes:
        reason: Short name for the count of dropped rows, such as `json` or `fields`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def iter_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yield `(line number from 1, bytes)` of every line that is not blank.

    The bytes are None for a line longer than `MAX_LINE_BYTES`; the rest of such a line is skipped over in
    blocks. A byte-order mark at the start of the file, and line ends, are taken off.
    """
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
                _skip_line(file)
                yield number, None
                continue
            if number == 1:
                raw = raw.removeprefix(BOM)
            if raw.strip():
                yield number, raw.rstrip(b"\r\n")


def parse_line(raw: bytes | None) -> dict[str, Any]:
    """Return the JSON object of one line.

    Raises:
        RowError: With reason `too_long`, `encoding` or `json`; the text says what was found and expected.
    """
    if raw is None:
        raise RowError(
            "too_long",
            f"the line is longer than {MAX_LINE_BYTES:,} bytes. Expected one JSON object per line.",
        )
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as err:
        hint = " The file looks like UTF-16." if raw.startswith(_UTF16_BOMS) else ""
        raise RowError("encoding", f"not valid UTF-8 at byte {err.start + 1} of the line.{hint}") from None
    try:
        row = _DECODER.decode(line)
    except json.JSONDecodeError as err:
        hint = " A JSON array is not read: write one object per line." if line.startswith("[") else ""
        raise RowError("json", f"not valid JSON: {_lower_first(err.msg)} at column {err.colno}.{hint}") from None
    except (ValueError, RecursionError) as err:  # repeated keys, numbers of thousands of digits, deep nesting
        raise RowError("json", f"JSON that cannot be read: {_lower_first(str(err))}.") from None
    if not isinstance(row, dict):
        raise RowError("json", f"found {describe_type(row)}, expected one JSON object per line.")
    return row


def describe_type(value: Any) -> str:
    """Name a JSON value's type in the words of JSON, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), f"a value of type {type(value).__name__}")


def _skip_line(file: BinaryIO) -> None:
    while block := file.readline(2**20):
        if block.endswith(b"\n"):
            return


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
