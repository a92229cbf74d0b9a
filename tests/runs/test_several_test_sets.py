"""A run with several named test sets: each is kept out of training, answered once, and scored as `evaluate` would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_jepa.cli import main
from llm_jepa.data.generated_files import with_files
from llm_jepa.data.prepare import load_data
from llm_jepa.files import read_json_lines
from llm_jepa.runs.claim import differences
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run
from llm_jepa.runs.trained_run import load_run

NUMBERS = range(10, 40)


def write(file: Path, rows: list[tuple[str, str]]) -> str:
    file.write_text("".join(json.dumps({"text": text, "code": code}) + "\n" for text, code in rows))
    return str(file)


@pytest.fixture
def settings(tmp_path):
    """24 training rows, of which one stands in the second test set; 4 test rows in people's words, 2 in the labels'."""
    plain = [(f"lines with the number {number}", f".*{number}.*") for number in NUMBERS]
    asked = [(f"give me every line that has {number} in it", f".*{number}.*") for number in NUMBERS]
    tests = {
        "people": write(tmp_path / "people.jsonl", asked[26:]),
        "own": write(tmp_path / "own.jsonl", [plain[0], plain[27]]),
    }
    return {
        "train_file": write(tmp_path / "train.jsonl", plain[:24]),
        "test_files": tests,
        **{"validation_size": 0, "vocab_size": 300, "max_steps": 3, "max_new_tokens": 4},
        **{"per_device_train_batch_size": 8, "learning_rate": 1e-2, "use_cpu": True},
    }


def test_each_test_set_is_scored_and_kept_out_of_training(settings, tmp_path, capsys):
    """The main one at the top of eval.json, the other under its name; leaks of both are left out."""
    folder = tmp_path / "run"
    report = train_run(read_run(settings), 1, folder)
    summary = json.loads((folder / "data.json").read_text())["summary"]
    assert summary["train"]["dropped"] == {"leak": 1}
    assert (
        (report["num_rows"], report["tests"]["own"]["num_rows"])
        == (4, 2)
        == (
            summary["test"]["kept"],
            summary["test_own"]["kept"],
        )
    )
    assert len(list(read_json_lines(folder / "predictions.jsonl"))) == 4
    assert len(list(read_json_lines(folder / "predictions_own.jsonl"))) == 2
    for name, scores in (("people", report), ("own", report["tests"]["own"])):
        assert main(["evaluate", str(folder), "--data", settings["test_files"][name]]) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert {key: found[key] for key in found.keys() - {"run_dir", "data"}} == {
            key: scores[key] for key in found.keys() - {"run_dir", "data"}
        }


def test_another_main_test_set_is_another_run(settings, tmp_path, raises):
    """The order of the names says which one is the main one."""
    train_run(read_run(settings), 1, tmp_path / "run")
    swapped = dict(reversed(settings["test_files"].items()))
    with raises("settings_changed", "test_files", tmp_path / "run"):
        train_run(read_run(settings | {"test_files": swapped}), 1, tmp_path / "run")


def test_a_run_that_was_moved_with_its_test_sets_finds_them(settings, tmp_path):
    """Each under its name."""
    folder = tmp_path / "run"
    train_run(read_run(settings), 1, folder)
    moved = tmp_path.with_name(f"{tmp_path.name}_moved")
    tmp_path.rename(moved)
    data = load_run(moved / "run").data_with_files()
    assert data.test_files == {name: str(moved / f"{name}.jsonl") for name in ("people", "own")}
    assert data.test_file == data.test_files["people"]


def test_one_test_set_of_several_is_the_run_of_test_file(settings, tmp_path):
    """Further test sets change no answer, as long as no training row stands in them."""
    alone = settings | {"test_files": {"people": settings["test_files"]["people"]}}
    single = {key: value for key, value in settings.items() if key != "test_files"}
    single["test_file"] = settings["test_files"]["people"]
    rows = [list(load_data(read_run(each).data, read_run(each).jepa).test.pairs) for each in (alone, single)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("changes", "code", "values"),
    [
        ({"test_files": {"a/b": "x.jsonl"}}, "name_not_allowed", ["test_files", "'a/b'"]),
        ({"test_files": {}}, "value_empty", ["test_files"]),
        ({"test_files": {"own": ""}}, "value_not_allowed", ["test_files.own=''"]),
        ({"test_file": "other.jsonl"}, "settings_conflict", ["test_file", "test_files"]),
    ],
)
def test_names_and_files_that_cannot_be_test_sets_are_refused(settings, changes, code, values, raises):
    with raises(code, *values):
        read_run(settings | changes)


def test_the_test_rows_are_generated_in_both_phrasings(tmp_path):
    """Two files of the same regexes; the colloquial one is what `colloquial` alone generates."""
    shared = {"generate_train": 20, "generate_views": 10, "generate_test": 8}
    both, one = (
        with_files(read_run(shared | {"generate_test_phrasing": phrasing}).data, tmp_path)
        for phrasing in ("both", "colloquial")
    )
    assert list(both.tests) == ["colloquial", "plain"] and both.test_sets == ["colloquial", "plain"]
    colloquial, plain = (list(read_json_lines(Path(file))) for file in both.tests.values())
    assert [row["code"] for row in colloquial] == [row["code"] for row in plain]
    assert colloquial == list(read_json_lines(Path(one.test_file)))
    assert colloquial != plain


def test_the_order_of_test_sets_and_a_set_where_there_was_none_are_differences():
    """The first set is the main one. `null` in the old settings is a value like any other."""
    two, turned = {"a": "a.jsonl", "b": "b.jsonl"}, {"b": "b.jsonl", "a": "a.jsonl"}
    assert len(differences({"test_files": two}, {"test_files": turned})) == 1
    assert len(differences({"test_files": None}, {"test_files": two})) == 1
    assert differences({"test_files": two, "seed": 1}, {"test_files": dict(two), "seed": 2}, but={"seed"}) == []
