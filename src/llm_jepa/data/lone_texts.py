"""Files that hold only one side of the pairs: texts to embed, or candidates to search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_jepa.errors import DataError

from .config import DataConfig
from .json_lines import RowError, text_of
from .row_forms import detect_form, fields_of
from .sources import iter_rows


def holds_pairs(file: str, config: DataConfig) -> bool:
    """Whether the first row of a file has both views."""
    for _, content in iter_rows(file, "test"):
        try:
            return detect_form(fields_of(content), config).kind != "text"
        except RowError:  # `read_texts` reports it
            return False
    return False


def read_texts(file: str, side: str, config: DataConfig, column: str | None = None) -> list[tuple[str, str]]:
    """Return `(source, text)` of each row of a file.

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
