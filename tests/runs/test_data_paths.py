"""A path in a config is next to the config, or in the current folder; a run that was moved finds its data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from llm_jepa.data.digest import data_fingerprint
from llm_jepa.errors import DataError
from llm_jepa.runs.data_paths import find_file, read_config
from llm_jepa.runs.folder import RunFolder

ROW = json.dumps({"text": "a", "code": "b"}) + "\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A current folder with a config in `configs/`; files are written into either."""
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)

    def read(settings: dict, *files: str, **changes: object) -> dict:
        for file in files:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(ROW)
        Path("configs/my.yaml").write_text(yaml.safe_dump(settings))
        return read_config("configs/my.yaml", changes)

    return read


def test_a_path_is_looked_for_next_to_the_config_and_then_in_the_current_folder(project):
    """A path of `--set` starts from the current folder alone."""
    settings = {"train_file": "train.jsonl", "test_file": "test.jsonl"}
    read = project(settings, "configs/train.jsonl", "train.jsonl", "test.jsonl")
    assert read == {"train_file": "configs/train.jsonl", "test_file": "test.jsonl"}
    assert project(settings, train_file="train.jsonl")["train_file"] == "train.jsonl"


def test_names_of_arms_pick_some_of_those_in_the_file(project):
    """`--set 'arms=[two, ntp]'`: an arm of the file keeps its fields and their paths; another may be built in."""
    Path("configs/model").mkdir()
    settings = {"arms": {"one": {"jepa_k": 2}, "two": {"model_name_or_path": "model"}}}
    assert project(settings, arms=["two", "ntp"])["arms"] == {"two": {"model_name_or_path": "configs/model"}, "ntp": {}}
    assert project({}, arms=["ntp"])["arms"] == ["ntp"]
    assert project(settings, arms={"three": {"jepa_k": 3}})["arms"] == {"three": {"jepa_k": 3}}


def test_paths_are_found_however_deep_they_are(project):
    """In lists, test sets by name, arms and grids; patterns, splits of a folder, models."""
    Path("configs/model").mkdir()
    settings = {
        "train_file": ["a.jsonl", "part-*.jsonl", "set:train"],
        "test_files": {"main": "a.jsonl"},
        "arms": {"one": {"views_file": "a.jsonl"}, "two": {"model_name_or_path": "model"}},
        "model_name_or_path": "owner/name",
        "max_steps": 3,
    }
    read = project(settings, "configs/a.jsonl", "configs/part-1.jsonl", "configs/set/train.jsonl")
    assert read["train_file"] == ["configs/a.jsonl", "configs/part-*.jsonl", "configs/set:train"]
    assert read["test_files"] == {"main": "configs/a.jsonl"}
    assert read["arms"] == {"one": {"views_file": "configs/a.jsonl"}, "two": {"model_name_or_path": "configs/model"}}
    assert (read["model_name_or_path"], read["max_steps"]) == ("owner/name", 3)


def test_a_file_in_neither_place_is_refused_with_both(project, tmp_path, raises):
    """And the nearest name; unless `--set` names another."""
    places = ["configs/trian.jsonl", tmp_path / "trian.jsonl"]
    with raises("file_missing", "train_file: trian.jsonl", *places, "train.jsonl?") as caught:
        project({"train_file": "trian.jsonl"}, "configs/train.jsonl")
    assert isinstance(caught.value, DataError)
    assert project({"train_file": "trian.jsonl"}, train_file="owner/name") == {"train_file": "owner/name"}


def test_configs_of_the_project_read_their_data_from_its_root():
    """`../shared/data` is beside the project, not beside `configs`."""
    root = Path(__file__).parents[2]
    for file in (root / "configs").rglob("*.yaml"):
        settings = yaml.safe_load(file.read_text())
        for key in ("train_file", "test_file", "views_file"):
            if key in settings:
                assert not (file.parent / settings[key]).exists()


def finished_run(root: Path, name: str) -> RunFolder:
    """Return a run in `root/runs/x/jepa-s1` that read this file, as it was named."""
    folder = RunFolder(root / "runs" / "x" / "jepa-s1")
    folder.path.mkdir(parents=True)
    folder.write_data({"sha256": data_fingerprint([name])})
    return folder


@pytest.mark.parametrize("kind", ["absolute", "relative", "pattern", "split"])
def test_a_run_that_was_moved_with_its_data_finds_it(tmp_path, monkeypatch, kind, raises):
    """From any current folder; only the very rows that it read are taken."""
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "data").mkdir(parents=True)
    (old / "data" / "test.jsonl").write_text(ROW)
    monkeypatch.chdir(old)
    names = {"relative": "data/test.jsonl", "pattern": "data/*.jsonl", "split": "data:test"}
    name = names.get(kind, str(old / "data" / "test.jsonl"))
    run = finished_run(old, name)
    assert find_file(run, name) == name
    monkeypatch.chdir(tmp_path)
    shutil.move(old, new)
    run = RunFolder(new / "runs" / "x" / "jepa-s1")
    assert find_file(run, name) == str(new / names.get(kind, "data/test.jsonl"))
    (new / "data" / "test.jsonl").write_text(ROW * 2)
    sha256 = run.data()["sha256"][name][:12]
    with raises("file_missing", name, f"The run {run}", f"sha256 {sha256}", "--data"):
        find_file(run, name)


def test_a_data_set_of_the_hub_keeps_its_name(tmp_path):
    """It has no place on this disk."""
    assert find_file(finished_run(tmp_path, "owner/name"), "owner/name:test") == "owner/name:test"


def test_a_plugin_is_looked_for_next_to_the_config_too(project):
    """A module that is installed keeps its name."""
    read = project({"plugins": ["mine.py", "here.py", "my_package.distances"]}, "configs/mine.py", "here.py")
    assert read["plugins"] == ["configs/mine.py", "here.py", "my_package.distances"]
