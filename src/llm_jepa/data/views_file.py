"""View pairs without a label: the rows of `views_file`, which feed the JEPA term beside the task's rows.

Where a row holds both views, it is a pair as it stands. With `views_pairing: next_in_group` rows hold one text each,
versions of one thing where they share a `group`, and version i predicts version i + 1 (the paper's pretraining on
paraphrases, in groups of five).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from llm_jepa.errors import DataError

from .checks import hash_key
from .config import DataConfig
from .example import Example
from .lazy_rows import leave_out
from .row_forms import RowForm
from .rows import ReadResult, read_examples


def read_views(config: DataConfig) -> ReadResult:
    """Read `views_file` as examples of two views.

    With `views_pairing: next_in_group` the last row of each group has nothing to predict, and is counted as dropped
    under `last_of_group`; such rows are held in memory, whatever the size of the file.

    Raises:
        DataError: If the file cannot be read, or its rows do not have what `views_pairing` needs.
    """
    assert config.views_file is not None
    result = read_examples(config.views_file, config.of_views_file())
    assert result.form is not None
    if config.views_pairing == "next_in_group":
        pairs = _pair_in_groups(result.examples, result.form)
        dropped = {**result.dropped, "last_of_group": len(result.examples) - len(pairs)}
        return replace(result, examples=pairs, dropped=dropped)
    if result.form.kind == "text":
        raise DataError(
            f"{result.examples[0].source}: a row of views_file holds one text ({result.form}), expected two views. Set "
            "views_text_column and views_code_column to its columns, or views_pairing=next_in_group where rows of one "
            "group belong together."
        )
    return result


def _pair_in_groups(examples: Sequence[Example], form: RowForm) -> list[Example]:
    """Return a pair of each row and the next one of its group, in the order of the first ones."""
    if form.kind != "text":
        raise DataError(
            f"{examples[0].source}: views_pairing=next_in_group expects rows of one text and a group, found {form}. "
            "Set views_text_column to the column of the text, or views_pairing=row."
        )
    pairs: list[Example] = []
    latest: dict[str, Example] = {}
    for example in examples:
        if example.group is None:
            raise DataError(
                f"{example.source}: the row has no group, and views_pairing=next_in_group pairs rows of one group. "
                "Give each row a group (a string)."
            )
        if example.group in latest:
            first = latest[example.group]
            pairs.append(replace(first, code=example.text, code_view=example.text_view))
        latest[example.group] = example
    if not pairs:
        raise DataError(
            f"{examples[0].source}: none of the {len(examples)} rows shares its group with another, so "
            "views_pairing=next_in_group finds no pair. Expected two rows or more of one group."
        )
    return pairs


def find_views(pairs: Sequence[Example], strings: Iterable[str]) -> list[int]:
    """Return the places of the pairs that have one of these strings for a view, both stripped."""
    known = {hash_key(string.strip()) for string in strings}
    return [
        place
        for place, pair in enumerate(pairs)
        if any(hash_key(view.strip()) in known for view in (pair.text, pair.code or ""))
    ]


def apply_views_leak_policy(
    views: Sequence[Example], held_out: Sequence[Example], policy: str
) -> tuple[Sequence[Example], int]:
    """Return the pairs under `on_leak`, and the number of those with a view that is a held-out row's text.

    Such a pair gives no label away, for it has none; but the model would have read the question, and pulled it
    towards its other phrasing, which no new question gets.

    Raises:
        DataError: If the policy is `error` and there is such a pair.
    """
    found = find_views(views, (example.text for example in held_out))
    if found and policy == "error":
        raise DataError(
            f"{views[found[0]].source}: one of its views is the text of a test or validation row; {len(found)} rows of "
            "views_file have such a view. Expected none (on_leak=error). Remove them, or set on_leak=drop."
        )
    return leave_out(views, found) if policy == "drop" else views, len(found)
