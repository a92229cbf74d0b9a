"""Examples that stay in their file: each is read and parsed when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np

from llm_jepa.errors import DataError

from .config import DataConfig
from .json_lines import RowError
from .line_index import MappedLines
from .rows import Example, ExampleReader

Item = TypeVar("Item")


class StoredExamples(Sequence[Example]):
    """Rows of a `.jsonl` file that is read again for each.

    Args:
        lines: The lines of the file.
        rows: Numbers of the lines that are examples, from 0, in order.
        name: The file's name as the user gave it, for the source of an example.
        config: Names of the columns.

    Attributes:
        row_keys: What `checks.RowKeys` knows of them, once they have been compared; what is taken from them takes
            its part of it along.
    """

    def __init__(self, lines: MappedLines, rows: Any, name: str, config: DataConfig) -> None:
        self.lines = lines
        self.rows = np.asarray(rows, np.int64)
        self.name = name
        self._reader = ExampleReader(config)
        self.row_keys: Any = None

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...

    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        number, raw = self.lines[int(self.rows[place])]
        source = f"{self.name}:{number}"
        try:
            return self._reader.read(source, raw)
        except RowError as err:  # it could be read when the run began
            raise DataError(f"{source}: {err} The file changed while it was in use; train on a copy.") from None

    def take(self, places: Any) -> StoredExamples:
        """Return the examples at these places, in their order."""
        taken = StoredExamples.__new__(StoredExamples)
        taken.lines, taken.name, taken._reader = self.lines, self.name, self._reader
        chosen = np.asarray(places, np.int64)
        taken.rows = self.rows[chosen]
        taken.row_keys = None if self.row_keys is None else self.row_keys.take(chosen)
        return taken


class Joined(Sequence[Item], Generic[Item]):
    """Several lists (of examples, of pairs) as one, none of them copied."""

    def __init__(self, *parts: Sequence[Item]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @overload
    def __getitem__(self, place: int) -> Item: ...

    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...

    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        if place < 0:
            place += len(self)
        for part in self.parts:
            if 0 <= place < len(part):
                return part[place]
            place -= len(part)
        raise IndexError(place)


def take(examples: Sequence[Example], places: Any) -> Sequence[Example]:
    """Return the examples at these places: a list, or, of rows that stay in their file, such rows."""
    if isinstance(examples, StoredExamples):
        return examples.take(places)
    return [examples[place] for place in places]
