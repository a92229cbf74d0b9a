"""An experiment of one size, and the claims that it decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from llm_jepa.runs.settings import Settings

from .verdicts import Check

Scale = Literal["full", "tiny"]

SEEDS = [82, 23, 37, 84, 4]
"""The papers' seeds."""


@dataclass(frozen=True)
class Plan:
    """An experiment of one size, and the claims that it decides.

    Attributes:
        name: Of its folder and of its record.
        recipe: `as_published` or `fixed`.
        stem: Of the data files.
        base: Whether runs start from a model trained here (`reproduce.py`).
        settings: Shared by its arms, without files and folders; `arms` has the fields that each arm changes.
        checks: Claim to its parts.
        also: Claim to arms that are run with it but decide nothing.
        cpu_s: CPU seconds of a run, as measured; None if not measured.
    """

    name: str
    title: str
    scale: Scale
    recipe: str
    stem: str
    base: bool
    settings: Settings
    arms: dict[str, Settings]
    checks: dict[str, tuple[Check, ...]]
    also: dict[str, tuple[str, ...]] = field(default_factory=dict)
    cpu_s: float | None = None

    @property
    def workers(self) -> int:
        """Runs at the same time: one on a GPU, two on the cores of a small machine."""
        return 1 if self.scale == "full" else 2

    def arms_of(self, claims: Sequence[str]) -> list[str]:
        """Return the arms that these claims need, in the order of the file."""
        needed = {arm for claim in claims for check in self.checks[claim] for arm in check.arms}
        needed |= {arm for claim in claims for arm in self.also.get(claim, ())}
        return [arm for arm in self.arms if arm in needed]

    def measures_of(self, claims: Sequence[str]) -> dict[str, list[str]]:
        """Return each measure that these claims need, with the arms whose values they need."""
        found: dict[str, dict[str, None]] = {}
        for claim in claims:
            for check in self.checks[claim]:
                found.setdefault(check.measure, {}).update(dict.fromkeys(check.arms))
        return {measure: list(arms) for measure, arms in found.items()}

    def experiment(self, arms: Sequence[str], files: Settings, seeds: Sequence[int] | None = None) -> Settings:
        """Return the settings of `compare` for some of its arms; `files` are train_file, test_file and the like."""
        shared = {"recipe": self.recipe} | files | self.settings
        baseline = "ntp" if "ntp" in arms else arms[0]
        chosen = {arm: self.arms[arm] for arm in arms}
        return shared | {"arms": chosen, "baseline": baseline, "seeds": list(seeds or SEEDS), "workers": self.workers}
