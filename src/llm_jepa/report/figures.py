"""Figures of an experiment: how its arms trained, and how they compare with the baseline.

Every figure is drawn on a `Figure` of its own: no pyplot, no global state, no display. Each is written as SVG, for
reports, and PNG, for everything else. An arm has the same colour and marker in all figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from numpy.typing import NDArray

from .formatting import can_be_shown

Row = Mapping[str, Any]
Runs = Mapping[str, Mapping[int, Sequence[Row]]]

# Okabe and Ito (2008), told apart with every common colour blindness; yellow is left out, too faint on white.
PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Colours come round after seven arms; markers and dashes then still tell arms apart.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", "--", ":", "-.")

INK, FAINT = "#222222", "#8A8A8A"
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],  # a reader's machine may have another sans serif alone
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small, searchable, crisp
    "svg.hashsalt": "llm-jepa",  # the same figure gives the same file
}
ROUND_STEPS = (1, 2, 2.5, 5, 10)
"""Distances of ticks, up to a power of ten."""

NARROW, NARROW_ENDING = 4.2, "_narrow"
"""Inches of a figure for a phone, on which it is shown at nine tenths of its size; and what its file is named."""

ALARM, ALARM_LABEL = "v", "collapse alarm, from this step on"

PNG_DPI = 160
"""Dots an inch of the PNG: 7 inches are 1120 dots, sharp at the width of a page."""


@dataclass(frozen=True)
class Panel:
    """One small chart: which key of metrics.jsonl it shows, under which title and unit.

    Attributes:
        keys: Names of the key; the first that a row has is taken.
        title: What is shown.
        unit: Label of the vertical axis.
        percent: Show a share in percent.
        reference: Height of a dashed line that the unit explains; None for no line.
    """

    keys: tuple[str, ...]
    title: str
    unit: str
    percent: bool = False
    reference: float | None = None


OTHER_SCORES = ("regex", "number", "any_of", "label", "sql", "choice", "choice_per_byte")
"""Scorers that are reported where they are asked for; by name, for figures know results and not what made them."""

FIGURES: dict[str, tuple[Panel, ...]] = {
    "loss": (
        Panel(("ce_loss",), "Cross-entropy, training", "nats per token"),
        Panel(("eval_ce_loss",), "Cross-entropy, held out", "nats per token"),
    ),
    "accuracy": (
        Panel(("eval_exact_match", "exact_match", "eval/exact_match"), "Exact match, held out", "%", percent=True),
        Panel(("eval_starts_with", "starts_with", "eval/starts_with"), "Starts with gold, held out", "%", percent=True),
        *(Panel((f"eval_{name}",), f"Right by {name}, held out", "%", percent=True) for name in OTHER_SCORES),
        Panel(("eval_token_accuracy", "token_accuracy"), "Next-token accuracy, held out", "%", percent=True),
    ),
    "jepa_loss": (
        Panel(("jepa_loss",), "JEPA distance, training", "distance per pair"),
        Panel(("eval_jepa_loss",), "JEPA distance, held out", "distance per pair"),
    ),
    "monitors": (
        Panel(("gap",), "Gap, matched minus shuffled", "cosine (0: no match)", reference=0.0),
        Panel(("retrieval@1",), "Retrieval@1, text to code", "%", percent=True),
        Panel(("mean_pairwise_cosine",), "Mean pairwise cosine of targets", "cosine (1: all alike)", reference=1.0),
        Panel(("feature_std",), "Feature spread of targets", "0: all alike, 1: isotropic", reference=0.0),
        Panel(("effective_rank",), "Effective rank of targets", "directions"),
    ),
}
"""The figures by name. A key is also looked up as `monitor/KEY`."""


WATCHED = ("monitors", "jepa_loss")
"""Figures in which a collapse shows, and on which alarms are marked."""


def plot_curves(
    runs: Runs,
    keys: Sequence[str] | None,
    out_dir: str | Path,
    alarms: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
) -> list[Path]:
    """Draw how the arms trained, one small chart a quantity: mean line over seeds, band from lowest to highest.

    What no row holds is left out: a chart without values, a figure without charts. Values that are not finite
    (such as the JEPA distance of a run without JEPA) are gaps. A mean is drawn where at least one seed has a
    value, at the steps that any seed logged.

    Args:
        runs: Arm to seed to the rows of metrics.jsonl, dicts with `step` and any of the keys.
        keys: Names of the figures to draw, or keys of rows (each gets a figure); None draws all of `FIGURES`.
        out_dir: Folder, made if it is missing.
        alarms: Arm to seed to `CollapseAlarm.summary()`, as results.json holds them. On the charts of embeddings each
            alarm is a mark at the step from which the views had collapsed.

    Returns:
        The files written, `curves_NAME.svg` and `curves_NAME.png` for each figure. Beside them stands
        `curves_NAME_narrow.svg`, the same in one column.
    """
    written: list[Path] = []
    raised = alarm_steps(alarms or {})
    for name in FIGURES if keys is None else keys:
        panels = FIGURES.get(name, (Panel((name,), name, ""),))
        drawable = [(panel, curves) for panel in panels if (curves := _curves_of(runs, panel))]
        if drawable:
            marks = raised if name in WATCHED else {}
            with mpl.rc_context(STYLE):
                wide, narrow = (_curves_figure(drawable, list(runs), marks, narrow=each) for each in (False, True))
            written += _save(wide, Path(out_dir), f"curves_{_file_name(name)}", narrow)
    return written


def alarm_steps(alarms: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[int, int]]:
    """Return for each arm with alarms the steps from which runs had collapsed, and in how many runs each."""
    steps: dict[str, dict[int, int]] = {}
    for arm, by_seed in alarms.items():
        for alarm in by_seed.values():
            if alarm["alarmed"] and _is_number(alarm.get("first_step")):
                of_arm = steps.setdefault(arm, {})
                of_arm[alarm["first_step"]] = of_arm.get(alarm["first_step"], 0) + 1
    return steps


def plot_comparison(results: Mapping[str, Any], out_dir: str | Path) -> list[Path]:
    """Draw a results.json: each seed's value and the mean by arm, beside the differences to the baseline.

    Left: a dot a seed, a bar at the mean, in percent. Right: a dot a seed's difference, the mean and its 95%
    interval, in points; in the margin the verdict. An interval that crosses the line at 0 shows no difference.

    Returns:
        The files written, `comparison.svg` and `comparison.png`. Beside them stands `comparison_narrow.svg`, with the
        one part above the other.
    """
    with mpl.rc_context(STYLE):
        wide, narrow = (_comparison_figure(results, narrow=each) for each in (False, True))
    return _save(wide, Path(out_dir), "comparison", narrow)


def plot_grid(grid: Mapping[str, Any], out_dir: str | Path, axes: Sequence[str] | None = None) -> list[Path]:
    """Draw a grid of results.json as two heat maps: what its cell was chosen by, and the metric on test rows.

    The chosen cell is framed in both; its place was found in the left one alone. A cell without a value is empty.
    Of a grid with more than two axes a slice is drawn: the one through the chosen cell, else through the first.

    Args:
        grid: One of `results["grids"]`.
        out_dir: Folder, made if it is missing.
        axes: The one or two fields to draw, the vertical one first. Default: the two with the most values.

    Returns:
        The files written, `grid_ARM.svg` and `grid_ARM.png`, beside `grid_ARM_narrow.svg`; none if no cell has a value.

    Raises:
        ValueError: If `axes` are not one or two of the grid's.
    """
    shown = shown_axes(grid, axes)
    cells = grid_slice(grid, shown)
    if not any(cell[side]["mean"] is not None for cell in cells for side in ("validation", "test")):
        return []
    with mpl.rc_context(STYLE):
        wide, narrow = (_grid_figure(grid, shown, cells, narrow=each) for each in (False, True))
    return _save(wide, Path(out_dir), grid_name(grid["arm"]), narrow)


def grid_slice(grid: Mapping[str, Any], shown: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the cells that differ from the chosen one, or from the first, in the shown axes alone."""
    here = next((cell for cell in grid["cells"] if cell["chosen"]), grid["cells"][0])["coordinates"]
    rest = [field for field in grid["axes"] if field not in shown]
    return [cell for cell in grid["cells"] if all(cell["coordinates"][field] == here[field] for field in rest)]


