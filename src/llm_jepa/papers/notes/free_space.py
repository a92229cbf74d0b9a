"""Where a displayed page is free: without text (including text that is not painted), ink and links."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .page_geometry import Rect, View

MAX_CELLS = 1200  # along the longer side of a page; an A4 page gets cells of 0.7 points
_MAX_CELLS_A_POINT = 1.5
_INK = 6  # of 255: least difference of a channel from the paper's colour; paler ink cannot be seen


@dataclass(frozen=True)
class Space:
    """The cells of a displayed page that are not free.

    Attributes:
        taken: Whether each cell has something in it, (rows, columns).
        x, y: Columns and rows in a point.
    """

    taken: np.ndarray
    x: float
    y: float

    def is_free(self, rect: Rect) -> bool:
        """Return whether a displayed rectangle is free."""
        rows = slice(max(0, math.floor(rect.top * self.y)), math.ceil(rect.bottom * self.y))
        columns = slice(max(0, math.floor(rect.left * self.x)), math.ceil(rect.right * self.x))
        return not self.taken[rows, columns].any()

    def depth(self, left: float, right: float) -> float:
        """Return the height of the free strip at the upper edge, between two displayed x, in points."""
        columns = slice(max(0, math.floor(left * self.x)), math.ceil(right * self.x))
        rows = np.flatnonzero(self.taken[:, columns].any(axis=1))
        return (int(rows[0]) if len(rows) else len(self.taken)) / self.y

    def find(self, width: float, height: float, region: Rect) -> tuple[float, float] | None:
        """Return left and top of the highest, then leftmost, free rectangle of this size (points) in a region."""
        w, h = math.ceil(width * self.x), math.ceil(height * self.y)
        left, top = math.ceil(region.left * self.x), math.ceil(region.top * self.y)
        right, bottom = math.floor(region.right * self.x + 1e-6), math.floor(region.bottom * self.y + 1e-6)
        if right - left < w or bottom - top < h:
            return None
        # [r, c]: taken cells above row r and left of column c; four look-ups count the taken cells in any rectangle.
        counts = np.pad(self.taken[top:bottom, left:right].cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        inside = counts[h:, w:] - counts[:-h, w:] - counts[h:, :-w] + counts[:-h, :-w]
        spots = np.argwhere(inside == 0)  # in the order of rows, then columns
        if not len(spots):
            return None
        row, column = spots[0]
        return (left + int(column)) / self.x, (top + int(row)) / self.y


def find_space(page: Any, view: View, links: Iterable[Rect]) -> Space:
    """Return the free space of a page of pypdfium2; `links` are its annotations, in user space."""
    taken = _ink(page, view)
    rows, columns = taken.shape
    for rect in map(view.to_display, [*_text_boxes(page), *links]):
        if all(map(math.isfinite, rect)):
            left, right = (min(max(edge / view.width * columns, 0), columns) for edge in (rect.left, rect.right))
            top, bottom = (min(max(edge / view.height * rows, 0), rows) for edge in (rect.top, rect.bottom))
            taken[math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)] = True
    return Space(taken, columns / view.width, rows / view.height)


def _ink(page: Any, view: View) -> np.ndarray:
    """Return the cells that differ from the colour of the paper, which is the most common colour."""
    scale = min(_MAX_CELLS_A_POINT, MAX_CELLS / max(view.width, view.height))
    # pdfium measures a page in units of user space.
    picture = page.render(scale=scale * view.unit, prefer_bgrx=True, rotation=0).to_numpy()[:, :, :3]
    colours = picture[::3, ::3].reshape(-1, 3).astype(np.uint32) @ np.array([1, 256, 65536], dtype=np.uint32)
    values, counts = np.unique(colours, return_counts=True)
    common = int(values[counts.argmax()])
    paper = np.array([common & 255, common >> 8 & 255, common >> 16], dtype=np.int16)
    return (np.abs(picture.astype(np.int16) - paper) > _INK).any(axis=2)


def _text_boxes(page: Any) -> list[Rect]:
    """Return the boxes of all runs of text in user space, even if not painted (such as a scan's text layer)."""
    import pypdfium2.raw as pdfium

    text = page.get_textpage()
    edges = [ctypes.c_double() for _ in range(4)]
    boxes = []
    for index in range(text.count_rects()):
        pdfium.FPDFText_GetRect(text, index, *edges)
        boxes.append(Rect(*(edge.value for edge in edges)))
    text.close()
    return boxes
