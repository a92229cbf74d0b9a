"""The lines of a file that is larger than memory, by number.

One pass finds where each line starts; its index goes to a temporary file of ours, nothing is put beside the user's.
Lines are then read from the file at their place. Both are read and not mapped into memory: mapped pages count as this
process's until the system takes them back, read ones never do.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llm_jepa.errors import DataError

from . import json_lines

BLOCK_BYTES = 4 * 2**20
"""Bytes looked at together. Our choice: large enough that Python's share vanishes, small against any memory."""

_ENTRY = np.dtype([("start", "<u8"), ("size", "<u4"), ("line", "<u4")])
_unpack = struct.Struct("<QII").unpack  # an entry without numpy, which takes longer for one alone
_TOO_LONG = 2**32 - 1
_NEWLINE = 0x0A
_BLANKS = np.frombuffer(b" \t\r\n\v\f" + json_lines.BOM[:1], np.uint8)  # a line may begin with a byte-order mark


class MappedLines:
    """The lines of a file that are not blank, as `iter_lines` gives them, in any order and without their rest.

    A process that is forked may go on reading; one that is started anew makes an index of its own.

    Args:
        path: The file.

    Raises:
        DataError: If the file cannot be read, or (at any later read) is no longer the file that was indexed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = os.open(self.path, os.O_RDONLY)
        except OSError as err:
            raise DataError(f"{path}: cannot be read: {err.strerror or err}.") from err
        self._state = self._look()
        self._index_file = tempfile.TemporaryFile(prefix="llm-jepa-index-")  # noqa: SIM115 (as long-lived as this)
        self._num_lines = sum(self._write(entries) for entries in self._scan())
        self._index_file.flush()

    def __len__(self) -> int:
        return self._num_lines

    def __getitem__(self, row: int) -> tuple[int, bytes | None]:
        """Return line number, from 1, and bytes of a line; None for one longer than `MAX_LINE_BYTES`.

        Raises:
            DataError: If the file has changed since it was indexed.
        """
        if not -self._num_lines <= row < self._num_lines:
            raise IndexError(f"row {row} of {self._num_lines}")
        entry = os.pread(self._index_file.fileno(), _ENTRY.itemsize, row % self._num_lines * _ENTRY.itemsize)
        start, size, line = _unpack(entry)
        if self._look() != self._state:
            raise DataError(
                f"{self.path}: the file changed while it was in use. Expected it to stay as it is until the run ends. "
                "Let whatever writes to it finish, or train on a copy."
            )
        if size == _TOO_LONG:
            return line, None
        return line, os.pread(self._file, size, start).removeprefix(json_lines.BOM).rstrip(b"\r\n")

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        return (self[row] for row in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedLines, (self.path,)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def _look(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns

    def _write(self, entries: np.ndarray) -> int:
        self._index_file.write(entries.tobytes())
        return len(entries)

    def _scan(self) -> Iterator[np.ndarray]:
        """Yield the entries of all lines that are not blank, block by block."""
        line, start, at = 1, 0, 0  # the line that begins at `start`; what is before `at` has been looked at
        while block := os.pread(self._file, BLOCK_BYTES, at):
            characters = np.frombuffer(block, np.uint8)
            ends = np.flatnonzero(characters == _NEWLINE) + at
            starts = np.concatenate([[start], ends + 1])
            if len(ends):
                firsts = characters[np.clip(starts[:-1] - at, 0, len(block) - 1)]
                firsts[0] = _NEWLINE if start < at else firsts[0]  # it began in an earlier block
                yield self._entries(starts[:-1], ends, line, firsts)
            line, start, at = line + len(ends), int(starts[-1]), at + len(block)
        if start < at:  # no line break at the end of the file
            yield self._entries(np.array([start]), np.array([at]), line, np.array([_NEWLINE]))

    def _entries(self, starts: np.ndarray, ends: np.ndarray, line: int, firsts: np.ndarray) -> np.ndarray:
        """Return the entries of lines from `starts` up to their line breaks at `ends`, blank ones left out.

        Args:
            starts: Places in the file, one a line.
            ends: Places of the line breaks.
            line: Number of the first line.
            firsts: The first byte of each line; a line break where it is not known.
        """
        if line + len(starts) >= 2**32:
            raise DataError(f"{self.path}: more than {2**32:,} lines. Split the file.")
        entries = np.empty(len(starts), _ENTRY)
        sizes = ends - starts
        entries["start"], entries["line"] = starts, np.arange(line, line + len(starts))
        entries["size"] = np.where(sizes > json_lines.MAX_LINE_BYTES, _TOO_LONG, sizes)
        # A line can only be blank if its first byte is: looked at for all at once, and the few that are, one by one.
        maybe = np.isin(firsts, _BLANKS)
        if line == 1:
            maybe[0] = True
        blank = [row for row in np.flatnonzero(maybe).tolist() if self._is_blank(*entries[row].item())]
        return np.delete(entries, blank)

    def _is_blank(self, start: int, size: int, line: int) -> bool:
        return size != _TOO_LONG and not os.pread(self._file, size, start).removeprefix(json_lines.BOM).strip()
