"""A note as lines of text in a box, and the box as a drawing.

The font is DejaVu Sans, which comes with matplotlib. It has Greek letters, arrows and most signs of formulas. A subset
of it is embedded with the code points of its characters, so that the text can be searched and copied.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_jepa.errors import DataError

from .notes_file import Note

REGULAR, BOLD = "LLMJEPANotes", "LLMJEPANotes-Bold"
_FILES = {REGULAR: "DejaVuSans.ttf", BOLD: "DejaVuSans-Bold.ttf"}

# In units of the text's size.
LEADING, TITLE, GAP = 1.32, 1.1, 0.22
PADDING_X, PADDING_Y = 0.95, 0.6
_BASELINE = 0.33  # above the lower edge of a line
BULLET = "•  "
BAR, FRAME = 2.4, 0.6  # points: the coloured bar at the left, and the frame
_TINT = 0.92  # how far the background is from the colour towards white


def load_fonts() -> None:
    """Register the two fonts from matplotlib's folder with reportlab."""
    import matplotlib
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for name, file in _FILES.items():
        pdfmetrics.registerFont(TTFont(name, str(folder / file)))


def check_characters(note: Note) -> None:
    """Refuse a note with a character that the fonts cannot draw."""
    from reportlab.pdfbase import pdfmetrics

    for font, text in [(BOLD, note.title), *((REGULAR, bullet) for bullet in note.bullets)]:
        glyphs = pdfmetrics.getFont(font).face.charToGlyph
        for char in text:
            # Beyond U+FFFF reportlab writes a wrong code point, so that extracted text would be wrong.
            if ord(char) not in glyphs or ord(char) > 0xFFFF:
                raise DataError(
                    "character_not_supported",
                    f"The note of page {note.page} has {char!r} (U+{ord(char):04X}) in {text[:40]!r}, which the font "
                    "DejaVu Sans cannot draw. Write it in words, or with a similar character.",
                )


# ---- layout ----


@dataclass(frozen=True)
class Line:
    """A line of text: its font, where it starts, and the free height above it, in units of the text's size."""

    text: str
    font: str = REGULAR
    indent: float = 0.0
    gap: float = 0.0
    scale: float = 1.0

    @property
    def height(self) -> float:
        """With the gap, in units of the text's size."""
        return self.gap + self.scale * LEADING


@dataclass(frozen=True)
class Layout:
    """A box: its lines, its width and the size of its text, in points."""

    lines: tuple[Line, ...]
    width: float
    size: float

    @property
    def height(self) -> float:
        """Of the box, in points."""
        return self.size * (2 * PADDING_Y + sum(line.height for line in self.lines))

    @property
    def text(self) -> str:
        """Its lines, one below the other."""
        return "\n".join(line.text for line in self.lines)

    def split(self, height: float) -> tuple[Layout, Layout]:
        """Return a box of at most this height, and one with the other lines. The first has at least one line."""
        used, count = self.lines[0].height, 1
        for line in self.lines[1:]:
            used += line.height
            if self.size * (2 * PADDING_Y + used) > height:
                break
            count += 1
        return replace(self, lines=self.lines[:count]), replace(self, lines=self.lines[count:])


def lay_out(note: Note, width: float, size: float) -> Layout:
    """Return a note's lines, wrapped into a box of this width, in points."""
    from reportlab.pdfbase.pdfmetrics import stringWidth

    inner = width - 2 * PADDING_X * size - BAR
    title = wrap(note.title, inner, lambda text: stringWidth(text, BOLD, size * TITLE))
    lines = [Line(text, BOLD, scale=TITLE) for text in title]
    indent = stringWidth(BULLET, REGULAR, size)
    for bullet in note.bullets:
        first, *others = wrap(bullet, inner - indent, lambda text: stringWidth(text, REGULAR, size))
        lines.append(Line(BULLET + first, gap=GAP))
        lines += [Line(text, indent=indent / size) for text in others]
    return Layout(tuple(lines), width, size)


def wrap(text: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """Return a text in lines of at most this width; a word that is wider than a line is broken.

    >>> wrap("a view of the same text", 9, len), wrap("a longword", 5, len)
    (['a view of', 'the same', 'text'], ['a', 'longw', 'ord'])
    """
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if measure(joined) <= width:
            line = joined
            continue
        lines += [line] if line else []
        line = ""
        for char in word:
            if line and measure(line + char) > width:
                lines.append(line)
                line = ""
            line += char
    return [*lines, line]


# ---- drawing ----


def draw_boxes(boxes: Sequence[tuple[Layout, str]]) -> io.BytesIO:
    """Return a PDF with one box on each page, which has the size of the box; the same boxes give the same bytes."""
    from reportlab.pdfgen.canvas import Canvas

    file = io.BytesIO()
    canvas = Canvas(file, invariant=1, initialFontName=REGULAR)
    for layout, colour in boxes:
        canvas.setPageSize((layout.width, layout.height))
        _draw_box(canvas, layout, colour)
        canvas.showPage()
    canvas.save()
    file.seek(0)
    return file


def _draw_box(canvas: Any, layout: Layout, colour: str) -> None:
    from reportlab.lib.colors import Color, HexColor

    base = HexColor(colour)
    tint = Color(*(channel + (1 - channel) * _TINT for channel in base.rgb()))
    ink = Color(*(channel * 0.25 + 0.04 for channel in base.rgb()))
    half = FRAME / 2
    canvas.setFillColor(tint)
    canvas.setStrokeColor(base)
    canvas.setLineWidth(FRAME)
    canvas.rect(half, half, layout.width - FRAME, layout.height - FRAME, fill=1)
    canvas.setFillColor(base)
    canvas.rect(0, 0, BAR, layout.height, stroke=0, fill=1)
    y = layout.height - PADDING_Y * layout.size
    for line in layout.lines:
        y -= line.height * layout.size
        canvas.setFillColor(base if line.font == BOLD else ink)
        canvas.setFont(line.font, layout.size * line.scale)
        x = BAR + (PADDING_X + line.indent) * layout.size
        canvas.drawString(x, y + _BASELINE * line.scale * layout.size, line.text)