# ---- curves ----


@dataclass(frozen=True)
class Curve:
    """Mean, lowest and highest value over the seeds of an arm at each step, all (steps,)."""

    steps: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def summarize_seeds(by_seed: Mapping[int, Sequence[Row]], keys: Sequence[str]) -> Curve | None:
    """Return the curve of one arm for the first of `keys` that a row holds; None if no row holds a finite value."""
    at_step: dict[float, dict[int, float]] = {}
    for seed, rows in by_seed.items():
        for row in rows:
            value = next((row[name] for key in keys for name in (key, f"monitor/{key}") if name in row), None)
            if _is_number(value) and _is_number(row.get("step")):
                at_step.setdefault(float(row["step"]), {})[seed] = float(value)  # a resumed step counts once
    if not at_step:
        return None
    steps = sorted(at_step)
    values = [list(at_step[step].values()) for step in steps]
    return Curve(
        np.array(steps),
        np.array([sum(v) / len(v) for v in values]),
        np.array([min(v) for v in values]),
        np.array([max(v) for v in values]),
    )


def _curves_of(runs: Runs, panel: Panel) -> dict[str, Curve]:
    curves = {arm: summarize_seeds(by_seed, panel.keys) for arm, by_seed in runs.items()}
    return {arm: curve for arm, curve in curves.items() if curve is not None}


