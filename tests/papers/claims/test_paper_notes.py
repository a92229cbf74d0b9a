"""Our figures next to the paper's, on the pages of its version 1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_jepa.cli import main
from llm_jepa.papers.claims.paper_notes import TITLE, measured_notes, merged
from llm_jepa.papers.claims.plans import read_plans
from llm_jepa.papers.claims.records import write_record
from llm_jepa.papers.notes import read_notes

from .test_claims_page import record_of, seeds


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder with a record of Table 10 (page 9) and two ids of one figure of Table 8 (page 11 and 12)."""
    plan = read_plans("tiny")["finetune"]
    values = {
        "ntp": seeds(0.50, 0.51, 0.49, 0.50, 0.50),
        "jepa_lambda0": seeds(0.70, 0.69, 0.71, 0.70, 0.705),
        "jepa_shuffled": seeds(0.70, 0.70, 0.71, 0.70, 0.69),
        "jepa": seeds(0.70, 0.70, 0.70, 0.70, 0.69),
        "gamma0.01": seeds(0.01, 0.02, 0.01, 0.02, 0.01),
    }
    claims = ["llmjepa.t3.cosine", "llmjepa.t10.ratio0.01", "llmjepa.t12.llama1b", "llmjepa.t15.llama1b"]
    claims += ["llmjepa.v1.t11.llama1b", "llmjepa.t10.ratio0"]
    write_record(record_of(plan, values, claims), tmp_path / "records")
    return tmp_path / "records"


def test_each_decided_claim_stands_on_its_page_with_their_figures_and_ours(records):
    """Version 1 has no page for Table 3; what was not run is left out; two ids of one value appear once."""
    notes = measured_notes(records)
    assert [note.page for note in notes] == [9, 11, 13] and {note.title for note in notes} == {TITLE}
    [line] = notes[0].bullets
    assert line.startswith("Table 5, ratio0.01: theirs 57.29 → 1.38 (-55.91); ours (tiny, as_published; gamma0.01")
    assert "50.0 → 1.4 (-48.6 [" in line and "5 seeds: reproduced, " in line
    [line] = notes[2].bullets
    assert line.startswith("Table 11, llama1b: theirs 57.29 → 71.46 (+14.17)")
    assert "explained by a control" in line


def test_the_out_folder_of_reproduce_is_taken_too(records, tmp_path):
    """Its records are in `results/`."""
    records.rename(tmp_path / "results")
    assert [note.page for note in measured_notes(tmp_path)] == [9, 11, 13]


def test_our_figures_follow_the_reading_notes_of_a_page(records):
    """One box a page; pages that only one side has keep theirs."""
    reading = read_notes("llm-jepa-v1")
    notes = {note.page: note for note in merged(reading, measured_notes(records))}
    assert set(notes) >= {note.page for note in reading}
    [ours] = [bullet for bullet in notes[9].bullets if bullet.startswith(f"{TITLE}. Table 5")]
    assert notes[9].bullets[-1] == ours and notes[9].title != TITLE


def test_a_folder_without_records_is_an_error_that_says_what_was_expected(tmp_path, raises):
    """So are records whose claims are on no page."""
    with raises("record_missing", tmp_path, "--results", "--out"):
        measured_notes(tmp_path)
    plan = read_plans("tiny")["finetune"]
    values = {arm: seeds(0.5, 0.51, 0.49, 0.5, 0.5) for arm in ("ntp", "mse")}
    write_record(record_of(plan, values, ["llmjepa.t3.mse"]), tmp_path)
    with raises("claim_not_run", tmp_path):
        measured_notes(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"\xff", b'{"metric": "exact_match"}', b'{"schema": 1, "values": {}, "shuffle_rule": "no"}'],
)
def test_a_file_that_is_no_record_is_named(content, tmp_path, raises):
    """Cut off, of another kind, not UTF-8, the results.json of a comparison, or made with another shuffled control."""
    (tmp_path / "results.json").write_bytes(content)
    with raises("not_a_record", tmp_path / "results.json", "schema 1"):
        measured_notes(tmp_path)


def test_annotate_writes_our_figures_without_reading_notes_and_needs_one_of_the_two(records, tmp_path, capsys):
    """The text of the copy has them; a call with neither is wrong."""
    reportlab = pytest.importorskip("reportlab.pdfgen.canvas")
    pypdf = pytest.importorskip("pypdf")
    canvas = reportlab.Canvas(str(tmp_path / "paper.pdf"), pagesize=(612, 792))
    for page in range(1, 15):
        canvas.drawString(72, 400, f"Page {page}")
        canvas.showPage()
    canvas.save()
    call = ["annotate", str(tmp_path / "paper.pdf"), "--out", str(tmp_path / "notes.pdf")]
    assert main([*call, "--results", str(records)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["notes"] == 3
    assert "theirs 57.29" in pypdf.PdfReader(tmp_path / "notes.pdf").pages[8].extract_text()
    assert main(call) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.endswith("[setting_missing]") and "--notes" in said and "--results" in said
