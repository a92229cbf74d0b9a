"""From the name of a file or a data set to examples, or to the texts of one side. Every row left out is counted."""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import PurePath
from typing import Any

from llm_jepa.errors import ConfigError, DataError

from .config import LARGE_FILE_BYTES, DataConfig
from .example import Example
from .formats import Content, CsvRow
from .json_lines import RowError, text_of
from .lazy_rows import MappedLines, StoredExamples
from .row_forms import FORMS_TEXT, ExampleReader, RowForm, detect_form, fields_of
from .sources import iter_rows, local_files, local_path, looks_local

logger = logging.getLogger(__name__)

_NUM_SHOWN = 3  # dropped rows that are shown in the log; the others are only counted


@dataclass
class ReadResult:
    """Examples of one file and what became of its other rows: `rows_in == len(examples) + sum(dropped)`.

    Attributes:
        examples: The rows that are kept, in the order of the file; those of a large file stay in it.
        rows_in: All rows, also those left out; blank lines are not rows.
        dropped: Rows left out, by reason; after reading, those of `on_broken: drop`.
        form: The form of the file's rows.
        notes: Sentences about fields that are not read, or not as a user may expect.
        untrained: The first row with a message before the answer that is not to be trained on (`weight: 0`).
    """

    examples: Sequence[Example] = field(default_factory=list)
    rows_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    form: RowForm | None = None
    notes: list[str] = field(default_factory=list)
    untrained: str | None = None

    def keep(self, examples: Sequence[Example], reason: str) -> None:
        """Keep these examples only, and count the others under `reason`."""
        if lost := len(self.examples) - len(examples):
            self.dropped[reason] += lost
        self.examples = examples


def read_examples(
    path_or_name: str, config: DataConfig, *, limit: int | None = None, part: str = "train"
) -> ReadResult:
    """Read a file, all files that fit a pattern, a folder of the `datasets` library, or a data set of the hub.

    Args:
        path_or_name: A name as for `iter_rows`.
        config: Column names and the policy for broken rows.
        limit: Read this many rows only, from the start.
        part: `train`, `validation` or `test`: the split that is read where none is named.

    Raises:
        DataError: If the file is missing, empty or of another format; if a row cannot be used and `on_broken` is
            `error`; or if no row is left.
    """
    lines = MappedLines(local_path(path_or_name)) if stays_on_disk(path_or_name, config) else None
    in_file = ((f"{path_or_name}:{number}", raw) for number, raw in lines or ())
    rows = iter_rows(path_or_name, part) if lines is None else in_file
    return keep_readable(islice(rows, limit), config, path_or_name, lines)


def keep_readable(
    rows: Iterable[tuple[str, Content]], config: DataConfig, name: str, lines: MappedLines | None = None
) -> ReadResult:
    """Return the examples of `(source, row)` as `read_examples` does.

    Messages call all of the rows `name`. If they stay in a file, `lines` are its lines.
    """
    reader = ExampleReader(config)
    kept: list[Example] = []
    kept_rows = array("q")
    rows_in = 0
    dropped: Counter[str] = Counter()
    for rows_in, (source, content) in enumerate(rows, start=1):
        try:
            example = reader.read(source, content)
            if lines is None:
                kept.append(example)
            else:
                kept_rows.append(rows_in - 1)
        except RowError as err:
            message = f"{source}: {err}"
            if config.on_broken == "error":
                text = f"{message} Correct the row, or set on_broken=drop to leave such rows out."
                if isinstance(content, CsvRow) and rows_in == 1:
                    text = f"{message} The first line of a table must name the columns. Correct it, or the row."
                raise DataError(err.code, text) from None
            dropped[err.reason] += 1
            if dropped.total() <= _NUM_SHOWN:
                logger.warning("left out: %s", message)
    if not rows_in:
        raise DataError("file_empty", f"{name}: found no row at all. Expected rows with {FORMS_TEXT}.")
    examples = kept if lines is None else StoredExamples(lines, kept_rows, name, config)
    counts = ", ".join(f"{reason}: {count}" for reason, count in dropped.most_common())
    if not len(examples):
        raise DataError("no_rows_left", f"{name}: none of its {rows_in} rows can be used ({counts}).")
    if dropped:
        logger.warning("%s: %d of %d rows left out (%s)", name, dropped.total(), rows_in, counts)
    where = "" if lines is None else ", read from disk when they are needed"
    logger.info("%s: %d rows, views from %s%s", name, len(examples), reader.form, where)
    notes = reader.all_notes()
    for note in notes:
        logger.warning("%s", note)
    return ReadResult(examples, rows_in, dropped, reader.form, notes, reader.untrained)