def _curves_figure(
    drawable: Sequence[tuple[Panel, dict[str, Curve]]],
    arms: Sequence[str],
    marks: Mapping[str, Mapping[int, int]],
    *,
    narrow: bool,
) -> Figure:
    columns = 1 if narrow else min(len(drawable), 3 if len(drawable) > 4 else 2)
    rows = math.ceil(len(drawable) / columns)
    width = NARROW if narrow else 3.5 * columns + (1.2 if columns == 1 else 0.2)  # inches
    shown = [arm for arm in arms if any(arm in curves for _, curves in drawable)]
    handles = [_key_of(arm, arms) for arm in shown]
    longest = max(len(_shortened(arm)) for arm in shown)
    if any(arm in marks for arm in shown):
        handles.append(Line2D([], [], linestyle="", marker=ALARM, color=INK, markersize=6, label=ALARM_LABEL))
        longest = max(longest, len(ALARM_LABEL))
    per_line = max(1, int(width * 12 / (longest + 6)))  # names to a legend line
    legend_lines = math.ceil(len(handles) / per_line)
    figure = Figure(figsize=(width, 2.6 * rows + 0.25 * legend_lines + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (panel, curves) in zip(axes, drawable, strict=False):
        _draw_panel(axis, panel, curves, arms)
        _draw_alarms(axis, {arm: steps for arm, steps in marks.items() if arm in curves}, arms)
    for axis in axes[len(drawable) :]:
        axis.set_visible(False)
    figure.legend(handles=handles, loc="outside upper left", ncols=min(per_line, len(handles)), handlelength=2.4)
    return figure


def _draw_panel(axis: Axes, panel: Panel, curves: Mapping[str, Curve], arms: Sequence[str]) -> None:
    scale = 100 if panel.percent else 1
    for arm, curve in curves.items():
        look = _look(arm, arms)
        axis.fill_between(
            curve.steps, scale * curve.low, scale * curve.high, color=look["color"], alpha=0.16, linewidth=0
        )
        marker = look["marker"] if len(curve.steps) == 1 else ""  # one check is a point, not an invisible line
        axis.plot(
            curve.steps,
            scale * curve.mean,
            color=look["color"],
            linestyle=look["linestyle"],
            linewidth=look["linewidth"],
            marker=marker,
        )
    if panel.percent and axis.get_ylim()[0] < 0:
        axis.set_ylim(bottom=0)
    if panel.reference is not None:
        axis.axhline(panel.reference, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axis.set_title(panel.title)
    axis.set_xlabel("optimizer step")
    axis.set_ylabel(panel.unit)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=ROUND_STEPS))
    axis.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND_STEPS))
    axis.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    axis.margins(x=0.02)


