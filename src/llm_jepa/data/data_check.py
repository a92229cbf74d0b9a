"""What `data check` finds in a training file and a test file, and how each finding affects a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from .checks import NO_CODE, NUM_SHOWN, find_conflicts, find_duplicates, find_leaks, normalise, row_keys
from .config import DataConfig
from .example import Example
from .near_duplicates import INSTALL, MOST_ROWS, can_find_near, find_near
from .rows import read_examples


class Finding(NamedTuple):
    """A kind of finding: the key of its count, the words after the count in its sentence, and its effect."""

    key: str
    says: str
    effect: str
    is_always_said: bool = True


FINDINGS = (
    Finding("empty_rows", "rows have an empty or blank view", "Training refuses them (on_empty).", False),
    Finding(
        "leaked_pairs",
        "test pairs are in train too",
        "Training leaves them out (on_leak: drop). If kept, all arms answer them from memory, and differences shrink.",
    ),
    Finding(
        "leaked_pairs_more",
        "more test pairs are in train, up to case and space",
        "They stay in training: every arm may answer them from memory, and differences shrink.",
    ),
    Finding(
        "leaked_codes",
        "test codes are in train too",
        "This is not a fault: the question is new. But an arm may score by choosing among known answers.",
    ),
    Finding(
        "leaked_groups",
        "test rows have the group of a training row",
        "Scores on them say little about new groups.",
        False,
    ),
    Finding(
        "duplicate_rows",
        "training rows repeat an earlier one",
        "They count more than once in the loss, in all arms alike (on_duplicate: drop leaves them out).",
    ),
    Finding(
        "duplicate_rows_more",
        "more training rows repeat an earlier one, up to case and space",
        "They count more than once in the loss, in all arms alike; no setting leaves them out.",
    ),
    Finding(
        "test_duplicate_rows",
        "test rows repeat an earlier one",
        "They count more than once in the score, and the interval is narrower than it should be.",
        False,
    ),
    Finding(
        "conflicting_rows",
        "training rows have the text of another training row and another code",
        "No model can give both answers. So the loss cannot reach zero, and answers to such texts are random.",
    ),
    Finding(
        "conflicting_rows_more",
        "more training rows do so, up to case and space",
        "If case has no meaning in your texts, the same holds for them.",
    ),
    Finding(
        "conflicting_test_rows",
        "test rows have the text of a training row and another code",
        "An arm that learned its training rows well is wrong on them. So they limit the score.",
    ),
    Finding(
        "conflicting_test_rows_more",
        "more test rows do so, up to case and space",
        "If case has no meaning in your texts, the same holds for them.",
    ),
    Finding(
        "near_rows",
        "training rows have nearly the text of an earlier one (MinHash)",
        "There are fewer different questions than rows; validation rows set aside from them are easier than new ones.",
    ),
    Finding(
        "near_test_rows",
        "test rows have nearly the text of a training row (MinHash)",
        "Copying the answer of the nearest training row may be right: scores say little about new kinds of questions.",
    ),
    Finding(
        "near_test_rows_same_code",
        "of them have its code too",
        "These are close to leaks: every arm may answer them from memory.",
        False,
    ),
)


def check_files(train: str, test: str, config: DataConfig) -> dict[str, Any]:
    """Compare a training file and a test file, or the splits of these names in folders.

    Returns:
        Counts of rows, as plain values for JSON:

        - `train_rows`, `test_rows`: rows that could be read (all of them, unless `on_broken` is `drop`).
        - the keys of `FINDINGS`; `..._more` are found only if rows are case-folded and white space is collapsed. Those
          of near-duplicates are None if the library is not installed.
        - `distinct_codes`; `commonest_code`, with its share in both files.
        - `first_...`: the first few of each kind, as two places, or one.
        - `near_note`: a sentence if there was no search for near-duplicates, or not in all rows.
        - `notes`: sentences about what is not read.
    """
    train_read, test_read = read_examples(train, config), read_examples(test, config, part="test")
    rows, held_out = train_read.examples, test_read.examples
    found: dict[str, Any] = {
        "train_rows": len(rows),
        "test_rows": len(held_out),
        "dropped_rows": sum(train_read.dropped.values()) + sum(test_read.dropped.values()),
    }
    empty = [row.source for some in (rows, held_out) for row in some if not all(map(str.strip, row.views))]
    found |= {"empty_rows": len(empty), "first_empty": empty[:NUM_SHOWN]}
    found |= _leaks(rows, held_out) | _duplicates(rows, held_out) | _conflicts(rows, held_out) | _codes(rows, held_out)
    found |= _near(rows, held_out)
    return found | {"notes": list(dict.fromkeys([*train_read.notes, *test_read.notes]))}


def describe_findings(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a sentence for each finding, and one on what it does to a comparison, empty where nothing was found."""
    said = [
        (f"{found[each.key]:,} {each.says}", each.effect if found[each.key] else "")
        for each in FINDINGS
        if found[each.key] is not None and (found[each.key] or each.is_always_said)
    ]
    if found["distinct_codes"]:
        share, in_test = found["commonest_code_share"], found["commonest_code_test_share"]
        codes = f"{found['distinct_codes']:,} distinct training codes; the commonest has {share:.2%} of the rows"
        effect = f"Always to give that is right on {in_test:.2%} of the test rows. Compare scores with that."
        said.append((codes, effect))
    return said


