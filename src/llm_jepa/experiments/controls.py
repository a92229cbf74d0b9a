"""Which arm is a control of which: a control has all settings of the other arm, except the one that is tested.

If an arm is better than the baseline but not better than its control, the gain comes from something else, for example
from a larger gradient, or from embeddings that are spread out whatever they are matched with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from llm_jepa.runs.settings import RunConfig

BESIDE_THE_TERM = ("jepa_gamma", "jepa_split")  # they set the weight and the tokens of cross-entropy


def control_arms(
    runs: Mapping[str, RunConfig],
    baseline: str,
    compared: Sequence[str] | None = None,
    *,
    cells_of_baseline: Sequence[str] = (),
) -> dict[str, list[str]]:
    """Return the controls of each arm, or of those `compared`, that has a JEPA term on matching views.

    A control has `shuffle_views`, or `jepa_lambda` 0 (the same path without the term), and every other setting of the
    arm. The baseline is not a control, because every arm is compared with it anyway; neither is an arm that trains like
    the baseline, nor another cell of the baseline's grid. If the arm is a grid, its chosen cell is compared. The
    control of this cell may be any cell of another grid that differs in nothing else, even if it was not the best cell
    of its own grid.
    """
    wanted = [arm for arm in (runs if compared is None else compared) if arm != baseline]
    left_out = {baseline, *cells_of_baseline}
    if runs[baseline].jepa.jepa_lambda == 0:
        plain = _without_term(runs[baseline])
        left_out |= {arm for arm, run in runs.items() if run.jepa.jepa_lambda == 0 and _without_term(run) == plain}
    return {
        arm: [other for other, run in runs.items() if other not in left_out and _is_control(run, runs[arm])]
        for arm in wanted
        if runs[arm].jepa.has_term and not runs[arm].data.shuffle_views
    }


def _is_control(other: RunConfig, own: RunConfig) -> bool:
    if _without_term(other) != _without_term(own):
        return False
    if other.jepa.jepa_lambda == 0:
        return True  # the settings of the term have no effect then
    return other.data.shuffle_views and other.jepa == own.jepa


def _without_term(run: RunConfig) -> dict[str, Any]:
    """Return the settings of a run, except those of its JEPA term and the shuffling of its views."""
    parts = {field.name: getattr(run, field.name) for field in dataclasses.fields(run) if field.name != "settings"}
    parts["data"] = dataclasses.replace(run.data, shuffle_views=False)
    parts["jepa"] = {
        field.name: getattr(run.jepa, field.name)
        for field in dataclasses.fields(run.jepa)
        if field.name in BESIDE_THE_TERM or not field.name.startswith("jepa_")
    }
    return parts
