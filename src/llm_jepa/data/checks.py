"""Duplicates within a file, and leaks between files: counted exactly, by one rule.

Two rows are the same pair when their text and their code are equal after `str.strip()`; system messages are
not compared. As an extra, rows are also compared *normalised*: in one Unicode form, case-folded, and each run of
white space one space. That count is shown and never acted on: in a regex, case carries meaning. Shown too, and never
acted on, are rows that ask the same (text and system message equal after `str.strip()`) and have another code.
"""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from llm_jepa.errors import DataError

from .config import DataConfig
from .example import Example
from .lazy_rows import Joined, StoredExamples, leave_out
from .rows import read_examples

logger = logging.getLogger(__name__)

NUM_SHOWN = 5
KEY_BYTES = 16
KEY_DTYPE = f"S{KEY_BYTES}"  # numpy sorts it; equal exactly where all bytes are

PairKey = tuple[str, str | None]


@dataclass(frozen=True)
class Duplicates:
    """Rows that repeat an earlier row of the same list, by their places from 0.

    Attributes:
        rows: The repeats; the first of equal rows is not among them.
        firsts: For each of `rows`, the first row that it repeats.
        num_normalised: The same count on normalised rows; includes the exact ones.
        normalised: Of the first few that repeat a row only when normalised, that row and the first one.
    """

    rows: list[int]
    firsts: list[int]
    num_normalised: int
    normalised: list[tuple[int, int]]


@dataclass(frozen=True)
class Leaks:
    """Rows of a held-out list whose pair is in the training list too, by their places from 0.

    Attributes:
        held_out_rows: The held-out rows.
        first_train_rows: For each of them, the first equal training row.
        train_rows: All training rows whose pair is in the held-out list.
        num_normalised: Held-out rows that are in training when normalised; includes the exact ones.
        num_codes: Held-out rows whose code alone, stripped, is in training; includes the exact ones. For many tasks
            this is no fault: two questions can have one answer.
        normalised: Of the first few that are in training only when normalised, that row and the first such training
            row.
    """

    held_out_rows: list[int]
    first_train_rows: list[int]
    train_rows: list[int]
    num_normalised: int
    num_codes: int
    normalised: list[tuple[int, int]]


def pair_key(example: Example) -> PairKey:
    """Return what two rows must share to be the same pair."""
    return example.text.strip(), None if example.code is None else example.code.strip()


@dataclass(frozen=True)
class RowKeys:
    """What rows are compared by: a hash of 16 bytes for each row, so that nothing of a large file is held.

    Attributes:
        pair: Hashes of `pair_key`, dtype S16: two different pairs never meet in practice.
        normalised: Of the normalised key.
        code: Of the stripped code alone; for rows of one text, a hash that no code has.
        question: Of the stripped text and system message.
    """

    pair: np.ndarray
    normalised: np.ndarray
    code: np.ndarray
    question: np.ndarray

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
        pair, normalised, code, question = bytearray(), bytearray(), bytearray(), bytearray()
        for example in examples:
            key = pair_key(example)
            pair += hash_key(key)
            normalised += hash_key(_normalised_key(example))
            code += hash_key((key[1],))
            question += hash_key((key[0], (example.system or "").strip()))
        return cls(*(np.frombuffer(each, KEY_DTYPE) for each in (pair, normalised, code, question)))

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
    keys = RowKeys.of(examples)
    _, first, number = np.unique(keys.pair, return_index=True, return_inverse=True)
    first_of_row = first[number]
    rows = np.flatnonzero(first_of_row != np.arange(len(first_of_row)))
    _, first, number = np.unique(keys.normalised, return_index=True, return_inverse=True)
    near = np.flatnonzero((first[number] != np.arange(len(number))) & (first_of_row == np.arange(len(number))))
    return Duplicates(
        rows.tolist(),
        first_of_row[rows].tolist(),
        num_normalised=len(keys.pair) - len(first),
        normalised=[(int(row), int(first[number[row]])) for row in near[:NUM_SHOWN]],
    )


def find_leaks(train_rows: Sequence[Example], held_out_rows: Sequence[Example]) -> Leaks:
    """Find the held-out rows that training would have seen."""
    train, held_out = RowKeys.of(train_rows), RowKeys.of(held_out_rows)
    distinct, first = np.unique(train.pair, return_index=True)
    leaked = np.flatnonzero(np.isin(held_out.pair, distinct))
    no_code = hash_key((None,))
    has_code = held_out.code != no_code
    distinct_near, first_near = np.unique(train.normalised, return_index=True)
    is_near = np.isin(held_out.normalised, distinct_near)
    only_near = np.flatnonzero(is_near & ~np.isin(held_out.pair, distinct))[:NUM_SHOWN]
    firsts_near = first_near[np.searchsorted(distinct_near, held_out.normalised[only_near])]
    return Leaks(
        held_out_rows=leaked.tolist(),
        first_train_rows=first[np.searchsorted(distinct, held_out.pair[leaked])].tolist(),
        train_rows=np.flatnonzero(np.isin(train.pair, held_out.pair)).tolist(),
        num_normalised=int(is_near.sum()),
        num_codes=int((np.isin(held_out.code, train.code) & has_code).sum()),
        normalised=list(zip(only_near.tolist(), firsts_near.tolist(), strict=True)),
    )


