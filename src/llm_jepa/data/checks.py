"""Duplicates within a file, and leaks between files: counted exactly, by one stated rule.

Two rows are the same pair when their text and their code are equal after `str.strip()`; system messages are
not compared. As an extra, rows are also compared *normalised*: case-folded, and each run of white space one
space. That count is shown and never acted on: in a regex, case carries meaning.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from llm_jepa.data.config import DataConfig
from llm_jepa.data.formats import Example, read_examples
from llm_jepa.data.stored import Joined, StoredExamples, take
from llm_jepa.errors import DataError

logger = logging.getLogger(__name__)

NUM_SHOWN = 5
KEY_BYTES = 16
KEY_DTYPE = f"S{KEY_BYTES}"  # numpy sorts it; equal exactly where all bytes are

PairKey = tuple[str, str | None]


@dataclass(frozen=True)
class Duplicates:
    """Rows that repeat an earlier row of the same list.

    Attributes:
        rows: Places of the repeats, from 0; the first of equal rows is not among them, so that
            `len(rows) == number of rows - number of distinct pairs`.
        firsts: For each of `rows`, the place of the first row that it repeats.
        num_normalised: The same count on normalised rows; includes the exact ones.
    """

    rows: list[int]
    firsts: list[int]
    num_normalised: int


@dataclass(frozen=True)
class Leaks:
    """Rows of a held-out list whose pair stands in the training list too.

    Attributes:
        held_out_rows: Places of held-out rows that stand in training, from 0.
        first_train_rows: For each of them, the place of the first equal training row.
        train_rows: Places of all training rows whose pair stands in the held-out list.
        num_normalised: Held-out rows that stand in training when normalised; includes the exact ones.
        num_codes: Held-out rows whose code alone, stripped, stands in training; includes the exact ones. For
            many tasks this is no fault: two questions can have one answer.
    """

    held_out_rows: list[int]
    first_train_rows: list[int]
    train_rows: list[int]
    num_normalised: int
    num_codes: int


def pair_key(example: Example) -> PairKey:
    """Return what two rows must share to be the same pair."""
    return example.text.strip(), None if example.code is None else example.code.strip()


@dataclass(frozen=True)
class RowKeys:
    """What rows are compared by: hashes, in step with the rows, so that nothing of a large file is held.

    Attributes:
        pair: 16 bytes of each row's `pair_key`, dtype S16: two different pairs never meet in practice.
        normalised: The same of the normalised key.
        code: The same of the stripped code alone; of rows of one text, a hash that no code has.
    """

    pair: np.ndarray
    normalised: np.ndarray
    code: np.ndarray

    @classmethod
    def of(cls, examples: Sequence[Example]) -> RowKeys:
        """Read all examples; those that stay in their file are read once, and known from then on."""
        if isinstance(examples, Joined):
            return cls.join([cls.of(part) for part in examples.parts])
        if isinstance(examples, StoredExamples):
            if examples.row_keys is None:
                examples.row_keys = cls._read(examples)
            return examples.row_keys
        return cls._read(examples)

    @classmethod
    def _read(cls, examples: Sequence[Example]) -> RowKeys:
        pair, normalised, code = bytearray(), bytearray(), bytearray()
        for example in examples:
            key = pair_key(example)
            pair += hash_key(key)
            normalised += hash_key(_normalised_key(example))
            code += hash_key((key[1],))
        return cls(*(np.frombuffer(each, KEY_DTYPE) for each in (pair, normalised, code)))

    @classmethod
    def join(cls, parts: Sequence[RowKeys]) -> RowKeys:
        """Return the keys of several lists, one after the other."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    def take(self, places: Any) -> RowKeys:
        """Return the keys of the rows at these places."""
        return RowKeys(*(getattr(self, each.name)[places] for each in fields(self)))


def hash_key(key: Any) -> bytes:
    """Return 16 bytes that tell keys of strings apart."""
    return hashlib.blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def find_duplicates(examples: Sequence[Example]) -> Duplicates:
    """Find the rows that repeat an earlier one."""
    return _find_duplicates(RowKeys.of(examples))


def _find_duplicates(keys: RowKeys) -> Duplicates:
    _, first, number = np.unique(keys.pair, return_index=True, return_inverse=True)
    first_of_row = first[number]
    rows = np.flatnonzero(first_of_row != np.arange(len(first_of_row)))
    num_distinct = len(np.unique(keys.normalised))
    return Duplicates(rows.tolist(), first_of_row[rows].tolist(), len(keys.pair) - num_distinct)


def find_leaks(train: Sequence[Example], held_out: Sequence[Example]) -> Leaks:
    """Find the held-out rows that training would have seen."""
    return _find_leaks(RowKeys.of(train), RowKeys.of(held_out))


