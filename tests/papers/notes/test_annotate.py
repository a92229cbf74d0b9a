"""Notes on pages of every kind: visible, searchable, upright; nothing of the paper is hidden, moved or lost.

What is checked is read back with pdfium and pypdf, in pixels and characters; none of it relies on our own geometry.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llm_jepa.cli import main
from llm_jepa.papers.notes import annotate_pdf, read_notes

pypdf = pytest.importorskip("pypdf")
pdfium = pytest.importorskip("pypdfium2")
Canvas = pytest.importorskip("reportlab.pdfgen.canvas").Canvas
Link = pytest.importorskip("pypdf.annotations").Link

TITLE = "What is new on this page"
BULLETS = ["λ · d(Pred(Enc(Text)), Enc(Code)) → 0", "54.38 ± 1.70 against 60.59 ± 1.01", "α ≤ β, γ ≠ δ, so Δ ≈ 14 ↑"]
LONG = [" ".join(f"word{n:03}{k:02}" for k in range(40)) for n in range(30)]


@dataclass(frozen=True)
class Kind:
    """A page of the paper; sizes and places as displayed, in points."""

    width: int = 612
    height: int = 792
    rotation: int = 0
    origin: tuple[int, int] = (0, 0)
    cropped: int = 0  # points cut off at each edge
    columns: int = 1
    top: int = 108  # where the text begins, from the upper edge of what is visible
    figure: bool = False


KINDS = {
    "one column": Kind(),
    "two columns": Kind(columns=2),
    "landscape": Kind(792, 612),
    "turned by 90": Kind(rotation=90),
    "turned by 180": Kind(rotation=180),
    "turned by 270, landscape": Kind(792, 612, rotation=270),
    "cropped": Kind(cropped=60),
    "cropped, not at the origin, turned by 90": Kind(rotation=90, cropped=40, origin=(-300, 55)),
    "figure at the top": Kind(figure=True, columns=2),
    "full": Kind(top=14),
    "full, turned by 90": Kind(rotation=90, top=14),
    "full, cropped, not at the origin, turned by 270": Kind(rotation=270, top=14, cropped=30, origin=(100, -70)),
    "long note": Kind(top=14, columns=2),
    "full, landscape, turned by 180": Kind(792, 612, rotation=180, top=14),
}
PAGES = {name: number for number, name in enumerate(KINDS, 1)}
BANDS = [name for name in KINDS if "full" in name or name in {"long note", "figure at the top"}]
LONG_PAGE = PAGES["long note"]
every_page = pytest.mark.parametrize("name", KINDS)


def draw_page(kind: Kind, number: int) -> bytes:
    """Return a PDF of one page: text in columns, upright as displayed, some of it outside of the crop."""
    inner_width, inner_height = (kind.height, kind.width) if kind.rotation % 180 else (kind.width, kind.height)
    cut = kind.cropped
    file = io.BytesIO()
    canvas = Canvas(file, invariant=1, pagesize=(inner_width + 2 * cut, inner_height + 2 * cut))
    canvas.translate(cut, cut)
    turned = {0: (0, 0), 90: (inner_width, 0), 180: (inner_width, inner_height), 270: (0, inner_height)}
    canvas.translate(*turned[kind.rotation])
    canvas.rotate(kind.rotation)
    if cut:
        canvas.setFont("Times-Roman", 9)
        canvas.drawString(100, kind.height + 12, "cropped away above")
    column = (min(kind.width, 792) - 2 * 60 - (kind.columns - 1) * 20) / kind.columns
    for place in range(kind.columns):
        x = 60 + place * (column + 20)
        y = kind.height - kind.top
        canvas.setFont("Times-Roman", 10)
        for line in range(int((y - 60) // 12)):
            text = f"p{number}c{place}l{line} " + "the text of the paper goes on " * 8
            canvas.drawString(x, y - 10 - 12 * line, text[: int(column / 4.6)])
    if kind.figure:
        canvas.setFillGray(0.8)
        canvas.rect(30, kind.height - 100, kind.width - 60, 95, fill=1)
    canvas.showPage()
    canvas.save()
    return file.getvalue()


def write_paper(path: Path) -> None:
    """Write all kinds of pages as one PDF with an outline, page labels as they are, and a link back to page 2."""
    writer = pypdf.PdfWriter()
    for name, kind in KINDS.items():
        page = writer.add_page(pypdf.PdfReader(io.BytesIO(draw_page(kind, PAGES[name]))).pages[0])
        x, y = kind.origin
        page.add_transformation(pypdf.Transformation().translate(x, y))
        width, height = page.mediabox.width, page.mediabox.height
        page.mediabox = pypdf.generic.RectangleObject((x, y, x + width, y + height))
        cut = kind.cropped
        page.cropbox = pypdf.generic.RectangleObject((x + cut, y + cut, x + width - cut, y + height - cut))
        page[pypdf.generic.NameObject("/Rotate")] = pypdf.generic.NumberObject(kind.rotation)
        writer.add_outline_item(name, PAGES[name] - 1)
    target = Link(rect=(60, 100, 200, 112), target_page_index=1)
    writer.add_annotation(page_number=len(KINDS) - 1, annotation=target)
    writer.write(path)


class Annotated(NamedTuple):
    """A paper before and after, and the command's last line."""

    source: Path
    out: Path
    result: dict[str, Any]


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> Annotated:
    """The paper with a note on each page, made once for all tests that look at it."""
    folder = tmp_path_factory.mktemp("paper")
    source, out = folder / "paper.pdf", folder / "out.pdf"
    write_paper(source)
    note = {"title": TITLE, "bullets": BULLETS}
    notes = {PAGES[name]: note for name in KINDS} | {LONG_PAGE: {"title": TITLE, "bullets": LONG}}
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: lines.append(str(words[0])))
        notes_file = folder / "notes.yaml"
        notes_file.write_text("".join(f"{page}: {json.dumps(note)}\n" for page, note in notes.items()))
        assert main(["annotate", str(source), "--notes", str(notes_file), "--out", str(out)]) == 0, lines
    return Annotated(source, out, json.loads(lines[-1]))


