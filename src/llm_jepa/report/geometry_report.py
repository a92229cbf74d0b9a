"""What `analyze` writes for readers: figures, report.md and report.html, with the numbers of geometry.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_jepa.files import write_whole

from .geometry_content import geometry_answer
from .geometry_figures import plot_geometry, sides_of
from .markdown import MARKDOWN_FILE, geometry_markdown
from .page import write_geometry_report


def write_analysis_report(
    geometry: Mapping[str, Any], folder: Path, command: str | None = None, environment: Mapping[str, Any] | None = None
) -> Path:
    """Draw the figures of a geometry.json next to it, and write report.md and report.html; return the page's path.

    Args:
        geometry: What `analyze_runs` returned.
        folder: Where geometry.json is.
        command: The command that repeats the analysis.
        environment: What `describe_environment` returned.
    """
    pictures = plot_geometry(geometry, folder)
    text = geometry_markdown(geometry, geometry_answer(geometry), sides_of(geometry)[-1], command)
    write_whole(folder / MARKDOWN_FILE, text)
    return write_geometry_report(geometry, folder, pictures, command, environment)
