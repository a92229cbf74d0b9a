"""Figures of a grid: two heat maps, the value by which its cell was chosen, and the metric on test rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from llm_jepa.experiments.results import Cell, GridResults

from .drawing import INK, PALETTE, save_wide_and_narrow, shortened_name


def plot_grid(grid: GridResults, out_dir: str | Path) -> list[Path]:
    """Draw a grid; return the SVG and the PNG, or nothing if no cell has a value.

    The chosen cell is framed in both; it was chosen by the left one only. A cell without a value is empty. Of a grid
    with more than two axes one slice is drawn: that of the chosen cell, or of the first one if none is chosen.
    """
    shown = shown_axes(grid)
    cells = grid_slice(grid, shown)
    if not any(cell.validation.n or cell.test.n for cell in cells):
        return []
    return save_wide_and_narrow(partial(_grid_figure, grid, shown, cells), out_dir, grid_name(grid.arm))


def grid_name(arm: str) -> str:
    """Return the name of an arm's grid among the figures."""
    return f"grid_{arm.replace('/', '_').replace('@', '_at_')}"


def grid_caption(grid: GridResults) -> str:
    """Return the caption of a grid's picture, with the slice that it shows."""
    at, shown = grid.shown_cell.coordinates, shown_axes(grid)
    caption = (
        f"Left or above, validation rows: {grid.choose_by}, by which the framed cell was chosen. Right or below, "
        f"test rows: {grid.metric}, measured afterwards; do not report its best cell. Means over seeds."
    )
    held = ", ".join(f"{field} {at[field]}" for field in grid.axes if field not in shown)
    return f"{caption} Of the other axes: {held}." if held else caption


def grid_slice(grid: GridResults, shown: Sequence[str]) -> list[Cell]:
    """Return the cells that differ from the chosen one (or the first) only in the shown axes."""
    here = grid.shown_cell.coordinates
    rest = [field for field in grid.axes if field not in shown]
    return [cell for cell in grid.cells if all(cell.coordinates[field] == here[field] for field in rest)]


def shown_axes(grid: GridResults) -> list[str]:
    """Return the one or two axes to draw, those with the most values; the vertical one first."""
    known = list(grid.axes)
    longest = sorted(known, key=lambda field: -len(grid.axes[field]))[:2]
    return sorted(longest, key=known.index)


def _grid_figure(grid: GridResults, shown: Sequence[str], cells: Sequence[Cell], narrow: bool) -> Figure:
    down, across = shown if len(shown) == 2 else (None, shown[0])
    rows, columns = list(grid.axes[down]) if down else [None], list(grid.axes[across])
    maps = {
        "validation": (f"Validation, chosen by: {grid.choose_by}", grid.chosen_by_share, not grid.higher_is_better),
        "test": (f"Test, measured afterwards: {grid.metric}", True, False),
    }
    size = (max(3.6, 0.85 * len(columns) + 1.4), 0.5 * len(rows) + 1.5)  # inches, of each map
    shape = (2, 1) if narrow else (1, 2)
    figure = Figure(figsize=(shape[1] * size[0], shape[0] * size[1]), layout="constrained")
    for axis, (side, (title, percent, lower)) in zip(figure.subplots(*shape), maps.items(), strict=True):
        values = np.full((len(rows), len(columns)), np.nan)
        frame = None
        for cell in cells:
            at = (rows.index(cell.coordinates[down]) if down else 0, columns.index(cell.coordinates[across]))
            if (mean := getattr(cell, side).mean) is not None:
                values[at] = mean * (100 if percent else 1)
            frame = at if cell.chosen else frame
        _draw_cells(axis, values, frame, lower, digits=1 if percent else 3)
        better = f"{'%, ' if percent else ''}{'lower' if lower else 'higher'} is better"
        axis.set_title(f"{title.replace('_', ' ')}\n{better}", fontsize=9)
        axis.set_xticks(range(len(columns)), [_value_label(value) for value in columns])
        axis.set_xlabel(across)
        axis.set_yticks(range(len(rows)), [_value_label(value) for value in rows] if down else [""])
        axis.set_ylabel(down or "")
    return figure


def _draw_cells(
    axis: Axes, values: NDArray[np.float64], frame: tuple[int, int] | None, lower: bool, digits: int
) -> None:
    """Draw values, the better the darker, with the number in each cell and a frame around the chosen one."""
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 1.0)
    goodness = (high - values if lower else values - low) / ((high - low) or 1.0)
    # The ends of the colour map are not used: white is for cells without a value, and the darkest would hide the frame.
    axis.imshow(np.ma.masked_invalid(0.12 + 0.68 * goodness), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text = "–" if math.isnan(value) else f"{value:.{digits}f}"
        axis.text(column, row, text, ha="center", va="center", color="white" if goodness[row, column] > 0.6 else INK)
    if frame is not None:
        corner = (frame[1] - 0.47, frame[0] - 0.46)
        axis.add_patch(Rectangle(corner, 0.94, 0.92, fill=False, edgecolor=PALETTE[2], linewidth=2.5))
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def _value_label(value: object) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return shortened_name(f"{value:g}" if is_number else str(value), 14)