class Char(NamedTuple):
    """A character and its box in pixels from the upper left corner of the displayed page."""

    char: str
    left: float
    top: float
    right: float
    bottom: float


class Shown:
    """A page as pdfium shows it, a pixel a point."""

    def __init__(self, path: Path, index: int) -> None:
        self.document = pdfium.PdfDocument(path)
        self.page = self.document[index % len(self.document)]
        bitmap = self.page.render(scale=1)
        self.pixels = bitmap.to_numpy().astype(int)
        self.place = bitmap.get_posconv(self.page)
        self.height, self.width = self.pixels.shape[:2]

    def rect(self, left: float, bottom: float, right: float, top: float) -> tuple[float, float, float, float]:
        """Return a rectangle of user space in pixels: left, top, right, bottom."""
        (x0, y0), (x1, y1) = self.place.to_bitmap(left, bottom), self.place.to_bitmap(right, top)
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)

    @property
    def text(self) -> str:
        return self.page.get_textpage().get_text_range()

    def chars(self) -> Iterator[Char]:
        """Yield the visible characters in the order of the content."""
        text = self.page.get_textpage()
        for index in range(text.count_chars()):
            char = text.get_text_range(index, 1)
            if char.strip():
                box = self.rect(*text.get_charbox(index))
                if box[0] < self.width and box[1] < self.height and box[2] > 0 and box[3] > 0:
                    yield Char(char, *box)


def notes_of(path: Path, index: int) -> list[Any]:
    annotations = (each.get_object() for each in pypdf.PdfReader(path).pages[index].get("/Annots", []))
    return [each for each in annotations if each["/Subtype"] == "/Square"]


def out_index(name: str) -> int:
    """Return the index of a page in the result, where pages were inserted behind the long note."""
    number = PAGES[name]
    return number - 1 if number <= LONG_PAGE else -1


def before_and_after(paper: Annotated, name: str) -> tuple[Shown, Shown, tuple[float, float, float, float], int]:
    """Return the page before and after, the box in pixels, and by how many pixels the page grew at its top."""
    before, after = Shown(paper.source, PAGES[name] - 1), Shown(paper.out, out_index(name))
    (note,) = notes_of(paper.out, out_index(name))
    box = after.rect(*map(float, note["/Rect"]))
    return before, after, box, after.height - before.height


def words(text: str) -> str:
    return " ".join(text.split())


