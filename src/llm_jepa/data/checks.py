"""Duplicates within a file, and leaks between files: counted exactly, with the same rule.

Two rows are the same pair if their text and their code are equal after `str.strip()`; system messages are
not compared. A training row is a leak too if the views that its JEPA term gets are a held-out pair (`text_view`,
`code_view`). Rows are also compared *normalised*: in one Unicode form, case-folded, and with each run of white space
as one space. That count is only reported, and no row is left out because of it: in a regex, case has a meaning. Rows
with the same question (text and system message equal after `str.strip()`) and another code are only reported too.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llm_jepa.errors import DataError

from .example import Example
from .lazy_rows import Joined, StoredExamples, leave_out

NUM_SHOWN = 5
KEY_DTYPE = "S16"  # hashes of 16 bytes: numpy can sort them; two values are equal if all bytes are

KEYS = np.dtype([(name, KEY_DTYPE) for name in ("pair", "views", "normalised", "code", "question", "near_question")])
"""What of a row is hashed: `pair_key`; its `_views`; the pair, normalised; the code (`NO_CODE` for rows of one text);
text and system message; the same, normalised. In practice, two different values never have the same hash."""


@dataclass(frozen=True)
class Duplicates:
    """Rows that repeat an earlier row of the same list, by their places from 0.

    Attributes:
        rows: The repeats, without the first of equal rows.
        firsts: For each of `rows`, the first row that it repeats.
        num_normalised: The number of repeats among normalised rows; includes the exact ones.
        normalised: The first few rows that repeat another only if normalised, each with the first such row.
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
        num_normalised: Held-out rows that are in training if normalised; includes the exact ones.
        num_codes: Held-out rows whose code alone, stripped, is in training; includes the exact ones. For many tasks
            this is no fault: two questions can have one answer.
        normalised: The first few held-out rows that are in training only if normalised, with the first such row there.
    """

    held_out_rows: list[int]
    first_train_rows: list[int]
    train_rows: list[int]
    num_normalised: int
    num_codes: int
    normalised: list[tuple[int, int]]


def pair_key(example: Example) -> tuple[str, str | None]:
    """Return the key that is equal for two rows that are the same pair."""
    return example.text.strip(), None if example.code is None else example.code.strip()


def _views(example: Example) -> tuple[str, str | None]:
    """Return `pair_key` of what the JEPA term of a row compares; of its text and code if it has no such term."""
    text, code = (example.text_view, example.code_view) if example.use_jepa else (None, None)
    return pair_key(replace(example, text=text or example.text, code=code or example.code))


def row_keys(examples: Sequence[Example]) -> np.ndarray:
    """Return the keys for comparing rows, dtype `KEYS`: hashes, so that a large file is not kept in memory.

    Examples that stay in their file keep the result, so that they are read only once.
    """
    if isinstance(examples, Joined):
        return np.concatenate([row_keys(part) for part in examples.parts])
    if isinstance(examples, StoredExamples) and examples.row_keys is not None:
        return examples.row_keys
    hashes = bytearray()
    for example in examples:
        (text, code), system = pair_key(example), (example.system or "").strip()
        near_text, near_code = normalise(text), None if code is None else normalise(code)
        pairs = (text, code), _views(example), (near_text, near_code)
        for key in (*pairs, (code,), (text, system), (near_text, normalise(system))):
            hashes += hash_key(key)
    keys = np.frombuffer(hashes, KEYS)
    if isinstance(examples, StoredExamples):
        examples.row_keys = keys
    return keys


def hash_key(key: Any) -> bytes:
    """Return a hash of 16 bytes of a key made of strings."""
    return hashlib.blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=16).digest()


NO_CODE = hash_key((None,))  # the hash of a row of one text


def _find_first(keys: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the keys that are also in `known`, and the first place of each of them there."""
    distinct, first = np.unique(known, return_index=True)
    places = np.flatnonzero(np.isin(keys, distinct))
    return places, first[np.searchsorted(distinct, keys[places])]


