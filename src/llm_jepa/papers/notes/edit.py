"""Changes to a PDF, on pypdf's objects: a drawn box, its annotation, a larger page, an inserted one, page labels."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pypdf import PageObject, PdfReader, PdfWriter
from pypdf.generic import (
    ArrayObject,
    DecodedStreamObject,
    DictionaryObject,
    FloatObject,
    IndirectObject,
    NameObject,
    NumberObject,
    PdfObject,
    StreamObject,
    TextStringObject,
)

from llm_jepa.errors import DataError

from .draw import FRAME
from .page_geometry import Rect, View

AUTHOR = "llm-jepa notes"
LAYER = "Notes"
_PRINTED, _HIDDEN = 4, 2  # flags of an annotation
_INHERITED = ("/Resources", "/MediaBox", "/CropBox", "/Rotate")
_DEEPEST = 100  # nodes of a page tree above a page
_LARGEST = 1e7  # points; a page with larger numbers is damaged


def view_of(page: PageObject, number: int) -> View:
    """Return how a page is displayed; refuse one whose boxes are not rectangles with an area."""
    media = _box(page, "/MediaBox", number)
    crop = _box(page, "/CropBox", number) if "/CropBox" in page else media
    visible = Rect(
        max(media.left, crop.left),
        min(media.top, crop.top),
        min(media.right, crop.right),
        max(media.bottom, crop.bottom),
    )
    if visible.width <= 0 or visible.top <= visible.bottom:
        text = f"Page {number}: its CropBox lies outside its MediaBox, so nothing of it is shown."
        raise DataError("page_box_unusable", text)
    rotation = _number(page.get("/Rotate"), 0.0)
    unit = _number(page.get("/UserUnit"), 1.0) or 1.0
    if not 0 < unit <= 1000:
        text = f"Page {number}: its UserUnit is {unit:g}; expected a number from 0 to 1000."
        raise DataError("value_out_of_range", text)
    return View(visible, int(rotation / 90) % 4 * 90, unit)


def read_box(page: PageObject, key: str) -> Rect | None:
    """Return a box of a page as viewers read it, by its first four numbers; None if these enclose no area."""
    box = _rect(page, key)
    if box is None or not box.width or not box.height or any(abs(each) > _LARGEST for each in box):
        return None
    return box


def _box(page: PageObject, key: str, number: int) -> Rect:
    if box := read_box(page, key):
        return box
    values = entry(page, key)
    found = str(values)[:60] if values is not None else "missing or unreadable"
    expected = f"four numbers that enclose an area, none beyond {_LARGEST:,.0f}"
    raise DataError("page_box_unusable", f"Page {number}: its {key[1:]} is {found}; expected {expected}.")


def entry(parent: DictionaryObject, key: str) -> Any:
    """Return what an entry of a dictionary holds or refers to; None if there is none."""
    value = parent.get(key)
    return value.get_object() if value is not None else None


def _number(value: Any, default: float) -> float:
    """Return a number that an entry holds or refers to; `default` if it is not a finite number."""
    value = value.get_object() if isinstance(value, PdfObject) else value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return default
    return number if math.isfinite(number) else default


def annotation_boxes(page: PageObject) -> list[Rect]:
    """Return the rectangles of a page's annotations that a reader sees or can click, in user space."""
    boxes = []
    for each in _annotations(page):
        annotation = each.get_object()
        if not isinstance(annotation, DictionaryObject) or annotation.get("/Subtype") == "/Popup":
            continue
        if (box := _rect(annotation, "/Rect")) and not _flags(annotation) & _HIDDEN:
            boxes.append(box)
    return boxes


def _rect(parent: DictionaryObject, key: str) -> Rect | None:
    """Return the rectangle of an entry's first four numbers; None if it has fewer."""
    values = entry(parent, key)
    numbers = [_number(each, math.nan) for each in values[:4]] if isinstance(values, ArrayObject) else []
    if len(numbers) < 4 or any(map(math.isnan, numbers)):
        return None
    x0, y0, x1, y1 = numbers
    return Rect(min(x0, x1), max(y0, y1), max(x0, x1), min(y0, y1))


