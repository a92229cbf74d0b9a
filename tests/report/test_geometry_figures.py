"""Figures of a geometry: their texts, the same file every time, and names that cannot break them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from xml.etree import ElementTree

import pytest
import torch

from llm_jepa.geometry.view_geometry import view_geometry
from llm_jepa.report.geometry_figures import MAPS_TO_A_ROW, _spectra_figure, plot_geometry

SVG = "{http://www.w3.org/2000/svg}"


def found(noise: float = 0.1) -> dict:
    text = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    code = text + noise * torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    return asdict(view_geometry(text, code))


def geometry_of(*names: str, found: dict, file: str = "test.jsonl", predicts: bool = True) -> dict:
    """Runs of the same numbers; all but the first may have a prediction."""
    sides = [{"enc": found} | ({"pred": found} if predicts and number else {}) for number in range(len(names))]
    return {
        "num_pairs": 12,
        "num_codes": 12,
        "split": "test",
        "file": file,
        "mapped_pairs": [{}] * 12,
        "runs": {name: {"sides": each} for name, each in zip(names, sides, strict=True)},
    }


def texts(path) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.parse(path).iter(f"{SVG}text")]


def test_each_figure_says_its_pairs_its_runs_and_its_controls(tmp_path):
    """Number of pairs and split on top; a run without [PRED] is marked; pyplot is not imported."""
    had_pyplot = "matplotlib.pyplot" in sys.modules
    paths = plot_geometry(geometry_of("ntp", "jepa", found=found()), tmp_path)
    assert [path.name for path in paths] == [
        f"{name}.{end}"
        for name in ("singular_values", "embedding_map_enc", "embedding_map_pred")
        for end in ("svg", "png")
    ]
    spectra, _, predictions = (texts(path) for path in paths[::2])
    assert "A − B over 12 test pairs of test.jsonl (12 different codes)" in spectra
    assert {"ntp", "jepa", "matching pairs", "shuffled pairs", "Row-normalised"} <= set(spectra)
    said = [each for each in predictions if each.startswith("gap ")]
    assert len(said) == 2 and said[0].endswith("no [PRED]") and not said[1].endswith("no [PRED]")
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    """So that a figure under version control changes only when a number does."""
    geometry = geometry_of("a", found=found())
    first, again = (plot_geometry(geometry, tmp_path / name) for name in "ab")
    assert [path.name for path in first] == [f"{name}.{end}" for name in NO_PREDICTION for end in ("svg", "png")]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


NO_PREDICTION = ("singular_values", "embedding_map_enc")


def test_a_full_collapse_can_be_drawn(tmp_path):
    """Singular values of 0 on a logarithmic axis, and points that are all one."""
    one = torch.ones(12, 6)
    paths = plot_geometry(geometry_of("flat", found=asdict(view_geometry(one, one))), tmp_path)
    assert {"all points are the same", "no spread"} <= set(texts(paths[2]))
    assert any(each.endswith("collapsed") for each in texts(paths[2]))


def test_what_is_zero_up_to_rounding_does_not_stretch_an_axis(tmp_path):
    """Centred views of few pairs have one singular value less; 1e-15 in its place flattened all curves."""
    text, code = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    few = asdict(view_geometry(text, code))
    assert 0 < few["spectra"]["centred"]["top"][-1] < 1e-10
    figure = _spectra_figure(geometry_of("a", found=few), ["enc"], False)
    assert figure.axes[1].get_ylim()[0] > 1e-3


@pytest.mark.filterwarnings("error")
def test_names_cannot_break_a_figure_and_many_runs_find_room(tmp_path):
    """Dollars are no mathematics, underscores hide nothing, markup is text; the fifth map begins a new row."""
    names = ["_ntp", "a$b$c", "<b>&", "x" * 90, "e"]
    assert len(names) > MAPS_TO_A_ROW
    paths = plot_geometry(geometry_of(*names, found=found(), file="a$b$.jsonl", predicts=False), tmp_path)
    for path in paths[::2]:
        shown = texts(path)
        assert {"_ntp", "a$b$c", "<b>&", "e"} <= set(shown)
        assert any("a$b$.jsonl" in each for each in shown)
