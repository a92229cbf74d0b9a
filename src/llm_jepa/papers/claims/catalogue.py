"""The catalogue: every numeric claim of the three papers, in our words, with its figures.

Papers: LLM-JEPA (arXiv 2509.14252), Semantic Tube Prediction (arXiv 2602.22617), the audit (arXiv 2605.15394).
"""

from __future__ import annotations

import fnmatch
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from llm_jepa.errors import ConfigError, nearest

PACKAGE = "llm_jepa.papers.claims"


@dataclass(frozen=True)
class Claim:
    """One claim. Accuracies are in percent and differences in points, as the papers print them; None is unknown.

    Attributes:
        id: Paper, table or figure, row: `llmjepa.t3.cosine`.
        where: Table or figure, and section.
        v1_page: Page of version 1 that makes the claim.
        claim: What is claimed, in our words.
        regime: pretrain, finetune, lora, pretrain+finetune.
        method: What is compared with the baseline; `jepa_mean` and `jepa_std` are its figures over seeds.
        delta: The method's minus the baseline's.
        p_value: The papers' own, one-tailed.
        config: lr, lr_ft, lambda, k, gamma, epochs, lora_rank, loss_dropout.
        notes: What is assumed, or speaks against the claim.
    """

    id: str
    paper: str
    version: str
    where: str
    v1_page: int | None
    claim: str
    model: str | None
    dataset: str | None
    regime: str | None
    method: str
    metric: str | None
    baseline_mean: float | None
    baseline_std: float | None
    jepa_mean: float | None
    jepa_std: float | None
    delta: float | None
    n_seeds: int | None
    p_value: float | None
    config: dict[str, Any]
    notes: str | None

    @property
    def family(self) -> str:
        """The table or figure; its claims are corrected together: `llmjepa.t3`, `llmjepa.v1.t9`.

        >>> find(["llmjepa.t6.s1.ld0_l1"])[0].family, find(["llmjepa.v1.t9.synth"])[0].family
        ('llmjepa.t6', 'llmjepa.v1.t9')
        """
        parts = self.id.split(".")
        return ".".join(parts[: 3 if parts[1] == "v1" else 2])


@functools.cache
def read_catalogue() -> dict[str, Claim]:
    """Return all claims by id, in the order of the papers."""
    rows = json.loads((resources.files(PACKAGE) / "catalogue.json").read_text(encoding="utf-8"))
    return {row["id"]: Claim(**row) for row in rows}


def find(patterns: Sequence[str]) -> list[Claim]:
    """Return the claims that the ids or shell patterns (`llmjepa.t3.*`) name, in the order of the catalogue.

    Raises:
        ConfigError: If a pattern names no claim; the text has the nearest id.
    """
    catalogue = read_catalogue()
    chosen: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(catalogue, pattern)
        if not found:
            raise ConfigError(
                "unknown_claim",
                f"No claim is called {pattern!r}.{nearest(pattern, catalogue)} `llm-jepa reproduce --list` lists them "
                "all; a pattern such as 'llmjepa.t3.*' names a table.",
            )
        chosen.update(found)
    return [claim for name, claim in catalogue.items() if name in chosen]
