"""Write all notes into one PDF. Called in the child process of guard.py, where time and memory are limited."""

from __future__ import annotations

import mmap
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from pypdf import PageObject, PdfReader, PdfWriter

from llm_jepa.errors import DataError

from .draw import Layout, check_characters, draw_boxes, load_fonts
from .edit import (
    add_forms,
    add_layer,
    annotate,
    annotation_boxes,
    entry,
    grow,
    label_pages,
    part_pages,
    read_box,
    set_box,
    show_form,
    view_of,
)
from .free_space import find_space
from .notes_file import Note
from .page_geometry import Rect, View
from .place import EDGE, Placement, check_size, continued, inserted_size, place_note, side_margin

_BOX = re.compile(rb"(/(?:Media|Crop|Bleed|Trim|Art)Box\s{0,20}|/Rect\s{0,20})\[([-+.0-9eE\s]{7,200})\]")
_EXPONENT = re.compile(rb"[0-9.][eE][-+]?[0-9]")


@dataclass(frozen=True)
class Box:
    """A box in its place: left and top as displayed; `view` and `before` are the page's view now and before."""

    layout: Layout
    colour: str
    page: PageObject
    view: View
    before: View
    left: float
    top: float
    text: str
    name: str

    @property
    def rect(self) -> Rect:
        """The box in user space."""
        right, bottom = self.left + self.layout.width, self.top + self.layout.height
        return self.view.to_user(Rect(self.left, self.top, right, bottom))


def annotate_file(source: Path, notes: Sequence[Note], target: Path, *, skip_missing: bool) -> dict[str, Any]:
    """Write a PDF with its notes.

    Args:
        source: The PDF.
        notes: The notes.
        target: The file to write; for a short time there is also `<target>.plain` next to it.
        skip_missing: Leave out notes on pages that the file does not have.

    Returns:
        `notes`, `pages` (of the result), `bands`, `inserted_pages`, and `skipped`, the pages that do not exist.

    Raises:
        DataError: If the PDF or a note cannot be used; the text does not name the PDF.
    """
    with source.open("rb") as file:
        writer, labels = _open(file)
        pages = list(writer.pages)
        wanted, skipped = _split_missing(notes, len(pages), skip_missing)
        _repair_boxes(source, [(note.page - 1, pages[note.page - 1]) for note in wanted])
        load_fonts()
        for note in wanted:
            check_characters(note)
        placements = _place(writer, pages, wanted, target.with_suffix(".plain"))
        boxes, num_inserted = _boxes(writer, pages, wanted, placements, labels)
        _draw(writer, boxes)
        writer.write(target)
    _check_readable(target, writer, boxes)
    return {
        "notes": len(wanted),
        "pages": len(writer.pages),
        "bands": sum(placement.grew for placement in placements),
        "inserted_pages": num_inserted,
        "skipped": skipped,
    }


def _open(file: BinaryIO) -> tuple[PdfWriter, list[str]]:
    """Return a copy of the document in memory, and the labels of its pages."""
    if b"%PDF-" not in file.read(1024):
        raise DataError("not_pdf", "it is not a PDF: it does not begin with %PDF-.")
    reader = PdfReader(_with_plain_boxes(file))
    if reader.is_encrypted:
        raise DataError("pdf_encrypted", "it is encrypted. Save a copy without a password, and annotate that copy.")
    writer = PdfWriter(clone_from=reader)
    if not writer.pages:
        raise DataError("pdf_empty", "it has no pages.")
    part_pages(writer, reader)
    return writer, list(reader.page_labels)


