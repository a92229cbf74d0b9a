"""The report of an experiment as one HTML file, for a screen, a phone or paper; `geometry_report` makes another here.

They compute no results: numbers and sentences come from `Results` or from what `analyze_runs` returned, pictures from
`figures`, answers and environment from the run folders. The same folder gives the same bytes.

    content, run_details, embedding_maps  ──▶  templates/*.html.j2 and report.css  ──▶  report.html

The file shows data that nobody has checked. So it has no script and no link; its policy (Content-Security-Policy) lets
a browser load nothing, and apply no style except its own; every value is escaped; and characters that are invisible, or
turn the direction of writing, are shown by their number.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from llm_jepa.experiments.results import Results, SetResults
from llm_jepa.experiments.sentences import (
    answer_of,
    arm_sentences,
    collapses_of,
    comparison_sentences,
    count_alarms,
    format_p,
    verdict_in_words,
)
from llm_jepa.files import write_whole
from llm_jepa.geometry.geometry_tables import describe_pairs, describe_sides, geometry_tables
from llm_jepa.progress import duration
from llm_jepa.yaml_loading import dump_yaml

from .content import COLLAPSE_ALARM, DIFFERING, FROM_WHERE, budgets_of, price_of, rows_of, splits_of
from .definitions import arm_lines, words_of
from .drawing import NARROW_ENDING
from .embedding_maps import ends_of, maps_of, pairs_shown
from .figures import COMPARISON, comparison_name
from .formatting import interval, or_dash, percent, points, ratio, visible, with_minus
from .geometry_figures import TITLES, sides_of
from .grid_figures import grid_caption, grid_name
from .run_details import environment_of, examples_of
from .terminal import grid_title, test_title

REPORT_FILE = "report.html"

CAPTIONS = {
    "curves_loss": "Cross-entropy during training: mean over seeds, band from lowest to highest.",
    "curves_accuracy": "Answers to validation rows during training: mean over seeds, band from lowest to highest.",
    "curves_jepa_loss": "Distance between prediction and target of the JEPA term.",
    "curves_monitors": "Whether the embeddings of the views match, and whether they have collapsed.",
    "singular_values": "Singular values of one view minus the other, solid; the same of shuffled pairs, dashed. "
    "Small values mean that the views match only where the dashed line is well above the solid one.",
}
EARLY = ("curves_loss", "curves_accuracy")
"""Pictures of how well the arms learn; the other curves are about their embeddings."""

Picture = dict[str, str]


def write_report(
    results: Results,
    folder: Path,
    figures: Sequence[Path] = (),
    command: str | None = None,
    geometry: Mapping[str, Any] | None = None,
) -> Path:
    """Write `report.html` into an experiment's folder, and return its path.

    Args:
        results: The results.
        folder: The experiment's folder; answers and environment are read from its run folders, if they are there.
        figures: Pictures; those that are SVG are shown, `comparison` at the top. On a phone, NAME_narrow.svg next to a
            picture is shown instead of it.
        command: The command that repeats the experiment, for the reader.
        geometry: What `stored_geometry` returned.
    """
    pictures = pictures_of(figures)
    first, spectra = _taken(pictures, COMPARISON, _caption(results.main)), pictures.pop("singular_values", None)
    grids = [(grid, _taken(pictures, grid_name(grid.arm), grid_caption(grid))) for grid in results.grids.values()]
    others = [
        {"results": other, "rows": rows_of(other), "sentences": comparison_sentences(other.main)}
        | {"picture": _taken(pictures, comparison_name(name), f"{_caption(other.main)} Test set {name}.")}
        for name, other in results.other_tests.items()
    ]
    curves = {name: picture for name, picture in pictures.items() if not name.startswith("embedding_map")}
    data = results.settings.get("data", {})
    text = render(
        "comparison",
        results=results,
        answer=answer_of(results),
        arm_sentences=arm_sentences(results),
        price=price_of(results),
        collapses=collapses_of(results.main),
        sentences=comparison_sentences(results.main),
        rows=rows_of(results),
        arms=arm_lines(results),
        words=words_of(results),
        comparison=first,
        others=others,
        budgets=budgets_of(results),
        grids=grids,
        learning=[picture for name, picture in curves.items() if name in EARLY],
        watching=[picture for name, picture in curves.items() if name not in EARLY],
        geometry=None if geometry is None else geometry_section(geometry, sides_of(geometry)[-1:], spectra),
        data=data,
        splits=splits_of(data.get("summary", {})),
        examples=examples_of(results, folder),
        settings=settings_text(results),
        environment=environment_of(results, folder),
        command=command,
    )
    write_whole(folder / REPORT_FILE, text)
    return folder / REPORT_FILE


def settings_text(results: Results) -> str:
    """Return the settings of an experiment as YAML, without `data`, which has its own section on the page."""
    settings = {key: value for key, value in results.settings.items() if key != "data"}
    return dump_yaml(settings, sort_keys=False, allow_unicode=True)


def geometry_section(geometry: Mapping[str, Any], sides: Sequence[str], spectra: Picture | None) -> dict[str, Any]:
    """Return what the section of a geometry shows: tables, and the maps and pairs of each side."""
    shown = pairs_shown(geometry, 2 * len(sides) * len(geometry["runs"]))
    return {
        "about": geometry,
        "pairs": describe_pairs(geometry),
        "legend": describe_sides(geometry),
        "tables": geometry_tables(geometry),
        "spectra": spectra,
        "sides": [
            {"title": TITLES[side], "maps": maps_of(geometry, side, shown), "ends": ends_of(geometry, side)}
            for side in sides
        ],
    }


# ---- pictures ----


def pictures_of(figures: Sequence[Path]) -> dict[str, Picture]:
    """Return the SVG among the figures by name, each with its narrow version for a phone, or with ""."""
    return {
        path.stem: {
            "source": _as_image(path),
            "narrow": _as_image(narrow) if (narrow := path.with_stem(f"{path.stem}{NARROW_ENDING}")).is_file() else "",
            "caption": CAPTIONS.get(path.stem, path.stem.replace("_", " ")),
        }
        for path in figures
        if path.suffix == ".svg"
    }


def _as_image(path: Path) -> str:
    """Return an SVG as a data URI: as an image it can load and run nothing, and its ids cannot clash with others."""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _taken(pictures: dict[str, Picture], name: str, caption: str) -> Picture | None:
    """Remove a picture from `pictures`, and return it with a caption; None if it was not drawn."""
    picture = pictures.pop(name, None)
    return picture and picture | {"caption": caption}


def _caption(found: SetResults) -> str:
    """Return what the picture of the comparisons on a test set shows."""
    caption = "Each seed's value and the mean"
    if found.comparisons:
        caption += ", and the differences to the baseline"
    if any(each.ci is not None for each in found.comparisons):
        caption += " with their 95% intervals"
    return f"{caption}."


# ---- how it is written ----


def render(name: str, **content: Any) -> str:
    """Return the page of the template `name`, with its style."""
    css = resources.files("llm_jepa.report").joinpath("report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return _templates().get_template(f"{name}.html.j2").render(css=Markup(css), css_hash=digest, **content)


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("llm_jepa", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else visible(value),  # before it escapes
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    numbers: dict[str, Any] = {"percent": percent, "points": points, "interval": interval, "ratio": ratio}
    numbers |= {"p_value": format_p, "duration": duration}
    templates.filters |= {name: or_dash(text_of) for name, text_of in numbers.items()}
    templates.filters |= {"minus": with_minus, "count_alarms": count_alarms, "verdict_in_words": verdict_in_words}
    templates.globals |= {"grid_title": grid_title, "test_title": test_title, "from_where": FROM_WHERE}
    templates.globals |= {"collapse_alarm": COLLAPSE_ALARM, "differing": DIFFERING}
    return templates