def _places(
    rows: Sequence[Example], others: Sequence[Example], pairs: Any, name: str, other: str
) -> list[dict[str, str]]:
    return [{name: rows[one].source, other: others[two].source} for one, two in islice(pairs, NUM_SHOWN)]


def _leaks(rows: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
    leaks = find_leaks(rows, held_out)
    groups = {example.group for example in rows} - {None}
    leaked = zip(leaks.held_out_rows, leaks.first_train_rows, strict=True)
    return {
        "leaked_pairs": len(leaks.held_out_rows),
        "leaked_pairs_more": leaks.num_normalised - len(leaks.held_out_rows),
        "leaked_codes": leaks.num_codes,
        "leaked_groups": sum(example.group in groups for example in held_out),
        "first_leaks": _places(held_out, rows, leaked, "test", "train"),
        "first_leaks_normalised": _places(held_out, rows, leaks.normalised, "test", "train"),
    }


def _duplicates(rows: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
    found = find_duplicates(rows)
    repeated = zip(found.rows, found.firsts, strict=True)
    return {
        "duplicate_rows": len(found.rows),
        "duplicate_rows_more": found.num_normalised - len(found.rows),
        "test_duplicate_rows": len(find_duplicates(held_out).rows),
        "first_duplicates": _places(rows, rows, repeated, "row", "repeats"),
        "first_duplicates_normalised": _places(rows, rows, found.normalised, "row", "repeats"),
    }


def _conflicts(rows: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, first, some in (
        ("conflicting_rows", "first_conflicts", rows),
        ("conflicting_test_rows", "first_test_conflicts", held_out),
    ):
        exact = find_conflicts(some, rows)
        known = {place for place, _ in exact}
        more = [pair for pair in find_conflicts(some, rows, normalised=True) if pair[0] not in known]
        found |= {key: len(exact), f"{key}_more": len(more)}
        found |= {first: _places(some, rows, exact, "row", "other")}
        found |= {f"{first}_normalised": _places(some, rows, more, "row", "other")}
    return found


def _codes(rows: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
    of_train, of_test = row_keys(rows)["code"], row_keys(held_out)["code"]
    codes, first, counts = np.unique(of_train[of_train != NO_CODE], return_index=True, return_counts=True)
    if not len(codes):
        return {"distinct_codes": 0}
    place = int(np.argmax(counts))
    return {
        "distinct_codes": len(codes),
        "commonest_code": rows[int(first[place])].code,
        "commonest_code_share": float(counts[place] / len(rows)),
        "commonest_code_test_share": float(np.mean(of_test == codes[place])),
    }


def _near(rows: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(("near_rows", "near_test_rows", "near_test_rows_same_code", "near_note"))
    if not can_find_near():
        return found | {"first_near_rows": [], "first_near_test_rows": [], "near_note": INSTALL}
    texts = ([normalise(row.text) for row in islice(some, MOST_ROWS)] for some in (rows, held_out))
    in_train, in_test = find_near(*texts)
    found["near_rows"], found["near_test_rows"] = len(in_train), len(in_test)
    found["near_test_rows_same_code"] = sum(held_out[one].code == rows[two].code is not None for one, two in in_test)
    found["first_near_rows"] = _places(rows, rows, in_train, "row", "near")
    found["first_near_test_rows"] = _places(held_out, rows, in_test, "row", "near")
    if max(len(rows), len(held_out)) > MOST_ROWS:
        found["near_note"] = f"The search for near-duplicates covers only the first {MOST_ROWS:,} rows of each file."
    return found
