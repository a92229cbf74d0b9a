"""What the documents say is what the code does."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from llm_jepa.cli import main
from llm_jepa.experiments.configuration_page import configuration_page
from llm_jepa.experiments.experiment import read_experiment, read_grids
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run, read_yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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


def test_the_commands_of_the_embedding_page_run_as_they_are_written(tiny_settings, tmp_path, monkeypatch):
    """Those of this package in order, then the Python, where sentence-transformers is installed."""
    page = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
    commands = re.findall(r"^ {4}llm-jepa (.*)$", page, flags=re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    train_run(read_run(tiny_settings(max_steps=1)), 82, Path("runs/my/jepa-s82"))
    for name, row in re.findall(r"`(\w+\.jsonl)` (?:has rows )?such as `(\{.*?\})`", page):
        Path(name).write_text(f"{row}\n" * 3, encoding="utf-8")
    is_installed = importlib.util.find_spec("sentence_transformers") is not None
    for command in commands:
        code = main(shlex.split(command))
        assert code == 0 or (code == 2 and "--as encoder" in command and not is_installed), command
    assert len(commands) == 4
    if not is_installed:
        pytest.skip("the extra [encoder] is not installed: pip install 'llm-jepa[encoder]'")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(snippet, names := {})
    assert names["asked"].shape == (1, 128) and names["found"].shape == (2, 128)


def test_the_configuration_page_is_up_to_date():
    """`python -m llm_jepa.experiments.configuration_page > docs/configuration.md` makes it."""
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == configuration_page()


def test_the_readme_stays_short_and_its_links_lead_somewhere():
    """At most 150 lines; every relative link is a file."""
    assert len(README.splitlines()) <= 150
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target


PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_link_of_a_page_leads_somewhere_and_no_table_is_torn(page):
    """`make docs` checks anchors too. A blank line within a table would end it."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(((?!http)[^)#\s]+)", text):
        assert (page.parent / target).exists(), target
    rows = re.findall(r"(?<=\|\n\n)\|.*\n.*", text)
    assert all("\n|---" in first for first in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_no_code_block_belongs_to_an_item_of_a_list(page):
    """GitHub and the site want different indents for it: the site showed a drawing of a row as one line of text."""
    indented = r"^(?:[-*]|\d+\.) .*\n(?:  ?\S.*\n)*\n {4,}\S.*"
    assert re.findall(indented, page.read_text(encoding="utf-8"), flags=re.MULTILINE) == []


def test_the_site_has_every_page_once_and_loads_no_font():
    """A page without a place in the navigation is found by nobody."""
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^ +- .*: (\w+\.md)$", site, flags=re.MULTILINE)) == [page.name for page in PAGES]
    assert re.search(r"^  font: false$", site, flags=re.MULTILINE)
