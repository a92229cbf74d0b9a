"""What the tests of the report share; cases are in report_cases.py, which the tests of faults use too."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

# Helpers next to the tests, and scripts of benchmarks/, which are no packages.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import report_cases

import screenshots
from llm_jepa.experiments.results import Results


@pytest.fixture(scope="session")
def read_page() -> type[report_cases.Page]:
    """Return what reads a page as a browser does."""
    return report_cases.Page


@pytest.fixture(scope="session")
def make_experiment() -> Callable[..., Results]:
    """Return what makes a whole experiment in a folder, its run folders, and returns its results."""
    return report_cases.make_experiment


@pytest.fixture(scope="session")
def make_geometry() -> Callable[..., dict[str, Any]]:
    """Return what makes a geometry.json of some runs."""
    return report_cases.make_geometry


@pytest.fixture(scope="session")
def open_page() -> Iterator[Callable[..., screenshots.Page]]:
    """Open a file in a real browser with network and scripts off, in a window of a given size and colour scheme."""
    if screenshots.find_browser() is None:
        pytest.skip(f"no Chromium found (looked for {', '.join(screenshots.NAMES)}); set CHROMIUM to one")
    with screenshots.running_browser() as browser:

        def open_page(path: Path, width: int, height: int, scheme: str = "light") -> screenshots.Page:
            page = screenshots.Page(browser, width, height, scheme=scheme)
            page.open(path)
            return page

        yield open_page


@pytest.fixture(scope="session")
def tables() -> Callable[[Path], dict[str, list[Mapping[str, str]]]]:
    """Read every CSV file of a folder: name to rows."""

    def read(folder: Path) -> dict[str, list[Mapping[str, str]]]:
        return {path.stem: list(csv.DictReader(path.open(newline=""))) for path in sorted(folder.glob("*.csv"))}

    return read