def _with_plain_boxes(file: BinaryIO) -> BinaryIO:
    """Return the file, or a copy in which no box has a number such as 6.12e2, with which pypdf loses the page."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if not any(_EXPONENT.search(box[0]) for box in _BOX.finditer(data)):
            return file
        return BytesIO(_BOX.sub(_plain_box, data))


def _plain_box(box: re.Match[bytes]) -> bytes:
    """Return a box with plain numbers in as many bytes, so that offsets stay right; unchanged if that is too long."""
    try:
        plain = [f"{float(each):.6f}".rstrip("0").rstrip(".").encode() for each in box[2].split()]
    except ValueError:
        return box[0]
    whole = box[1] + b"[" + b" ".join(plain) + b"]"
    return whole.ljust(len(box[0])) if len(whole) <= len(box[0]) else box[0]


def _repair_boxes(source: Path, pages: Sequence[tuple[int, PageObject]]) -> None:
    """Replace page boxes that viewers read in different ways, so that all show the note; pages count from 0.

    Of more than four numbers the first four count. Boxes that pypdf cannot read are read by pdfium. A CropBox that
    neither can read is removed, because viewers ignore it.
    """
    import pypdfium2

    document = None
    for number, page in pages:
        for key in ("/MediaBox", "/CropBox"):
            values = entry(page, key)
            if values is None or ((box := read_box(page, key)) and len(values) == 4):
                continue
            if box is None:
                document = document or pypdfium2.PdfDocument(source)
                box = _read_by_pdfium(document[number], key)
            if box is not None or key == "/CropBox":
                set_box(page, key, box)
    if document is not None:
        document.close()


def _read_by_pdfium(page: Any, key: str) -> Rect | None:
    found = page.get_mediabox(fallback_ok=False) if key == "/MediaBox" else page.get_cropbox(fallback_ok=False)
    if found is None or not (found[0] < found[2] and found[1] < found[3]):
        return None
    return Rect(found[0], found[3], found[2], found[1])


def _split_missing(notes: Sequence[Note], num_pages: int, skip: bool) -> tuple[list[Note], list[int]]:
    missing = [note.page for note in notes if note.page > num_pages]
    pages = f"{num_pages} page{'s' * (num_pages > 1)}"
    if missing and not skip:
        listed = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise DataError(
            "page_missing",
            f"it has {pages}, but there are notes for page {listed}. The last page is {num_pages}. Correct the notes, "
            "or leave out those of missing pages with --skip-missing.",
        )
    if len(missing) == len(notes):
        raise DataError("page_missing", f"it has {pages}, and all notes are for other pages. Correct their pages.")
    return [note for note in notes if note.page <= num_pages], missing


# ---- steps ----


def _place(writer: PdfWriter, pages: Sequence[PageObject], notes: Sequence[Note], plain: Path) -> list[Placement]:
    """Return where each note goes.

    The copy is rendered: it has the pages that pypdf found, and pdfium does not have to read the damaged parts of the
    original, which it might read in another way.
    """
    import pypdfium2

    views = [view_of(pages[note.page - 1], note.page) for note in notes]
    for note, view in zip(notes, views, strict=True):
        check_size(note.page, view)
    writer.write(plain)
    placements = []
    document = pypdfium2.PdfDocument(plain)
    for note, view in zip(notes, views, strict=True):
        page = document[note.page - 1]
        space = find_space(page, view, annotation_boxes(pages[note.page - 1]))
        placements.append(place_note(note, space, view))
        page.close()
    document.close()
    plain.unlink()
    return placements


def _boxes(
    writer: PdfWriter,
    pages: Sequence[PageObject],
    notes: Sequence[Note],
    placements: Sequence[Placement],
    labels: list[str],
) -> tuple[list[Box], int]:
    """Return the boxes of all notes, and the number of pages that were inserted for them."""
    boxes = []
    num_inserted = 0
    for note, placement in zip(notes, placements, strict=True):
        page, before = pages[note.page - 1], view_of(pages[note.page - 1], note.page)
        name = f"llm-jepa-note-{note.page}"
        left, top = placement.left, placement.top
        boxes.append(Box(placement.layout, note.colour, page, placement.view, before, left, top, note.text, name))
        width, height = inserted_size(before)
        view = View(Rect(0, height, width, 0))
        label = labels[note.page - 1 + num_inserted]
        for part, layout in enumerate(continued(placement.rest, note.page, height), 1):
            blank = PageObject.create_blank_page(width=width, height=height)
            added = writer.insert_page(blank, note.page + num_inserted)
            labels.insert(note.page + num_inserted, f"{label}+{part}")
            num_inserted += 1
            margin, text = side_margin(view), f"{note.title}\n{layout.text}"
            boxes.append(Box(layout, note.colour, added, view, view, margin, EDGE, text, f"{name}-{part}"))
    if num_inserted:
        label_pages(writer, labels)
    return boxes, num_inserted


def _draw(writer: PdfWriter, boxes: Sequence[Box]) -> None:
    layer = add_layer(writer)
    drawing = PdfReader(draw_boxes([(box.layout, box.colour) for box in boxes]))
    for box, form in zip(boxes, add_forms(writer, drawing, layer), strict=True):
        if box.view != box.before:
            grow(writer, box.page, box.before, box.view)
        matrix = box.view.matrix(box.left, box.top + box.layout.height)
        show_form(writer, box.page, form, matrix, box.before.visible)
        annotate(writer, box.page, box.rect, box.text, box.colour, box.name, layer)


def _check_readable(target: Path, writer: PdfWriter, boxes: Sequence[Box]) -> None:
    """Read the notes back from the written file, each in its place.

    Content that changes the graphics state in an unexpected way could move a note out of sight. That is an error here.
    """
    import pypdfium2

    document = pypdfium2.PdfDocument(target)
    if len(document) != len(writer.pages):
        counts = f"{len(writer.pages)} pages were written, and {len(document)} could be read again"
        raise DataError("pdf_damaged", f"{counts}: it is damaged.")
    numbers = {id(page): number for number, page in enumerate(writer.pages)}
    for box in boxes:
        page = document[numbers[id(box.page)]]
        text = page.get_textpage()
        rect = box.rect
        found = text.get_text_bounded(rect.left - 1, rect.bottom - 1, rect.right + 1, rect.top + 1)
        if _essence(box.layout.text) not in _essence(found):
            name = box.name.removeprefix("llm-jepa-")
            raise DataError("note_not_drawn", f"the note {name} could not be drawn on its page.")
        text.close()
        page.close()
    document.close()


def _essence(text: str) -> str:
    """Return a text without what extraction changes: spaces, hyphens at the end of lines, ligatures."""
    return re.sub("[\\s\ufffe\x02\\-\u2010]+", "", unicodedata.normalize("NFKC", text))