def _draw_alarms(axis: Axes, marks: Mapping[str, Mapping[int, int]], arms: Sequence[str]) -> None:
    """Mark each step from which runs had collapsed by a dotted line and a flag, arm below arm, with how many runs."""
    for place, (arm, steps) in enumerate(marks.items()):
        colour, height = _look(arm, arms)["color"], 0.96 - 0.1 * place
        for step, count in steps.items():
            axis.axvline(step, color=colour, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
            across = axis.get_xaxis_transform()
            axis.plot([step], [height], marker=ALARM, color=colour, markersize=6, transform=across, clip_on=False)
            if count > 1:
                axis.annotate(
                    f"{count} runs",
                    (step, height),
                    xycoords=across,
                    xytext=(5, 0),
                    textcoords="offset points",
                    fontsize=7,
                    color=colour,
                    va="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
                )


# ---- comparison ----


def _comparison_figure(results: Mapping[str, Any], *, narrow: bool) -> Figure:
    arms = list(results["arms"])
    comparisons = {comparison["arm"]: comparison for comparison in results["comparisons"]}
    num_parts = 2 if comparisons else 1
    height_of_arms = sum(0.62 if place < 4 else 0.45 for place in range(len(arms)))  # many arms stand closer
    if narrow:
        figure = Figure(figsize=(NARROW, num_parts * (1.0 + 0.75 * height_of_arms)), layout="constrained")
        axes = figure.subplots(num_parts, 1, squeeze=False).ravel()
    else:
        figure = Figure(figsize=(9.0, 1.3 + height_of_arms), layout="constrained")
        ratios = (1, 1.25)[:num_parts]
        axes = figure.subplots(1, num_parts, squeeze=False, sharey=True, width_ratios=ratios).ravel()
    for height, arm in enumerate(arms):
        _draw_values(axes[0], height, results["arms"][arm], _look(arm, arms))
        if arm in comparisons:
            _draw_difference(axes[1], height, comparisons[arm], _look(arm, arms))
            _write_verdict(axes[1], height, comparisons[arm], above=narrow)
    axes[0].set_title(_plain(f"{str(results['metric']).replace('_', ' ').capitalize()}, by seed"))
    axes[0].set_xlabel("% (bar: mean over seeds)")
    if comparisons:
        axes[1].axvline(0, color=INK, linewidth=1, zorder=1)
        axes[1].set_title(f"Difference to {_shortened(next(iter(comparisons.values()))['baseline'])}")
        axes[1].set_xlabel("points (line: 95% interval; dots: seeds)")
    for axis in axes:
        axis.set_yticks(range(len(arms)), [_shortened(arm, 14 if narrow else 28) for arm in arms])
        axis.set_ylim(len(arms) - 0.4, -0.6)  # the first arm on top
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0, labelleft=narrow or axis is axes[0])
        axis.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND_STEPS))
    return figure


def _draw_values(axis: Axes, height: float, summary: Mapping[str, Any], look: Mapping[str, Any]) -> None:
    values = [100 * value for value in summary["seeds"].values()]
    spread = _side_by_side(len(values))
    axis.scatter(values, height + spread, s=20, color=look["color"], marker=look["marker"], alpha=0.55, linewidth=0)
    if summary["mean"] is not None:
        mean = 100 * summary["mean"]
        axis.plot([mean, mean], [height - 0.27, height + 0.27], color=look["color"], linewidth=2.4)


