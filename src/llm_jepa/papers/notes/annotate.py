"""Write all notes into one PDF, in the child process of guard.py, where time and memory are limited (sandbox.py)."""

from __future__ import annotations

import mmap
import re
import traceback
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from pypdf import PageObject, PdfReader, PdfWriter

from llm_jepa.errors import DataError

from . import edit
from .draw import check_characters, draw_boxes, load_fonts
from .free_space import find_space
from .notes_file import Note
from .page_geometry import Rect, View
from .place import Placement, check_size, continued, place_note

_BOX = re.compile(rb"(/(?:Media|Crop|Bleed|Trim|Art)Box\s{0,20}|/Rect\s{0,20})\[([-+.0-9eE\s]{7,200})\]")
_EXPONENT = re.compile(rb"[0-9.][eE][-+]?[0-9]")


@dataclass(frozen=True)
class Box:
    """A note's box, or a part of one, in its place; `before` is the view of its page without it."""

    page: PageObject
    before: View
    placement: Placement
    colour: str
    text: str
    name: str

    @property
    def grew(self) -> bool:
        """Whether the page became larger for it."""
        return self.placement.view != self.before


def answer(request: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
    """Send the result of `annotate_file`, or `code` and `error`, its text."""
    try:
        notes = [Note(**each) for each in request["notes"]]
        result = annotate_file(
            Path(request["source"]), notes, Path(request["target"]), skip_missing=request["skip_missing"]
        )
    except DataError as error:
        result = {"code": error.code, "error": error.text}
    except MemoryError:
        result = {"code": "memory_limit_exceeded", "error": request["out_of_memory"]}
    except RecursionError:
        result = {"code": "pdf_damaged", "error": "its objects are nested too deeply: it is damaged."}
    except Exception as error:  # of the many kinds that pypdf and pdfium raise on a damaged file
        said = " ".join(str(error).split())[:200]
        text = f"it cannot be read, or cannot be written again ({type(error).__name__}: {said}): it is damaged."
        result = {"code": "pdf_damaged", "error": text, "traceback": traceback.format_exc()}
    send(result)


def annotate_file(source: Path, notes: Sequence[Note], target: Path, *, skip_missing: bool) -> dict[str, Any]:
    """Write a PDF with its notes; return what `annotate_pdf` returns, except `out`.

    For a short time there is also `<target>.plain` next to the target.

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
        boxes = _place(writer, pages, wanted, target.with_suffix(".plain"))
        boxes = _insert_pages(writer, wanted, boxes, labels)
        _draw(writer, boxes)
        writer.write(target)
    _check_readable(target, writer, boxes)
    return {
        "notes": len(wanted),
        "pages": len(writer.pages),
        "bands": sum(box.grew for box in boxes),
        "inserted_pages": len(boxes) - len(wanted),
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
    edit.part_pages(writer, reader)
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
            values = edit.entry(page, key)
            if values is None or ((box := edit.read_box(page, key)) and len(values) == 4):
                continue
            if box is None:
                document = document or pypdfium2.PdfDocument(source)
                box = _read_by_pdfium(document[number], key)
            if box is not None or key == "/CropBox":
                edit.set_box(page, key, box)
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


def _place(writer: PdfWriter, pages: Sequence[PageObject], notes: Sequence[Note], plain: Path) -> list[Box]:
    """Return the first box of each note.

    The copy is rendered: it has the pages that pypdf found, and pdfium does not have to read the damaged parts of the
    original, which it might read in another way.
    """
    import pypdfium2

    views = [edit.view_of(pages[note.page - 1], note.page) for note in notes]
    for note, view in zip(notes, views, strict=True):
        check_size(note.page, view)
    writer.write(plain)
    boxes = []
    document = pypdfium2.PdfDocument(plain)
    for note, view in zip(notes, views, strict=True):
        page, shown = pages[note.page - 1], document[note.page - 1]
        placement = place_note(note, find_space(shown, view, edit.annotation_boxes(page)), view)
        boxes.append(Box(page, view, placement, note.colour, note.text, f"llm-jepa-note-{note.page}"))
        shown.close()
    document.close()
    plain.unlink()
    return boxes


def _insert_pages(writer: PdfWriter, notes: Sequence[Note], boxes: Sequence[Box], labels: list[str]) -> list[Box]:
    """Insert the pages on which long notes continue; return all boxes, in the order of their pages."""
    every: list[Box] = []
    for count, (note, box) in enumerate(zip(notes, boxes, strict=True), 1):
        every.append(box)
        place = note.page + len(every) - count  # of the next page: each additional box has a page of its own
        label = labels[place - 1]
        for part, placement in enumerate(continued(box.placement.rest, note.page, box.before), 1):
            view = placement.view
            page = writer.insert_page(PageObject.create_blank_page(width=view.width, height=view.height), place)
            labels.insert(place, f"{label}+{part}")
            text = f"{note.title}\n{placement.layout.text}"
            every.append(Box(page, view, placement, note.colour, text, f"{box.name}-{part}"))
            place += 1
    if len(every) > len(boxes):
        edit.label_pages(writer, labels)
    return every


def _draw(writer: PdfWriter, boxes: Sequence[Box]) -> None:
    layer = edit.add_layer(writer)
    drawing = PdfReader(draw_boxes([(box.placement.layout, box.colour) for box in boxes]))
    for box, form in zip(boxes, edit.add_forms(writer, drawing, layer), strict=True):
        place = box.placement
        if box.grew:
            edit.grow(writer, box.page, box.before, place.view)
        matrix = place.view.matrix(place.left, place.top + place.layout.height)
        edit.show_form(writer, box.page, form, matrix, box.before.visible)
        edit.annotate(writer, box.page, place.rect, box.text, box.colour, box.name, layer)


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
        rect = box.placement.rect
        found = text.get_text_bounded(rect.left - 1, rect.bottom - 1, rect.right + 1, rect.top + 1)
        if _essence(box.placement.layout.text) not in _essence(found):
            name = box.name.removeprefix("llm-jepa-")
            raise DataError("note_not_drawn", f"the note {name} could not be drawn on its page.")
        text.close()
        page.close()
    document.close()


def _essence(text: str) -> str:
    """Return a text without what extraction changes: spaces, hyphens at the end of lines, ligatures."""
    return re.sub("[\\s\ufffe\x02\\-\u2010]+", "", unicodedata.normalize("NFKC", text))
