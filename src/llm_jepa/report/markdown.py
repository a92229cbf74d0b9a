"""The same report as Markdown, for a pull request or a paper's notes: report.md, beside report.html.

Text from data is escaped, so that it is shown as it is and makes no element, link or heading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jepa.experiments.results import format_markdown
from llm_jepa.geometry.geometry_tables import describe_pairs, describe_sides, geometry_tables

from .content import answer_of, collapses_of, price_of
from .formatting import visible

MARKDOWN_FILE = "report.md"
_INLINE = re.compile(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))")
_AT_THE_START = re.compile(r"^(>|[#+-](?=\s|[#-]|$)|\d+(?=[.)](?:\s|$)))")

FROM_WHERE = "Relative names of files, in the command and in the settings, start from the folder in which it is given."


def escaped(text: str) -> str:
    r"""Return text for Markdown, on one line; what Markdown or HTML would read as their own is escaped.

    >>> print(escaped("<b>a|b</b> jepa_shuffled *x* https://a.example"))
    &lt;b>a\|b&lt;/b> jepa_shuffled \*x\* https&#58;//a.example
    """
    text = " ".join(str(visible(text)).split()).replace("&", "&amp;").replace("<", "&lt;")
    text = _AT_THE_START.sub(lambda found: f"&#{ord(found[0][0])};{found[0][1:]}", _INLINE.sub(r"\\\1", text))
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")  # an address is no link either


def fenced(text: str, language: str = "") -> str:
    """Return text as a block of code, within a fence that is longer than any in it."""
    text = str(visible(text)).rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def experiment_markdown(
    results: Mapping[str, Any],
    pictures: Sequence[Path],
    folder: Path,
    *,
    settings: str,
    environment: Mapping[str, Any],
    geometry: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> str:
    """Return the report of an experiment as Markdown.

    Args:
        results: What `build_results` returned.
        pictures: Files of figures below `folder`; the PNG are shown, by their names relative to it.
        folder: Where the Markdown will stand.
        settings: The settings as YAML.
        environment: What `environment_of` returned.
        geometry: What geometry.json holds.
        command: What repeats the experiment.
    """
    answer = answer_of(results)
    parts = [f"# {escaped(answer['question'])}", f"**{answer['short']}** {escaped(answer['sentence'])}"]
    if price := price_of(results):
        parts.append(f"Cost: {escaped(price)}")
    if collapsed := collapses_of(results):
        parts.append(f"**Collapse alarm:** {escaped('; '.join(collapsed))}.")
    shown = {path.stem: path.relative_to(folder).as_posix() for path in pictures if path.suffix == ".png"}
    first = shown.pop("comparison", None)
    parts += [_image("comparison", first)] if first else []
    parts += ["## Arms", format_markdown(dict(results), escaped).strip()]
    if geometry is not None:
        parts += geometry_parts(geometry)
    if shown:
        parts += ["## Figures", *(_image(name, path) for name, path in shown.items())]
    repeat = [fenced(command, "sh"), FROM_WHERE] if command else []
    parts += ["## To repeat it", *repeat, fenced(settings, "yaml")]
    if environment["values"]:
        parts.append(_list(f"{key.replace('_', ' ')}: {value}" for key, value in environment["values"].items()))
    if environment["differing"]:
        parts.append(f"Not the same in all runs: {escaped(', '.join(environment['differing']))}.")
    return "\n\n".join(parts) + "\n"


def geometry_markdown(geometry: Mapping[str, Any], answer: Mapping[str, str], command: str | None = None) -> str:
    """Return the report of `analyze` as Markdown; its figures stand beside it."""
    parts = [f"# {escaped(answer['question'])}", f"**{escaped(answer['short'])}** {escaped(answer['sentence'])}"]
    parts += [_image("embedding map", f"embedding_map_{answer['side']}.png")]
    parts += geometry_parts(geometry)
    parts += [_image("singular values", "singular_values.png")]
    parts += [fenced(command, "sh")] if command else []
    return "\n\n".join(parts) + "\n"


def geometry_parts(geometry: Mapping[str, Any]) -> list[str]:
    """Return heading, tables and notes of a geometry."""
    parts = ["## Geometry of the two views", f"{escaped(describe_pairs(geometry))}. {describe_sides(geometry)}."]
    for title, rows in geometry_tables(geometry):
        parts += [f"{escaped(title)}:", table(rows)]
    return parts + ([_list(geometry["notes"])] if geometry["notes"] else [])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells, the first a header, as a table of Markdown."""
    lines = ["| " + " | ".join(escaped(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _list(lines: Any) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _image(name: str, path: str) -> str:
    return f"![{escaped(name.replace('_', ' '))}](<{path.replace('<', '').replace('>', '')}>)"
