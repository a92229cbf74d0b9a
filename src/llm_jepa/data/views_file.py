"""View pairs without a label: the rows of `views_file`. They feed the JEPA term, in addition to the task's rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llm_jepa.errors import DataError

from .checks import hash_key, normalise
from .config import DataConfig
from .example import Example
from .lazy_rows import leave_out
from .rows import ReadResult, read_examples


def read_views(config: DataConfig) -> ReadResult:
    """Read `views_file`; rows that hold one text instead of two views are a DataError."""
    assert config.views_file is not None
    result = read_examples(config.views_file, config.of_views_file())
    assert result.form is not None
    if result.form.kind == "text":
        raise DataError(
            "second_view_missing",
            f"{result.examples[0].source}: a row of views_file holds one text ({result.form}), expected two views. Set "
            "views_text_column and views_code_column to its columns.",
        )
    return result


def find_views(pairs: Sequence[Example], strings: Iterable[str], *, normalised: bool = False) -> list[int]:
    """Return the places of the pairs of which a view equals one of these strings, both stripped or normalised."""
    form = normalise if normalised else str.strip
    known = {hash_key(form(string)) for string in strings}
    return [
        place
        for place, pair in enumerate(pairs)
        if any(hash_key(form(view)) in known for view in (pair.text, pair.code or ""))
    ]


def apply_views_leak_policy(
    views: Sequence[Example], held_out: Sequence[Example], policy: str
) -> tuple[Sequence[Example], int]:
    """Apply `on_leak` to the pairs; return those that are kept, and how many have the text of a held-out row as a view.

    Such a pair does not reveal a label, but the model would have learned to embed the question like its other phrasing.
    """
    found = find_views(views, (example.text for example in held_out))
    if found and policy == "error":
        raise DataError(
            "row_leaked",
            f"{views[found[0]].source}: one of its views is the text of a test or validation row; {len(found)} rows of "
            "views_file have such a view. Expected none (on_leak=error). Remove them, or set on_leak=drop.",
        )
    return leave_out(views, found) if policy == "drop" else views, len(found)
