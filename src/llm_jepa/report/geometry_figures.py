"""Figures of a geometry.json: singular values of the difference of the views, and both views in a plane.

They are drawn as those of an experiment: each on its own `Figure`, as SVG and PNG, the same file for the same numbers.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from llm_jepa.geometry.geometry_tables import FORM_TITLES, describe_pairs

from .drawing import (
    FAINT,
    INK,
    NARROW,
    PALETTE,
    STYLE,
    Look,
    line_key,
    look_of,
    marker_key,
    plain,
    save,
    save_wide_and_narrow,
    shortened_name,
)

MAPS_TO_A_ROW = 4
LINKED_PAIRS = 40
"""Matching pairs that a line joins: enough to see whether lines are short, and few enough to follow one."""

VIEW_LOOKS: dict[str, dict[str, Any]] = {
    "text": {"color": PALETTE[1], "marker": "o", "s": 9},
    "code": {"color": PALETTE[2], "marker": "^", "s": 10},
}
TITLES = {"enc": "Enc(Text) and Enc(Code)", "pred": "The prediction and its target"}
DIFFERENCES = {"enc": "Enc(Text) \N{MINUS SIGN} Enc(Code)", "pred": "prediction \N{MINUS SIGN} target"}
DASHED = (0, (3, 2))
ROUNDING = 1e-10
"""Singular values below this share of the largest are 0, up to rounding. Centred views have one such value."""
LETTERS_AN_INCH = 13  # in the size of the heading

Geometry = Mapping[str, Any]


def plot_geometry(geometry: Geometry, out_dir: str | Path) -> list[Path]:
    """Draw a geometry.json; return the files, each as SVG and PNG.

    `singular_values`: one column for each form (raw, centred, row-normalised), one row for each side, one line for
    each run; dashed, the same of shuffled pairs. `embedding_map_enc` and, if a run has predictions,
    `embedding_map_pred`: one column for each run, above by PCA on the same axes for all runs, below by t-SNE. For a
    run without predictions Enc(Text) is shown instead. A side that cannot be shown for every run has no map.
    """
    sides = sides_of(geometry)
    paths = save_wide_and_narrow(partial(_spectra_figure, geometry, sides), out_dir, "singular_values")
    with mpl.rc_context(STYLE):
        maps = {f"embedding_map_{side}": _map_figure(geometry, side) for side in sides}
    return paths + [path for name, drawn in maps.items() for path in save(drawn, out_dir, name)]


def sides_of(geometry: Geometry) -> list[str]:
    """Return the sides that can be shown for every run; in `pred`, Enc(Text) replaces a missing prediction."""
    runs = geometry["runs"].values()
    has_enc, has_pred = ([side in run["sides"] for run in runs] for side in ("enc", "pred"))
    return [*(["enc"] if all(has_enc) else []), *(["pred"] if any(has_pred) else [])]


def shown_side(run: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    """Return what was measured of a side of a run; of Enc(Text) and Enc(Code), if the run has no predictions."""
    return run["sides"].get(side) or run["sides"]["enc"]


def _head(figure: Figure, text: str) -> None:
    """Write at the top what is shown, and for which pairs; the name of a file is shown as plain text."""
    lines = textwrap.fill(plain(text), int(figure.get_figwidth() * LETTERS_AN_INCH))
    figure.suptitle(lines, x=0.008, ha="left", fontsize=9, color=INK)


# ---- singular values ----


def _spectra_figure(geometry: Geometry, sides: Sequence[str], narrow: bool) -> Figure:
    names = list(geometry["runs"])
    arms = geometry.get("arms", names)  # an arm has the same colour as in the other figures
    shape = (len(sides), len(FORM_TITLES))
    if narrow:
        figure = Figure(figsize=(NARROW, 2.3 * math.prod(shape) + 1.2), layout="constrained")
        axes = figure.subplots(math.prod(shape), 1, squeeze=False, sharex=True).reshape(shape)
    else:
        figure = Figure(figsize=(9.6, 2.75 * len(sides) + 1.0), layout="constrained")
        axes = figure.subplots(*shape, squeeze=False, sharex=True, sharey="col")
    for line, side in zip(axes, sides, strict=True):
        for axis, form in zip(line, FORM_TITLES, strict=True):
            for name in names:
                _draw_spectrum(axis, shown_side(geometry["runs"][name], side)["spectra"][form], look_of(name, arms))
            if narrow or side == sides[0]:
                axis.set_title(FORM_TITLES[form].capitalize())
            axis.set_yscale("log")
            axis.yaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axis.margins(x=0.02)
        line[0].set_ylabel(f"singular value of\n{DIFFERENCES[side]}")
    for axis in axes[-1][-1:] if narrow else axes[-1]:
        axis.set_xlabel("rank of the singular value")
    keys = [line_key(shortened_name(name), look_of(name, arms).color) for name in names]
    keys.append(line_key("matching pairs", FAINT, linewidth=1.8))
    keys.append(line_key("shuffled pairs", FAINT, linestyle=DASHED, linewidth=1.2))
    figure.legend(handles=keys, loc="outside lower left", ncols=min(len(keys), 2 if narrow else 4), handlelength=2.4)
    _head(figure, f"A \N{MINUS SIGN} B over {describe_pairs(geometry)}")
    return figure


def _draw_spectrum(axis: Axes, spectrum: Mapping[str, Any], look: Look) -> None:
    for key, dashes, width in (("shuffled_top", DASHED, 1.1), ("top", "-", 1.8)):
        values = np.array(spectrum[key])
        values = np.where(values > ROUNDING * max(values), values, np.nan)  # a logarithmic axis cannot show 0
        axis.plot(np.arange(1, len(values) + 1), values, color=look.color, linestyle=dashes, linewidth=width)


# ---- maps ----


def _map_figure(geometry: Geometry, side: str) -> Figure:
    runs = geometry["runs"]
    columns = min(len(runs), MAPS_TO_A_ROW)
    blocks = math.ceil(len(runs) / columns)
    figure = Figure(figsize=(max(2.7 * columns, 5.4) + 0.4, 5.9 * blocks + 0.9), layout="constrained")
    axes = figure.subplots(2 * blocks, columns, squeeze=False)
    maps = [shown_side(run, side)["embedding_map"] for run in runs.values()]
    reach = 1.06 * max(float(np.abs([*each["pca_text"], *each["pca_code"]]).max()) for each in maps) or 1.0
    for number in range(len(runs), blocks * columns):
        for axis in axes[2 * (number // columns) :, number % columns]:
            axis.set_visible(False)
    for number, (name, run) in enumerate(runs.items()):
        block, column = divmod(number, columns)
        found = shown_side(run, side)
        flat, curved = axes[2 * block, column], axes[2 * block + 1, column]
        _draw_pca(flat, found, reach, first=column == 0)
        flat.set_title(f"{shortened_name(name, 24)}\n", fontsize=10)
        has_own = side == "enc" or "pred" in run["sides"]
        said = f"{describe_match(found)}, collapsed" if found["looks_collapsed"] else describe_match(found, has_own)
        flat.text(0, 1.02, said, transform=flat.transAxes, fontsize=8, color=INK, va="bottom")
        _draw_tsne(curved, found, first=column == 0)
    labels = ("Enc(Text)", "Enc(Code)") if side == "enc" else ("text side", "code side")
    keys = [
        marker_key(label, look["color"], look["marker"], markersize=5)
        for look, label in zip(VIEW_LOOKS.values(), labels, strict=True)
    ]
    keys.append(line_key(f"a matching pair (the first {LINKED_PAIRS})", FAINT, linewidth=0.8))
    figure.legend(handles=keys, loc="outside lower left", ncols=len(keys), handletextpad=0.4)
    shown = len(geometry["mapped_pairs"])
    _head(figure, f"{TITLES[side]}: {shown} of {describe_pairs(geometry)}")
    return figure


def describe_match(found: Mapping[str, Any], has_own: bool = True) -> str:
    """Return how well the views of a map match; `has_own` is False for a run without a prediction of its own."""
    text = f"gap {found['monitors']['gap']:z.2f}, retrieval@1 {found['retrieval']['recall@1']:.0%}"
    return text if has_own else f"{text}, no [PRED]"


def _draw_pca(axis: Axes, found: Mapping[str, Any], reach: float, *, first: bool) -> None:
    places = found["embedding_map"]
    _draw_points(axis, places["pca_text"], places["pca_code"])
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axis.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
    axis.yaxis.set_major_locator(MaxNLocator(4, symmetric=True))
    shares = places["pca_explained"]
    axis.set_xlabel("no spread" if shares is None else f"PC 1 and 2: {sum(shares):.0%} of the variance", fontsize=8)
    if first:
        axis.set_ylabel("PCA, all runs to one scale")
    else:
        axis.tick_params(labelleft=False)


def _draw_tsne(axis: Axes, found: Mapping[str, Any], *, first: bool) -> None:
    places = found["embedding_map"]
    axis.grid(visible=False)
    axis.set(xticks=[], yticks=[], box_aspect=1)
    if first:
        axis.set_ylabel("t-SNE, no scale")
    if places["tsne_text"] is None:
        axis.text(0.5, 0.5, "all points are the same", transform=axis.transAxes, ha="center", color=INK)
    else:
        _draw_points(axis, places["tsne_text"], places["tsne_code"])


def _draw_points(axis: Axes, text: Sequence[Sequence[float]], code: Sequence[Sequence[float]]) -> None:
    a, b = np.array(text), np.array(code)
    links = np.stack([a[:LINKED_PAIRS], b[:LINKED_PAIRS]], axis=1)  # (pairs, 2 ends, 2)
    axis.add_collection(LineCollection(list(links), colors=FAINT, linewidths=0.6, alpha=0.7, zorder=1), autolim=False)
    for points, look in zip((a, b), VIEW_LOOKS.values(), strict=True):
        axis.scatter(*points.T, **look, alpha=0.6, linewidths=0, zorder=2)
