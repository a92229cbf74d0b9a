"""docs/python.md and the Python of README.md do what they say: their code blocks are run as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset

from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.experiments.experiment import read_experiment
from llm_jepa.objective import distances

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


@pytest.fixture
def in_a_folder(tmp_path, monkeypatch):
    """The current folder is empty, and no distance is registered yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distances, "_registered", {})
    monkeypatch.setattr(distances, "_declared", set())
    return tmp_path


def test_the_blocks_of_the_page_run_in_order(in_a_folder, capsys):
    """Each assertion in them holds; the loop prints its two steps, and the callback's trainer its log."""
    names = {}
    for block in blocks(PAGE, "python"):
        exec(compile(block, "docs/python.md", "exec"), names)
    assert re.findall(r"step (\d): ce_loss [\d.]+, jepa_loss [\d.]+", capsys.readouterr().out) == ["0", "1"]
    assert any("monitor/gap" in line for line in names["trainer"].state.log_history)


def test_the_comparison_of_the_page_finds_its_distance(in_a_folder):
    """The file and the YAML as they are shown: the arm trains with the function of the file."""
    (code,) = (block for block in blocks(PAGE, "python") if block.startswith("# my_distances.py"))
    (in_a_folder / "my_distances.py").write_text(code)
    (settings,) = blocks(PAGE, "yaml")
    _, runs = read_experiment(yaml.safe_load(settings))
    assert runs["jepa_log_cosh"].jepa.jepa_distance == "log_cosh"
    values = distances.get_distance("log_cosh")(torch.zeros(2, 4), torch.ones(2, 4))
    torch.testing.assert_close(values, torch.ones(2).cosh().log())


def test_the_five_lines_of_the_readme_train_and_save(in_a_folder, tiny_model):
    """With any model, tokenizer and Dataset in their places."""
    (snippet,) = blocks(README, "python")
    texts = ["lines with a number", "two dogs", "ends with z"]
    rows = Dataset.from_list([{"prompt": text, "completion": text[::-1]} for text in texts])
    names = {"model": tiny_model("llama", vocab_size=300), "tokenizer": train_tokenizer(texts, 300), "rows": rows}
    exec(snippet, names)
    assert names["trainer"].state.global_step == 3  # epochs, of one batch each
    assert (in_a_folder / "out" / "model.safetensors").is_file() and (
        in_a_folder / "out" / "jepa.safetensors"
    ).is_file()
