"""What `analyze` writes for readers: figures, report.md and report.html, with the numbers of geometry.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from llm_jepa.experiments.sentences import Answer
from llm_jepa.files import write_whole
from llm_jepa.yaml_loading import dump_yaml

from .formatting import as_text, counted, percent
from .geometry_figures import plot_geometry, shown_side, sides_of
from .markdown import MARKDOWN_FILE, geometry_markdown
from .page import REPORT_FILE, geometry_section, pictures_of, render


def write_analysis_report(
    geometry: Mapping[str, Any], folder: Path, command: str, environment: Mapping[str, Any]
) -> Path:
    """Draw the figures of a geometry.json next to it, and write report.md and report.html; return the page's path.

    `command` repeats the analysis; `environment` is what `describe_environment` returned.
    """
    pictures = plot_geometry(geometry, folder)
    text = geometry_markdown(geometry, geometry_answer(geometry), sides_of(geometry)[-1], command)
    write_whole(folder / MARKDOWN_FILE, text)
    write_whole(folder / REPORT_FILE, geometry_page(geometry, pictures, command, environment))
    return folder / REPORT_FILE


def geometry_page(
    geometry: Mapping[str, Any], figures: Sequence[Path], command: str, environment: Mapping[str, Any]
) -> str:
    """Return the page (see `write_analysis_report`). It draws the maps itself; of the figures it has the spectra."""
    about = ("split", "file", "num_rows", "num_pairs", "num_codes", "precision", "reading", "ridge", "seed")
    settings = {key: geometry[key] for key in about}
    settings |= {"runs": {name: run["objective"] for name, run in geometry["runs"].items()}}
    models = counted(len(geometry["runs"]), "model")
    values = {key: as_text(value) for key, value in environment.items() if key != "command"}
    spectra = pictures_of(figures).get("singular_values")
    return render(
        "geometry",
        answer=geometry_answer(geometry),
        price=f"no training; {models} embedded both views of {geometry['num_pairs']:,} pairs.",
        geometry=geometry_section(geometry, sides_of(geometry)[::-1], spectra),
        settings=dump_yaml(settings, sort_keys=False, allow_unicode=True),
        environment={"values": values, "differing": []},
        command=command,
    )


def geometry_answer(geometry: Mapping[str, Any]) -> Answer:
    """Return what a report of `analyze` opens with, about the last of `sides_of`.

    The sentence names the run whose texts find their codes most often, and the first run of the call. A share counts as
    more than chance if the lower end of its interval is above chance.
    """
    side = sides_of(geometry)[-1]
    measured = {name: shown_side(run, side) for name, run in geometry["runs"].items()}
    shares = {name: found["retrieval"] for name, found in measured.items()}
    collapsed = [name for name, found in measured.items() if found["looks_collapsed"]]
    first = next(iter(shares))
    best = max(shares, key=lambda name: shares[name]["recall@1"])  # the first of equals
    num_codes, constant = shares[first]["num_candidates"], shares[first]["constant@1"]
    # All runs together say "more" of one that finds nothing in at most 5% of cases (Bonferroni).
    level = 1 - 0.05 / len(shares)
    found = [
        name for name, each in shares.items() if wilson(each["recall@1"], each["num_queries"], level)[0] > constant
    ]
    total = counted(len(shares), "run")
    short = f"Not shown in any of {total}."
    if found:
        short = f"More often than with one code for all in {len(found)} of {total}."
    sentence = f"In {best}, {_share(shares[best])} of {geometry['num_pairs']:,} texts are nearest to their own code"
    sentence += f", among {num_codes:,.0f}"
    if first != best:
        sentence += f"; in {first} {_share(shares[first])}"
    sentence += f"; with the same code for all it would be {percent(constant)}%."
    if collapsed:
        sentence += f" Collapsed, by these pairs: {', '.join(collapsed)}."
    return Answer("Do texts find their own codes?", short, sentence)


def wilson(share: float, num: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a share of `num` independent draws, with this confidence level.

    Pairs that share a code are not independent, so the interval is a little too narrow where many do.
    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.

    >>> [round(end, 3) for end in wilson(0.5, 100)], [round(end, 3) for end in wilson(0.0, 500)]
    ([0.404, 0.596], [0.0, 0.008])
    """
    interval = stats.binomtest(round(share * num), int(num)).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def _share(retrieval: Mapping[str, Any]) -> str:
    low, high = wilson(retrieval["recall@1"], retrieval["num_queries"])
    return f"{percent(retrieval['recall@1'])}% (95% interval {percent(low)} to {percent(high)})"