def _draw_difference(axis: Axes, height: float, comparison: Mapping[str, Any], look: Mapping[str, Any]) -> None:
    if comparison["delta"] is None:
        return
    differences = [100 * value for value in (comparison.get("differences") or {}).values()]
    delta = 100 * comparison["delta"]
    dots = height + 0.14 + _side_by_side(len(differences), width=0.06)
    axis.scatter(differences, dots, s=14, color=look["color"], marker=look["marker"], alpha=0.4, linewidth=0)
    if comparison["ci95"] is not None:
        low, high = (100 * bound for bound in comparison["ci95"])
        axis.plot([low, high], [height, height], color=look["color"], linewidth=2.2, solid_capstyle="butt")
    axis.plot([delta], [height], marker=look["marker"], color=look["color"], markersize=6.5, markeredgecolor="white")


def _write_verdict(axis: Axes, height: float, comparison: Mapping[str, Any], *, above: bool) -> None:
    """Write the difference and the verdict in the margin, where nothing is drawn; or above the interval."""
    delta = "" if comparison["delta"] is None else f"{100 * comparison['delta']:+.1f}  ".replace("-", "\N{MINUS SIGN}")
    at, size = ((0.01, height - 0.33), 8) if above else ((1.02, height), 9)
    text, across = f"{delta}{comparison['verdict']}", ("axes fraction", "data")
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # above the line at 0, not under it
    axis.annotate(text, at, xycoords=across, va="center", color=INK, fontsize=size, bbox=box)


# ---- grids ----


def shown_axes(grid: Mapping[str, Any], asked: Sequence[str] | None = None) -> list[str]:
    """Return the one or two axes to draw, the vertical one first: those asked for, or the two with the most values."""
    known = list(grid["axes"])
    if asked is not None:
        if not 1 <= len(asked) <= 2 or not set(asked) <= set(known) or len(set(asked)) < len(asked):
            raise ValueError(f"axes={list(asked)} must be one or two of the grid's: {', '.join(known)}.")
        return list(asked)
    longest = sorted(known, key=lambda field: -len(grid["axes"][field]))[:2]
    return sorted(longest, key=known.index)


def _grid_figure(
    grid: Mapping[str, Any], shown: Sequence[str], cells: Sequence[Mapping[str, Any]], *, narrow: bool
) -> Figure:
    down, across = shown if len(shown) == 2 else (None, shown[0])
    rows, columns = grid["axes"][down] if down else [None], grid["axes"][across]
    chosen_by = str(grid["choose_by"]).replace("_", " ")
    sides = {
        "validation": f"Validation, chosen by: {chosen_by}",
        "test": f"Test, looked at after: {str(grid['metric']).replace('_', ' ')}",
    }
    size = (max(3.6, 0.85 * len(columns) + 1.4), 0.5 * len(rows) + 1.5)  # inches, of each map
    shape = (2, 1) if narrow else (1, 2)
    figure = Figure(figsize=(shape[1] * size[0], shape[0] * size[1]), layout="constrained")
    for axis, (side, title) in zip(figure.subplots(*shape), sides.items(), strict=True):
        percent = side == "test" or chosen_by in ("retrieval@1", str(grid["metric"]).replace("_", " "))
        lower = side == "validation" and not grid["higher_is_better"]
        values = np.full((len(rows), len(columns)), np.nan)
        frame = None
        for cell in cells:
            at = (rows.index(cell["coordinates"][down]) if down else 0, columns.index(cell["coordinates"][across]))
            mean = cell[side]["mean"]
            values[at] = np.nan if mean is None else mean * (100 if percent else 1)
            frame = at if cell["chosen"] else frame
        _draw_cells(axis, values, frame, lower)
        axis.set_title(f"{title}\n{'%, ' if percent else ''}{'lower' if lower else 'higher'} is better", fontsize=9)
        axis.set_xticks(range(len(columns)), [_value_label(value) for value in columns])
        axis.set_xlabel(across)
        axis.set_yticks(range(len(rows)), [_value_label(value) for value in rows] if down else [""])
        axis.set_ylabel(down or "")
    return figure


