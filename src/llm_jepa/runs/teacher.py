"""The teacher of a run: another arm's finished run with the same seed, and what it is for.

`pseudo_labels.py` trains on its answers; `rewrite_first.py` trains nothing, and has it rewrite the question.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from llm_jepa.errors import ConfigError
from llm_jepa.fields import setting

from .folder import ExperimentFolder, RunFolder


@dataclass
class TeacherConfig:
    """Which arm teaches, and which of its answers are taken as labels.

    Raises:
        ValueError: If a number is out of its range, or a setting needs a teacher and there is none.
    """

    teacher: str | None = setting(
        None,
        "Self-training: the arm whose finished run of the same seed answers the code side of each row of views_file. "
        "The answers become labels (docs/data.md).",
    )
    pseudo_label_min_likelihood: float = setting(
        0.0, "Leave out rows whose answer the teacher finds less likely than this, from 0 to 1."
    )
    pseudo_label_share: float = setting(1.0, "Keep this share of the answers, the likeliest, above 0 and at most 1.")
    pseudo_label_gold_file: str | None = setting(
        None,
        "Rows with the true labels (columns as in train_file). The accuracy of the teacher's answers on them is "
        "reported and never used.",
    )
    rewrite_first: bool = setting(
        False,
        "Train nothing: the teacher rewrites each test text into the other phrasing of views_file, then answers it.",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.pseudo_label_min_likelihood <= 1:
            raise ValueError(f"pseudo_label_min_likelihood={self.pseudo_label_min_likelihood} must be from 0 to 1.")
        if not 0 < self.pseudo_label_share <= 1:
            raise ValueError(f"pseudo_label_share={self.pseudo_label_share} must be above 0 and at most 1.")
        own = [each.name for each in fields(self) if getattr(self, each.name) != each.default]
        if self.teacher is None and own:
            raise ValueError(f"{own[0]} needs a teacher. Set teacher to the name of an arm.")


def teacher_run(teacher: str, seed: int, folder: RunFolder) -> RunFolder:
    """Return the folder of a teacher's run, beside that of the run which it teaches.

    Raises:
        ConfigError: If it is not finished.
    """
    run = ExperimentFolder(folder.path.parent).run(teacher, seed)
    if not run.is_done:
        raise ConfigError(
            f"teacher={teacher}: {run} is no finished run. Train it first, or use `compare`, which does so."
        )
    return run


def teacher_cost(teacher: RunFolder) -> dict[str, Any]:
    """Return what a teacher's training took."""
    report = teacher.evaluation()
    return {"training_time_s": report["training_time_s"], "training_flops": report["cost"]["training_flops"]}