# ---- the text ----


@every_page
def test_both_extractors_find_the_note_in_reading_order(paper, name):
    """Title first, then the bullets, with Greek letters, arrows and signs; and no line comes twice."""
    index = out_index(name)
    for text in (pypdf.PdfReader(paper.out).pages[index].extract_text(), Shown(paper.out, index).text):
        expected = TITLE if name == "long note" else words(f"{TITLE} • " + " • ".join(BULLETS))
        assert words(text).count(expected) == 1


@every_page
def test_the_text_of_the_paper_is_extracted_as_before(paper, name):
    """By both extractors; the note comes after it."""
    index = out_index(name)
    before, after = (pypdf.PdfReader(path) for path in (paper.source, paper.out))
    assert words(after.pages[index].extract_text()).startswith(words(before.pages[PAGES[name] - 1].extract_text()))
    assert words(Shown(paper.out, index).text).startswith(words(Shown(paper.source, PAGES[name] - 1).text))


# ---- the picture ----


@every_page
def test_the_box_hides_no_character_and_lies_on_the_visible_page(paper, name):
    """No box of an original character meets the note's."""
    before, after, box, grown = before_and_after(paper, name)
    assert 0 <= box[0] < box[2] <= after.width and 0 <= box[1] < box[3] <= after.height
    count = 0
    for char in before.chars():
        count += 1
        across = char.right <= box[0] or char.left >= box[2]
        assert across or char.bottom + grown <= box[1] or char.top + grown >= box[3], char
    assert count > 500


@every_page
def test_outside_of_the_box_every_pixel_is_as_before(paper, name):
    """Moved down by the band where there is one; in the band, and where the paper was cropped, nothing shows."""
    before, after, box, grown = before_and_after(paper, name)
    left, top, right, bottom = int(box[0]) - 1, int(box[1]) - 1, int(box[2]) + 2, int(box[3]) + 2
    assert (after.pixels[top:bottom, left:right] != 255).any(axis=2).mean() > 0.5  # the box is there, and tinted
    after.pixels[top:bottom, left:right] = 255
    assert (after.pixels[:grown] == 255).all()
    unchanged = before.pixels.copy()
    unchanged[max(0, top - grown) : max(0, bottom - grown), left:right] = 255
    assert (after.pixels[grown:] == unchanged).all()


@every_page
def test_the_note_is_upright_for_the_reader(paper, name):
    """The title's characters go from left to right on one line, above those of the bullets."""
    _, after, box, _ = before_and_after(paper, name)
    inside = [each for each in after.chars() if each.left >= box[0] and each.top >= box[1] and each.bottom <= box[3]]
    inside = inside[-len("".join([TITLE, *BULLETS]).replace(" ", "")) - 3 :] if name != "long note" else inside
    title = inside[: len(TITLE.replace(" ", ""))]
    assert "".join(each.char for each in title) == TITLE.replace(" ", "")
    assert all(one.right <= two.left + 1 for one, two in itertools.pairwise(title))
    assert max(each.bottom for each in title) - min(each.top for each in title) < 14
    assert inside[-1].top > max(each.bottom for each in title)


def test_a_page_grows_only_where_it_is_full(paper):
    """Free space at the top is used: those pages keep their size."""
    for name in KINDS:
        before, after, _, grown = before_and_after(paper, name)
        assert after.width == before.width
        assert (grown > 0) == (name in BANDS), name
    assert paper.result["bands"] == len(BANDS)


# ---- long notes ----


def test_a_long_note_goes_on_on_an_inserted_page_without_losing_a_word(paper):
    """Every word is there once and in order; both parts say that they belong together."""
    reader = pypdf.PdfReader(paper.out)
    count = paper.result["inserted_pages"]
    assert count >= 1 and len(reader.pages) == len(KINDS) + count == paper.result["pages"]
    pages = [reader.pages[LONG_PAGE - 1 + n].extract_text() for n in range(count + 1)]
    found = [word for text in pages for word in re.findall(r"word\d{5}", text)]
    assert found == " ".join(LONG).split()
    assert "continued on the next page →" in pages[0] and f"← continued from page {LONG_PAGE}" in pages[1]