def _flags(annotation: DictionaryObject) -> int:
    return int(_number(annotation.get("/F"), 0.0))


def _annotations(page: PageObject) -> list[Any]:
    annotations = entry(page, "/Annots")
    return list(annotations) if isinstance(annotations, ArrayObject) else []


# ---- the drawn box ----


def add_layer(writer: PdfWriter) -> IndirectObject:
    """Add a layer (optional content group), by which a viewer shows or hides all notes; return it."""
    layer = writer._add_object(_dictionary(Type=NameObject("/OCG"), Name=TextStringObject(LAYER)))
    properties = _child(writer.root_object, "/OCProperties", DictionaryObject)
    _child(properties, "/OCGs", ArrayObject).append(layer)
    default = _child(properties, "/D", DictionaryObject)
    _child(default, "/Order", ArrayObject).append(layer)
    _child(default, "/ON", ArrayObject).append(layer)
    return layer


def _child(parent: DictionaryObject, key: str, kind: type) -> Any:
    """Return an entry of this kind; make it if it is missing or of another kind."""
    child = entry(parent, key)
    if not isinstance(child, kind):
        child = parent[NameObject(key)] = kind()
    return child


def add_forms(writer: PdfWriter, drawing: PdfReader, layer: IndirectObject) -> list[IndirectObject]:
    """Return each page of a drawing as a form that pages of `writer` can show, on the layer."""
    forms = []
    for page in drawing.pages:
        content = page.get_contents()
        form = _form(content.get_data() if content is not None else b"", page.mediabox, layer).flate_encode()
        form[NameObject("/Resources")] = page["/Resources"].clone(writer)
        forms.append(writer._add_object(form))
    return forms


def _form(data: bytes, box: Sequence[float], layer: IndirectObject) -> DecodedStreamObject:
    form = _stream(data)
    form.update(_dictionary(Type=NameObject("/XObject"), Subtype=NameObject("/Form"), BBox=_array(*box), OC=layer))
    return form


def _dictionary(**entries: PdfObject) -> DictionaryObject:
    return DictionaryObject({NameObject(f"/{key}"): value for key, value in entries.items()})


def show_form(writer: PdfWriter, page: PageObject, form: IndirectObject, matrix: Sequence[float], clip: Rect) -> None:
    """Draw a form on top of a page's own content, which is kept inside `clip` (user space) and as it was."""
    # Copies: pages share their resources, and a name that is added for one page must not change another page.
    resources = _copied(page, "/Resources")
    own = _copied(resources, "/XObject")
    name = next(name for n in range(len(own) + 1) if (name := f"/LLMJEPANote{n}") not in own)
    own[NameObject(name)] = form
    resources[NameObject("/XObject")] = own
    page[NameObject("/Resources")] = resources

    contents, unclosed = _balanced(writer, page)
    edges = (clip.left, clip.bottom, clip.width, clip.height)
    before = f"q {_numbers(edges)} re W n\n"
    after = "\n" + "Q " * (1 + unclosed) + f"q {_numbers(matrix)} cm {name} Do Q\n"
    page[NameObject("/Contents")] = ArrayObject(
        [writer._add_object(_stream(before.encode())), *contents, writer._add_object(_stream(after.encode()))]
    )


def _copied(parent: DictionaryObject, key: str) -> DictionaryObject:
    found = entry(parent, key)
    return DictionaryObject(found if isinstance(found, DictionaryObject) else {})


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}".rstrip("0").rstrip(".") for value in values)


def _stream(data: bytes) -> DecodedStreamObject:
    stream = DecodedStreamObject()
    stream.set_data(data)
    return stream


