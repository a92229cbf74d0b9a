"""Code of the user's own that a config names: every process that trains imports it, and no other."""

from __future__ import annotations

import json
import logging

import pytest
import yaml

from llm_jepa.cli import main
from llm_jepa.experiments.experiment import read_experiment
from llm_jepa.objective import distances
from llm_jepa.runs.folder import RunFolder
from llm_jepa.runs.settings import read_run
from llm_jepa.training.saving import load_jepa

CODE = """
from llm_jepa import register_distance

def log_cosh(pred, target):
    return (pred - target).cosh().log().mean(-1)

register_distance("log_cosh_of_a_file", log_cosh)
"""
NAME = "log_cosh_of_a_file"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A file that registers a distance, of which this process knows nothing yet."""
    monkeypatch.setattr(distances, "_registered", {})
    monkeypatch.setattr(distances, "_declared", set())
    path = tmp_path / "my_distances.py"
    path.write_text(CODE)
    return path


@pytest.mark.slow
def test_compare_trains_with_a_distance_of_a_file_and_writes_its_name(plugin, tiny_settings, tmp_path, monkeypatch):
    """In the worker process of the run; the saved model is read in a process that does not know the function."""
    settings = tiny_settings(plugins=[str(plugin)], arms={"ntp": {}, "own": {"jepa_distance": NAME}}, seeds=[82])
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(settings))
    assert main(["compare", str(tmp_path / "my.yaml"), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    run = RunFolder(tmp_path / "out" / "own-s82")
    assert json.loads((run.model / "jepa_config.json").read_text())["jepa_distance"] == NAME
    assert str(plugin) in run.data()["sha256"]
    monkeypatch.setattr(distances, "_registered", {})
    monkeypatch.setattr(distances, "_declared", set())
    assert load_jepa(run.model).config.jepa_distance == NAME
    assert main(["report", str(tmp_path / "out")]) == 0
    assert main(["retrieve", str(run.path), "lines with a number"]) == 0


def test_no_code_of_a_folder_runs_where_nothing_is_trained(plugin, tiny_settings):
    """A report of somebody else's experiment reads its settings, and imports none of its files."""
    plugin.write_text("raise SystemExit('was run')")
    settings = tiny_settings(plugins=[str(plugin)], arms={"ntp": {}, "own": {"jepa_distance": NAME}})
    _, runs = read_experiment(settings, trains=False)
    assert runs["own"].jepa.jepa_distance == NAME


@pytest.mark.parametrize(
    ("source", "name", "code", "values"),
    [
        ("import nothing_of_this_name", "my_distances.py", "plugin_not_importable", ["ModuleNotFoundError"]),
        (CODE.replace(f'"{NAME}"', '"cosine"'), "my_distances.py", "name_taken", ["'cosine'"]),
        (CODE, "my_distance.py", "file_missing", ["my_distances.py"]),
        (CODE, "nothing_of_this_name", "plugin_not_importable", []),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named(
    source, name, code, values, plugin, tiny_settings, monkeypatch, raises
):
    plugin.write_text(source)
    monkeypatch.chdir(plugin.parent)
    with raises(code, f"plugins: {name}", *values):
        read_run(tiny_settings(plugins=[name]))


def test_a_name_that_no_plugin_registered_is_refused(plugin, tiny_settings, raises):
    with raises("unknown_distance", "jepa_distance='euclid'", "plugins"):
        read_run(tiny_settings(plugins=[str(plugin)], jepa_distance="euclid"))


def test_a_model_of_an_unknown_distance_says_that_its_loss_is_missing(plugin, make_jepa, caplog, tmp_path):
    from llm_jepa.training.saving import save_jepa

    read_run({"plugins": [str(plugin)], "train_file": "x.jsonl"})
    save_jepa(make_jepa(jepa_distance=NAME), tmp_path / "model")
    distances._registered.clear()
    with caplog.at_level(logging.WARNING):
        load_jepa(tmp_path / "model")
    assert f"the distance {NAME} is not registered here" in caplog.text
