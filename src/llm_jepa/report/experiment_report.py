"""What an experiment's folder has for readers: figures, tables, Markdown and the page, all with the same numbers.

results.json, run folders  ──▶  figures/*.svg, *.png     tables/*.csv     report.md     report.html
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_jepa.experiments.results import Results
from llm_jepa.files import write_whole
from llm_jepa.geometry.runs_geometry import stored_geometry
from llm_jepa.runs.folder import ExperimentFolder

from .csv_tables import write_tables
from .figures import comparison_name, plot_comparison, plot_curves
from .geometry_figures import plot_geometry
from .grid_figures import plot_grid
from .markdown import MARKDOWN_FILE, experiment_markdown
from .page import settings_text, write_report
from .run_details import curves_of, environment_of, seeds_of


def write_experiment_report(results: Results, folder: Path) -> Path:
    """Write figures, tables, report.md and report.html into an experiment's folder; return the page's path."""
    geometry = stored_geometry(folder, list(results.arms), seeds_of(results))
    pictures = _draw(results, folder, geometry)
    write_tables(results, geometry, folder)
    command = f"llm-jepa compare {shlex.quote(str(ExperimentFolder(folder).settings_file))} --out NEW_FOLDER"
    about: dict[str, Any] = {"geometry": geometry, "command": command}
    settings, environment = settings_text(results), environment_of(results, folder)
    text = experiment_markdown(results, pictures, folder, settings=settings, environment=environment, **about)
    write_whole(folder / MARKDOWN_FILE, text)
    return write_report(results, folder, pictures, **about)


def _draw(results: Results, folder: Path, geometry: Mapping[str, Any] | None) -> list[Path]:
    curves, out = curves_of(results, folder), folder / "figures"
    alarms = {name: arm.alarms for name, arm in results.arms.items()}
    pictures = plot_comparison(results, out)
    for name, other in results.other_tests.items():
        pictures += plot_comparison(other, out, comparison_name(name))
    pictures += plot_curves(curves, None, out, alarms)
    for grid in results.grids.values():
        pictures += plot_grid(grid, out)
    return pictures + (plot_geometry(geometry, out) if geometry is not None else [])