def find_duplicates(examples: Sequence[Example]) -> Duplicates:
    """Find the rows that repeat an earlier one."""
    keys = row_keys(examples)
    places, firsts = _find_first(keys["pair"], keys["pair"])
    _, firsts_near = _find_first(keys["normalised"], keys["normalised"])
    repeats = firsts != places
    only_near = np.flatnonzero((firsts_near != places) & ~repeats)[:NUM_SHOWN]
    return Duplicates(
        places[repeats].tolist(),
        firsts[repeats].tolist(),
        num_normalised=int((firsts_near != places).sum()),
        normalised=list(zip(only_near.tolist(), firsts_near[only_near].tolist(), strict=True)),
    )


def find_leaks(train_rows: Sequence[Example], held_out_rows: Sequence[Example]) -> Leaks:
    """Find the held-out rows whose pair is also in the training rows, as a pair or as its views."""
    train, held_out = row_keys(train_rows), row_keys(held_out_rows)
    leaked, firsts = _find_first(held_out["pair"], np.concatenate([train["pair"], train["views"]]))
    near, firsts_near = _find_first(held_out["normalised"], train["normalised"])
    only_near = np.flatnonzero(~np.isin(near, leaked))[:NUM_SHOWN]
    return Leaks(
        held_out_rows=leaked.tolist(),
        first_train_rows=(firsts % max(len(train), 1)).tolist(),
        train_rows=np.flatnonzero(np.isin([train["pair"], train["views"]], held_out["pair"]).any(0)).tolist(),
        num_normalised=len(np.union1d(near, leaked)),
        num_codes=int((np.isin(held_out["code"], train["code"]) & (held_out["code"] != NO_CODE)).sum()),
        normalised=list(zip(near[only_near].tolist(), firsts_near[only_near].tolist(), strict=True)),
    )


def find_conflicts(
    rows: Sequence[Example], others: Sequence[Example], *, normalised: bool = False
) -> list[tuple[int, int]]:
    """Return the places of rows whose question one of the others has with another code, with the first such place.

    `others` may be the same list. `normalised` compares normalised texts; codes are never normalised.
    """
    keys, known = row_keys(rows), row_keys(others)
    question = "near_question" if normalised else "question"
    asked, asked_before = keys[question], known[question]
    order = np.argsort(asked_before, kind="stable")
    questions, starts = np.unique(asked_before[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    group = np.searchsorted(questions, asked)
    found = []
    for place in np.flatnonzero(np.isin(asked, questions) & (keys["code"] != NO_CODE)).tolist():
        same = order[starts[group[place]] : ends[group[place]]]
        other = same[(known["code"][same] != keys["code"][place]) & (known["code"][same] != NO_CODE)]
        if len(other):
            found.append((place, int(other[0])))
    return found


def apply_duplicate_policy(examples: Sequence[Example], policy: str) -> tuple[Sequence[Example], int]:
    """Apply `on_duplicate`; return the examples that are kept, and the number of repeats that were found."""
    found = find_duplicates(examples)
    if found.rows and policy == "error":
        repeat, first = examples[found.rows[0]], examples[found.firsts[0]]
        raise DataError(
            "row_repeated",
            f"{repeat.source}: repeats the pair of {first.source}; {len(found.rows)} of {len(examples)} "
            "rows repeat an earlier one. Expected none (on_duplicate=error). Remove them, or set "
            "on_duplicate to drop or keep.",
        )
    return leave_out(examples, found.rows) if policy == "drop" else examples, len(found.rows)


def apply_leak_policy(
    train: Sequence[Example], held_out: Sequence[Example], policy: str
) -> tuple[Sequence[Example], int]:
    """Apply `on_leak`; return the training examples that are kept, and how many examples have a held-out pair."""
    found = find_leaks(train, held_out)
    if found.train_rows and policy == "error":
        train_row, held_row = train[found.first_train_rows[0]], held_out[found.held_out_rows[0]]
        raise DataError(
            "row_leaked",
            f"{train_row.source}: the same pair is at {held_row.source}; {len(found.train_rows)} training rows are "
            "also held-out rows. Expected none (on_leak=error). Remove them, or set on_leak=drop.",
        )
    return leave_out(train, found.train_rows) if policy == "drop" else train, len(found.train_rows)


def normalise(text: str) -> str:
    """Return a text in one Unicode form, case-folded, with each run of white space as one space."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
