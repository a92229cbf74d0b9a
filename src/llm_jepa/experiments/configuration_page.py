"""The page docs/configuration.md, made from the settings' own help texts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from llm_jepa.data.config import DataConfig
from llm_jepa.evaluation.evaluate import EvaluationConfig
from llm_jepa.objective import JEPAConfig
from llm_jepa.runs.plugins import PluginConfig
from llm_jepa.runs.settings import OTHER_TRAINER, RECIPES, RecipeConfig, describe_fields
from llm_jepa.runs.teacher import TeacherConfig
from llm_jepa.training.adapters import AdapterConfig
from llm_jepa.training.arguments import JEPATrainingArguments
from llm_jepa.training.models import ModelConfig

from .experiment import BUILT_IN_ARMS, ExperimentConfig

SECTIONS: dict[str, type] = {
    "Experiment": ExperimentConfig,
    "Recipe": RecipeConfig,
    "Data": DataConfig,
    "Model": ModelConfig,
    "Adapter": AdapterConfig,
    "Objective": JEPAConfig,
    "Training": JEPATrainingArguments,
    "Evaluation": EvaluationConfig,
    "Teacher": TeacherConfig,
    "Plugins": PluginConfig,
}

HEAD = """# Configuration

Made from the help texts of the settings; do not edit by hand (see CONTRIBUTING.md).

A `CONFIG.yaml` is flat: these keys, each here with its default in brackets, if it has one. `--set key=value`
overrides one. Under Training are the keys whose default differs from that of `transformers.TrainingArguments`, and
ours; every other field of it (`max_steps`, `num_train_epochs`, ...) is a key by its own name. Unknown keys are
errors.

Files and `--set` are read by YAML 1.2: `yes`, `no`, `on`, `off`, dates and `1:30` are text, `1e-5` is a number, `010`
is 10.

Before the first run, and by `--dry-run`, each arm's model, trainer, optimizer and schedule are built once, without a
step. A missing package or GPU, or a metric that is never measured, ends there with exit code 2.
"""


def configuration_page() -> str:
    """Return the page as Markdown."""
    parts = [HEAD]
    for title, part in SECTIONS.items():
        parts.append(f"\n## {title}\n")
        for name, default, text in describe_fields([part]):
            shown = "the built-in arms below" if name == "arms" else f"`{default}`"
            parts.append(f"- `{name}`: {text}" if default == "None" else f"- `{name}` ({shown}): {text}")
    parts.append("\n## Built-in arms\n")
    for arm, changes in BUILT_IN_ARMS.items():
        parts.append(f"- `{arm}`: {_listed(changes)}")
    parts.append("\n## Recipes\n")
    for recipe, changes in RECIPES.items():
        parts.append(f"- `{recipe}`: {_listed(changes)}")
        for arm, other in OTHER_TRAINER.get(recipe, {}).items():
            parts.append(f"- `{recipe}`, arm `{arm}`: also {_listed(other)}")
    return "\n".join(parts) + "\n"


def _listed(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}: {value}`" for key, value in changes.items()) or "none"


if __name__ == "__main__":
    sys.stdout.write(configuration_page())
