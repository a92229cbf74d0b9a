"""The formats of files with rows, known by the end of the file's name: how each is read and written.

Nothing is guessed: the name alone says what a file holds, and a text is never turned into a number or a date.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from llm_jepa.errors import ConfigError, DataError
from llm_jepa.files import whole_file

from .json_lines import BOM, MAX_LINE_BYTES, RowError, describe_content, iter_lines, parse_array

Content = bytes | dict[str, Any] | RowError | None
"""A row as a file has it: a line of JSON, or a parsed row, or an error. A line that is too long is None."""

Numbered = Iterator[tuple[int, Content]]


class CsvRow(dict[str, Any]):
    """A row of a CSV file: every value is text, and an empty one may mean null."""


class Format(NamedTuple):
    """How rows are read from an open file, each with its line or its number from 1, and written as bytes."""

    read: Callable[[IO[bytes], str], Numbered]
    write: Callable[[Sequence[Content]], bytes]


def read_file(path: Path, label: str, *, name: str | None = None, separator: str | None = None) -> Iterator[Any]:
    """Yield `(label:number, row)` of a file, read as the end of its name says.

    Args:
        path: The file.
        label: What messages call it.
        name: Its name, if `path` has another one (a copy in a cache).
        separator: What separates the columns of a table, if its name does not say it.

    Raises:
        DataError: If the end of its name is unknown, or the file is damaged or of another format.
    """
    ending, packing = split_ending(name or path.name)
    if ending not in FORMATS:
        raise DataError("unknown_format", f"{label}: {_unknown(ending + packing)}")
    read = FORMATS[ending].read if separator is None else partial(_read_table, separator=separator)
    try:
        with _open(path, packing) as file:
            for number, row in read(file, label):
                yield f"{label}:{number}", row
    except (OSError, EOFError, zlib.error) as err:  # errors of a compressed file too, if it is cut or damaged
        is_damaged = bool(packing) and getattr(err, "errno", None) is None  # else the system could not read it
        hint = f" It is damaged, or not compressed as {packing} says. Copy it again." if is_damaged else ""
        text = f"{label}: cannot be read: {getattr(err, 'strerror', None) or err}.{hint}"
        raise DataError("file_damaged" if is_damaged else "file_unreadable", text) from err


def write_file(path: Path, rows: Iterable[Content]) -> None:
    """Write rows as the end of the name says (`check_ending`). The file appears whole, or not at all.

    Equal rows give equal bytes.
    """
    check_ending(path)
    ending, packing = split_ending(path.name)
    content = FORMATS[ending].write(list(rows))
    if packing == ".gz":
        content = gzip.compress(content, mtime=0)
    elif packing == ".zst":
        import pyarrow

        content = pyarrow.compress(content, "zstd", asbytes=True)
    with whole_file(path) as file:
        file.write(content)


def check_ending(path: Path) -> None:
    """Raise a ConfigError if no file of this name can be written."""
    ending, packing = split_ending(path.name)
    if ending not in FORMATS:
        raise ConfigError("unknown_format", f"{path}: {_unknown(ending + packing)}")


def split_ending(name: str) -> tuple[str, str]:
    """Return the ending for the format, and that for the compression.

    >>> split_ending("rows.JSONL.gz"), split_ending("rows.csv"), split_ending("rows.gz"), split_ending("rows.txt")
    (('.jsonl', '.gz'), ('.csv', ''), ('', '.gz'), ('.txt', ''))
    """
    path = Path(name.lower())
    packing = path.suffix if path.suffix in PACKINGS else ""
    ending = Path(path.name.removesuffix(packing)).suffix
    return (ending, packing) if ending not in UNPACKED or not packing else (ending + packing, "")


def _unknown(ending: str) -> str:
    text = ", ".join(each for each in FORMATS if each not in UNPACKED)
    return (
        f"files {'that end in ' + ending if ending else 'without an ending'} are not read. Expected one of {text} "
        f"(each also with {' or '.join(PACKINGS)}), or {' or '.join(UNPACKED)}. "
        "If its content is one of these, rename the file."
    )


@contextmanager
def _open(path: Path, packing: str) -> Iterator[IO[bytes]]:
    if packing == ".zst":
        import pyarrow  # comes with datasets

        with pyarrow.OSFile(str(path)) as raw, pyarrow.CompressedInputStream(raw, "zstd") as stream:
            yield io.BufferedReader(stream)
        return
    with cast(IO[bytes], gzip.open(path, "rb")) if packing == ".gz" else path.open("rb") as file:
        yield file


def _lines(rows: Sequence[Content]) -> bytes:
    lines = (row if isinstance(row, bytes) else _json(row).encode("utf-8") for row in rows)
    return b"".join(line + b"\n" for line in lines)


_json = partial(json.dumps, ensure_ascii=False, default=str)  # a date of a Parquet file, say, becomes its text


def _read_json(file: IO[bytes], label: str) -> Numbered:
    """Yield the objects of an array. A file that does not begin like an array holds lines."""
    start: bytes = cast(Any, file).peek(4096)
    if start.removeprefix(BOM).lstrip().startswith(b"["):
        return enumerate(parse_array(file.read(), label), start=1)
    return iter_lines(file)


def _array(rows: Sequence[Content]) -> bytes:
    return b"[\n" + _lines(rows).rstrip(b"\n").replace(b"\n", b",\n") + b"\n]\n"


def _read_parquet(file: IO[bytes], label: str) -> Numbered:
    import pyarrow  # comes with datasets; read directly, which leaves no copy of the file in a cache
    import pyarrow.parquet

    start = file.read(64)
    try:
        table = pyarrow.parquet.ParquetFile(file)
        _check_head(table.schema_arrow.names, label)
        batches = table.iter_batches(batch_size=1024)
        yield from enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), start=1)
    except (pyarrow.ArrowException, UnicodeDecodeError) as err:
        is_parquet = start.startswith(b"PAR1")
        hint = "" if is_parquet else describe_content(start).strip()
        code = "file_damaged" if is_parquet else "not_parquet"
        reason = hint or str(err).rstrip(".") + "."
        raise DataError(code, f"{label}: not a readable parquet file: {reason}") from err


def _parquet(rows: Sequence[Content]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(cast(Any, rows)), file)
    return file.getvalue()


def _read_table(file: IO[bytes], label: str, *, separator: str) -> Numbered:
    """Yield the rows of a CSV file, each with the number of its first line."""
    csv.field_size_limit(MAX_LINE_BYTES)
    # strict: or else a quotation mark that is not closed takes all rows up to the next one into its value.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    reader = csv.DictReader(text, delimiter=separator, strict=True)
    done = 1
    try:
        reader.fieldnames = names = [name.strip() for name in reader.fieldnames or ()]  # people write `text, code`
        _check_head(names, label, separator)
        done = reader.line_num
        for row in reader:
            number, done = done + 1, reader.line_num
            if None in row or None in row.values():
                yield number, RowError("fields", "wrong_cell_count", f"expected {len(names)} values in the row.")
            else:
                yield number, CsvRow(row)
    except UnicodeDecodeError as err:
        hint = describe_content(err.object)
        raise DataError("not_utf8", f"{label}:{done + 1}: not readable as CSV in UTF-8: {err}.{hint}") from err
    except csv.Error as err:
        hint = "A value with a quotation mark in it must be in quotation marks, and have each of its own twice."
        raise DataError("not_csv", f"{label}:{done + 1}: not readable as CSV: {err}. {hint}") from err


def _check_head(names: Sequence[str], label: str, separator: str | None = None) -> None:
    if names and names[0].lstrip().startswith(("{", "[")):
        raise DataError(
            "wrong_ending",
            f"{label}:1: found JSON, expected the names of the columns. Give the file a name that ends in .jsonl (one "
            "object per line) or .json (an array).",
        )
    if separator and len(names) == 1 and (other := next((each for each in _SEPARATORS if each in names[0]), None)):
        expected = _SEPARATORS.get(separator, repr(separator))
        raise DataError(
            "wrong_separator",
            f"{label}:1: found one column, {names[0]!r}. Its columns seem to be separated by {_SEPARATORS[other]}; "
            f"expected {expected}. Save it with commas (.csv) or tabs (.tsv).",
        )
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        text = f"{label}:1: two columns have the name {repeated!r}. Expected a different name for each column."
        raise DataError("column_repeated", text)


def _table(content: Sequence[Content], *, separator: str) -> bytes:
    rows = cast(Sequence[dict[str, Any]], content)
    text = io.StringIO(newline="")
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, delimiter=separator)  # its line end, \r\n, has it quote values with \r or \n
    writer.writeheader()
    for row in rows:
        others = {name: value for name, value in row.items() if not isinstance(value, str | None)}
        writer.writerow(row | {name: _json(value) for name, value in others.items()})
    return text.getvalue().encode("utf-8")


_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
PACKINGS = (".gz", ".zst")
UNPACKED = (".parquet",)  # compressed inside
FORMATS = {
    **dict.fromkeys((".jsonl", ".ndjson"), Format(lambda file, _: iter_lines(file), _lines)),
    ".json": Format(_read_json, _array),
    ".csv": Format(partial(_read_table, separator=","), partial(_table, separator=",")),
    ".tsv": Format(partial(_read_table, separator="\t"), partial(_table, separator="\t")),
    ".parquet": Format(_read_parquet, _parquet),
}