def _balanced(writer: PdfWriter, page: PageObject) -> tuple[list[Any], int]:
    """Return a page's content streams, and how often they save the graphics state without restoring it.

    Viewers ignore a `Q` without `q`. Inside our own `q` and `Q` it would end ours, so it is removed.
    """
    found = entry(page, "/Contents")
    alone = [page.raw_get("/Contents")] if isinstance(found, StreamObject) else []
    parts: list[Any] = list(found) if isinstance(found, ArrayObject) else alone
    streams = [stream for each in parts if isinstance(stream := each.get_object(), StreamObject)]
    data = b"\n".join(stream.get_data() for stream in streams)
    stray, unclosed = unbalanced(data)
    if not stray:
        return parts, unclosed
    fixed = bytearray(data)
    for place in stray:
        fixed[place] = ord(" ")
    return [writer._add_object(_stream(bytes(fixed)).flate_encode())], unclosed


_TOKENS = re.compile(
    rb"(?P<comment>%[^\r\n]*)|(?P<string>\()|(?P<image>(?<=\s)ID\s)"
    rb"|(?:(?<=[\s\])>}])|\A)(?P<state>[qQ])(?=[\s\[(</%]|\Z)"
)
_IN_STRING = re.compile(rb"\\.|[()]", re.DOTALL)
_IMAGE_END = re.compile(rb"\sEI(?=\s|\Z)")


def unbalanced(content: bytes) -> tuple[list[int], int]:
    """Return where a content stream has a `Q` without `q`, and how many `q` have no `Q`.

    >>> unbalanced(b"q (a Q in \\\\( text) Tj Q % Q\\nQ q q")
    ([28], 2)
    """
    stray, depth, place = [], 0, 0
    while token := _TOKENS.search(content, place):
        place = token.end()
        if token["string"]:
            place = _string_end(content, place)
        elif token["image"]:
            end = _IMAGE_END.search(content, place)
            place = end.end() if end else len(content)
        elif token["state"] == b"q":
            depth += 1
        elif token["state"] and depth:
            depth -= 1
        elif token["state"]:
            stray.append(token.start("state"))
    return stray, depth


def _string_end(content: bytes, place: int) -> int:
    depth = 1
    for mark in _IN_STRING.finditer(content, place):
        depth += {b"(": 1, b")": -1}.get(mark[0], 0)
        if not depth:
            return mark.end()
    return len(content)


# ---- annotation, boxes of a page, inserted pages ----


def annotate(
    writer: PdfWriter, page: PageObject, rect: Rect, text: str, colour: str, name: str, layer: IndirectObject
) -> None:
    """Add the note as an annotation on the frame of its box (user space): viewers can list, copy and delete it."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    half = FRAME / 2
    frame = f"{_numbers(channels)} RG {FRAME} w "
    frame += f"{_numbers((half, half, rect.width - FRAME, rect.height - FRAME))} re S"
    # Some viewers read the layer of the appearance, and not that of the annotation.
    appearance = _form(frame.encode(), (0, 0, rect.width, rect.height), layer)
    annotation = _dictionary(
        Type=NameObject("/Annot"),
        Subtype=NameObject("/Square"),
        Rect=_array(rect.left, rect.bottom, rect.right, rect.top),
        Contents=TextStringObject(text),
        T=TextStringObject(AUTHOR),
        Subj=TextStringObject(text.split("\n", 1)[0]),
        NM=TextStringObject(name),
        F=NumberObject(_PRINTED),
        C=_array(*channels),
        BS=_dictionary(W=FloatObject(FRAME)),
        AP=_dictionary(N=writer._add_object(appearance)),
        OC=layer,
    )
    if page.indirect_reference is not None:
        annotation[NameObject("/P")] = page.indirect_reference
    page[NameObject("/Annots")] = ArrayObject([*_annotations(page), writer._add_object(annotation)])


def _array(*values: float) -> ArrayObject:
    return ArrayObject(FloatObject(f"{value:.4f}") for value in values)


def grow(writer: PdfWriter, page: PageObject, before: View, after: View) -> None:
    """Extend a page's boxes over a band; what was cropped away stays hidden."""
    box, media = after.visible, read_box(page, "/MediaBox")
    assert media is not None  # `view_of` has read it
    # With these boxes a print shop would trim the page to its former size and cut off the note.
    for key in ("/TrimBox", "/BleedBox", "/ArtBox"):
        page.pop(key, None)
    left, top = min(media.left, box.left), max(media.top, box.top)
    set_box(page, "/MediaBox", Rect(left, top, max(media.right, box.right), min(media.bottom, box.bottom)))
    set_box(page, "/CropBox", box)
    _hide_outside(writer, page, before.visible)