def _draw_cells(axis: Axes, values: NDArray[np.float64], frame: tuple[int, int] | None, lower: bool) -> None:
    """Draw values, dark for good, with the number in each cell and a frame around the chosen one."""
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 1.0)
    goodness = (high - values if lower else values - low) / ((high - low) or 1.0)
    # The ends of the map are left out: white is for cells without a value, and the darkest would hide the frame.
    axis.imshow(np.ma.masked_invalid(0.12 + 0.68 * goodness), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    digits = 1 if high >= 10 else 3
    for (row, column), value in np.ndenumerate(values):
        text = "–" if math.isnan(value) else f"{value:.{digits}f}"
        axis.text(column, row, text, ha="center", va="center", color="white" if goodness[row, column] > 0.6 else INK)
    if frame is not None:
        row, column = frame
        axis.add_patch(
            Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, fill=False, edgecolor=PALETTE[2], linewidth=2.5)
        )
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def _value_label(value: object) -> str:
    return _shortened(f"{value:g}" if _is_number(value) else str(value), 14)


# ---- shared ----


def _look(arm: str, arms: Sequence[str]) -> dict[str, Any]:
    """Return colour, marker and dash of an arm, which depend on its place among the arms only."""
    place = list(arms).index(arm)
    return {
        "color": PALETTE[place % len(PALETTE)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place // len(PALETTE) % len(DASHES)],
        "linewidth": max(1.2, 2.6 - 0.35 * place),  # thinner on top of thicker: equal curves all stay visible
    }


def _key_of(arm: str, arms: Sequence[str]) -> Line2D:
    look = _look(arm, arms)
    return Line2D([], [], color=look["color"], linestyle=look["linestyle"], linewidth=2, label=_shortened(arm))


def _shortened(name: str, room: int = 28) -> str:
    return _plain(name if len(name) <= room else f"{name[: room // 2 - 1]}..{name[-(room // 2 - 1) :]}")


def _plain(text: str) -> str:
    """Return text for a figure: a $ starts no mathematics, and what no one can see has no place in XML."""
    return "".join(char if can_be_shown(char) else "\N{REPLACEMENT CHARACTER}" for char in text).replace("$", r"\$")


def grid_name(arm: str) -> str:
    """Return the name of an arm's grid among the figures."""
    return f"grid_{_file_name(arm)}"


def _file_name(name: str) -> str:
    """Return a name of data as part of the name of a file."""
    return name.replace("/", "_").replace("@", "_at_")


def _side_by_side(count: int, width: float = 0.16) -> NDArray[np.float64]:
    """Return small offsets that keep dots of equal value apart; the same every time."""
    return np.linspace(-width, width, count) if count > 1 else np.zeros(count)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _save(figure: Figure, out_dir: Path, name: str, narrow: Figure | None = None) -> list[Path]:
    """Write a figure as SVG and PNG; beside them the same for a phone, as SVG alone, which pages find by its name."""
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = [out_dir / f"{name}.svg", out_dir / f"{name}.png"]
    FigureCanvasAgg(figure)
    with mpl.rc_context(STYLE):
        figure.savefig(paths[0], metadata={"Date": None})  # no date: the same figure gives the same bytes
        figure.set_layout_engine("none")  # what was placed once stays there: placing takes as long as drawing
        figure.savefig(paths[1], dpi=PNG_DPI, facecolor="white")
        if narrow is not None:
            FigureCanvasAgg(narrow)
            narrow.savefig(out_dir / f"{name}{NARROW_ENDING}.svg", metadata={"Date": None})
    return paths