def read_training(config: DataConfig) -> ReadResult:
    """Read the rows of `train_file`; several files one after the other, as if they were one file.

    Raises:
        ConfigError: If the rows of several files should stay on disk; only the rows of one file can.
        DataError: As `read_examples`; or if the files have rows of different forms.
    """
    if len(config.train_files) == 1:
        return read_examples(config.train_files[0], config, limit=config.max_train_rows)
    if config.rows_in_memory is False:
        raise ConfigError(
            "settings_conflict",
            "rows_in_memory=false works with one file only, but train_file is a list. Put the files together, or "
            "remove rows_in_memory.",
        )
    rows, examples = ReadResult(), list[Example]()
    for file in config.train_files:
        limit = None if config.max_train_rows is None else config.max_train_rows - rows.rows_in
        if limit == 0:
            name = PurePath(file).name  # without its folders: notes are also in model cards
            rows.notes.append(f"{name} is not read: the files before it have max_train_rows={config.max_train_rows}.")
            logger.warning("%s", rows.notes[-1])
            continue
        read = read_examples(file, replace(config, rows_in_memory=True), limit=limit)
        if rows.form is not None and read.form != rows.form:
            raise DataError(
                "form_differs",
                f"{file}: found {read.form}, but {config.train_files[0]} has {rows.form}. Expected the same form in "
                "all files of train_file.",
            )
        examples += read.examples
        rows = ReadResult(
            examples,
            rows.rows_in + read.rows_in,
            rows.dropped + read.dropped,
            read.form,
            rows.notes + read.notes,
            rows.untrained or read.untrained,
        )
    return rows


def stays_on_disk(path_or_name: str, config: DataConfig) -> bool:
    """Whether the rows of a file are read when they are needed; a DataError if its format does not allow it."""
    path = local_path(path_or_name)
    can = path.is_file() and path.suffix == ".jsonl"
    is_missing = not local_files(path_or_name) and looks_local(path_or_name.partition(":")[0])  # the reader reports it
    if config.rows_in_memory is False and not can and not is_missing:
        raise DataError(
            "not_jsonl",
            f"{path_or_name}: rows_in_memory=false needs a .jsonl file, where each line can be read by itself. "
            "Convert the file, or remove rows_in_memory.",
        )
    if config.rows_in_memory == "auto":
        return can and path.stat().st_size > LARGE_FILE_BYTES
    return can and not config.rows_in_memory


def holds_pairs(file: str, config: DataConfig) -> bool:
    """Whether the first row of a file has both views."""
    for _, content in iter_rows(file, "test"):
        try:
            return detect_form(fields_of(content), config).kind != "text"
        except RowError:  # `read_texts` reports it
            return False
    return False


def read_texts(file: str, side: str, config: DataConfig, column: str | None = None) -> list[tuple[str, str]]:
    """Return `(source, text)` of each row of a file that may hold only one side: texts to embed, or candidates.

    The column is by default that of the side ("text" or "code"), or the only column of the rows.

    Raises:
        DataError: If the file is missing or has no row, or a row has no such text.
    """
    own = config.text_column if side == "text" else config.code_column
    names = [own] if own else [text if side == "text" else code for text, code in config.PAIR_COLUMNS]
    texts: list[tuple[str, str]] = []
    for source, content in iter_rows(file, "test"):
        try:
            row = fields_of(content)
            column = column or _column_of(row, names, source, side)
            if column not in row:
                text = f"{source}: found the fields {', '.join(row)}; expected {column}. Correct the row."
                raise DataError("column_missing", text)
            texts.append((source, text_of(row[column], column)))
        except RowError as error:
            raise DataError(error.code, f"{source}: {error} Correct the row.") from None
    if not texts:
        text = f"{file}: found no row at all. Expected rows with a column {' or '.join(names)}."
        raise DataError("file_empty", text)
    return texts


def _column_of(row: dict[str, Any], names: Sequence[str], source: str, side: str) -> str:
    found = next((name for name in names if name in row), None) or (next(iter(row)) if len(row) == 1 else None)
    if found is None:
        raise DataError(
            "column_missing",
            f"{source}: found the fields {', '.join(row)}; expected {' or '.join(names)} for the {side} side. Name the "
            "column with --column.",
        )
    return found