def _find_leaks(train: RowKeys, held_out: RowKeys) -> Leaks:
    distinct, first = np.unique(train.pair, return_index=True)
    leaked = np.flatnonzero(np.isin(held_out.pair, distinct))
    no_code = hash_key((None,))
    has_code = held_out.code != no_code
    return Leaks(
        held_out_rows=leaked.tolist(),
        first_train_rows=first[np.searchsorted(distinct, held_out.pair[leaked])].tolist(),
        train_rows=np.flatnonzero(np.isin(train.pair, held_out.pair)).tolist(),
        num_normalised=int(np.isin(held_out.normalised, train.normalised).sum()),
        num_codes=int((np.isin(held_out.code, train.code) & has_code).sum()),
    )


def apply_duplicate_policy(examples: Sequence[Example], policy: str) -> tuple[Sequence[Example], int]:
    """Return the examples under `on_duplicate`, and the number of repeats that were found.

    Raises:
        DataError: If the policy is `error` and a row repeats an earlier one.
    """
    found = find_duplicates(examples)
    if found.rows and policy == "error":
        repeat, first = examples[found.rows[0]], examples[found.firsts[0]]
        raise DataError(
            f"{repeat.source}: repeats the pair of {first.source}; {len(found.rows)} of {len(examples)} "
            "rows repeat an earlier one. Expected none (on_duplicate=error). Remove them, or set "
            "on_duplicate to drop or keep."
        )
    if policy == "drop":
        return _without(examples, found.rows), len(found.rows)
    return examples, len(found.rows)


def apply_leak_policy(
    train: Sequence[Example], held_out: Sequence[Example], policy: str
) -> tuple[Sequence[Example], int]:
    """Return the training examples under `on_leak`, and the number of them whose pair is held out.

    Raises:
        DataError: If the policy is `error` and a training row is held out too.
    """
    found = find_leaks(train, held_out)
    if found.train_rows and policy == "error":
        train_row, held_row = train[found.first_train_rows[0]], held_out[found.held_out_rows[0]]
        raise DataError(
            f"{train_row.source}: the same pair stands at {held_row.source}; {len(found.train_rows)} "
            "training rows are held out too. Expected none (on_leak=error). Remove them, or set on_leak=drop."
        )
    if policy == "drop":
        return _without(train, found.train_rows), len(found.train_rows)
    return train, len(found.train_rows)


def check_files(train: str, test: str, config: DataConfig) -> dict[str, Any]:
    """Compare a training file and a test file; nothing is changed.

    Returns:
        Counts of rows, as plain values for JSON:

        - `train_rows`, `test_rows`: rows that could be read (all of them, unless `on_broken` is `drop`).
        - `leaked_pairs`: test rows whose text and code, both stripped, stand together in a training row.
        - `leaked_pairs_normalised`: the same, case-folded and with white space collapsed.
        - `leaked_codes`: test rows whose stripped code stands in a training row, whatever its text.
        - `leaked_groups`: test rows whose `group` is that of a training row.
        - `duplicate_rows`: training rows that repeat an earlier training row (rows minus distinct pairs).
        - `duplicate_rows_normalised`, `test_duplicate_rows`: as their names say.
        - `first_leaks`, `first_duplicates`: the first few, each as the two places.
    """
    train_read, test_read = read_examples(train, config), read_examples(test, config)
    train_rows, test_rows = train_read.examples, test_read.examples
    duplicates, leaks = find_duplicates(train_rows), find_leaks(train_rows, test_rows)
    return {
        "train_rows": len(train_rows),
        "test_rows": len(test_rows),
        "dropped_rows": sum(train_read.dropped.values()) + sum(test_read.dropped.values()),
        "leaked_pairs": len(leaks.held_out_rows),
        "leaked_pairs_normalised": leaks.num_normalised,
        "leaked_codes": leaks.num_codes,
        "leaked_groups": _num_leaked_groups(train_rows, test_rows),
        "duplicate_rows": len(duplicates.rows),
        "duplicate_rows_normalised": duplicates.num_normalised,
        "test_duplicate_rows": len(find_duplicates(test_rows).rows),
        "first_leaks": [
            {"test": test_rows[held_out].source, "train": train_rows[first].source}
            for held_out, first in list(zip(leaks.held_out_rows, leaks.first_train_rows, strict=True))[:NUM_SHOWN]
        ],
        "first_duplicates": [
            {"row": train_rows[repeat].source, "repeats": train_rows[first].source}
            for repeat, first in list(zip(duplicates.rows, duplicates.firsts, strict=True))[:NUM_SHOWN]
        ],
    }


def _num_leaked_groups(train: Sequence[Example], test: Sequence[Example]) -> int:
    groups = {example.group for example in train} - {None}
    return sum(example.group in groups for example in test)


def _normalised_key(example: Example) -> PairKey:
    return _normalise(example.text), None if example.code is None else _normalise(example.code)


def _normalise(text: str) -> str:
    return " ".join(text.casefold().split())


def _without(examples: Sequence[Example], places: list[int]) -> Sequence[Example]:
    kept = np.ones(len(examples), bool)
    kept[places] = False
    return take(examples, np.flatnonzero(kept).tolist())
