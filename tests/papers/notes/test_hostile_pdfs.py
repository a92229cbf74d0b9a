"""PDFs from strangers: whatever is in the file, a right result or one clear error; ten processor seconds and 512 MB."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pypdf = pytest.importorskip("pypdf")
pytest.importorskip("pypdfium2")
pytest.importorskip("reportlab")

MAX_SECONDS, MAX_BYTES = 10, 512_000_000
NOTES = "1: {title: Read this, bullets: [a first remark]}\n"
CONTENT = b"BT /F1 12 Tf 72 600 Td (the words of the paper) Tj ET"
CATALOG, PAGES = b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
MEDIA = b"/MediaBox [0 0 612 792]"


def stream(data: bytes, entries: bytes = b"") -> bytes:
    return b"<< /Length %d %b >>\nstream\n%b\nendstream" % (len(data), entries, data)


def page(entries: bytes = MEDIA, resources: bytes = b"") -> bytes:
    fonts = b"/Resources << /Font << /F1 5 0 R >> %b >>" % resources
    return b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R %b %b >>" % (fonts, entries)


def pdf(changes: dict[int, bytes] | None = None, trailer: bytes = b"/Root 1 0 R") -> bytes:
    """Return a PDF of one page with these objects in place of the usual."""
    usual = {1: CATALOG, 2: PAGES, 3: page(), 4: stream(CONTENT), 5: FONT}
    file = io.BytesIO()
    file.write(b"%PDF-1.7\n")
    offsets = {}
    for number, content in (usual | (changes or {})).items():
        offsets[number] = file.tell()
        file.write(b"%d 0 obj\n%b\nendobj\n" % (number, content))
    start, size = file.tell(), max(offsets) + 1
    file.write(b"xref\n0 %d\n0000000000 65535 f \n" % size)
    for number in range(1, size):
        file.write(b"%010d 00000 %b \n" % (offsets.get(number, 0), b"n" if number in offsets else b"f"))
    file.write(b"trailer\n<< /Size %d %b >>\nstartxref\n%d\n%%%%EOF\n" % (size, trailer, start))
    return file.getvalue()


def encrypted(password: str) -> bytes:
    file = io.BytesIO()
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf()))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    writer.write(file)
    return file.getvalue()


def xref_loop() -> bytes:
    """Two cross-reference tables, each of which names the other as its predecessor."""
    file = pdf()
    start = file.index(b"xref\n0")
    first = file[start:].replace(b"/Root", b"/Prev 99999 /Root")
    second = start + len(first)
    first = first.replace(b"99999", b"%05d" % second)
    return file[:start] + first + file[start:].replace(b"/Root", b"/Prev %d /Root" % start)


def object_stream_loop() -> bytes:
    """A catalog in an object stream that extends itself, and whose length is inside of it."""
    inner = b"1 0 6 34 " + CATALOG.ljust(34) + b"100"
    data = zlib.compress(inner)
    entries = b"/Type /ObjStm /N 2 /First 9 /Filter /FlateDecode /Extends 7 0 R"
    holder = b"<< /Length 6 0 R %b >>\nstream\n%b\nendstream" % (entries, data)
    return pdf({7: holder, 1: b"7 0 R"})


def many_pages(count: int) -> bytes:
    kids = b" ".join(b"%d 0 R" % number for number in range(6, 6 + count))
    tree = b"<< /Type /Pages /Kids [%b] /Count %d >>" % (kids, count)
    return pdf({2: tree, **dict.fromkeys(range(6, 6 + count), page())})


def deep_tree(depth: int) -> bytes:
    levels = {n: b"<< /Type /Pages /Count 1 /Kids [%d 0 R] >>" % (n + 1) for n in range(10, 10 + depth)}
    return pdf({2: b"<< /Type /Pages /Count 1 /Kids [10 0 R] >>", **levels, 10 + depth: page()})


def bomb(size: int, filler: bytes) -> bytes:
    """A content stream that unpacks to this many bytes."""
    packer = zlib.compressobj(9)
    block = filler * (1_000_000 // len(filler))
    data = b"".join(packer.compress(block) for _ in range(size // len(block))) + packer.flush()
    return pdf({4: stream(data, b"/Filter /FlateDecode")})


def twice_packed_bomb() -> bytes:
    data = zlib.compress(zlib.compress(bytes(200_000_000), 9), 9)
    return pdf({4: stream(data, b"/Filter [/FlateDecode /FlateDecode]")})


def form_loop() -> bytes:
    form = stream(b"/X Do /X Do", b"/Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X 6 0 R >> >>")
    return pdf({3: page(resources=b"/XObject << /X 6 0 R >>"), 4: stream(CONTENT + b" /X Do"), 6: form})


def form_doubling(levels: int) -> bytes:
    """Forms that show the next one twice: 2 ** levels drawings, without a loop."""
    forms = {}
    for n in range(6, 6 + levels):
        resources = b"/Resources << /XObject << /X %d 0 R >> >>" % (n + 1)
        forms[n] = stream(b"/X Do /X Do", b"/Subtype /Form /BBox [0 0 600 700] " + resources)
    forms[6 + levels] = stream(b"0 0 5 5 re f", b"/Subtype /Form /BBox [0 0 9 9]")
    return pdf({3: page(resources=b"/XObject << /X 6 0 R >>"), 4: stream(CONTENT + b" /X Do"), **forms})


def random_bytes() -> bytes:
    return b"%PDF-1.5\n" + bytes(n * n * 7919 % 251 for n in range(20_000))


def image(width: int) -> bytes:
    picture = stream(
        zlib.compress(bytes(1000)),
        b"/Subtype /Image /Width %d /Height %d /BitsPerComponent 8 /ColorSpace /DeviceRGB /Filter /FlateDecode"
        % (width, width),
    )
    content = CONTENT + b" q 100 0 0 100 0 0 cm /X Do Q"
    return pdf({3: page(resources=b"/XObject << /X 6 0 R >>"), 4: stream(content), 6: picture})


LIMITS = {"very many pages": ["--max-seconds", "2"]}  # eight are the usual, too long for a test
RIGHT = None  # the file is readable after all, and gets its note
TOO_MUCH_MEMORY = "memory_limit_exceeded or pdf_crashes"  # which of the two depends on where memory ends
HOSTILE: dict[str, tuple[Any, ...]] = {
    "encrypted": (lambda: encrypted("secret"), "pdf_encrypted"),
    "encrypted without a password": (lambda: encrypted(""), "pdf_encrypted"),
    "zero bytes": (lambda: b"", "not_pdf"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(2000), "not_pdf"),
    "truncated in an object": (lambda: pdf()[:150], "pdf_damaged"),
    "without its tail": (lambda: pdf()[: pdf().index(b"xref")], "pdf_damaged"),
    "random bytes": (random_bytes, "pdf_damaged"),
    "no root": (lambda: pdf({1: b"<< >>"}, trailer=b""), "pdf_damaged"),
    "xref loop": (xref_loop, RIGHT),
    "object stream loop": (object_stream_loop, "pdf_damaged"),
    "page tree loop": (lambda: pdf({2: PAGES.replace(b"3 0 R", b"2 0 R")}), "pdf_damaged"),
    "parent loop": (
        lambda: pdf({3: page(b"").replace(b"2 0 R", b"3 0 R")}),
        "page_box_unusable",
        "Page 1",
        "MediaBox is missing",
    ),
    "deep page tree": (lambda: deep_tree(5000), "pdf_damaged"),
    "a billion pages by count": (lambda: pdf({2: PAGES.replace(b"Count 1", b"Count 1000000000")}), RIGHT),
    "no pages": (lambda: pdf({2: b"<< /Type /Pages /Kids [] /Count 0 >>"}), "pdf_empty"),
    "very many pages": (lambda: many_pages(40_000), "time_limit_exceeded", "2 seconds", "--max-seconds 20"),
    "content bomb": (lambda: bomb(400_000_000, bytes(1000)), TOO_MUCH_MEMORY, "448 MiB", "--max-memory"),
    "content bomb of operators": (
        lambda: bomb(60_000_000, b"q 1 0 0 1 0 0 cm "),
        TOO_MUCH_MEMORY,
        "448 MiB",
        "--max-memory",
    ),
    "twice packed bomb": (twice_packed_bomb, TOO_MUCH_MEMORY, "448 MiB", "--max-memory"),
    "huge page": (lambda: pdf({3: page(b"/MediaBox [0 0 1000000000 1000000000]")}), "page_box_unusable", "MediaBox"),
    "large page": (
        lambda: pdf({3: page(b"/MediaBox [0 0 1000000 1000000]")}),
        "page_size_unusable",
        "Page 1",
        "1,000,000 x 1,000,000",
    ),
    "page of no area": (lambda: pdf({3: page(b"/MediaBox [0 0 0 0]")}), "page_box_unusable", "Page 1", "MediaBox"),
    "page of NaN": (lambda: pdf({3: page(b"/MediaBox [0 0 NaN NaN]")}), "page_box_unusable", "MediaBox"),
    "page upside down": (lambda: pdf({3: page(b"/MediaBox [612 792 0 0]")}), RIGHT),
    "page below zero": (lambda: pdf({3: page(b"/MediaBox [-900 -900 -300 -100]")}), RIGHT),
    "cropped to nothing": (
        lambda: pdf({3: page(MEDIA + b" /CropBox [900 900 999 999]")}),
        "page_box_unusable",
        "Page 1",
        "CropBox",
    ),
    "form loop": (form_loop, TOO_MUCH_MEMORY, "448 MiB", "--max-memory"),
    "form doubling": (lambda: form_doubling(22), TOO_MUCH_MEMORY, "448 MiB", "--max-memory"),
    "image of 30000 pixels": (lambda: image(30_000), RIGHT),
}


class Verdict(NamedTuple):
    code: int
    said: str
    seconds: float
    bytes: int


# Light, and started by a shell: a process that pytest starts begins with pytest's memory in its count.
HARNESS = """
import contextlib, io, json, resource, sys
from llm_jepa.cli import main
BOTH = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
processor_s = lambda: sum(each.ru_utime + each.ru_stime for each in map(resource.getrusage, BOTH))
for line in sys.stdin:
    start, said = processor_s(), io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = main(json.loads(line))
    used = [resource.getrusage(who).ru_maxrss * 1024 for who in BOTH]
    print(json.dumps([code, " ".join(said.getvalue().split()), processor_s() - start, sum(used)]), flush=True)
