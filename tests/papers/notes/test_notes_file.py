"""The notes file and the call: an error names what is wrong and what was expected; no file is changed by mistake."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_jepa import sandbox
from llm_jepa.cli import main
from llm_jepa.errors import ConfigError
from llm_jepa.papers.notes import guard, read_notes
from llm_jepa.papers.notes.notes_file import COLOURS, MIN_SIZE

pypdf = pytest.importorskip("pypdf")
pytest.importorskip("pypdfium2")
Canvas = pytest.importorskip("reportlab.pdfgen.canvas").Canvas

FACTS = Path(__file__).parents[4] / "shared" / "paper" / "v1_pages.yaml"
GOOD = "1: {title: Read this, bullets: [a remark]}\n"


def paper(num_pages: int) -> bytes:
    file = io.BytesIO()
    canvas = Canvas(file, invariant=1)
    for number in range(num_pages):
        canvas.drawString(72, 600, f"words of page {number + 1}")
        canvas.showPage()
    canvas.save()
    return file.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a paper of three pages and notes on the first."""
    (tmp_path / "in.pdf").write_bytes(paper(3))
    (tmp_path / "notes.yaml").write_text(GOOD)
    return tmp_path


@pytest.fixture
def call(folder, capsys, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """Run `llm-jepa annotate in.pdf --notes notes.yaml --out out.pdf` in a folder, with these changes."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(folder)

    def call(*flags: str, source="in.pdf", notes="notes.yaml", out="out.pdf") -> tuple[int, str, str]:
        code = main(["annotate", source, "--notes", notes, "--out", out, *flags])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def refused(call, folder) -> Callable[..., None]:
    """Run it with these notes; it must end in one paragraph with this code and these values, and write no file."""

    def refused(code: str, *values: str, text: str | None = None, flags: Sequence[str] = (), **changes: str) -> None:
        if text is not None:
            (folder / "notes.yaml").write_text(text)
        before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        exit_code, out, err = call(*flags, **changes)
        assert exit_code == 2 and out == "", err
        assert err.startswith("llm-jepa: ") and "Traceback" not in err and max(map(len, err.split("\n"))) <= 80
        assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
        said = " ".join(err.split())
        assert said.endswith(f" [{code}]")
        for value in values:
            assert value in said

    return refused


# ---- what is in the file ----


@pytest.mark.parametrize(
    ("text", "code", "values"),
    [
        ("1: {titel: x, bullets: [y]}", "key_unknown", ["notes.yaml:1: page 1", "'titel'", "'title'"]),
        ("1: {title: x, color: red}", "key_unknown", ["'color'", "'colour'"]),
        ("\n0: {title: x}", "value_out_of_range", ["notes.yaml:2", "page 0", "from 1"]),
        ("-2: {title: x}", "value_out_of_range", ["page -2"]),
        ("three: {title: x}", "wrong_type", ["page 'three'"]),
        ("title: x\nbullets: [y]", "wrong_type", ["page 'title'"]),
        ("1.5: {title: x}", "wrong_type", ["page 1.5"]),
        ("true: {title: x}", "wrong_type", ["page True"]),
        ("1: {title: x}\n1: {title: y}", "key_repeated", ["notes.yaml:2", "key 1"]),
        ("1:", "wrong_type", ["page 1", "nothing", "title: and bullets:"]),
        ("1: a text", "wrong_type", ["page 1", "'a text'"]),
        ("1: {bullets: [x]}", "key_missing", ["page 1", "title"]),
        ("1: {title: ''}", "value_empty", ["page 1: title"]),
        ("1: {title: ' '}", "value_empty", ["page 1: title"]),
        ("1: {title: 54.38}", "wrong_type", ["title is 54.38"]),
        ("1: {title: x, bullets: text}", "wrong_type", ["bullets is 'text'"]),
        ("1: {title: x, bullets: ['a', '']}", "value_empty", ["bullet 2"]),
        ("1: {title: x, bullets: [a: b]}", "wrong_type", ["bullet 1 is {'a': 'b'}"]),
        ("1: {title: x, size: 3}", "value_out_of_range", ["size is 3", f"{MIN_SIZE:g} to 18"]),
        ("1: {title: x, size: big}", "value_out_of_range", ["size is 'big'"]),
        ("1: {title: x, size: .nan}", "value_out_of_range", ["size is nan"]),
        ("1: {title: x, colour: bleu}", "value_not_allowed", ["colour is 'bleu'", "'blue'"]),
        ("1: {title: x, colour: '#12345'}", "value_not_allowed", ["colour is '#12345'", "'#rrggbb'"]),
        ("1: {title: x, colour: #123456}", "not_yaml", ["notes.yaml"]),
        ("1:\n  title: x\n  colour: #123456", "value_not_allowed", ["colour is nothing", "'#'"]),
        ("1: {title: x, place: bottom}", "value_not_allowed", ["place is 'bottom'", "top, margin"]),
        ("1: {title: x, place: [1]}", "value_not_allowed", ["place is [1]"]),
        ("1: {title: x, place: [1, .inf]}", "value_not_allowed", ["place is [1, inf]"]),
        ("1: {title: 'a\u202eb'}", "character_not_allowed", ["title", "U+202E"]),
        ("1: {title: 'שלום'}", "character_not_supported", ["title", "'ש'"]),
        ("1: {title: 漢字}", "character_not_supported", ["'漢' (U+6F22)", "DejaVu Sans"]),
        ("1: {title: 'x', bullets: ['𝔼']}", "character_not_supported", ["U+1D53C"]),
        ("[1, 2]", "wrong_type", ["list"]),
        ("", "file_empty", ["notes.yaml"]),
        ("1: {title: [", "not_yaml", ["notes.yaml:1"]),
        ("1: " + "[" * 5000, "not_yaml", ["notes.yaml"]),
        (f"{'9' * 5000}: {{title: x}}", "not_yaml", ["notes.yaml"]),
        ("0x" + "f" * 900 + ": {title: x}", "value_out_of_range", ["notes.yaml:1"]),
        ("? [1, 2]\n: {title: x}", "not_yaml", ["notes.yaml"]),
        ("1: {title: x, bullets: [" + "word " * 5000 + "]}", "text_too_long", ["page 1", "20,000"]),
    ],
)
def test_what_is_wrong_with_the_notes_is_named(refused, text, code, values):
    """By file and line, with what was found; nothing is written."""
    refused(code, *values, text=text)


def test_aliases_without_end_do_not_grow(refused):
    """Ten levels of ten references: refused for what it is, before they grow."""
    levels = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 11)]
    refused("wrong_type", "page 'a0'", text="\n".join(levels))


def test_notes_that_are_no_file_are_refused(refused, folder):
    """A folder, a pipe that would never end, a binary file, a name that is not there."""
    os.mkfifo(folder / "pipe")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "large.yaml").write_bytes(b"#" * 2_000_000)
    refused("not_a_file", "folder", notes=".")
    refused("not_a_file", "pipe", notes="pipe")
    refused("not_utf8", "binary.yaml", notes="binary.yaml")
    refused("file_too_large", "large.yaml", "2,000,000", "1,000,000", notes="large.yaml")
    refused("file_missing", "llm-jepa-1", "'llm-jepa-v1'", notes="llm-jepa-1")


def test_missing_pages_are_named_or_skipped_and_counted(refused, call, folder):
    """The file's number of pages is in the error; with --skip-missing the rest is done."""
    notes = GOOD + "4: {title: x}\n9: {title: y}\n"
    refused("page_missing", "in.pdf", "3 pages", "4, 9", "--skip-missing", text=notes)
    code, out, err = call("--skip-missing")
    assert code == 0 and "Skipped 2 notes on pages that the file does not have: 4, 9" in err.replace("\n", " ")
    assert json.loads(out.splitlines()[-1]) == {
        "out": "out.pdf", "notes": 1, "pages": 3, "bands": 0, "inserted_pages": 0, "skipped": [4, 9],
    }  # fmt: skip
    (folder / "out.pdf").unlink()
    refused("page_missing", "in.pdf", "3 pages", text="7: {title: x}", flags=["--skip-missing"])


# ---- files ----


def test_the_pdf_is_never_written_to(refused, call, folder):
    """Not by its name, nor through a link of either kind; its bytes stay."""
    before = (folder / "in.pdf").read_bytes()
    (folder / "soft.pdf").symlink_to("in.pdf")
    os.link(folder / "in.pdf", folder / "hard.pdf")
    for out in ("in.pdf", "./in.pdf", "soft.pdf", "hard.pdf"):
        refused("output_is_input", f"--out {Path(out)}", flags=["--force"], out=out)
    refused("output_is_input", "--out notes.yaml", flags=["--force"], out="notes.yaml")
    assert call()[0] == 0
    assert (folder / "in.pdf").read_bytes() == before


def test_a_file_that_is_there_is_written_over_only_with_force(refused, call, folder):
    """And then as a whole: a failure leaves the old one."""
    (folder / "out.pdf").write_text("mine")
    refused("file_exists", "out.pdf", "--force")
    refused("character_not_supported", "'漢'", text="1: {title: 漢}", flags=["--force"])
    (folder / "notes.yaml").write_text(GOOD)
    assert call("--force")[0] == 0
    assert (folder / "out.pdf").read_bytes().startswith(b"%PDF-")
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_what_is_no_file_is_refused(refused, tmp_path_factory):
    """A device would never end."""
    refused("file_missing", "no.pdf", source="no.pdf")
    refused("not_a_file", "folder", source=".")
    refused("not_a_file", "/dev/zero", source="/dev/zero")
    refused("not_a_file", "--out .", flags=["--force"], out=".")
    big = tmp_path_factory.mktemp("big") / "big.pdf"
    with big.open("wb") as file:
        file.truncate(2**31)  # a hole, which takes no room on the disk
    refused("file_too_large", "big.pdf", "2,048 MiB", "448 MiB", "--max-memory 8193", source=str(big))


def test_a_module_in_the_working_folder_is_not_run(call, folder):
    """The child process imports what is installed, not what lies about."""
    (folder / "pypdf.py").write_text("open('ran', 'w')")
    (folder / "json.py").write_text("open('ran', 'w')")
    assert call()[0] == 0
    assert not (folder / "ran").exists()


def test_without_the_libraries_the_error_names_the_extra(refused, monkeypatch):
    """One line to install them."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    refused("package_missing", "pypdf, pypdfium2, reportlab", "pip install 'llm-jepa[pdf]'")


# ---- the child process ----


def test_the_flags_have_the_limits_of_the_library(call, monkeypatch):
    """The command line writes them again, so as not to load a library for its help text."""
    limits = []

    def stop(source: Path, request: dict[str, Any], *given: float) -> None:
        limits.extend(given)
        raise ConfigError("enough", "This is enough.")

    monkeypatch.setattr(guard, "_run_child", stop)
    assert call()[0] == 2
    assert limits == [guard.MAX_SECONDS, guard.MAX_MEMORY_MIB]


def test_too_little_memory_for_the_libraries_is_refused(refused):
    """They could not even be loaded; the error has the minimum."""
    refused("value_out_of_range", "--max-memory 60", "256 MiB", flags=["--max-memory", "60"])


def test_a_child_that_does_not_answer_is_stopped(refused, monkeypatch):
    """At the limit, by the clock: it may well sleep and use no processor time."""
    start = subprocess.Popen
    started: list[Any] = []

    def sleep(command: list[str], **options: Any) -> subprocess.Popen:
        started.append(start([sys.executable, "-c", "import time; time.sleep(60)"], **options))
        return started[-1]

    monkeypatch.setattr(sandbox.subprocess, "Popen", sleep)
    refused("time_limit_exceeded", "in.pdf", "1 seconds", "--max-seconds 10", flags=["--max-seconds", "1"])
    assert started[0].poll() == -signal.SIGKILL


# ---- the notes that come with the package ----


def test_the_notes_on_the_paper_cover_every_page_of_the_facts():
    """Short, in few bullets, each with a warning about figures that may not mean what they seem to."""
    notes = {note.page: note for note in read_notes("llm-jepa-v1")}
    if FACTS.exists():
        assert notes.keys() == yaml.safe_load(FACTS.read_text()).keys()
    assert all(2 <= len(note.bullets) <= 5 and len(note.text) < 700 for note in notes.values())
    assert all("Care: " in note.text for note in notes.values())


def test_the_figures_in_the_notes_are_those_of_the_paper():
    """Every number with decimals of the facts on a page is in its note."""
    if not FACTS.exists():
        pytest.skip("the facts are not in this checkout")
    notes = {note.page: note for note in read_notes("llm-jepa-v1")}
    for page, facts in yaml.safe_load(FACTS.read_text()).items():
        for number in re.findall(r"\d+\.\d\d", " ".join(facts["facts"])):
            if number != "2.94" or page == 8:  # of page 4, whose p-value is rounded
                assert number in notes[page].text, (page, number)


def test_the_notes_on_the_paper_can_be_drawn(call, folder):
    """On a paper of fourteen pages: nothing is skipped, and no box needs a second page."""
    (folder / "in.pdf").write_bytes(paper(14))
    code, out, err = call(notes="llm-jepa-v1")
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["notes"] == 11 and result["inserted_pages"] == 0 and result["skipped"] == []


def test_a_notes_file_of_the_documented_keys_is_read(folder, raises):
    """Each key in each of its forms."""
    (folder / "notes.yaml").write_text(
        "2: {title: A, bullets: [x], place: margin, size: 9, colour: red}\n1: {title: B, place: [10, 20, 200.5]}\n"
    )
    first, second = read_notes(folder / "notes.yaml")
    assert (first.page, first.place, first.bullets) == (1, (10.0, 20.0, 200.5), ())
    assert (second.place, second.size, second.colour) == ("margin", 9.0, COLOURS["red"])
    with raises("file_missing", "none.yaml"):
        read_notes(folder / "none.yaml")
