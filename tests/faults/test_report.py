"""Markup and worse in every text of a report: nothing of it becomes an element, an attribute or a request."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "report"))

from report_cases import HOSTILE, Page, make_experiment, make_geometry, with_text_everywhere

from llm_jepa.report import page as page_module
from llm_jepa.report.figures import plot_comparison
from llm_jepa.report.geometry_report import geometry_page

IMAGE = "data:image/svg+xml;base64,"


@pytest.fixture
def render(tmp_path) -> list[Callable[[str], str]]:
    """The two pages, of `compare` and of `analyze`, with a text in every place where text of data can be."""
    pictures = plot_comparison(make_experiment(tmp_path / "drawn", num_rows=9), tmp_path)

    def experiment(text: str) -> str:
        results = with_text_everywhere(make_experiment(tmp_path, num_rows=9, text=text), text)
        geometry = make_geometry(("ntp", f"arm {text}"), text)
        path = page_module.write_report(results, tmp_path, pictures, f"llm-jepa {text}", geometry)
        return path.read_text(encoding="utf-8")

    def analysis(text: str) -> str:
        geometry, environment = make_geometry(("ntp", f"run {text}"), text), {"cpu": text, text: 1}
        return geometry_page(geometry, [], f"llm-jepa {text}", environment)

    return [experiment, analysis]


def is_inert(text: str, plain: Page) -> bool:
    """Whether a page has the elements and attributes of the plain one, loads nothing, and hides no character."""
    page = Page(text)
    forbidden = [name for _, name in page.names if name.startswith("on") or name in ("style", "id")]
    return (
        (page.elements, page.names) == (plain.elements, plain.names)
        and not forbidden
        and all(value.startswith(IMAGE) for value in page.loads)
        and all(char.isprintable() or char == "\n" for char in text)
    )


def test_g1_no_text_of_the_data_becomes_markup(render, fault_row, monkeypatch):
    """Names of arms, files and settings, texts, answers, titles of points, notes, reasons, machine, command."""
    assert len(set(HOSTILE)) == len(HOSTILE) >= 30
    with fault_row("G1", "markup, scripts and hidden characters in every text of a report", 2 * len(HOSTILE)) as row:
        for page in render:
            plain = Page(page("plain"))
            for payload in HOSTILE:
                assert is_inert(page(payload), plain), payload
                row.passed += 1
    unguarded: Any = page_module._templates().overlay(autoescape=False, finalize=lambda value: value)
    monkeypatch.setattr(page_module, "_templates", lambda: unguarded)
    plain = Page(render[1]("plain"))
    visible = [payload for payload in HOSTILE if "\ud800" not in payload]  # which is not even UTF-8
    assert sum(not is_inert(render[1](payload), plain) for payload in visible) >= 20  # the control: it bites
