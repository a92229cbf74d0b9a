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

from .experiment import ExperimentConfig

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

A `CONFIG.yaml` is flat. These are its keys; a default is in brackets. `--set key=value` overrides a key. The section
Training lists our own keys, and keys of `transformers.TrainingArguments` with another default. Every other field of
`transformers.TrainingArguments` (`max_steps`, `num_train_epochs`, ...) is a key too. Unknown keys are errors.

Files and `--set` are read as YAML 1.2: `yes`, `no`, `on`, `off`, dates and `1:30` are text, `1e-5` is a number, `010`
is 10.

Before the first run, and in a `--dry-run`, each arm's model, trainer, optimizer and schedule are built once, without a
step. If a package or GPU is missing, or a metric is never measured, the command ends then with exit code 2.
"""


def configuration_page() -> str:
    """Return the page as Markdown."""
    parts = [HEAD]
    for title, part in SECTIONS.items():
        parts.append(f"\n## {title}\n")
        for name, default, text in describe_fields([part]):
            shown = "those built in" if name == "arms" else f"`{default}`"
            parts.append(f"- `{name}`: {text}" if default == "None" else f"- `{name}` ({shown}): {text}")
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