def _hide_outside(writer: PdfWriter, page: PageObject, visible: Rect) -> None:
    """Hide annotations that were cropped away: unlike content, they are not clipped, and would appear in the band.

    If another page has the same annotation, a copy of it is hidden on this page only.
    """
    shown = _annotations(page)
    for place, each in enumerate(shown):
        annotation = each.get_object()
        if not isinstance(annotation, DictionaryObject) or (box := _rect(annotation, "/Rect")) is None:
            continue
        across = box.right < visible.left or box.left > visible.right
        if across or box.top < visible.bottom or box.bottom > visible.top:
            if any(each in _annotations(other) for other in writer.pages if other is not page):
                annotation = DictionaryObject(annotation)
                shown[place] = writer._add_object(annotation)
                page[NameObject("/Annots")] = ArrayObject(shown)
            annotation[NameObject("/F")] = NumberObject(_flags(annotation) | _HIDDEN)


def set_box(page: PageObject, key: str, box: Rect | None) -> None:
    """Set a box of a page, or remove it if `box` is None."""
    page.pop(key, None)
    if box is not None:
        page[NameObject(key)] = _array(box.left, box.bottom, box.right, box.top)


def part_pages(writer: PdfWriter, reader: PdfReader) -> None:
    """Give each page its own object where the page tree names one object several times.

    Otherwise a change of one page would change the others as well. All inherit from the object's /Parent, wherever in
    the tree they are, because viewers read it so.
    """
    kids = writer.root_object["/Pages"]["/Kids"]  # type: ignore[index]
    leaves = [page.indirect_reference for page in reader.pages]
    counts = Counter(leaf.idnum for leaf in leaves if leaf is not None)
    parted: set[int] = set()
    for place, (page, leaf) in enumerate(zip(writer.pages, leaves, strict=True)):
        if leaf is None or counts[leaf.idnum] == 1:
            continue
        own: Any = leaf.get_object()
        for key, value in _inherited(own).items():
            page.pop(key, None)
            if value is not None:
                page[NameObject(key)] = value.clone(writer)
        if leaf.idnum in parted:
            page.indirect_reference = None
            kids[place] = writer._add_object(page)
        elif page.indirect_reference is not None:  # the target of links; pypdf has put the last of these pages there
            writer._replace_object(page.indirect_reference, page)
        parted.add(leaf.idnum)


def _inherited(page: DictionaryObject) -> dict[str, PdfObject | None]:
    """Return the entries that a page lacks, as inherited through its /Parent; None for those that are not inherited."""
    found: dict[str, PdfObject | None] = {key: None for key in _INHERITED if key not in page}
    node: Any = page
    for _ in range(_DEEPEST):
        node = entry(node, "/Parent")
        if not isinstance(node, DictionaryObject):
            break
        found |= {key: node.raw_get(key) for key, value in found.items() if value is None and key in node}
    return found


def label_pages(writer: PdfWriter, labels: Sequence[str]) -> None:
    """Give each page its label, so that a viewer still shows the paper's page numbers after pages were inserted."""
    entries = ArrayObject()
    for index, label in enumerate(labels):
        entries += [NumberObject(index), _dictionary(P=TextStringObject(label))]
    writer.root_object[NameObject("/PageLabels")] = _dictionary(Nums=entries)
