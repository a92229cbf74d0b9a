"""What the documents say is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from llm_jepa.experiments.configuration_page import configuration_page
from llm_jepa.experiments.experiment import read_experiment, read_grids
from llm_jepa.runs.settings import read_yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_python_runs_as_it_is_written(tiny_model):
    """With any model in the place of `model`; it ends in a gradient."""
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {"model": tiny_model("llama")}
    exec(snippet, names)
    assert names["out"].text_pred.shape == names["out"].code_emb.shape == (1, 32)
    assert names["model"].get_input_embeddings().weight.grad is not None


def test_the_readmes_settings_are_accepted():
    """The YAML under "Your own data" is an experiment of three arms and six seeds."""
    block = re.search(r"holds, say,\n\n((?: {4}.*\n)+)", README).group(1)
    experiment, runs = read_experiment(yaml.safe_load(block))
    assert list(runs) == ["ntp", "jepa", "jepa_shuffled"]
    assert len(experiment.seeds) == 6


CONFIGS = [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs" / "search").glob("*.yaml")]


@pytest.mark.parametrize("path", sorted(CONFIGS), ids=lambda path: path.stem)
def test_every_config_is_accepted(path):
    """Arms differ from the baseline in fields of the objective or of a control."""
    settings = read_yaml(path)
    experiment, runs = read_experiment(settings)
    grids = read_grids(settings)
    assert experiment.baseline in grids or experiment.baseline in runs
    assert len(runs) == sum(len(grids[arm].cells) if arm in grids else 1 for arm in experiment.arms)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_of_accelerate_is_read_and_leaves_precision_to_the_run(path):
    """Unknown keys are an error of accelerate's; `precision` stands in a run's settings and is recorded there."""
    config = load_config_from_file(str(path))
    assert config.num_processes == 8 * config.num_machines
    assert config.mixed_precision == "no"


def test_the_configuration_page_is_up_to_date():
    """`python -m llm_jepa.experiments.configuration_page > docs/configuration.md` makes it."""
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == configuration_page()


def test_the_readme_stays_short_and_its_links_lead_somewhere():
    """At most 150 lines; every relative link is a file."""
    assert len(README.splitlines()) <= 150
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target