"""


@pytest.fixture(scope="module")
def annotate() -> Iterator[Callable[..., Verdict]]:
    """Run the command; `bytes` is the most that both its processes together had until now, as the system counted."""
    command = ["sh", "-c", '"$0" -c "$1"; :', sys.executable, HARNESS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as harness:

        def annotate(source: Path, notes: Path, out: Path, *flags: str) -> Verdict:
            words = ["annotate", source, "--notes", notes, "--out", out, *flags]
            harness.stdin.write(json.dumps([str(word) for word in words]) + "\n")
            harness.stdin.flush()
            return Verdict(*json.loads(harness.stdout.readline()))

        yield annotate
        harness.stdin.close()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited and measured on Linux")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_gets_its_verdict_in_time_and_memory(name, annotate, tmp_path):
    """Refused in one paragraph, with nothing written; or, where it can be read after all, annotated."""
    make, code, *values = HOSTILE[name]
    source, notes, out = tmp_path / "in.pdf", tmp_path / "notes.yaml", tmp_path / "out" / "out.pdf"
    source.write_bytes(make())
    notes.write_text(NOTES)
    verdict = annotate(source, notes, out, *LIMITS.get(name, ()))
    assert verdict.seconds < MAX_SECONDS
    assert verdict.bytes < MAX_BYTES
    if code is RIGHT:
        assert verdict.code == 0, verdict.said
        assert "a first remark" in pypdf.PdfReader(out).pages[0].extract_text()
    else:
        assert verdict.code == 2, verdict.said
        assert verdict.said[verdict.said.rindex("[") :] in [f"[{each}]" for each in code.split(" or ")]
        assert all(value in verdict.said for value in (str(source), *values))
        assert "Traceback" not in verdict.said
        assert not out.exists() and not any(tmp_path.rglob("*.tmp"))
