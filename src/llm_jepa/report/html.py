"""The report of an experiment: one HTML file that holds all it shows, for a screen, a phone or paper.

It computes no result of its own: numbers come from what `build_results` returned, pictures from `figures`, answers
and environment from the run folders. The same folder gives the same bytes.

What the file may hold comes from data that nobody has vetted. So it has no script and no link, its policy
(Content-Security-Policy) lets a browser load nothing and apply no style but its own, every value is escaped, and
characters that no one can see, or that turn the direction of writing, are shown by their number.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from llm_jepa.experiments.results import BUDGET_TITLES
from llm_jepa.files import read_json_lines, write_whole

from .figures import PALETTE, shown_axes

REPORT_FILE = "report.html"
NUM_EXAMPLES = 20
LONGEST_TEXT = 600
"""Characters of a text or an answer that are shown; a diff or an essay would push everything else away."""

CAPTIONS = {
    "comparison": "Each seed's value and the mean, and the differences to the baseline with their 95% intervals.",
    "curves_loss": "Cross-entropy during training: mean over seeds, band from lowest to highest.",
    "curves_accuracy": "Answers to validation rows, scored during training.",
    "curves_jepa_loss": "Distance between prediction and target of the JEPA term.",
    "curves_gradients": "Whether the two terms pull the weights the same way, and how hard each pulls.",
    "curves_monitors": "Whether the embeddings of the views match, and whether they have collapsed.",
}


def write_report(
    results: Mapping[str, Any], folder: Path, figures: Sequence[Path] = (), command: str | None = None
) -> Path:
    """Write `report.html` into an experiment's folder.

    Args:
        results: What `build_results` returned, or results.json holds.
        folder: The experiment's folder; answers and environment are read from its run folders, where they are.
        figures: Pictures; those that are SVG are shown, `comparison` at the top.
        command: What repeats the experiment, for the reader.

    Returns:
        The path of the file.
    """
    write_whole(folder / REPORT_FILE, render_report(results, folder, figures, command))
    return folder / REPORT_FILE


def render_report(results: Mapping[str, Any], folder: Path, figures: Sequence[Path], command: str | None) -> str:
    """Return the text of the report (see `write_report`)."""
    css = resources.files("llm_jepa.report").joinpath("report.css").read_text(encoding="utf-8")
    pictures = {path.stem: _picture(path) for path in figures if path.suffix == ".svg"}
    settings = {key: value for key, value in results["settings"].items() if key != "data"}
    return (
        _templates()
        .get_template("template.html.j2")
        .render(
            css=Markup(css),
            css_hash=base64.b64encode(hashlib.sha256(css.encode()).digest()).decode(),
            results=results,
            metric=str(results["metric"]).replace("_", " "),
            answer=_answer(results),
            rows=_rows(results),
            comparison=pictures.pop("comparison", None),
            budgets=_budgets(results),
            grids=[
                _grid(grid, pictures.pop(f"grid_{grid['arm']}", None)) for grid in results.get("grids", {}).values()
            ],
            notes=results.get("notes", []),
            pictures=list(pictures.values()),
            data=results["settings"].get("data", {}),
            examples=_examples(results, folder),
            settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
            environment=_environment(results, folder),
            command=command,
        )
    )


# ---- what is shown ----


def _answer(results: Mapping[str, Any]) -> dict[str, str]:
    """Return question, short answer and the sentence of the first comparison: the arm that was named first."""
    baseline = results["baseline"]
    if not results["comparisons"]:
        return {"question": "Does it help?", "short": "Nothing to compare.", "sentence": f"{baseline} is the only arm."}
    first = results["comparisons"][0]
    short = {"better": "Yes.", "worse": "No, it is worse."}.get(first["verdict"], "No difference shown.")
    return {
        "question": f"Is {first['arm']} better than {baseline}?",
        "short": short,
        "sentence": _sentence(first, results),
    }


def _sentence(comparison: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Say a comparison in one sentence, with its interval, or with why there is none."""
    seeds = list(comparison["differences"])
    arm, baseline = (results["arms"][comparison[side]]["seeds"] for side in ("arm", "baseline"))
    if comparison["delta"] is None:
        return f"{comparison['arm']} and {comparison['baseline']} cannot be compared: {comparison['reason']}."
    ours, theirs = (_percent(sum(values[seed] for seed in seeds) / len(seeds)) for values in (arm, baseline))
    count = "1 seed" if len(seeds) == 1 else f"{len(seeds)} paired seeds"
    metric = str(results["metric"]).replace("_", " ")
    sentence = f"Over {count}, {comparison['arm']} reaches {ours}% {metric} and {comparison['baseline']} {theirs}%: "
    sentence += f"a difference of {_points(comparison['delta'])} points"
    if comparison["ci95"] is not None:
        sentence += f", 95% interval {_interval(comparison['ci95'])}"
    return f"{sentence}; {comparison['reason']}." if comparison["reason"] else f"{sentence}."


def _rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the tables show of each arm, the baseline first."""
    comparisons = {each["arm"]: each for each in results["comparisons"]}
    return [
        {
            "arm": arm,
            "colour": PALETTE[place % len(PALETTE)],
            "summary": summary,
            "comparison": comparisons.get(arm),
            "cost": results["cost"].get(arm, {}),
            "retrieval": results["retrieval"].get(arm, {}),
            "alarms": results["alarms"].get(arm, {}),
            "raised": {seed: each for seed, each in results["alarms"].get(arm, {}).items() if each["alarmed"]},
        }
        for place, (arm, summary) in enumerate(results["arms"].items())
    ]


def _budgets(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the comparisons at equal FLOPs and equal time, as far as they were made."""
    return [
        {"title": title, "kind": kind, "rows": _rows(again), "results": again}
        for kind, title in BUDGET_TITLES.items()
        if (again := results.get(f"equal_{kind}"))
    ]


