"""`llm-jepa analyze`: finished runs side by side, on stated pairs, with numbers that agree with the runs' own."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from llm_jepa.cli import main
from llm_jepa.geometry.geometry_tables import format_geometry
from llm_jepa.geometry.runs_geometry import AnalysisConfig, analyze_runs, run_names
from llm_jepa.objective.distances import unit
from llm_jepa.objective.reference import enc
from llm_jepa.runs.trained_run import load_run


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def analyze(capsys, monkeypatch) -> Callable[..., Said]:
    """Run the command in this process."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*argv: object) -> Said:
        capsys.readouterr()
        try:
            code = main(["analyze", *map(str, argv)])
        except SystemExit as stop:  # argparse
            code = stop.code
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture
def refused(analyze) -> Callable[..., None]:
    """Run a call that must be refused before anything is printed, with this code and these values."""

    def call(argv: Sequence[object], code: str, *values: object) -> None:
        said = analyze(*argv)
        assert said.code == 2 and said.out == "" and "Traceback" not in said.err
        error = " ".join(said.err.partition("llm-jepa: ")[2].split())
        assert error.endswith(f"[{code}]")
        for value in values:
            assert str(value) in error

    return call


def change_settings(run: Path, folder: Path, **changes: Any) -> Path:
    """Copy a run, with other settings."""
    shutil.copytree(run, folder)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    kept = {key: value for key, value in {**settings, **changes}.items() if value is not None}
    (folder / "config.yaml").write_text(yaml.safe_dump(kept))
    return folder


# ---- side by side ----


@pytest.mark.slow
def test_plain_cosine_and_infonce_side_by_side(analyze, runs, tmp_path):
    """The whole command: tables of 80 columns, files that agree with each other and with each run's own evaluation,
    the number of pairs and the split stated, and no run touched."""
    before = {path: path.read_bytes() for run in runs.values() for path in run.rglob("*") if path.is_file()}
    said = analyze(*runs.values(), "--out", tmp_path / "out")
    assert said.code == 0
    *lines, last = said.out.rstrip("\n").split("\n")
    assert max(map(len, lines[:-1])) <= 80  # the one before the last names files
    assert "60 test pairs of test.jsonl" in lines[0] and "float32" in lines[0]
    geometry = json.loads((tmp_path / "out" / "geometry.json").read_text())
    assert (geometry["num_pairs"], geometry["num_rows"], geometry["split"]) == (60, 60, "test")
    assert {name: list(run["sides"]) for name, run in geometry["runs"].items()} == {
        "ntp": ["enc"],
        "jepa": ["enc", "pred"],
        "infonce": ["enc", "pred"],
    }
    for name, run in runs.items():
        own = json.loads((run / "eval.json").read_text())["retrieval"]
        found = list(geometry["runs"][name]["sides"].values())[-1]
        assert found["retrieval"] == pytest.approx(own)
        assert json.loads(last)["runs"][name]["recall@1"] == found["retrieval"]["recall@1"]
        assert 45 <= found["linear_map"]["num_fit"] <= 48 and len(found["spectra"]["raw"]["top"]) == 32
    numbers = list(csv.DictReader((tmp_path / "out" / "geometry.csv").open()))
    assert [(row["run"], row["side"]) for row in numbers] == [
        ("ntp", "enc"), ("jepa", "enc"), ("jepa", "pred"), ("infonce", "enc"), ("infonce", "pred"),
    ]  # fmt: skip
    assert float(numbers[2]["gap"]) == geometry["runs"]["jepa"]["sides"]["pred"]["monitors"]["gap"]
    points = list(csv.DictReader((tmp_path / "out" / "embedding_map.csv").open()))
    assert len(points) == 5 * 2 * 60 and points[0]["source"].endswith("test.jsonl:1")
    assert float(points[0]["pca_1"]) == geometry["runs"]["ntp"]["sides"]["enc"]["embedding_map"]["pca_text"][0][0]
    for name in ("singular_values", "embedding_map_enc", "embedding_map_pred"):
        assert {(tmp_path / "out" / f"{name}{end}").stat().st_size > 1000 for end in (".svg", ".png")} == {True}
    assert before == {path: path.read_bytes() for run in runs.values() for path in run.rglob("*") if path.is_file()}


def test_the_views_are_those_of_one_forward_for_each(runs):
    """Enc(Text) and Enc(Code) of a run with [PRED], pair by pair with nothing of ours but the tokens."""
    run = load_run(runs["jepa"])
    pairs = run.rows(run.data.test_file).pairs
    with torch.no_grad():
        text, code = (
            unit(torch.stack([enc(run.jepa.backbone.layers, ids, torch.device("cpu")) for ids in views]))
            for views in ([pair.text_ids for pair in pairs], [pair.code_ids[:-1] for pair in pairs])
        )
    found = analyze_runs([runs["jepa"]], AnalysisConfig())["runs"]["jepa"]["sides"]["enc"]
    assert found["monitors"]["matched_cosine"] == pytest.approx((text * code).sum(1).mean().item(), abs=1e-5)
    expected = torch.linalg.svdvals(text.double() - code.double())
    assert found["spectra"]["unit"]["top"] == pytest.approx(expected.tolist(), rel=1e-3)


