"""Scores of a finished run, as eval.json holds them: those of the main test set at the top, of others under `tests`."""

from __future__ import annotations

from typing import Any

from llm_jepa.processes import on_main

from .folder import RunFolder


def add_scores(
    report: dict[str, Any],
    folder: RunFolder,
    metrics: dict[str, Any],
    records: list[dict[str, Any]],
    test_set: str | None,
) -> None:
    """Write the answers to a test set, and put its scores into what will be eval.json.

    Args:
        report: What eval.json will hold; changed in place.
        folder: The run's folder.
        metrics: What `evaluate` found.
        records: The answers.
        test_set: None for the main test set, whose scores stand at the top; those of others stand under `tests`.
    """
    if test_set is None:
        report |= metrics
    else:
        report.setdefault("tests", {})[test_set] = metrics
    on_main(folder.write_predictions, records, test_set)