def _grid(grid: Mapping[str, Any], picture: dict[str, str] | None) -> dict[str, Any]:
    """Return what the section of a grid shows: the chosen cell's coordinates stand in its caption."""
    held = [field for field in grid["axes"] if field not in shown_axes(grid)]
    at = next((cell for cell in grid["cells"] if cell["chosen"]), grid["cells"][0])["coordinates"]
    caption = (
        f"Left, validation rows: {grid['choose_by']}, by which the framed cell was chosen. Right, test rows: "
        f"{grid['metric']}, looked at after; its best cell is not the one to report. Means over seeds."
    )
    if held:
        caption += " Of the other axes: " + ", ".join(f"{field} {at[field]}" for field in held) + "."
    share = grid["choose_by"] in (grid["metric"], "retrieval@1")
    return dict(grid) | {"picture": picture and picture | {"caption": caption}, "validation_is_share": share}


def _picture(path: Path) -> dict[str, str]:
    """Return an SVG as a data URI: as an image it can load and run nothing, and its ids meet no others."""
    encoded = base64.b64encode(path.read_bytes()).decode()
    caption = CAPTIONS.get(path.stem, path.stem.replace("_", " "))
    return {"source": f"data:image/svg+xml;base64,{encoded}", "caption": caption}


# ---- from the run folders ----


def _examples(results: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    """Return test rows that a single arm got right, of the first seed that most arms have; None if none compare.

    Each arm gives as many examples as the others as long as it has them: an arm is not shown at its best.
    """
    arms = list(results["arms"])
    seeds = results["settings"].get("seeds") or list(results["arms"][results["baseline"]]["seeds"])
    seed = max(seeds, key=lambda each: len(_predictions(folder, arms, each)))  # the first of equals
    answers = _predictions(folder, arms, seed)
    texts = {tuple(row["text"] for row in rows) for rows in answers.values()}
    if len(answers) < 2 or len(texts) > 1:
        return None
    metric, num_rows = results["metric"], len(next(iter(answers.values())))
    only: dict[str, list[int]] = {arm: [] for arm in answers}
    for place in range(num_rows):
        right = [arm for arm, rows in answers.items() if rows[place][metric]]
        if len(right) == 1:
            only[right[0]].append(place)
    in_turn = chain.from_iterable(zip_longest(*([(arm, place) for place in only[arm]] for arm in only)))
    chosen = islice((each for each in in_turn if each is not None), NUM_EXAMPLES)
    return {
        "seed": seed,
        "num_rows": num_rows,
        "counts": {arm: len(places) for arm, places in only.items()},
        "total": sum(map(len, only.values())),
        "shown": [_example(answers, arm, place) for arm, place in chosen],
    }


def _example(answers: Mapping[str, list[dict[str, Any]]], right: str, place: int) -> dict[str, Any]:
    """Return one row with every arm's answer; the gold answer only where the right one is not the same."""
    row = answers[right][place]
    outputs = {arm: _shortened(rows[place]["output"]) for arm, rows in answers.items()}
    return {
        "text": _shortened(row["text"]),
        "gold": None if row["gold"].strip() == row["output"].strip() else _shortened(row["gold"]),
        "right": right,
        "output": outputs.pop(right),
        "others": outputs,
    }


def _predictions(folder: Path, arms: Sequence[str], seed: object) -> dict[str, list[dict[str, Any]]]:
    files = {arm: folder / f"{arm}-s{seed}" / "predictions.jsonl" for arm in arms}
    return {arm: read_json_lines(file) for arm, file in files.items() if file.is_file()}


def _environment(results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the environment of the first run, and the names of what was not the same in all runs."""
    found = list(_environments(results, folder))
    if not found:
        return {"values": {}, "differing": []}
    values = {key: value for key, value in found[0].items() if key != "command"}
    differing = [key for key, value in values.items() if any(each.get(key) != value for each in found)]
    return {"values": {key: _as_text(value) for key, value in values.items()}, "differing": differing}


def _environments(results: Mapping[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    for run in results["runs"]:
        file = folder / f"{run['arm']}-s{run['seed']}" / "environment.json"
        if file.is_file():
            yield json.loads(file.read_text(encoding="utf-8"))


def _as_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items() if each is not None)
    return "unknown" if value is None else str(value)


# ---- how it is written ----


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("llm_jepa", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {
        "percent": _percent,
        "points": _points,
        "interval": _interval,
        "minus": lambda text: re.sub(r"(?<![\w-])-(?=\d)", "\N{MINUS SIGN}", text),
        "ratio": lambda value: "–" if value is None else f"{value:.2f}×",
        "p_value": lambda p: "–" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}",
    }
    return templates


def _visible(value: Any) -> Any:
    """Write what cannot be seen (controls, marks that turn the direction, half a character) by its number.

    Jinja calls it on every value, before it escapes.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(char if char.isprintable() or char in "\n\t" else f"<U+{ord(char):04X}>" for char in value)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} … ({len(text):,} characters)"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _points(share: float | None) -> str:
    """Return a difference of shares in points, with its sign."""
    return "–" if share is None else f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def _interval(bounds: Sequence[float] | None) -> str:
    return "–" if bounds is None else f"{_points(bounds[0])} to {_points(bounds[1])}"