def find_conflicts(rows: Sequence[Example], others: Sequence[Example]) -> list[tuple[int, int]]:
    """Return the places of rows that another row asks too, with another code, each with the first such row of `others`.

    Args:
        rows: The rows that are looked at.
        others: Those that they are compared with; the same list, or another one.
    """
    keys, known = RowKeys.of(rows), RowKeys.of(others)
    order = np.lexsort((np.arange(len(known.pair)), known.question))
    questions, starts = np.unique(known.question[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    group = np.searchsorted(questions, keys.question)
    is_known = np.isin(keys.question, questions)
    found = []
    for place in np.flatnonzero(is_known & (keys.code != hash_key((None,)))).tolist():
        same = order[starts[group[place]] : ends[group[place]]]
        other = same[(known.code[same] != keys.code[place]) & (known.code[same] != hash_key((None,)))]
        if len(other):
            found.append((place, int(other[0])))
    return found


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
    return leave_out(examples, found.rows) if policy == "drop" else examples, len(found.rows)


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
            f"{train_row.source}: the same pair is at {held_row.source}; {len(found.train_rows)} "
            "training rows are held out too. Expected none (on_leak=error). Remove them, or set on_leak=drop."
        )
    return leave_out(train, found.train_rows) if policy == "drop" else train, len(found.train_rows)


def check_files(train: str, test: str, config: DataConfig) -> dict[str, Any]:
    """Compare a training file and a test file; nothing is changed.

    Of a folder with several splits, the training split and the test split are read.

    Returns:
        Counts of rows, as plain values for JSON:

        - `train_rows`, `test_rows`: rows that could be read (all of them, unless `on_broken` is `drop`).
        - `empty_rows`: rows with an empty or blank view, in both files.
        - `leaked_pairs`: test rows whose text and code, both stripped, are those of a training row.
        - `leaked_pairs_normalised`: the same, case-folded and with white space collapsed.
        - `leaked_codes`: test rows whose stripped code is that of a training row, whatever its text.
        - `leaked_groups`: test rows whose `group` is that of a training row.
        - `duplicate_rows`: training rows that repeat an earlier training row (rows minus distinct pairs).
        - `duplicate_rows_normalised`, `test_duplicate_rows`: as their names say.
        - `conflicting_rows`, `conflicting_test_rows`: training and test rows with the text (and system message) of a
          training row and another code.
        - `first_...`: the first few of each kind, as two places, or one.
        - `notes`: sentences on what is not read.
    """
    train_read, test_read = read_examples(train, config), read_examples(test, config, part="test")
    train_rows, test_rows = train_read.examples, test_read.examples
    duplicates, leaks = find_duplicates(train_rows), find_leaks(train_rows, test_rows)
    in_train, in_test = find_conflicts(train_rows, train_rows), find_conflicts(test_rows, train_rows)
    empty = [row.source for rows in (train_rows, test_rows) for row in rows if not all(map(str.strip, row.views))]

    leaked = zip(leaks.held_out_rows, leaks.first_train_rows, strict=True)
    repeated = zip(duplicates.rows, duplicates.firsts, strict=True)

    def places(rows: Sequence[Example], name: str, found: Any, other: str) -> list[dict[str, str]]:
        return [{name: rows[one].source, other: train_rows[two].source} for one, two in list(found)[:NUM_SHOWN]]

    return {
        "train_rows": len(train_rows),
        "test_rows": len(test_rows),
        "dropped_rows": sum(train_read.dropped.values()) + sum(test_read.dropped.values()),
        "empty_rows": len(empty),
        "leaked_pairs": len(leaks.held_out_rows),
        "leaked_pairs_normalised": leaks.num_normalised,
        "leaked_codes": leaks.num_codes,
        "leaked_groups": _num_leaked_groups(train_rows, test_rows),
        "duplicate_rows": len(duplicates.rows),
        "duplicate_rows_normalised": duplicates.num_normalised,
        "test_duplicate_rows": len(find_duplicates(test_rows).rows),
        "conflicting_rows": len(in_train),
        "conflicting_test_rows": len(in_test),
        "first_empty": empty[:NUM_SHOWN],
        "first_leaks": places(test_rows, "test", leaked, "train"),
        "first_leaks_normalised": places(test_rows, "test", leaks.normalised, "train"),
        "first_duplicates": places(train_rows, "row", repeated, "repeats"),
        "first_duplicates_normalised": places(train_rows, "row", duplicates.normalised, "repeats"),
        "first_conflicts": places(train_rows, "row", in_train, "other"),
        "first_test_conflicts": places(test_rows, "row", in_test, "other"),
        "notes": list(dict.fromkeys([*train_read.notes, *test_read.notes])),
    }


def _num_leaked_groups(train: Sequence[Example], test: Sequence[Example]) -> int:
    groups = {example.group for example in train} - {None}
    return sum(example.group in groups for example in test)


def _normalised_key(example: Example) -> PairKey:
    return _normalise(example.text), None if example.code is None else _normalise(example.code)


def _normalise(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
