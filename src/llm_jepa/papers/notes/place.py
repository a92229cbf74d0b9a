"""Where each box goes: into free space, or into a band by which the page grows; what is left goes on inserted pages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from llm_jepa.errors import DataError

from .draw import Layout, Line, lay_out
from .free_space import Space
from .notes_file import MIN_SIZE, Note
from .page_geometry import Rect, View

EDGE = 14.0  # points that printers leave blank at the edge of a page
CLEARANCE = 4.0  # between a box and the content of the page
BAND_GAP = 9.0  # between a box for which the page grew and the content of the page
MIN_WIDTH, COLUMN_WIDTH = 120.0, 160.0  # of any box; of a box in a margin by which the page grew
MAX_PAGE = 14_400.0  # points: 200 inches, the largest page that viewers must show
_TOP = 1 / 3  # of the page's height: boxes in free space lie in this part
_MAX_BAND, _MIN_BAND_LIMIT = 0.4, 170.0  # of the page's height, and points: how large a band may become
_MIN_INSERTED = 300.0  # points: least height of an inserted page
_SHARES = (1.0, 0.8, 0.6, 0.45, 0.34)  # of the usable width, tried in this order
_TOP_OF_MARGIN = 0.6  # the same as _TOP for boxes in a margin, which are narrower
_PLAY = 4.0  # points by which a margin is wider than its box, because the search uses whole cells
_MARGIN_SHARES = (0.26, 0.22, 0.18)  # of the page's width


@dataclass(frozen=True)
class Placement:
    """Where a note's box goes.

    Attributes:
        left, top: Its upper left corner as displayed, in points, in `view`.
        view: The page, larger than before if it grew by a band.
        rest: What did not fit, for pages to insert after this one.
    """

    layout: Layout
    left: float
    top: float
    view: View
    rest: Layout | None = None

    @property
    def rect(self) -> Rect:
        """The box in user space."""
        right, bottom = self.left + self.layout.width, self.top + self.layout.height
        return self.view.to_user(Rect(self.left, self.top, right, bottom))


def check_size(page: int, view: View) -> None:
    """Refuse a page that is too small for a note, or larger than viewers show."""
    if not MIN_WIDTH + 2 * EDGE <= view.width <= MAX_PAGE or not 1 <= view.height <= MAX_PAGE:
        raise DataError(
            "page_size_unusable",
            f"Page {page} is {view.width:,.7g} x {view.height:,.7g} points. A note needs a page of "
            f"{MIN_WIDTH + 2 * EDGE:g} to {MAX_PAGE:,.0f} points; leave out this note.",
        )


def place_note(note: Note, space: Space, view: View) -> Placement:
    """Return where a note goes on its page; refuse coordinates that are not on the page, or not free."""
    if note.place == "margin":
        return _in_margin(note, space, view) or _in_column(note, space, view)
    if note.place == "top":
        return _in_free_space(note, space, view) or _in_band(note, space, view)
    return _at_coordinates(note, space, view)


def _side_margin(view: View) -> float:
    """Return how far a box stays from the left and right edge of a page, in points."""
    return max(EDGE, min(36.0, 0.06 * view.width))


def continued(rest: Layout | None, page: int, before: View) -> Iterator[Placement]:
    """Yield the boxes of the pages to insert after one, each with a line that says what it continues."""
    view = View(Rect(0, max(before.height, _MIN_INSERTED), before.width, 0))
    while rest:
        headed = replace(rest, lines=(Line(f"← continued from page {page}", scale=0.85), *rest.lines))
        box, rest = _split(headed, view.height - 2 * EDGE)
        yield Placement(box, _side_margin(view), EDGE, view)


def _in_free_space(note: Note, space: Space, view: View) -> Placement | None:
    margin = _side_margin(view)
    region = Rect(margin, EDGE, view.width - margin, view.height * _TOP)
    for share in _SHARES:
        width = region.width * share
        if width >= MIN_WIDTH and (found := _find(space, lay_out(note, width, note.size), region, view)):
            return found
    return None


def _in_margin(note: Note, space: Space, view: View) -> Placement | None:
    for share in _MARGIN_SHARES:
        width = view.width * share
        right = Rect(view.width - EDGE - width - _PLAY, EDGE, view.width - EDGE, view.height * _TOP_OF_MARGIN)
        left = Rect(EDGE, EDGE, EDGE + width + _PLAY, view.height * _TOP_OF_MARGIN)
        layout = lay_out(note, width, note.size)
        for region in (right, left):
            if width >= MIN_WIDTH and (found := _find(space, layout, region, view)):
                return found
    return None


def _find(space: Space, layout: Layout, region: Rect, view: View) -> Placement | None:
    """Return the highest free spot for a box in a region, with clearance on all sides."""
    around = Rect(*(edge + sign * CLEARANCE for edge, sign in zip(region, (-1, -1, 1, 1), strict=True)))
    spot = space.find(layout.width + 2 * CLEARANCE, layout.height + 2 * CLEARANCE, around)
    return Placement(layout, spot[0] + CLEARANCE, spot[1] + CLEARANCE, view) if spot else None


def _in_band(note: Note, space: Space, view: View) -> Placement:
    """Let the page grow at the top, as far as its blank upper margin is too small."""
    margin = _side_margin(view)
    limit = max(_MAX_BAND * view.height, _MIN_BAND_LIMIT)
    box, rest = _fitted(note, view.width - 2 * margin, limit)
    blank = space.depth(margin - CLEARANCE, view.width - margin + CLEARANCE)
    # Whole points: content that moves by a fraction of a pixel would look different.
    growth = max(0, math.ceil(EDGE + box.height + BAND_GAP - blank))
    return Placement(box, margin, EDGE, view.grown("top", growth), rest)


def _in_column(note: Note, space: Space, view: View) -> Placement:
    width = min(COLUMN_WIDTH, view.width - 2 * EDGE)
    box, rest = _fitted(note, width, max(view.height, _MIN_BAND_LIMIT) - 2 * EDGE)
    if box.height > view.height - 2 * EDGE:  # the page is too low for a column
        return _in_band(note, space, view)
    grown = view.grown("right", math.ceil(width + 2 * BAND_GAP))
    return Placement(box, view.width + BAND_GAP, EDGE, grown, rest)


def _at_coordinates(note: Note, space: Space, view: View) -> Placement:
    assert not isinstance(note.place, str)
    x, y, *given = note.place
    width = given[0] if given else view.width - EDGE - x
    where = f"The note of page {note.page}, place {[float(f'{each:g}') for each in note.place]}"
    if x < 0 or y < 0 or x + width > view.width or y >= view.height:
        size = f"{view.width:g} x {view.height:g} points"
        raise DataError("place_outside_page", f"{where}: it lies outside the page, which is {size}.")
    if width < MIN_WIDTH:
        text = f"{where}: the box is {width:g} points wide; expected at least {MIN_WIDTH:g}."
        raise DataError("value_out_of_range", text)
    tried = [lay_out(note, width, size) for size in _sizes(note.size)]
    inside = [layout for layout in tried if y + layout.height <= view.height]
    if not inside:
        raise DataError(
            "note_too_high",
            f"{where}: with text of {MIN_SIZE:g} points the box is {tried[-1].height:.0f} points high, and ends below "
            f"the page, which is {view.height:g} high. Move it up, make it wider, or use place: top.",
        )
    for layout in inside:
        if space.is_free(Rect(x, y, x + width, y + layout.height)):
            return Placement(layout, x, y, view)
    raise DataError(
        "place_not_free",
        f"{where}: the box, {width:.0f} x {inside[-1].height:.0f} points, would hide part of the page. Choose "
        "another place, or place: top, which looks for a free one.",
    )


# ---- size ----


def _sizes(size: float) -> Iterator[float]:
    """Yield the requested size, then smaller ones down to the smallest."""
    while size > MIN_SIZE:
        yield size
        size -= 0.5
    yield MIN_SIZE


def _fitted(note: Note, width: float, height: float) -> tuple[Layout, Layout | None]:
    """Return the note's box at the largest size that fits; else, at the smallest, what fits and what is left."""
    for size in _sizes(note.size):
        layout = lay_out(note, width, size)
        if layout.height <= height:
            return layout, None
    return _split(layout, height)


def _split(layout: Layout, height: float) -> tuple[Layout, Layout | None]:
    """Return a box of this height, which says that it continues, and the rest; or the whole box, if it fits."""
    if layout.height <= height:
        return layout, None
    more = Line("continued on the next page →", gap=0.2, scale=0.85)
    first, rest = layout.split(height - layout.size * more.height)
    return replace(first, lines=(*first.lines, more)), rest
