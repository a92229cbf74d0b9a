"""Which arm is a control of which: it has all settings of the other but the one that is credited with the gain.

An arm that is better than the baseline and no better than its control owes the gain to something else: to a larger
gradient, or to embeddings that are spread, whatever they are matched with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from llm_jepa.runs.settings import RunConfig

BESIDE_THE_TERM = ("jepa_gamma", "jepa_split")
"""Fields of the objective that say what cross-entropy is trained on, and with what weight."""


def control_arms(
    runs: Mapping[str, RunConfig], baseline: str, compared: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """Return the controls of each arm that has a JEPA term on matching views.

    A control has `shuffle_views`, or `jepa_lambda` 0 (the same path without the term), and every other setting of the
    arm. The baseline is none: it is compared with anyway. Of a grid the chosen cell is compared, and its control may
    be any cell of another: the one that differs in nothing else, whether it was the best of its own grid or not.

    Args:
        runs: The settings of each arm, or cell of one.
        baseline: Name of the baseline.
        compared: The arms, or cells, whose controls are wanted; all by default.
    """
    wanted = [arm for arm in (runs if compared is None else compared) if arm != baseline]
    return {
        arm: [other for other, run in runs.items() if other not in (arm, baseline) and _is_control(run, runs[arm])]
        for arm in wanted
        if runs[arm].jepa.has_term and not runs[arm].data.shuffle_views
    }


def _is_control(other: RunConfig, own: RunConfig) -> bool:
    if _without_term(other) != _without_term(own):
        return False
    if other.jepa.jepa_lambda == 0:
        return True  # whatever the term would have been
    return other.data.shuffle_views and other.jepa == own.jepa


def _without_term(run: RunConfig) -> dict[str, Any]:
    """Return the settings of a run but for those of its JEPA term and for the shuffling of its views."""
    parts = {field.name: getattr(run, field.name) for field in dataclasses.fields(run) if field.name != "settings"}
    parts["data"] = dataclasses.replace(run.data, shuffle_views=False)
    parts["jepa"] = {
        field.name: getattr(run.jepa, field.name)
        for field in dataclasses.fields(run.jepa)
        if field.name in BESIDE_THE_TERM or not field.name.startswith("jepa_")
    }
    return parts
