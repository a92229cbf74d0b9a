"""The teacher of a run: another arm's finished run with the same seed, and how it is used.

`pseudo_labels.py` trains on its answers. `rewrite_first.py` trains nothing, and lets it rewrite the question.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from llm_jepa.errors import ConfigError
from llm_jepa.fields import setting

from .folder import ExperimentFolder, RunFolder


@dataclass
class TeacherConfig:
    """Which arm is the teacher, and which of its answers become labels."""

    teacher: str | None = setting(
        None,
        "Self-training: the arm whose finished run with the same seed answers the code side of each row of views_file. "
        "The answers become labels (docs/data.md).",
    )
    pseudo_label_min_likelihood: float = setting(
        0.0, "Leave out rows whose answer is less likely than this for the teacher, from 0 to 1."
    )
    pseudo_label_share: float = setting(
        1.0, "Keep this share of the answers, the most likely ones; above 0, at most 1."
    )
    pseudo_label_gold_file: str | None = setting(
        None,
        "Rows with the true labels (columns as in train_file). The accuracy of the teacher's answers on them is only "
        "reported.",
    )
    rewrite_first: bool = setting(
        False,
        "Train nothing: the teacher rewrites each test text into the other phrasing of views_file, then answers that.",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.pseudo_label_min_likelihood <= 1:
            text = f"pseudo_label_min_likelihood={self.pseudo_label_min_likelihood} must be from 0 to 1."
            raise ConfigError("value_out_of_range", text)
        if not 0 < self.pseudo_label_share <= 1:
            text = f"pseudo_label_share={self.pseudo_label_share} must be above 0 and at most 1."
            raise ConfigError("value_out_of_range", text)
        own = [each.name for each in fields(self) if getattr(self, each.name) != each.default]
        if self.teacher is None and own:
            raise ConfigError("setting_missing", f"{own[0]} needs a teacher. Set teacher to the name of an arm.")


def teacher_run(teacher: str, seed: int, folder: RunFolder) -> RunFolder:
    """Return the folder of a teacher's run, next to that of the run that it teaches; ConfigError if it is not done."""
    run = ExperimentFolder(folder.path.parent).run(teacher, seed)
    if not run.is_done:
        text = f"teacher={teacher}: {run} is not a finished run. Train it first, or use `compare`, which does so."
        raise ConfigError("run_not_finished", text)
    return run


def teacher_cost(teacher: RunFolder) -> dict[str, Any]:
    """Return the cost of a teacher's training: seconds with its evaluations, seconds of its steps alone, and FLOPs."""
    report = teacher.evaluation()
    of_steps = {key: report["cost"][key] for key in ("training_steps_time_s", "training_flops")}
    return {"training_time_s": report["training_time_s"], **of_steps}
