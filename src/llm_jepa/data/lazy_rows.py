"""Rows that stay in a file larger than memory: its lines by number, and the examples made of them on request.

One pass finds where each line starts; its index goes to a temporary file, away from the user's files.
Lines are then read from the file at their place. Both files are read, not mapped into memory: mapped pages count as
memory of this process until the system takes them back.
"""

from __future__ import annotations

import os
import struct
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np

from llm_jepa.errors import DataError

from .config import DataConfig
from .example import Example
from .json_lines import RowError, scan_lines
from .row_forms import ExampleReader

Item = TypeVar("Item")

_ENTRY = struct.Struct("<QQI")  # of a line in the index: its number, where its bytes start, and how many there are
_TOO_LONG = 2**32 - 1


class LazySequence(Sequence[Item], Generic[Item]):
    """A sequence that makes an item when it is requested. A subclass defines `__len__` and `_make`."""

    @abstractmethod
    def _make(self, place: int) -> Item:
        """Return the item at a place, from 0."""

    @overload
    def __getitem__(self, place: int) -> Item: ...

    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...

    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        if isinstance(place, slice):
            return [self._make(each) for each in range(len(self))[place]]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return self._make(place % len(self))


class MappedLines(LazySequence[tuple[int, bytes | None]]):
    """The lines of a file that are not blank, with the same values as from `iter_lines`, but in any order.

    A forked process can continue to read; a process that is started in another way makes its own index.

    Raises:
        DataError: If the file cannot be read, or (at any later read) has changed since it was indexed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = self.path.open("rb")
        except OSError as err:
            raise DataError("file_unreadable", f"{path}: cannot be read: {err.strerror or err}.") from err
        self._state = self._state_now()
        self._index_file = tempfile.TemporaryFile(prefix="llm-jepa-index-")  # noqa: SIM115 (needed as long as this object)
        self._num_lines = 0
        for number, start, raw in scan_lines(self._file):
            self._index_file.write(_ENTRY.pack(number, start, _TOO_LONG if raw is None else len(raw)))
            self._num_lines += 1
        self._index_file.flush()

    def __len__(self) -> int:
        return self._num_lines

    def _make(self, place: int) -> tuple[int, bytes | None]:
        entry = os.pread(self._index_file.fileno(), _ENTRY.size, place * _ENTRY.size)
        number, start, size = _ENTRY.unpack(entry)
        if self._state_now() != self._state:
            raise DataError(
                "file_changed",
                f"{self.path}: the file changed while it was in use. It must not change until the run ends. Wait until "
                "nothing writes to it, or train on a copy.",
            )
        return number, None if size == _TOO_LONG else os.pread(self._file.fileno(), size, start)

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedLines, (self.path,)

    def _state_now(self) -> tuple[int, int]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns


class StoredExamples(LazySequence[Example]):
    """Rows of a `.jsonl` file. Each row is read from the file when it is requested.

    Attributes:
        lines: The lines of the file.
        rows: Numbers of the lines that are examples, from 0, in order.
        name: The file's name as the user gave it, for the source of an example.
        row_keys: The result of `checks.row_keys` once the rows have been compared; `take` passes it on.
    """

    def __init__(self, lines: MappedLines, rows: Any, name: str, config: DataConfig) -> None:
        self.lines = lines
        self.rows = np.asarray(rows, np.int64)
        self.name = name
        self.config = config
        self.row_keys: Any = None
        self._reader = ExampleReader(config)

    def __len__(self) -> int:
        return len(self.rows)

    def _make(self, place: int) -> Example:
        number, raw = self.lines[int(self.rows[place])]
        source = f"{self.name}:{number}"
        try:
            return self._reader.read(source, raw)
        except RowError as err:  # the row could be read when the run began
            text = f"{source}: {err} The file changed while it was in use; train on a copy."
            raise DataError("file_changed", text) from None

    def take(self, places: Any) -> StoredExamples:
        """Return the examples at these places, in their order."""
        chosen = np.asarray(places, np.int64)
        taken = StoredExamples(self.lines, self.rows[chosen], self.name, self.config)
        taken.row_keys = None if self.row_keys is None else self.row_keys[chosen]
        return taken


class Joined(LazySequence[Item]):
    """Several lists (of examples, of pairs) as one, without a copy."""

    def __init__(self, *parts: Sequence[Item]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def _make(self, place: int) -> Item:
        for part in self.parts:
            if place < len(part):
                return part[place]
            place -= len(part)
        raise AssertionError("a place beyond the last part")


def take(examples: Sequence[Example], places: Any) -> Sequence[Example]:
    """Return the examples at these places: as a list, or as `StoredExamples` if they stay in their file."""
    if isinstance(examples, StoredExamples):
        return examples.take(places)
    return [examples[place] for place in places]


def leave_out(examples: Sequence[Example], places: list[int]) -> Sequence[Example]:
    """Return the examples that are at none of these places, as `take` does."""
    kept = np.ones(len(examples), bool)
    kept[places] = False
    return take(examples, np.flatnonzero(kept).tolist())