def test_validation_rows_are_those_that_training_looked_at(runs):
    """The last validation of the run, at its last step, has the same gap and rank."""
    own = json.loads((runs["infonce"] / "eval.json").read_text())["validation"]
    geometry = analyze_runs([runs["infonce"]], AnalysisConfig(split="validation"))
    found = geometry["runs"]["infonce"]["sides"]["pred"]["monitors"]
    assert geometry["num_pairs"] == 12 and geometry["split"] == "validation"
    for key in ("matched_cosine", "gap", "effective_rank"):
        assert found[key] == pytest.approx(own[f"monitor/{key}"], abs=1e-5)


def test_training_rows_and_a_file_are_read_as_well(runs, tmp_path):
    """68 of 80 rows are left without the 12 for validation; a file has no split; a row without views is reported."""
    assert analyze_runs([runs["ntp"]], AnalysisConfig(split="train"))["num_rows"] == 68
    rows = [{"text": f"number {n}", "code": f".*{n}.*", "use_jepa": n != 4} for n in range(10)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    geometry = analyze_runs([runs["ntp"], runs["jepa"]], AnalysisConfig(file=str(file)))
    assert (geometry["num_pairs"], geometry["split"], geometry["file"]) == (9, None, str(file))
    assert "left out: 1." in geometry["notes"][0]


def test_fewer_pairs_are_drawn_by_seed_and_the_same_for_all_runs(runs):
    """Another seed draws others; the note says how many there were."""
    folders = [runs["ntp"], runs["jepa"]]
    first, alone, other = (
        analyze_runs(asked, AnalysisConfig(num_pairs=10, seed=seed))
        for asked, seed in ((folders, 1), (folders[1:], 1), (folders[1:], 2))
    )
    assert first["mapped_pairs"] == alone["mapped_pairs"] != other["mapped_pairs"]
    assert len(first["mapped_pairs"]) == 10 and "10 of 60 pairs were drawn, seed 1" in first["notes"][0]


def test_fewer_pairs_than_dimensions_are_stated(analyze, runs, tmp_path):
    """Twenty pairs of 32 dimensions: a dash in the table, the reason below it, null in the file; a ridge helps."""
    said = analyze(runs["ntp"], "--num", 20, "--out", tmp_path)
    assert "exact solution whatever the pairs are" in " ".join(said.out.split())
    assert json.loads(said.out.split("\n")[-2])["runs"]["ntp"]["error"] is None
    said = analyze(runs["ntp"], "--num", 20, "--ridge", 1, "--out", tmp_path)
    assert "exact solution" not in said.out and "ridge 1" in said.out
    assert json.loads(said.out.split("\n")[-2])["runs"]["ntp"]["error"] > 0


def test_the_default_folder_is_beside_the_first_run(analyze, runs):
    """Where an experiment keeps its runs, and no run is touched."""
    said = analyze(runs["ntp"], "--num", 5)
    assert (runs["ntp"].parent / "geometry" / "geometry.json").is_file()
    assert json.loads(said.out.split("\n")[-2])["out"] == str(runs["ntp"].parent / "geometry")


# ---- what can be compared, and what cannot ----


def test_other_hidden_sizes_are_allowed_and_said(runs, train_tiny):
    """The same pairs in 16 dimensions: cosines compare, raw singular values do not."""
    small = train_tiny("small", size=16, jepa_lambda=0.0, max_steps=1)
    geometry = analyze_runs([runs["ntp"], small], AnalysisConfig())
    (note,) = [note for note in geometry["notes"] if "hidden sizes differ" in note]
    assert "ntp 32, small 16" in note and "row-normalised" in note
    assert analyze_runs([runs["ntp"]], AnalysisConfig())["notes"] == []


def test_a_collapsed_run_is_called_that(runs, tmp_path):
    """With zeros in the last norm, except in one direction, all states are equal: the result has a note."""
    shutil.copytree(runs["jepa"], tmp_path / "flat")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "flat" / "model")
    with torch.no_grad():
        model.model.norm.weight[1:] = 0
        model.model.embed_tokens.weight[:, 0] = 9.0
    model.save_pretrained(tmp_path / "flat" / "model")
    geometry = analyze_runs([tmp_path / "flat"], AnalysisConfig())
    assert any("looks collapsed" in note for note in geometry["notes"])


