"""A page as its reader sees it.

There are two coordinate systems. User space is the PDF's own: y upwards, with any origin. Displayed coordinates are
points from the upper left corner of the visible page, y downwards, upright for the reader. /CropBox, /Rotate and
/UserUnit convert between the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

_SIDES = ("top", "right", "bottom", "left")  # clockwise, as /Rotate turns


class Rect(NamedTuple):
    """A rectangle; displayed if `top` < `bottom`, in user space otherwise."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return abs(self.bottom - self.top)


@dataclass(frozen=True)
class View:
    """The visible part of a page and how it is turned.

    Attributes:
        visible: The visible box in user space.
        rotation: Degrees clockwise: 0, 90, 180 or 270.
        unit: Points in a unit of user space.
    """

    visible: Rect
    rotation: int = 0
    unit: float = 1.0

    @property
    def width(self) -> float:
        """Displayed width in points."""
        return (self.visible.height if self.rotation % 180 else self.visible.width) * self.unit

    @property
    def height(self) -> float:
        """Displayed height in points."""
        return (self.visible.width if self.rotation % 180 else self.visible.height) * self.unit

    def matrix(self, x: float, y: float) -> tuple[float, ...]:
        """Return the PDF matrix that puts the origin of an upright drawing (y upwards) at displayed (x, y)."""
        cosine, sine, *_ = self._turn()
        scale = 1 / self.unit
        return (cosine * scale, sine * scale, -sine * scale, cosine * scale, *self._user_point(x, y))

    def to_user(self, rect: Rect) -> Rect:
        """Return a displayed rectangle in user space."""
        (x0, y0), (x1, y1) = self._user_point(rect.left, rect.top), self._user_point(rect.right, rect.bottom)
        return Rect(min(x0, x1), max(y0, y1), max(x0, x1), min(y0, y1))

    def to_display(self, rect: Rect) -> Rect:
        """Return a rectangle of user space as displayed."""
        (x0, y0), (x1, y1) = self._display_point(rect.left, rect.top), self._display_point(rect.right, rect.bottom)
        return Rect(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))

    def grown(self, side: str, points: float) -> View:
        """Return the view with the page made larger at a displayed side."""
        turned = _SIDES[(_SIDES.index(side) - self.rotation // 90) % 4]
        amount = points / self.unit * (1 if turned in {"top", "right"} else -1)
        return replace(self, visible=self.visible._replace(**{turned: getattr(self.visible, turned) + amount}))

    def _turn(self) -> tuple[int, int, float, float]:
        """Return cosine and sine of the rotation, and the point of user space that is displayed at the upper left."""
        box = self.visible
        return {
            0: (1, 0, box.left, box.top),
            90: (0, 1, box.left, box.bottom),
            180: (-1, 0, box.right, box.bottom),
            270: (0, -1, box.right, box.top),
        }[self.rotation]

    def _user_point(self, x: float, y: float) -> tuple[float, float]:
        cosine, sine, left, top = self._turn()
        x, y = x / self.unit, y / self.unit
        return left + cosine * x + sine * y, top + sine * x - cosine * y

    def _display_point(self, x: float, y: float) -> tuple[float, float]:
        cosine, sine, left, top = self._turn()
        x, y = x - left, y - top
        return (cosine * x + sine * y) * self.unit, (sine * x - cosine * y) * self.unit
