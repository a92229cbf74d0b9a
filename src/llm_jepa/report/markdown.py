"""The same report as Markdown, for a pull request or a paper's notes: report.md, next to report.html.

Text from data is escaped: it is shown as it is, and cannot become an element, a link or a heading.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jepa.experiments.results import Results
from llm_jepa.experiments.sentences import (
    Answer,
    alarm_sentences,
    answer_of,
    arm_sentences,
    collapses_of,
    comparison_sentences,
)
from llm_jepa.geometry.geometry_tables import describe_pairs, describe_sides, geometry_tables

from .content import COLLAPSE_ALARM, DIFFERING, FROM_WHERE, price_of
from .formatting import visible
from .terminal import further_tables, grid_rows, grid_title, outcome_rows, representation_rows, test_title

MARKDOWN_FILE = "report.md"
_INLINE = re.compile(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))")
_AT_THE_START = re.compile(r"^(>|[#+-](?=\s|[#-]|$)|\d+(?=[.)](?:\s|$)))")


def escaped(text: str) -> str:
    r"""Return text for Markdown, on one line; characters that mean something in Markdown or HTML are escaped.

    >>> print(escaped("<b>a|b</b> jepa_shuffled *x* https://a.example"))
    &lt;b>a\|b&lt;/b> jepa_shuffled \*x\* https&#58;//a.example
    """
    text = " ".join(str(visible(text)).split()).replace("&", "&amp;").replace("<", "&lt;")
    text = _AT_THE_START.sub(lambda found: f"&#{ord(found[0][0])};{found[0][1:]}", _INLINE.sub(r"\\\1", text))
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")  # an address must not become a link


def fenced(text: str, language: str = "") -> str:
    """Return text as a block of code, in a fence that is longer than any fence in the text."""
    text = str(visible(text)).rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def only_bars(text: str) -> str:
    """Return text for a table that is pasted into another page: `|`, which would end a cell, is escaped."""
    return text.replace("|", r"\|")


def table(rows: Sequence[Sequence[str]], escape: Callable[[str], str] = escaped) -> str:
    """Return rows of cells, the first row a header, as a Markdown table."""
    lines = ["| " + " | ".join(escape(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def bullets(lines: Iterable[str], escape: Callable[[str], str] = escaped) -> str:
    """Return lines as a list."""
    return "\n".join(f"- {escape(line)}" for line in lines)


def format_markdown(results: Results, escape: Callable[[str], str] = escaped) -> str:
    """Return the results as Markdown: one table of all columns, the alarms, and a sentence for each comparison.

    `escape` is applied to every cell and sentence.
    """
    both = zip(outcome_rows(results), representation_rows(results), strict=True)
    parts = [*_titles([test_title(results)], escape), table([[*left, *right[1:]] for left, right in both], escape)]
    parts.append(bullets([*comparison_sentences(results.main), *alarm_sentences(results.main)], escape))
    for titles, each, notes in further_tables(results):
        parts += [*_titles(titles, escape), table(outcome_rows(each), escape)]
        parts.append(bullets([*notes, *comparison_sentences(each.main)], escape))
    for grid in results.grids.values():
        parts += [f"{escape(grid_title(grid))}.", table(grid_rows(grid), escape)]
    parts.append(bullets(results.notes, escape))
    return "\n\n".join(part for part in parts if part) + "\n"


def _titles(titles: Iterable[str], escape: Callable[[str], str]) -> list[str]:
    return [f"{escape(title)}:" for title in titles if title]


def experiment_markdown(
    results: Results,
    pictures: Sequence[Path],
    folder: Path,
    *,
    settings: str,
    environment: Mapping[str, Any],
    geometry: Mapping[str, Any] | None,
    command: str,
) -> str:
    """Return the report of an experiment as Markdown, to be written into `folder`.

    Of the pictures, which are below `folder`, those that are PNG are shown. `settings` is YAML, `environment` what
    `environment_of` returned, `command` the command that repeats the experiment.
    """
    parts = [*_opening(answer_of(results)), bullets(arm_sentences(results))]
    if price := price_of(results):
        parts.append(f"Cost: {escaped(price)}")
    if collapsed := collapses_of(results.main):
        parts.append(f"**{COLLAPSE_ALARM}:** {escaped('; '.join(collapsed))}.")
    shown = {path.stem: path.relative_to(folder).as_posix() for path in pictures if path.suffix == ".png"}
    first = shown.pop("comparison", None)
    parts += [_image("comparison", first)] if first else []
    parts += ["## Arms", format_markdown(results).strip()]
    if geometry is not None:
        parts += geometry_parts(geometry)
    if shown:
        parts += ["## Figures", *(_image(name, path) for name, path in shown.items())]
    parts += ["## To repeat it", fenced(command, "sh"), FROM_WHERE, fenced(settings, "yaml")]
    if environment["values"]:
        parts.append(bullets(f"{key.replace('_', ' ')}: {value}" for key, value in environment["values"].items()))
    if environment["differing"]:
        parts.append(f"{DIFFERING}: {escaped(', '.join(environment['differing']))}.")
    return "\n\n".join(parts) + "\n"


def geometry_markdown(geometry: Mapping[str, Any], answer: Answer, side: str, command: str) -> str:
    """Return the report of `analyze` as Markdown; its figures are next to it."""
    parts = [*_opening(answer), _image("embedding map", f"embedding_map_{side}.png")]
    parts += [*geometry_parts(geometry), _image("singular values", "singular_values.png"), fenced(command, "sh")]
    return "\n\n".join(parts) + "\n"


def geometry_parts(geometry: Mapping[str, Any]) -> list[str]:
    """Return heading, tables and notes of a geometry."""
    parts = ["## Geometry of the two views", f"{escaped(describe_pairs(geometry))}. {describe_sides(geometry)}."]
    for title, rows in geometry_tables(geometry):
        parts += [f"{escaped(title)}:", table(rows)]
    return parts + ([bullets(geometry["notes"])] if geometry["notes"] else [])


def _opening(answer: Answer) -> list[str]:
    return [f"# {escaped(answer.question)}", f"**{escaped(answer.short)}** {escaped(answer.sentence)}"]


def _image(name: str, path: str) -> str:
    return f"![{escaped(name.replace('_', ' '))}](<{path.replace('<', '').replace('>', '')}>)"
