"""Grids: an arm whose fields have several values becomes several cells, one for each combination of values.

    jepa: {jepa_k: [0, 1], jepa_lambda: [0.5, 1]}   ->   jepa.k0.lambda0.5  jepa.k0.lambda1  jepa.k1.lambda0.5  ...

Each cell is run like an arm. Its name is made from its values, in the order of the file, so the same cell has the same
name and folder in every experiment.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_jepa.errors import ConfigError

SHORT = {
    "learning_rate": "lr",
    "per_device_train_batch_size": "batch",
    "gradient_accumulation_steps": "accumulation",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
}
"""Short names of fields in names of cells. Other fields have their own name there, without `jepa_`."""

LONGEST_NAME = 120  # characters; a folder's name may have 255, including a seed and ".staging" at its end

# If jepa_lambda is 0, the fields of the objective have no effect, except these: they change the rows or cross-entropy.
ACTS_WITHOUT_JEPA = ("jepa_lambda", "jepa_gamma", "jepa_split", "jepa_views")


@dataclass(frozen=True)
class Grid:
    """An arm and the cells that it stands for."""

    arm: str
    axes: dict[str, list[Any]]  # field to its values, in the order of the file
    cells: dict[str, dict[str, Any]]  # name to coordinates; the last axis changes fastest

    @classmethod
    def of(cls, arm: str, axes: Mapping[str, Sequence[Any]]) -> Grid:
        """Make the cells of an arm; ConfigError if an axis has no values, or one value twice.

        >>> list(Grid.of("jepa", {"jepa_k": [0, 2], "jepa_lambda": [0.5, 1.0]}).cells)
        ['jepa.k0.lambda0.5', 'jepa.k0.lambda1', 'jepa.k2.lambda0.5', 'jepa.k2.lambda1']
        """
        for field, values in axes.items():
            if not values:
                raise ConfigError("value_empty", f"{field}=[] has no value to try. Add values, or remove it.")
            seen = [json.dumps(value, sort_keys=True, default=str) for value in values]
            if twice := [value for value, text in zip(values, seen, strict=True) if seen.count(text) > 1]:
                text = f"{field}={list(values)} has the value {twice[0]!r} twice. Remove one of them."
                raise ConfigError("value_repeated", text)
        labels = _labels(axes)
        cells = {}
        for places in itertools.product(*(range(len(values)) for values in axes.values())):
            parts = [labels[field][place] for field, place in zip(axes, places, strict=True)]
            name = ".".join([arm, *parts])
            if len(name) > LONGEST_NAME:
                name = f"{name[: LONGEST_NAME - 9]}-{_digest(name)}"
            cells[name] = {field: axes[field][place] for field, place in zip(axes, places, strict=True)}
        return cls(arm, {field: list(values) for field, values in axes.items()}, cells)


def is_inert(field: str, arm: Mapping[str, Any]) -> bool:
    """Whether a field of the objective changes nothing in an arm without a JEPA term."""
    return arm.get("jepa_lambda") == 0 and field.startswith("jepa_") and field not in ACTS_WITHOUT_JEPA


def _labels(axes: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """Return what each value of each axis adds to a cell's name; it differs between the values of an axis."""
    names = {field: SHORT.get(field, field.removeprefix("jepa_")) for field in axes}
    if len(set(names.values())) < len(names):
        names = {field: field for field in axes}
    labels = {}
    for field, values in axes.items():
        texts = [_text(value) for value in values]
        labels[field] = [
            names[field] + (text if texts.count(text) == 1 else f"{text}-{_digest(value)}")
            for text, value in zip(texts, values, strict=True)
        ]
    return labels


def _text(value: Any) -> str:
    """Return a value as letters, digits, '_', '-' and '.': a number as it is, anything else after a '-'.

    >>> [_text(value) for value in (2, 1.0, 1e-5, True, None, "stop_grad", "models/base")]
    ['2', '1', '1e-05', '-true', '-none', '-stop_grad', '-models-base']
    """
    if isinstance(value, bool) or value is None:
        return f"-{value}".lower()
    if isinstance(value, int | float):
        return re.sub(r"\.0$", "", repr(value)).replace("+", "")
    text = value if isinstance(value, str) else _digest(value)
    return "-" + (re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-") or _digest(value))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]