def test_runs_that_read_other_rows_are_refused(refused, runs, tmp_path):
    """Of another file, and of one file read otherwise; with the first rows that differ, and the way out."""
    rows = (runs["ntp"].parent / "test.jsonl").read_text().splitlines()
    (tmp_path / "other.jsonl").write_text("\n".join([rows[0], *rows[2:]]) + "\n")
    other = change_settings(runs["jepa"], tmp_path / "other", test_file=str(tmp_path / "other.jsonl"))
    out = ["--out", tmp_path / "out"]
    differing = ["ntp reads 60 pairs", "other 59", "--data", "test.jsonl:2", "other.jsonl:2"]
    refused([runs["ntp"], other, *out], "data_differs", *differing)
    cut = change_settings(runs["jepa"], tmp_path / "cut", max_test_rows=30)
    refused([runs["ntp"], cut, *out], "data_differs", "cut 30 of")
    assert not (tmp_path / "out" / "geometry.json").exists()


def test_wrong_calls_are_refused(analyze, refused, runs, tmp_path, raises):
    """Each by what is wrong in it."""
    ntp, out = runs["ntp"], ["--out", tmp_path / "out"]
    refused([ntp, ntp.parent / "." / "ntp", *out], "run_repeated", ntp)
    refused([ntp, "--data", "x.jsonl", "--split", "test", *out], "settings_conflict", "--data", "--split")
    refused([tmp_path, *out], "not_a_run", tmp_path)
    refused([ntp, "--num", 3, *out], "value_out_of_range", "num=3", "at least 4")
    refused([ntp, "--ridge", -1, *out], "value_out_of_range", "ridge=-1.0")
    refused([ntp, "--ridge", "nan", *out], "value_out_of_range", "ridge=nan")
    refused([ntp, "--seed=-2", *out], "value_out_of_range", "seed=-2")
    assert analyze(ntp, "--split", "dev", *out).code == 2
    no_test = change_settings(ntp, tmp_path / "no_test", test_file=None)
    refused([no_test, *out], "setting_missing", no_test, "test_file")
    none_aside = change_settings(ntp, tmp_path / "none_aside", validation_size=0)
    refused([none_aside, "--split", "validation", *out], "split_missing", none_aside, "validation")
    with raises("value_not_allowed", "split='dev'"):
        AnalysisConfig(split="dev")


def test_names_are_as_short_as_they_can_be(raises):
    """Seeds of two experiments share a name; their folders do not."""
    assert run_names([Path("x/a/s1"), Path("x/b/s1"), Path("x/b/s2")]) == ["a/s1", "b/s1", "b/s2"]
    with raises("run_missing"):
        run_names([])


# ---- where the views are read ----


def test_the_published_reading_is_at_the_token_before_an_answer(runs, tmp_path):
    """Text and bridge, code and bridge, a forward for each; no [PRED] takes part, so there is one side."""
    run = load_run(runs["jepa"])
    pairs = run.rows(run.data.test_file).pairs
    with torch.no_grad():
        text, code = (
            unit(torch.stack([enc(run.jepa.backbone.layers, ids, torch.device("cpu")) for ids in views]))
            for views in (
                [pair.text_ids + pair.bridge_ids for pair in pairs],
                [pair.code_ids[:-1] + pair.bridge_ids for pair in pairs],
            )
        )
    geometry = analyze_runs([runs["jepa"]], AnalysisConfig(reading="published"))
    sides = geometry["runs"]["jepa"]["sides"]
    assert geometry["reading"] == "published" and list(sides) == ["enc"]
    assert "Views are read at the last token before an answer" in format_geometry(geometry)
    assert max(map(len, format_geometry(geometry).split("\n"))) <= 80
    found = sides["enc"]["monitors"]["matched_cosine"]
    assert found == pytest.approx((text * code).sum(1).mean().item(), abs=1e-5)
    trained = analyze_runs([runs["jepa"]], AnalysisConfig())["runs"]["jepa"]["sides"]["enc"]
    assert found != pytest.approx(trained["monitors"]["matched_cosine"], abs=1e-3)


def test_rows_of_one_text_have_no_token_before_an_answer(refused, runs, tmp_path):
    """So the published reading is refused for them, not answered by another."""
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": f"a line with the number {n}"}) + "\n" for n in range(9)))
    call = [runs["ntp"], "--data", file, "--view", "published", "--out", tmp_path / "out"]
    refused(call, "view_not_readable", "texts.jsonl:1", "--view published")


def test_models_saved_in_half_precision_run_in_float32(runs, tmp_path):
    """The same weights, saved in bfloat16 and as float32 again, give the same numbers."""
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        folder = tmp_path / str(dtype) / "run"
        shutil.copytree(runs["infonce"], folder)
        model = AutoModelForCausalLM.from_pretrained(folder / "model").to(torch.bfloat16).to(dtype)
        model.save_pretrained(folder / "model")
        found[dtype] = analyze_runs([folder], AnalysisConfig())["runs"]["run"]["sides"]["enc"]["monitors"]
    assert found[torch.bfloat16] == found[torch.float32]
