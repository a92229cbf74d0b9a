"""Grids in the report: every cell in its place, the chosen one framed, validation and test separate."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from xml.etree import ElementTree

import pytest

from llm_jepa.experiments.build_results import build_results
from llm_jepa.experiments.equal_cost import Budget
from llm_jepa.experiments.grids import Grid
from llm_jepa.experiments.results import Cell, GridResults, RunResult, SeedValues
from llm_jepa.report.drawing import PALETTE
from llm_jepa.report.grid_figures import grid_slice, plot_grid
from llm_jepa.report.markdown import format_markdown
from llm_jepa.report.page import write_report
from llm_jepa.report.terminal import format_table

SVG = "{http://www.w3.org/2000/svg}"


def grid_of(axes=None, chosen=2, choose_by="exact_match"):
    """A grid whose cell i has 0.50 + i/100 on validation rows, and 0.30 + i/100 on test rows."""
    grid = Grid.of("jepa", axes or {"jepa_k": [0, 1, 2], "jepa_lambda": [0.5, 1.0]})
    cells = tuple(
        Cell(
            name,
            coordinates,
            SeedValues({1: 0.5 + place / 100}),
            SeedValues({1: 0.3 + place / 100}),
            chosen=place == chosen,
        )
        for place, (name, coordinates) in enumerate(grid.cells.items())
    )
    name = cells[chosen].arm if chosen is not None else None
    return GridResults("jepa", grid.axes, choose_by, choose_by != "ce_loss", "exact_match", name, cells)


def texts(path):
    return ["".join(element.itertext()) for element in ElementTree.parse(path).iter(f"{SVG}text")]


def frames(path):
    return path.read_text().count(PALETTE[2].lower())


def test_both_maps_show_every_value_and_the_chosen_cell_in_a_frame(tmp_path):
    """Validation left, test right; rows are the first axis."""
    svg, png = plot_grid(grid_of(), tmp_path)
    assert [path.name for path in (svg, png)] == ["grid_jepa.svg", "grid_jepa.png"]
    shown = texts(svg)
    values = [text for text in shown if "." in text and text.replace(".", "").isdigit() and len(text) == 4]
    assert values == [f"{each:.1f}" for start in (50, 30) for each in range(start, start + 6)]
    assert any("Validation, chosen by: exact match" in text for text in shown)
    assert any("Test, measured afterwards: exact match" in text for text in shown)
    assert shown.count("jepa_k") == shown.count("jepa_lambda") == 2
    assert frames(svg) == 2
    assert frames(plot_grid(grid_of(chosen=None), tmp_path)[0]) == 0  # the control


def test_the_same_grid_gives_the_same_file(tmp_path):
    first = plot_grid(grid_of(), tmp_path)[0].read_bytes()
    again = GridResults.from_json(json.loads(json.dumps(asdict(grid_of()))))
    assert plot_grid(again, tmp_path)[0].read_bytes() == first


def test_a_loss_is_shown_as_it_is_and_said_to_be_better_when_lower(tmp_path):
    shown = texts(plot_grid(grid_of(choose_by="ce_loss"), tmp_path)[0])
    assert "0.500" in shown and "30.0" in shown
    assert any("lower is better" in text for text in shown)


def test_small_shares_have_the_digits_of_the_tables(tmp_path):
    """0.0, as next to it in the table, not 0.000."""
    grid = grid_of()
    cells = tuple(replace(cell, test=SeedValues({1: 0.0})) for cell in grid.cells)
    shown = texts(plot_grid(replace(grid, cells=cells), tmp_path)[0])
    assert "0.0" in shown and "0.000" not in shown


def test_of_three_axes_the_slice_through_the_chosen_cell_is_drawn():
    grid = grid_of({"jepa_k": [0, 1, 2], "learning_rate": [0.1, 0.2], "jepa_lambda": [0.5, 1.0]}, chosen=7)
    cells = grid_slice(grid, ["jepa_k", "learning_rate"])
    assert [cell.coordinates["jepa_lambda"] for cell in cells] == [1.0] * 6
    assert sum(cell.chosen for cell in cells) == 1


def test_cells_without_values_are_left_empty_and_a_grid_without_any_is_not_drawn(tmp_path):
    grid = grid_of()
    empty = {"validation": SeedValues(), "test": SeedValues()}
    cells = list(grid.cells)
    cells[3] = replace(cells[3], **empty, failed={1: "exit code 1"})
    assert texts(plot_grid(replace(grid, cells=tuple(cells)), tmp_path)[0]).count("–") == 2
    assert plot_grid(replace(grid, cells=tuple(replace(cell, **empty) for cell in cells)), tmp_path) == []


def test_one_axis_is_one_row(tmp_path):
    shown = texts(plot_grid(grid_of({"jepa_k": [0, 1, 2, 3]}), tmp_path)[0])
    assert "53.0" in shown and shown.count("jepa_k") == 2


@pytest.fixture
def results():
    """Two arms of which one is a chosen cell, compared at equal steps and equal FLOPs."""

    def compared(arm, delta):
        values = {"ntp": (0.30, 0.31, 0.33), arm: (0.30 + delta, 0.32 + delta, 0.33 + delta)}
        runs = [RunResult(a, s, {"exact_match": v}) for a, by in values.items() for s, v in enumerate(by)]
        return build_results(runs)

    budget = Budget("flops", "jepa.k1.lambda0.5", "ntp", 1720, 2000, 1.16, 1.0)
    again = compared(budget.name, 0.0)
    again = replace(again, budgets={budget.name: budget}, notes=("1,720 steps, not 2,000.",))
    notes = ("Not tuned alike: <b>1 and 6</b>.",)
    return replace(
        compared("jepa.k1.lambda0.5", 0.1), at_equal={"flops": again}, grids={"jepa": grid_of()}, notes=notes
    )


def test_the_page_tells_comparison_equal_cost_and_exploration_apart(results, tmp_path):
    """Three sections, each says what it is; the grid's picture has the two captions; text is escaped."""
    pictures = plot_grid(results.grids["jepa"], tmp_path / "figures")
    html = write_report(results, tmp_path, pictures).read_text()
    words = " ".join(html.split())
    assert (
        words.index("<h2>Every arm") < words.index("<h2>At equal FLOPs") < words.index("<h2>Exploration: the cells of")
    )
    assert "Is jepa.k1.lambda0.5 better than ntp? Yes; no control was run." in words
    assert "1,720 steps, not 2,000." in words and ">1,720</td>" in words
    assert "was chosen by exact_match on validation rows, the highest mean over seeds" in words
    assert "All others are exploration: they were not chosen, and no difference between cells was tested." in words
    assert "Left or above, validation rows: exact_match, by which the framed cell was chosen. Right or below" in words
    assert "&lt;b&gt;1 and 6&lt;/b&gt;" in words and words.count('<span class="right">chosen</span>') == 1


def test_a_grid_without_a_choice_says_so(results, tmp_path):
    results = replace(results, grids={"jepa": grid_of(chosen=None)})
    words = " ".join(write_report(results, tmp_path).read_text().split())
    assert "No cell is chosen, so jepa is not compared." in words


def test_text_and_markdown_show_the_same_three_tables(results):
    for text in (format_table(results), format_markdown(results)):
        first, second = text.index("At equal FLOPs"), text.index("Exploration: the cells of jepa")
        assert text.index("jepa.k1.lambda0.5") < first < second < text.index("Not tuned alike")
        assert "chosen" in text[second:] and "52.0" in text[second:] and "32.0" in text[second:]
    assert max(map(len, format_table(results).splitlines())) <= 80
