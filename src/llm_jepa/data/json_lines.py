"""JSON lines, read so that every error names the file and the line.

The file is read as bytes and split at `\\n` alone: `str.splitlines` would also break a row at a U+2028 inside a string.
Memory is bounded by the longest line that is allowed, not by the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from llm_jepa.errors import DataError

MAX_LINE_BYTES = 16 * 2**20
"""Longest line that is read. Our choice: far above any row that fits a context, far below any memory."""

BOM = b"\xef\xbb\xbf"

# The first bytes of files that are not what their name says, and what a message says about them.
_CONTENTS = {
    (b"\xff\xfe", b"\xfe\xff"): "The file looks like UTF-16. Save it as UTF-8.",
    (b"\x1f\x8b",): "The file is compressed with gzip. Unpack it (gzip -dc FILE), or give it a name that ends in .gz.",
    (
        b"\x28\xb5\x2f\xfd",
    ): "The file is compressed with zstd. Unpack it (zstd -dc FILE), or give it a name that ends in .zst.",
    (b"BZh", b"\xfd7zXZ", b"PK\x03\x04"): "The file is compressed. Unpack it first.",
    (b"PAR1",): "The file is Parquet. Give it a name that ends in .parquet.",
    (b"%PDF",): "The file is a PDF.",
    (b"version https://git-lfs",): "The file is a pointer of Git LFS, not the rows. Run `git lfs pull`.",
    (b"<!DOCTYPE", b"<!doctype", b"<html"): "The file is a web page, not the rows.",
}


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Plain json.loads keeps the last of two equal keys and says nothing: half of the row would be lost.
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise DataError("key_repeated", f"the key {repeated!r} occurs twice in one object")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_object_without_repeats)  # made once: json.loads would for each row


class RowError(DataError):
    """One row cannot be used. The caller decides whether this stops the run, or the row is counted and left out.

    `reason`, such as `json` or `fields`, is the name under which dropped rows are counted: a group of codes. The caller
    puts the place of the row before the text.
    """

    def __init__(self, reason: str, code: str, text: str) -> None:
        super().__init__(code, text)
        self.args = (reason, code, text)  # an error that was pickled or copied is made of these
        self.reason = reason


def iter_lines(file: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield `(line number from 1, bytes)` of every line of an open file that is not blank.

    The bytes are None for a line longer than `MAX_LINE_BYTES`. Line ends are removed, and a byte-order mark at the
    start of any line: files that were put together have one in the middle.
    """
    return ((number, raw) for number, _, raw in scan_lines(file))


def scan_lines(file: IO[bytes]) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield number and bytes of lines as `iter_lines` does, with the place in the file where these bytes start."""
    number, end = 0, 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number, start, end = number + 1, end, end + len(raw)
        if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(2**20)
                end += len(raw)
            yield number, start, None
        elif (text := raw.removeprefix(BOM)).strip():
            yield number, start + len(raw) - len(text), text.rstrip(b"\r\n")


def describe_content(start: bytes) -> str:
    """Return " The file is ...", if these first bytes are those of a file that does not hold rows; else nothing."""
    return next((f" {says}" for magic, says in _CONTENTS.items() if start.startswith(magic)), "")


def parse_line(raw: bytes | None) -> dict[str, Any]:
    """Return the JSON object of one line; any other line is a RowError."""
    if raw is None:
        text = f"the line is longer than {MAX_LINE_BYTES:,} bytes. Expected one JSON object per line."
        raise RowError("too_long", "line_too_long", text)
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as err:
        hint = describe_content(raw)
        raise RowError("encoding", "not_utf8", f"not valid UTF-8 at byte {err.start + 1} of the line.{hint}") from None
    try:
        row = _DECODER.decode(line)
    except json.JSONDecodeError as err:
        hint = describe_content(raw)
        if line.startswith("["):
            hint = " A JSON array is read from a file that ends in .json: here, write one object per line."
        text = f"not valid JSON: {_lower_first(err.msg)} at column {err.colno}.{hint}"
        raise RowError("json", "not_json", text) from None
    except (ValueError, RecursionError) as err:  # repeated keys, numbers of thousands of digits, deep nesting
        raise RowError("json", _code_of(err), f"JSON that cannot be read: {_lower_first(str(err))}.") from None
    if not isinstance(row, dict):
        raise RowError("json", "row_not_object", f"found {describe_type(row)}, expected one JSON object per line.")
    return row


def list_or_text(text: str) -> Any:
    """Return the list that a cell of a table holds as JSON, or the text as it is."""
    try:
        return _DECODER.decode(text.strip()) if text.lstrip().startswith("[") else text
    except (ValueError, RecursionError):
        return text


def parse_array(raw: bytes, name: str) -> Iterator[dict[str, Any] | RowError]:
    """Yield the objects of a JSON array, and a RowError for anything else in it.

    Raises:
        DataError: If it is not a JSON array in UTF-8.
    """
    try:
        rows = _DECODER.decode(raw.decode("utf-8-sig").strip())
    except (ValueError, RecursionError) as err:
        text = f"{name}: not readable as JSON: {_lower_first(str(err))}.{describe_content(raw)}"
        raise DataError(_code_of(err), text) from None
    for row in rows:
        if isinstance(row, dict):
            yield row
        else:
            yield RowError("json", "row_not_object", f"found {describe_type(row)}, expected an object.")


def text_of(value: Any, where: str) -> str:
    """Return the value if it is text that every tokenizer can take and give back; else raise a RowError."""
    if not isinstance(value, str):
        raise RowError("type", "wrong_type", f"{where} holds {describe_type(value)}, expected a string.")
    if "\0" in value:
        text = f"{where} has a NUL character at place {value.index(chr(0)) + 1}."
        raise RowError("characters", "character_not_allowed", text)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as err:
        half = f"half a surrogate pair (\\u{ord(value[err.start]):04x})"
        text = f"{where} has {half} at place {err.start + 1}, which is not a character."
        raise RowError("characters", "character_not_allowed", text) from None
    return value


def describe_type(value: Any) -> str:
    """Name a JSON value's type in the words of JSON, for messages."""
    names = {type(None): "null", bool: "true or false", str: "a string", int: "a number", float: "a number"}
    names |= {list: "a list", dict: "an object"}
    return names.get(type(value), f"a value of type {type(value).__name__}")


def _code_of(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not_utf8"
    return error.code if isinstance(error, DataError) else "not_json"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
