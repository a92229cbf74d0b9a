"""An experiment's folder as a reader finds it: the same numbers in every file, and as much as a page can carry."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_jepa.experiments.build_results import build_results, write_results
from llm_jepa.experiments.results import Cell, GridResults, Results, RunResult, SeedValues
from llm_jepa.experiments.sentences import alarm_sentences, answer_of, comparison_sentences
from llm_jepa.geometry.runs_geometry import stored_geometry
from llm_jepa.report import experiment_report
from llm_jepa.report.experiment_report import write_experiment_report
from llm_jepa.report.markdown import escaped, experiment_markdown
from llm_jepa.report.page import write_report
from llm_jepa.report.terminal import format_table

ARMS = ("ntp", "jepa", "jepa_infonce", "jepa_shuffled")
MOST_BYTES = 5_000_000


def grid() -> GridResults:
    """Two cells of one axis, of which the second was chosen."""
    cells = tuple(
        Cell(
            f"jepa.k{k}",
            {"jepa_k": k},
            validation=SeedValues({1: 0.31 + 0.1 * k, 2: 0.33 + 0.1 * k}),
            test=SeedValues({1: 0.21 + 0.1 * k, 2: 0.27 + 0.1 * k}),
            chosen=k == 1,
        )
        for k in (0, 1)
    )
    return GridResults("jepa", {"jepa_k": [0, 1]}, "exact_match", True, "exact_match", "jepa.k1", cells)


@pytest.fixture(scope="module")
def written(make_experiment, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """The folder of a whole experiment with its results. Read only."""
    folder = tmp_path_factory.mktemp("experiment")
    results = make_experiment(folder, ARMS, seeds=(1, 2, 3, 4, 5))
    results = replace(results, grids={"jepa": grid()})
    write_results(results, folder)
    write_experiment_report(results, folder)
    return folder, json.loads((folder / "results.json").read_text())


def test_every_part_stands_in_its_file(written):
    """A page, the same as Markdown, each figure as SVG and PNG, each table as CSV."""
    folder, _ = written
    assert (folder / "report.html").is_file() and (folder / "report.md").is_file()
    names = {"comparison", "curves_loss", "curves_accuracy", "curves_jepa_loss", "curves_monitors", "grid_jepa"}
    names |= {"singular_values", "embedding_map_pred"}
    for kind in ("svg", "png"):
        assert {path.stem for path in (folder / "figures").glob(f"*.{kind}")} >= names
    tables = {"arms", "comparisons", "data", "grid_jepa", "geometry", "embedding_map", "singular_values"}
    assert {path.stem for path in (folder / "tables").iterdir()} == tables


def test_an_arm_has_one_colour_in_all_figures(make_experiment, monkeypatch, tmp_path):
    """That of its place in the results, the baseline first: the order in which runs were done does not matter."""
    results = make_experiment(tmp_path, ("ntp", "labelled_only"), seeds=(1,))
    drawn: list[list[str]] = []
    monkeypatch.setattr(experiment_report, "plot_curves", lambda runs, *_: drawn.append(list(runs)) or [])
    monkeypatch.setattr(experiment_report, "plot_geometry", lambda *_: [])
    experiment_report.write_experiment_report(results, tmp_path)
    assert drawn == [list(results.arms)] == [["ntp", "labelled_only"]]


def test_html_markdown_csv_and_json_say_the_same_numbers(written, read_page, tables):
    """Values, differences, intervals, p, verdicts and costs of every arm: those of results.json, in each file."""
    folder, results = written
    page, csv = read_page((folder / "report.html").read_text()), tables(folder / "tables")
    markdown = {row[0]: row for row in markdown_rows((folder / "report.md").read_text()) if len(row) == 10}
    arms = {row["arm"]: row for row in csv["arms"]}
    compared = {row["arm"]: row for row in csv["comparisons"]}
    assert list(arms) == list(ARMS) and list(compared) == list(ARMS[1:])
    for arm, summary in results["arms"].items():
        assert float(arms[arm]["mean"]) == summary["mean"] and int(arms[arm]["n"]) == summary["n"]
        value = f"{100 * summary['mean']:.1f} ± {100 * summary['std']:.1f}"
        assert markdown[arm][2] == value and f"{arm} {value}" in plain(page.words)
        for key in ("step_time_ratio", "flops_ratio"):
            assert float(arms[arm][key]) == results["cost"][arm][key]
    for each in results["comparisons"]:
        row, low, high = compared[each["arm"]], *each["ci95"]
        assert float(row["delta"]) == each["delta"] and float(row["p_holm"]) == each["p_holm"]
        assert (float(row["ci95_low"]), float(row["ci95_high"]), row["verdict"]) == (low, high, each["verdict"])
        delta, ends = f"{100 * each['delta']:+.1f}", (f"{100 * low:+.1f}", f"{100 * high:+.1f}")
        assert markdown[each["arm"]][3] == f"{delta} \\[{ends[0]}, {ends[1]}\\]"
        assert f"{delta} {ends[0]} to {ends[1]} {each['verdict']}" in plain(page.words)
        assert each["verdict"] == markdown[each["arm"]][5]


@pytest.mark.parametrize("margin", [None, 0.03])
def test_each_sentence_about_a_comparison_is_the_same_wherever_it_is_shown(
    margin, make_experiment, read_page, tmp_path
):
    """Terminal, Markdown, page and results.json: against the baseline, against the control, and on the alarms."""
    made = make_experiment(tmp_path, ("ntp", "jepa", "jepa_shuffled"))
    runs = [RunResult(run.arm, run.seed, run.metrics, made.arms[run.arm].alarms.get(run.seed)) for run in made.runs]
    results = build_results(runs, controls={"jepa": ["jepa_shuffled"]}, margin=margin)
    sentences = comparison_sentences(results.main)
    assert [each.split(":")[0] for each in sentences] == ["jepa", "jepa_shuffled", "Beyond its control, jepa"]
    answer = answer_of(results).sentence
    page = plain(read_page(write_report(results, tmp_path).read_text()).words)
    about = {"settings": "", "environment": {"values": {}, "differing": []}, "geometry": None, "command": ""}
    markdown = experiment_markdown(results, [], tmp_path, **about)
    terminal = " ".join(format_table(results).split())
    for each in sentences:
        assert each in page and f"- {escaped(each)}\n" in markdown and each in terminal
    assert answer in page and escaped(answer) in markdown
    assert [alarm in terminal for alarm in alarm_sentences(results.main)] == [True]
    stored = json.loads(write_results(results, tmp_path)[0].read_text())
    assert [each["sentence"] for each in stored["comparisons"]] == sentences[:2]
    assert comparison_sentences(Results.from_json(stored).main) == sentences
    assert answer_of(Results.from_json(stored)) == answer_of(results)


def test_the_cells_of_a_grid_and_the_geometry_agree_too(written, read_page, tables):
    """Cells by row; of the geometry the cosines and the singular values, by arm."""
    folder, results = written
    page, csv = read_page((folder / "report.html").read_text()), tables(folder / "tables")
    rows = markdown_rows((folder / "report.md").read_text())
    for cell, row in zip(results["grids"]["jepa"]["cells"], csv["grid_jepa"], strict=True):
        assert float(row["test_mean"]) == cell["test"]["mean"] and int(row["chosen"]) == cell["chosen"]
        value = f"{100 * cell['test']['mean']:.1f} ± {100 * cell['test']['std']:.1f}"
        assert value in page.words and [r[3] for r in rows if r[0] == cell["arm"]] == [value]
    for row in csv["geometry"]:
        gap = f"{float(row['gap']):.3f}"
        assert [r for r in rows if r[:2] == [row["run"], "pred"] and gap in r]
        assert f"{row['run']} pred {float(row['matched_cosine']):.3f}" in page.words
        top = [
            float(r["singular_value"]) for r in csv["singular_values"] if r["run"] == row["run"] and r["form"] == "raw"
        ]
        assert sum(top) / len(top) == pytest.approx(float(row["raw_mean_top"]))


def test_a_report_of_two_thousand_rows_and_twenty_runs_is_small(written, make_experiment, tmp_path):
    """4 arms, 5 seeds, texts of 300 characters: with all pictures and maps of 150 pairs less than 5 MB."""
    folder, _ = written
    text = "lines with the string 'dog' & a <vowel> before a number; " * 5
    results = make_experiment(tmp_path, ARMS, seeds=(1, 2, 3, 4, 5), num_rows=2_000, text=text, num_pairs=150)
    geometry = stored_geometry(tmp_path, ARMS[:1], [1])
    assert geometry is not None and len(geometry["mapped_pairs"]) == 150
    geometry |= {"runs": dict.fromkeys(ARMS, geometry["runs"]["ntp"])}  # one map of each kind is enough to be made
    figures = [path for path in (folder / "figures").glob("*.svg") if not path.stem.endswith("_narrow")]
    size = write_report(results, tmp_path, figures, geometry=geometry).stat().st_size
    assert 500_000 < size < MOST_BYTES


def test_the_geometry_is_of_the_first_seed_that_most_arms_kept(make_experiment, tmp_path):
    """A run without embeddings, or with those of other pairs, is named; with none at all the page has no such part."""
    arms, seeds = ["ntp", "jepa"], (1, 2)
    make_experiment(tmp_path, arms, seeds)
    assert stored_geometry(tmp_path, arms, seeds)["run_seed"] == 1
    (tmp_path / "jepa-s1" / "embeddings.safetensors").write_bytes(b"damaged")
    geometry = stored_geometry(tmp_path, arms, seeds)
    assert (geometry["run_seed"], list(geometry["runs"])) == (2, ["ntp", "jepa"])
    for file in tmp_path.glob("*-s2/embeddings.safetensors"):
        file.unlink()
    assert list(stored_geometry(tmp_path, arms, seeds)["runs"]) == ["ntp"]
    (tmp_path / "ntp-s1" / "embeddings.safetensors").unlink()
    assert stored_geometry(tmp_path, arms, seeds) is None


def markdown_rows(text: str) -> list[list[str]]:
    """Return the cells of every row of every table."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def plain(words: str) -> str:
    """Return text as Markdown and CSV write it: minus signs from the keyboard, no joiners."""
    return words.replace("\N{MINUS SIGN}", "-").replace("\N{WORD JOINER}", "")
