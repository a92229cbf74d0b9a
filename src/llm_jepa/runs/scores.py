"""Scores of a finished run in eval.json: those of the main test set at the top level, those of others in `tests`."""

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
    """Write the answers to a test set, and add its scores to the content of eval.json.

    Args:
        report: The content of eval.json; changed in place.
        folder: The run's folder.
        metrics: The scores from `evaluate`.
        records: The answers.
        test_set: None for the main test set, whose scores are at the top level; those of others are in `tests`.
    """
    if test_set is None:
        report |= metrics
    else:
        report.setdefault("tests", {})[test_set] = metrics
    on_main(folder.write_predictions, records, test_set)
