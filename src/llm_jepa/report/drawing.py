"""How every figure is drawn: one style, the look of an arm, names that cannot break a figure, and the files.

Every figure is drawn on a `Figure` of its own: no pyplot, no global state, no display. Each is written as SVG, for
reports, and PNG, for everything else. An arm has the same colour and marker in all figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .formatting import can_be_shown

# Okabe and Ito (2008): distinct with every common colour blindness. Yellow is left out: it is too faint on white.
PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Colours repeat after seven arms; markers and dashes then still differ.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", "--", ":", "-.")

INK, FAINT = "#222222", "#8A8A8A"
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],  # if a reader's machine lacks it, any sans serif
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
ROUND_STEPS = (1, 2, 2.5, 5, 10)  # distances of ticks, up to a power of ten

NARROW, NARROW_ENDING = 4.2, "_narrow"
"""Inches: width of a figure for a phone, which shows it at nine tenths of its size; and the end of its file's name."""

PNG_DPI = 160  # dots an inch of the PNG: 7 inches are 1120 dots, sharp at the width of a page


@dataclass(frozen=True)
class Look:
    """How an arm is drawn in every figure."""

    color: str
    marker: str
    linestyle: str
    linewidth: float


def look_of(arm: str, arms: Sequence[str]) -> Look:
    """Return the look of an arm, which depends only on its place among the arms."""
    place = list(arms).index(arm)
    return Look(
        color=PALETTE[place % len(PALETTE)],
        marker=MARKERS[place % len(MARKERS)],
        linestyle=DASHES[place // len(PALETTE) % len(DASHES)],
        linewidth=max(1.2, 3.0 - 0.6 * place),  # thinner on top of thicker: equal curves all stay visible
    )


def line_key(label: str, color: str, linestyle: Any = "-", linewidth: float = 2) -> Line2D:
    """Return an entry of a legend: a line and its label."""
    return Line2D([], [], color=color, linestyle=linestyle, linewidth=linewidth, label=label)


def marker_key(label: str, color: str, marker: str, markersize: float) -> Line2D:
    """Return an entry of a legend: a marker and its label."""
    return Line2D([], [], linestyle="", color=color, marker=marker, markersize=markersize, label=label)


def shortened_name(name: str, room: int = 28) -> str:
    """Return a name for a figure; its middle is left out if it is longer than `room` characters."""
    return plain(name if len(name) <= room else f"{name[: room // 2 - 1]}..{name[-(room // 2 - 1) :]}")


def plain(text: str) -> str:
    """Return text for a figure: `$` starts no mathematics; invisible characters are replaced: XML forbids some."""
    return "".join(char if can_be_shown(char) else "\N{REPLACEMENT CHARACTER}" for char in text).replace("$", r"\$")


def at_least(limits: tuple[float, float], least: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return the limits of an axis that spans at least `least`, around the same middle and within the bounds.

    Without this, equal values get an axis of a few hundredths, on which rounding looks like a result.

    >>> at_least((-0.05, 0.05), 10.0, (0.0, 100.0))
    (0.0, 10.0)
    """
    low, high = limits
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
        shift = max(0.0, bounds[0] - low) - max(0.0, high - bounds[1])
        return low + shift, high + shift
    return max(low, bounds[0]), min(high, bounds[1])


def save_wide_and_narrow(draw: Callable[[bool], Figure], out_dir: str | Path, name: str) -> list[Path]:
    """Draw a figure twice, for a page and for a phone (`draw(True)`, narrow), and write both (see `save`)."""
    with mpl.rc_context(STYLE):
        wide, narrow = draw(False), draw(True)
    return save(wide, out_dir, name, narrow)


def save(figure: Figure, out_dir: str | Path, name: str, narrow: Figure | None = None) -> list[Path]:
    """Write a figure as SVG and PNG to a folder, which is made if it is missing; return both paths.

    The figure for a phone is written next to them, as SVG alone; pages find it by its name.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = [out_dir / f"{name}.svg", out_dir / f"{name}.png"]
    FigureCanvasAgg(figure)
    with mpl.rc_context(STYLE):
        figure.savefig(paths[0], metadata={"Date": None})  # no date: the same figure gives the same bytes
        figure.set_layout_engine("none")  # keep the places found above: to find them takes as long as to draw
        figure.savefig(paths[1], dpi=PNG_DPI, facecolor="white")
        if narrow is not None:
            FigureCanvasAgg(narrow)
            narrow.savefig(out_dir / f"{name}{NARROW_ENDING}.svg", metadata={"Date": None})
    return paths