def test_text_shrinks_to_the_stated_minimum_and_no_further(paper):
    """The long note is set in 7 points, the others in the usual 8.5."""
    sizes = {name: set() for name in ("full", "long note")}
    for name, found in sizes.items():
        text = Shown(paper.out, out_index(name)).page.get_textpage()
        for index in range(text.count_chars()):
            size = pdfium.raw.FPDFText_GetFontSize(text, index)
            found.add(round(size, 1))
    assert 8.5 in sizes["full"] and 7 in sizes["long note"] and 8.5 not in sizes["long note"]


def test_outline_link_and_labels_still_lead_to_their_pages(paper):
    """The pages behind the inserted one too; labels remain the paper's numbers."""
    reader = pypdf.PdfReader(paper.out)
    for item in reader.outline:
        page = reader.pages[reader.get_destination_page_number(item)]
        assert f"p{PAGES[item.title]}c0l0 " in page.extract_text()
    (link,) = [each.get_object() for each in reader.pages[-1]["/Annots"] if each.get_object()["/Subtype"] == "/Link"]
    assert link["/Dest"][0] == reader.pages[1].indirect_reference
    numbers = [str(number) for number in PAGES.values()]
    assert [label for label in reader.page_labels if "+" not in label] == numbers
    assert reader.page_labels[LONG_PAGE] == f"{LONG_PAGE}+1"


# ---- the annotation and the layer ----


@every_page
def test_a_real_annotation_holds_the_note_and_can_be_removed(paper, name):
    """It prints, draws itself, names who wrote it; without it the page still shows the note."""
    (note,) = notes_of(paper.out, out_index(name))
    bullets = LONG if name == "long note" else BULLETS
    assert note["/Contents"] == "\n".join([TITLE, *(f"• {bullet}" for bullet in bullets)])
    assert note["/T"] == "llm-jepa notes" and note["/Subj"] == TITLE and note["/F"] & 4
    assert note["/AP"]["/N"].get_object()["/BBox"][2:] == [
        pytest.approx(float(note["/Rect"][n + 2] - note["/Rect"][n]), abs=0.001) for n in (0, 1)
    ]
    writer = pypdf.PdfWriter(clone_from=paper.out)
    page = writer.pages[out_index(name)]
    page["/Annots"].remove(next(each for each in page["/Annots"] if each.get_object()["/Subtype"] == "/Square"))
    assert TITLE in words(page.extract_text())


def test_the_layer_hides_all_notes(paper, tmp_path):
    """With the layer "Notes" off, pages that did not grow look exactly as before.

    The annotation is on the layer too. pdfium draws annotations whatever their layer, so they are left out here.
    """
    writer = pypdf.PdfWriter(clone_from=paper.out)
    properties = writer.root_object["/OCProperties"]
    (layer,) = properties["/OCGs"]
    assert layer.get_object()["/Name"] == "Notes"
    properties["/D"][pypdf.generic.NameObject("/OFF")] = pypdf.generic.ArrayObject([layer])
    del properties["/D"]["/ON"]
    writer.write(tmp_path / "off.pdf")
    for name in ("one column", "turned by 90"):
        assert writer.pages[out_index(name)]["/Annots"][0].get_object().raw_get("/OC") == layer
        paths = {paper.source: PAGES[name] - 1, tmp_path / "off.pdf": out_index(name)}
        before, after = (
            pdfium.PdfDocument(path)[index].render(scale=1, draw_annots=False).to_numpy()
            for path, index in paths.items()
        )
        assert (before == after).all()


# ---- places ----


