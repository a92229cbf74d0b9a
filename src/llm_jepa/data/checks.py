"""Duplicates within a file, and leaks between files: counted exactly, by one stated rule.

Two rows are the same pair when their text and their code are equal after `str.strip()`; system messages are
not compared. As an extra, rows are also compared *normalised*: case-folded, and each run of white space one
space. That count is shown and never acted on: in a regex, case carries meaning.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_jepa.data.config import DataConfig
from llm_jepa.data.formats import Example, read_examples
from llm_jepa.errors import DataError

logger = logging.getLogger(__name__)

NUM_SHOWN = 5

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


def find_duplicates(examples: Sequence[Example]) -> Duplicates:
    """Find the rows that repeat an earlier one."""
    first_place: dict[PairKey, int] = {}
    rows, firsts = [], []
    for place, example in enumerate(examples):
        first = first_place.setdefault(pair_key(example), place)
        if first != place:
            rows.append(place)
            firsts.append(first)
    num_distinct = len({_normalised_key(example) for example in examples})
    return Duplicates(rows, firsts, num_normalised=len(examples) - num_distinct)


def find_leaks(train: Sequence[Example], held_out: Sequence[Example]) -> Leaks:
    """Find the held-out rows that training would have seen."""
    first_place: dict[PairKey, int] = {}
    for place, example in enumerate(train):
        first_place.setdefault(pair_key(example), place)
    held_out_keys = [pair_key(example) for example in held_out]
    leaked = [place for place, key in enumerate(held_out_keys) if key in first_place]
    held_out_set = set(held_out_keys)
    train_normalised = {_normalised_key(example) for example in train}
    train_codes = {code for _, code in first_place if code is not None}
    return Leaks(
        held_out_rows=leaked,
        first_train_rows=[first_place[held_out_keys[place]] for place in leaked],
        train_rows=[place for place, example in enumerate(train) if pair_key(example) in held_out_set],
        num_normalised=sum(_normalised_key(example) in train_normalised for example in held_out),
        num_codes=sum(code in train_codes for _, code in held_out_keys),
    )


def apply_duplicate_policy(examples: Sequence[Example], policy: str) -> tuple[list[Example], int]:
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
    return list(examples), len(found.rows)


def apply_leak_policy(train: Sequence[Example], held_out: Sequence[Example], policy: str) -> tuple[list[Example], int]:
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
    return list(train), len(found.train_rows)


def check_files(train: str, test: str, config: DataConfig) -> dict[str, Any]:
    """Compare a training file and a test file; nothing is changed.

    Returns:
        Counts of rows, as plain values for JSON:

        - `train_rows`, `test_rows`: rows that could be read (all of them, unless `on_broken` is `drop`).
        - `leaked_pairs`: test rows whose text and code, both stripped, stand together in a training row.
        - `leaked_pairs_normalised`: the same, case-folded and with white space collapsed.
        - `leaked_codes`: test rows whose stripped code stands in a training row, whatever its text.
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


def _normalised_key(example: Example) -> PairKey:
    return _normalise(example.text), None if example.code is None else _normalise(example.code)


def _normalise(text: str) -> str:
    return " ".join(text.casefold().split())


def _without(examples: Sequence[Example], places: list[int]) -> list[Example]:
    left_out = set(places)
    return [example for place, example in enumerate(examples) if place not in left_out]
