"""Figures of an experiment: how its arms trained, and how they compare with the baseline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from numpy.typing import NDArray

from llm_jepa.data.config import MAIN_TEST
from llm_jepa.experiments.results import Alarm, Results, SeedValues
from llm_jepa.experiments.sentences import format_p, short_verdict, shown_by_itself
from llm_jepa.experiments.statistics import PairedComparison

from .drawing import (
    FAINT,
    INK,
    NARROW,
    ROUND_STEPS,
    Look,
    at_least,
    line_key,
    look_of,
    marker_key,
    plain,
    save_wide_and_narrow,
    shortened_name,
)
from .formatting import points

Row = Mapping[str, Any]
Runs = Mapping[str, Mapping[int, Sequence[Row]]]

COMPARISON = "comparison"  # name of the file of the main test set's picture

ALARM, ALARM_LABEL = "v", "collapse alarm, from this step on"


@dataclass(frozen=True)
class Panel:
    """One small chart: which key of metrics.jsonl it shows, under which title and unit.

    Attributes:
        key: The key; also looked up as `monitor/KEY`.
        title: What is shown.
        unit: Label of the vertical axis.
        percent: Show a share in percent.
        reference: Height of a dashed line, which the unit explains; None for no line.
        least_range: The vertical axis spans at least this much, so that small changes look small; 10 for percent.
    """

    key: str
    title: str
    unit: str
    percent: bool = False
    reference: float | None = None
    least_range: float = 0.1


OTHER_SCORES = ("regex", "number", "any_of", "label", "sql", "choice", "choice_per_byte")
"""Scorers that are reported if asked for. Their names are repeated here: this package does not import the scorers."""

FIGURES: dict[str, tuple[Panel, ...]] = {
    "loss": (
        Panel("ce_loss", "Cross-entropy, training", "nats per token"),
        Panel("eval_ce_loss", "Cross-entropy, held out", "nats per token"),
    ),
    "accuracy": (
        Panel("eval_exact_match", "Exact match, held out", "%", percent=True),
        Panel("eval_starts_with", "Starts with gold, held out", "%", percent=True),
        *(Panel(f"eval_{name}", f"Right by {name}, held out", "%", percent=True) for name in OTHER_SCORES),
    ),
    "jepa_loss": (
        Panel("jepa_loss", "JEPA distance, training", "distance per pair"),
        Panel("eval_jepa_loss", "JEPA distance, held out", "distance per pair"),
    ),
    "monitors": (
        Panel("gap", "Gap, matched minus shuffled", "cosine (0: no match)", reference=0.0),
        Panel("retrieval@1", "Retrieval@1, text to code", "%", percent=True),
        Panel("mean_pairwise_cosine", "Mean pairwise cosine of targets", "cosine (1: all equal)", reference=1.0),
        Panel("feature_std", "Feature spread of targets", "0: all equal, 1: isotropic", reference=0.0),
        Panel("effective_rank", "Effective rank of targets", "directions", least_range=4.0),
    ),
}
"""The figures by name."""

WATCHED = ("monitors", "jepa_loss")  # figures in which a collapse shows, and on which alarms are marked


def plot_curves(
    runs: Runs,
    names: Sequence[str] | None,
    out_dir: str | Path,
    alarms: Mapping[str, Mapping[int, Alarm]] | None = None,
) -> list[Path]:
    """Draw how the arms trained, one small chart for each quantity: mean over seeds, band from lowest to highest.

    A chart without values is left out, and so is a figure without charts. Values that are not finite (such as the
    JEPA distance of a run without JEPA) are gaps. At each step that a seed logged, the mean of the seeds that have a
    value is drawn.

    Args:
        runs: Arm to seed to the rows of metrics.jsonl, dicts with `step` and any of the keys.
        names: Names of the figures to draw; None draws all of `FIGURES`.
        out_dir: Folder, made if it is missing.
        alarms: Arm to seed to its alarm. On the charts of embeddings each alarm that was raised is a mark at the step
            from which the views had collapsed.

    Returns:
        The files written, `curves_NAME.svg` and `curves_NAME.png` for each figure; the narrow ones are next to them.
    """
    written: list[Path] = []
    for name in FIGURES if names is None else names:
        drawable = [(panel, curves) for panel in FIGURES[name] if (curves := _curves_of(runs, panel))]
        if drawable:
            marks = alarm_steps(alarms or {}) if name in WATCHED else {}
            draw = partial(_curves_figure, drawable, list(runs), marks)
            written += save_wide_and_narrow(draw, out_dir, f"curves_{name}")
    return written


def alarm_steps(alarms: Mapping[str, Mapping[int, Alarm]]) -> dict[str, Counter[int]]:
    """Return for each arm with alarms the steps from which its runs had collapsed, and how many runs had at each."""
    steps = {
        arm: Counter(each.first_step for each in by_seed.values() if each.alarmed and each.first_step is not None)
        for arm, by_seed in alarms.items()
    }
    return {arm: counts for arm, counts in steps.items() if counts}


def comparison_name(test_set: str) -> str:
    """Return the name of the picture of a further test set."""
    return f"{COMPARISON}_on_{test_set}"


def plot_comparison(results: Results, out_dir: str | Path, name: str = COMPARISON) -> list[Path]:
    """Draw each seed's value and the mean of each arm, next to the differences to the baseline; return SVG and PNG.

    Left: a dot for each seed, a bar at the mean, in percent. Right: a dot for each seed's difference, the mean and its
    95% interval, in points; the verdict is in the margin. An interval that crosses the line at 0 shows no difference;
    if one does not, and none is shown, the corrected p says why. On a phone one part is above the other.
    """
    return save_wide_and_narrow(partial(_comparison_figure, results), out_dir, name)


# ---- curves ----


@dataclass(frozen=True)
class Curve:
    """Mean, lowest and highest value over the seeds of an arm at each step, all (steps,)."""

    steps: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def summarize_seeds(by_seed: Mapping[int, Sequence[Row]], key: str) -> Curve | None:
    """Return the curve of one arm for a key of its rows; None if no row has a finite value."""
    at_step: dict[float, dict[int, float]] = {}
    for seed, rows in by_seed.items():
        for row in rows:
            value = row.get(key, row.get(f"monitor/{key}"))
            if _is_number(value) and _is_number(row.get("step")):
                at_step.setdefault(float(row["step"]), {})[seed] = float(value)  # a resumed step counts once
    if not at_step:
        return None
    steps = sorted(at_step)
    values = [list(at_step[step].values()) for step in steps]
    summaries = ([sum(v) / len(v) for v in values], [min(v) for v in values], [max(v) for v in values])
    return Curve(np.array(steps), *map(np.array, summaries))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _curves_of(runs: Runs, panel: Panel) -> dict[str, Curve]:
    curves = {arm: summarize_seeds(by_seed, panel.key) for arm, by_seed in runs.items()}
    return {arm: curve for arm, curve in curves.items() if curve is not None}


def _curves_figure(
    drawable: Sequence[tuple[Panel, dict[str, Curve]]],
    arms: Sequence[str],
    marks: Mapping[str, Mapping[int, int]],
    narrow: bool,
) -> Figure:
    columns = 1 if narrow else min(len(drawable), 3 if len(drawable) > 4 else 2)
    rows = math.ceil(len(drawable) / columns)
    width = NARROW if narrow else 3.5 * columns + (1.2 if columns == 1 else 0.2)  # inches
    shown = [arm for arm in arms if any(arm in curves for _, curves in drawable)]
    looks = {arm: look_of(arm, arms) for arm in shown}
    handles = [line_key(shortened_name(arm), look.color, look.linestyle) for arm, look in looks.items()]
    if any(arm in marks for arm in shown):
        handles.append(marker_key(ALARM_LABEL, INK, ALARM, markersize=6))
    longest = max(len(str(handle.get_label())) for handle in handles)
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
        look = look_of(arm, arms)
        axis.fill_between(curve.steps, scale * curve.low, scale * curve.high, color=look.color, alpha=0.16, linewidth=0)
        axis.plot(
            curve.steps,
            scale * curve.mean,
            color=look.color,
            linestyle=look.linestyle,
            linewidth=look.linewidth,
            marker=look.marker if len(curve.steps) == 1 else "",  # one check is a point, not an invisible line
        )
    least, bounds = (10.0, (0.0, 100.0)) if panel.percent else (panel.least_range, (-math.inf, math.inf))
    low, high = at_least(axis.get_ylim(), least, bounds)
    room = 0.02 * (high - low)  # for the thickness of a line at the end of the axis
    axis.set_ylim(low - room, high + room)
    if panel.reference is not None:
        axis.axhline(panel.reference, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axis.set_title(panel.title)
    axis.set_xlabel("optimizer step")
    axis.set_ylabel(panel.unit)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=ROUND_STEPS, min_n_ticks=1))
    axis.yaxis.set_major_locator(MaxNLocator(6, steps=ROUND_STEPS))
    axis.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    axis.margins(x=0.02)


def _draw_alarms(axis: Axes, marks: Mapping[str, Mapping[int, int]], arms: Sequence[str]) -> None:
    """Mark each step from which runs had collapsed: a dotted line, a flag (arm below arm) and the number of runs."""
    for place, (arm, steps) in enumerate(marks.items()):
        colour, height = look_of(arm, arms).color, 0.96 - 0.1 * place
        for step, count in steps.items():
            axis.axvline(step, color=colour, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
            across = axis.get_xaxis_transform()
            axis.plot([step], [height], marker=ALARM, color=colour, markersize=6, transform=across, clip_on=False)
            if count > 1:
                style: dict[str, Any] = {
                    "xycoords": across,
                    "xytext": (5, 0),
                    "textcoords": "offset points",
                    "va": "center",
                }
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
                axis.annotate(f"{count} runs", (step, height), **style, fontsize=7, color=colour, bbox=box)


# ---- comparison ----


def _comparison_figure(results: Results, narrow: bool) -> Figure:
    arms = list(results.arms)
    compared_with = next((each.baseline for each in results.main.comparisons), None)
    figure, axes = _comparison_axes(len(arms), 1 if compared_with is None else 2, narrow)
    for height, (name, arm) in enumerate(results.arms.items()):
        look = look_of(name, arms)
        _draw_values(axes[0], height, arm.values, look)
        if (comparison := results.main.comparison_of(name)) is not None:
            _draw_difference(axes[1], height, comparison, look)
            _write_verdict(axes[1], height, comparison, above=narrow)
    test = next(iter(results.tests))
    which = ", by seed" if test == MAIN_TEST else f" on {shortened_name(test, 14)}"
    axes[0].set_title(plain(f"{results.metric_name.capitalize()}{which}"))
    axes[0].set_xlabel("% (bar: mean over seeds)")
    if compared_with is not None:
        axes[1].axvline(0, color=INK, linewidth=1, zorder=1)
        if (margin := results.main.comparisons[0].margin) is not None:
            axes[1].axvline(-100 * margin, color=INK, linewidth=1, linestyle=":", zorder=1)
        axes[1].set_title(f"Difference to {shortened_name(compared_with)}")
        signs = ["line: 95% interval"] if any(each.ci is not None for each in results.main.comparisons) else []
        signs += ["dots: seeds"] if margin is None else ["dots: seeds", "dotted: margin"]
        axes[1].set_xlabel(f"points ({'; '.join(signs)})")
    for axis in axes:
        axis.set_yticks(range(len(arms)), [shortened_name(arm, 14 if narrow else 28) for arm in arms])
        axis.set_ylim(len(arms) - 0.4, -0.6)  # the first arm on top
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0, labelleft=narrow or axis is axes[0])
        axis.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND_STEPS))
    for axis, bounds in zip(axes, ((-0.5, 100.5), (-100.0, 100.0)), strict=False):
        low, high = axis.dataLim.intervalx
        if high - low < 1e-9 or low < bounds[0] or high > bounds[1]:  # equal values, or an interval of few seeds
            axis.set_xlim(at_least((low, high), 10.0, bounds))
    return figure


def _comparison_axes(num_arms: int, num_parts: int, narrow: bool) -> tuple[Figure, list[Axes]]:
    height = sum(0.62 if place < 4 else 0.45 for place in range(num_arms))  # many arms are closer together
    if narrow:
        figure = Figure(figsize=(NARROW, num_parts * (1.0 + 0.75 * height)), layout="constrained")
        return figure, list(figure.subplots(num_parts, 1, squeeze=False).ravel())
    figure = Figure(figsize=(9.0, 1.3 + height), layout="constrained")
    axes = figure.subplots(1, num_parts, squeeze=False, sharey=True, width_ratios=(1, 1.25)[:num_parts])
    return figure, list(axes.ravel())


def _draw_values(axis: Axes, height: float, values: SeedValues, look: Look) -> None:
    shares = [100 * value for value in values.seeds.values()]
    spread = _side_by_side(len(shares), 0.16)
    axis.scatter(shares, height + spread, s=20, color=look.color, marker=look.marker, alpha=0.55, linewidth=0)
    if values.mean is not None:
        mean = 100 * values.mean
        axis.plot([mean, mean], [height - 0.27, height + 0.27], color=look.color, linewidth=2.4)


def _draw_difference(axis: Axes, height: float, comparison: PairedComparison, look: Look) -> None:
    if comparison.delta is None:
        return
    differences = [100 * value for value in comparison.differences.values()]
    dots = height + 0.14 + _side_by_side(len(differences), 0.06)
    axis.scatter(differences, dots, s=14, color=look.color, marker=look.marker, alpha=0.4, linewidth=0)
    if comparison.ci is not None:
        low, high = (100 * bound for bound in comparison.ci)
        axis.plot([low, high], [height, height], color=look.color, linewidth=2.2, solid_capstyle="butt")
    middle = 100 * comparison.delta
    axis.plot([middle], [height], marker=look.marker, color=look.color, markersize=6.5, markeredgecolor="white")


def _write_verdict(axis: Axes, height: float, comparison: PairedComparison, *, above: bool) -> None:
    """Write the difference and the verdict in the margin, where nothing is drawn, or above the interval."""
    delta = "" if comparison.delta is None else f"{points(comparison.delta)}  "
    at, size = ((0.01, height - 0.33), 8) if above else ((1.02, height), 9)
    text, across = f"{delta}{short_verdict(comparison)}", ("axes fraction", "data")
    if shown_by_itself(comparison):  # the line leaves out 0, and the reader wonders
        text += (" " if above else "\n") + f"(Holm p {format_p(comparison.p_holm)})"
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # above the line at 0, not under it
    axis.annotate(text, at, xycoords=across, va="center", color=INK, fontsize=size, bbox=box)


def _side_by_side(count: int, width: float) -> NDArray[np.float64]:
    """Return small offsets that keep dots of equal value apart; the same every time."""
    return np.linspace(-width, width, count) if count > 1 else np.zeros(count)