@pytest.fixture
def annotate(tmp_path, capsys) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Annotate a page of one kind with one note; return the result and the last line."""

    def annotate(kind: Kind, code: int = 0, content: bytes = b"", **note: Any) -> tuple[Path, dict[str, Any]]:
        source, out = tmp_path / "in.pdf", tmp_path / "out.pdf"
        writer = pypdf.PdfWriter(clone_from=io.BytesIO(draw_page(kind, 1)))
        writer.pages[0][pypdf.generic.NameObject("/Rotate")] = pypdf.generic.NumberObject(kind.rotation)
        if content:
            stream = writer.pages[0].get_contents()
            stream.set_data(stream.get_data() + content)
            writer.pages[0][pypdf.generic.NameObject("/Contents")] = writer._add_object(stream)
        writer.write(source)
        notes = tmp_path / "notes.yaml"
        notes.write_text("1: " + json.dumps({"title": TITLE, "bullets": ["a remark"], **note}))
        said = main(["annotate", str(source), "--notes", str(notes), "--out", str(out), "--force"])
        captured = capsys.readouterr()
        assert said == code, captured.err
        return out, json.loads(captured.out.splitlines()[-1]) if code == 0 else {
            "error": " ".join(captured.err.split())
        }

    return annotate


@pytest.mark.parametrize("rotation", [0, 90, 270])
def test_coordinates_are_where_the_box_goes(annotate, rotation):
    """From the upper left corner of the page as displayed, however it is turned."""
    out, _ = annotate(Kind(rotation=rotation), place=[100, 30, 200])
    left, top, right, _ = Shown(out, 0).rect(*map(float, notes_of(out, 0)[0]["/Rect"]))
    assert (left, top, right) == pytest.approx((100, 30, 300), abs=1)


@pytest.mark.parametrize(
    ("place", "code", "value"),
    [
        ([100, 150, 300], "place_not_free", "300 x"),
        ([500, 20, 300], "place_outside_page", "612 x 792 points"),
        ([40, 780, 200], "note_too_high", "792"),
        ([40, 20, 50], "value_out_of_range", "at least 120"),
    ],
)
def test_coordinates_that_cannot_be_are_refused(annotate, place, code, value):
    """Also those where the box would hide text: the error names page and place."""
    _, result = annotate(Kind(), code=2, place=place)
    assert result["error"].endswith(f"[{code}]") and value in result["error"]
    assert "page 1, place [" in result["error"] and str(float(place[0])) in result["error"]


@pytest.mark.parametrize(("width", "grows"), [(612, True), (1100, False)])
def test_margin_uses_a_wide_margin_or_adds_one(annotate, width, grows):
    """At the right; a page whose margins are too narrow becomes wider, and no higher."""
    kind = Kind(width=width, top=14)
    out, result = annotate(kind, place="margin", bullets=BULLETS)
    after = Shown(out, 0)
    left, top, *_ = after.rect(*map(float, notes_of(out, 0)[0]["/Rect"]))
    assert after.height == kind.height and top < kind.height / 3
    assert (after.width > width) == grows == bool(result["bands"])
    assert left > 400


# ---- content that leaves the page in disorder ----


def test_the_note_stands_in_its_place_after_content_that_does_not_restore_its_state(annotate):
    """A `q` or a `Q` too many, also with one in a string: the box is the same as on the page without."""
    boxes = []
    for content in (b"", b" q 3 0 0 3 50 50 cm", b" Q Q", b" Q 0.5 0 0 0.5 9 9 cm q q (a Q \\( b) pop"):
        out, _ = annotate(Kind(), content=content, place=[100, 30, 200])
        boxes.append([each for each in Shown(out, 0).chars() if each.char in "Wh"][-2:])
    assert boxes[0] == boxes[1] == boxes[2] == boxes[3]


def test_the_same_notes_give_the_same_file(annotate):
    """Byte for byte."""
    out, _ = annotate(Kind())
    first = out.read_bytes()
    annotate(Kind())
    assert out.read_bytes() == first


# ---- what viewers open, and what pages share ----


def written(path: Path, kids: bytes, pages: dict[int, bytes], root: bytes = b"") -> Path:
    """Write a PDF of pages that say "Hello"; the objects 1, 2, 4 and 5 are those that all have."""
    content, size = b"BT /F1 24 Tf 72 300 Td (Hello) Tj ET", max(5, *pages) + 1
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Kids [%b] /Count %d %b >>" % (kids, kids.count(b"R"), root),
        4: b"<< /Length %d >>\nstream\n%b\nendstream" % (len(content), content),
        5: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        **pages,
    }
    data = b"%PDF-1.7\n"
    places = {}
    for number, each in objects.items():
        places[number] = len(data)
        data += b"%d 0 obj\n%b\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % places[number] for number in range(1, size))
    end = b"xref\n0 %d\n0000000000 65535 f \n%btrailer << /Root 1 0 R /Size %d >>\nstartxref\n%d\n%%%%EOF\n"
    path.write_bytes(data + end % (size, table, size, len(data)))
    return path


def leaf(entries: bytes = b"") -> bytes:
    return b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> %b >>" % entries


def seen(path: Path) -> list[tuple[bool, bool, int]]:
    """Return of each page whether it says Hello, whether it has the note, and how many annotations it has."""
    texts = [page.get_textpage().get_text_bounded() for page in pdfium.PdfDocument(path)]
    counts = [len(page.get("/Annots") or ()) for page in pypdf.PdfReader(path).pages]
    return [("Hello" in text, "Here it is" in text, count) for text, count in zip(texts, counts, strict=True)]


def annotated(source: Path, page: int = 1) -> Path:
    out, notes = source.with_name("out.pdf"), source.with_name("notes.yaml")
    notes.write_text(f"{page}: {{title: Here it is, bullets: [a note]}}\n")
    annotate_pdf(source, read_notes(notes), out, max_seconds=60)
    return out


@pytest.mark.parametrize(
    ("boxes", "size"),
    [
        (b"/MediaBox [0 0 612 792 0 0 612 792]", (612, 792)),
        (b"/MediaBox [0 0 842 595 0]", (842, 595)),
        (b"/MediaBox [0 0 6.12e2 7.92e2]", (612, 792)),
        (b"/MediaBox [0 0 8.42E+2 5950e-1]", (842, 595)),
        (b"/MediaBox [0 0 842.0.0 595]", (842, 595)),
        (b"/MediaBox [0 0 842 595] /CropBox [0 0 400 500 0 0]", (400, 500)),
        (b"/MediaBox [0 0 842 595] /CropBox [0 0]", (842, 595)),
    ],
)
def test_boxes_that_viewers_read_are_read(boxes, size, tmp_path):
    """A number more, an exponent, a second point: the page keeps its content, and has its note and a plain box."""
    out = annotated(written(tmp_path / "in.pdf", b"3 0 R", {3: leaf(boxes)}))
    assert seen(out) == [(True, True, 1)]
    assert pdfium.PdfDocument(out)[0].get_size()[0] == size[0]
    assert len(pypdf.PdfReader(out).pages[0]["/MediaBox"]) == 4


BRANCH = b"<< /Type /Pages /Parent 2 0 R /Kids [3 0 R] /Count 1 /MediaBox [0 0 300 200] >>"


@pytest.mark.parametrize("kids", [b"3 0 R 3 0 R", b"3 0 R 6 0 R", b"6 0 R 3 0 R", b"6 0 R 6 0 R"])
@pytest.mark.parametrize("page", [1, 2])
def test_a_page_that_the_tree_names_twice_is_changed_where_the_note_is(kids, page, tmp_path):
    """Side by side or in a branch; what the page inherits is its own parent's, as viewers have it."""
    pages = {3: leaf(), 6: BRANCH}
    source = written(tmp_path / "in.pdf", kids, pages, root=b"/MediaBox [0 0 612 792]")
    assert [each.get_size() for each in pdfium.PdfDocument(source)] == [(612, 792)] * 2
    out = annotated(source, page)
    assert seen(out) == [(True, number == page, int(number == page)) for number in (1, 2)]
    assert [each.get_size()[0] for each in pdfium.PdfDocument(out)] == [612, 612]


def test_an_annotation_that_two_pages_show_is_hidden_on_the_page_that_grows_alone(tmp_path):
    """It lies where the band will be, outside of the page's crop; the other page keeps it in sight."""
    link = b"<< /Type /Annot /Subtype /Square /Rect [100 760 200 780] /F 4 >>"
    box = b"/MediaBox [0 0 612 792] /Annots [6 0 R]"
    content = b"BT /F1 24 Tf 14 TL 20 700 Td " + b"(%b) Tj T* " % (b"Hello " * 8) * 50 + b"ET"
    full = b"<< /Length %d >>\nstream\n%b\nendstream" % (len(content), content)
    pages = {3: leaf(box + b" /CropBox [0 0 612 715]"), 4: full, 6: link, 7: leaf(box)}
    out = annotated(written(tmp_path / "in.pdf", b"3 0 R 7 0 R", pages))
    first, second = (page["/Annots"][0].get_object() for page in pypdf.PdfReader(out).pages)
    assert (first["/F"] & 2, second["/F"] & 2) == (2, 0)
