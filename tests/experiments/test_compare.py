"""An experiment from settings to verdicts: every run once, nothing lost, and what failed is said."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from llm_jepa.cli import main
from llm_jepa.experiments.compare import open_experiment, run_experiment
from llm_jepa.experiments.experiment import read_experiment
from llm_jepa.experiments.summary import summarise
from llm_jepa.runs.settings import read_run

VERDICTS = {"better", "worse", "no difference shown"}


@pytest.fixture(scope="module")
def settings(tiny_settings):
    return tiny_settings(arms={"ntp": {}, "jepa": {"jepa_k": 2}}, seeds=[1, 2], workers=2)


@pytest.fixture(scope="module")
def finished(settings, quick_runs, tmp_path_factory):
    """The folder of a whole experiment, two arms with two seeds, and its results. Read only."""
    folder = tmp_path_factory.mktemp("experiments") / "out"
    results = run_experiment(open_experiment(settings, folder))
    assert sorted(quick_runs) == ["jepa-s1", "jepa-s2", "ntp-s1", "ntp-s2"]
    return folder, results


@pytest.fixture
def copied(finished, quick_runs, tmp_path):
    """A copy of the experiment's folder; `quick_runs` then holds the runs started by the test alone."""
    shutil.copytree(finished[0], tmp_path / "out")
    quick_runs.clear()
    return tmp_path / "out"


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


# ---- results ----


def test_results_have_the_contracts_shape(finished):
    """The contract of results.json, key by key."""
    results = json.loads((finished[0] / "results.json").read_text())
    assert results["metric"] == "exact_match"
    assert list(results["arms"]) == ["ntp", "jepa"]
    for arm in results["arms"].values():
        assert arm["seeds"].keys() == {"1", "2"} and arm["n"] == 2
        assert all(0 <= value <= 1 for value in arm["seeds"].values())
        assert arm["mean"] == pytest.approx(sum(arm["seeds"].values()) / 2) and is_number(arm["std"])
    (comparison,) = results["comparisons"]
    assert (comparison["arm"], comparison["baseline"]) == ("jepa", "ntp")
    assert {"delta", "ci95", "p_value", "p_holm", "verdict"} <= comparison.keys()
    assert comparison["verdict"] in VERDICTS
    assert comparison["delta"] == pytest.approx(results["arms"]["jepa"]["mean"] - results["arms"]["ntp"]["mean"])
    assert results["cost"].keys() == {"ntp", "jepa"}
    assert results["cost"]["ntp"]["flops_ratio"] == 1.0 and 1.0 < results["cost"]["jepa"]["flops_ratio"] < 1.6
    assert all(value["step_time_ratio"] > 0 for value in results["cost"].values())


def test_results_are_those_of_the_runs(finished):
    """Each value of the table is its run's, and the table in CSV says the same."""
    folder, _ = finished
    for arm in ("ntp", "jepa"):
        for seed in (1, 2):
            record = json.loads((folder / f"{arm}-s{seed}" / "eval.json").read_text())
            stored = json.loads((folder / "results.json").read_text())["arms"][arm]["seeds"][str(seed)]
            assert record["exact_match"] == stored and record["seed"] == seed
    with (folder / "results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) >= 2


def test_the_experiment_and_each_run_keep_their_settings(finished, settings):
    """Runs differ in what their arm changes and in the seed, and in nothing else."""
    folder, _ = finished
    assert yaml.safe_load((folder / "experiment.yaml").read_text()) == settings
    shared = {key: value for key, value in settings.items() if key not in ("arms", "seeds", "workers")}
    for name, own in (("ntp-s1", {"jepa_lambda": 0.0, "seed": 1}), ("jepa-s2", {"jepa_k": 2, "seed": 2})):
        assert yaml.safe_load((folder / name / "config.yaml").read_text()) == shared | own


def test_the_results_are_rebuilt_from_the_run_folders_alone(copied, contents):
    """Without its results the experiment has them again, byte for byte; a run's files are only read."""
    before = contents(copied)
    for name in ("results.json", "results.csv"):
        (copied / name).unlink()
    summarise(copied)
    after = contents(copied)
    assert after.keys() == before.keys()
    assert [name for name in before if before[name] != after[name]] == []


# ---- going on ----


def test_a_finished_experiment_is_not_run_again(copied, settings, quick_runs):
    again = run_experiment(open_experiment(settings, copied))
    assert quick_runs == []
    assert again.to_json() == json.loads((copied / "results.json").read_text())


@pytest.mark.slow
def test_a_seed_more_extends_an_experiment(copied, settings, quick_runs, contents):
    """Only what is new is run; finished runs stay byte for byte, and the table has all."""
    before = contents(copied / "ntp-s1")
    results = run_experiment(open_experiment(settings | {"seeds": [1, 2, 5]}, copied)).to_json()
    assert sorted(quick_runs) == ["jepa-s5", "ntp-s5"]
    assert contents(copied / "ntp-s1") == before
    assert [list(arm["seeds"]) for arm in results["arms"].values()] == [["1", "2", "5"]] * 2


def test_an_arm_more_extends_an_experiment(copied, settings):
    """The new arm is what is left to run, seed by seed; the order of arms in the file does not matter."""
    arms = {"jepa": {"jepa_k": 2}, "jepa_shuffled": {}, "ntp": {}}
    experiment = open_experiment(settings | {"arms": arms, "workers": 1}, copied)
    assert [job.name for job in experiment.jobs if not job.folder.is_done] == ["jepa_shuffled-s1", "jepa_shuffled-s2"]
    assert summarise(copied).arms.keys() == {"ntp", "jepa"}  # the report says what is there


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"max_steps": 4}, ["max_steps was 3 and is 4"]),
        ({"margin": 1.0}, ["margin was 'not set' and is 1.0"]),
        ({"learning_rate": 0.1}, ["learning_rate was 'not set' and is 0.1"]),
        ({"arms": {"ntp": {}, "new": {"jepa_k": 3}, "jepa": {"jepa_k": 4}}}, ["jepa-s1 ", "jepa_k was 2"]),
    ],
)
def test_another_experiment_in_the_folder_is_refused_and_nothing_is_touched(
    changes, values, copied, settings, quick_runs, contents, raises
):
    """Exit code 2; not even a folder for an arm that would have been new is made."""
    before, folders = contents(copied), sorted(copied.iterdir())
    with raises("settings_changed", copied, *values) as error:
        open_experiment(settings | changes, copied)
    assert error.value.exit_code == 2
    assert contents(copied) == before and sorted(copied.iterdir()) == folders and quick_runs == []


def test_a_margin_is_tested_in_every_comparison_with_the_baseline(copied, raises):
    """In points in the YAML; results.json has it beside each comparison. One that is no number of points is refused."""
    file = copied / "experiment.yaml"
    file.write_text(file.read_text() + "margin: 1.5\n")
    assert [each["margin_points"] for each in summarise(copied).to_json()["comparisons"]] == [1.5]
    for wrong in (0, -1, 100):
        with raises("value_out_of_range", f"margin={wrong}"):
            read_experiment({"margin": wrong})
    with raises("wrong_type", "margin='much'"):
        read_experiment({"margin": "much"})


def test_a_folder_with_something_else_in_it_is_refused(settings, tmp_path, raises):
    (tmp_path / "thesis.txt").write_text("years of work")
    with raises("folder_not_empty", tmp_path):
        open_experiment(settings, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_experiment_that_was_killed_before_its_first_run_goes_on(settings, tmp_path):
    """Whatever was written by then, the folder is known as this experiment's."""
    open_experiment(settings, tmp_path / "out")
    for run in ("jepa-s1", "jepa-s2", "ntp-s2"):
        shutil.rmtree(tmp_path / "out" / run)
    experiment = open_experiment(settings, tmp_path / "out")
    assert all(job.folder.has_settings and not job.folder.is_done for job in experiment.jobs)


def test_settings_that_were_refused_before_any_step_may_be_corrected(settings, tmp_path, raises):
    """Runs that never began hold nothing to lose: the same folder takes the corrected settings."""
    open_experiment(settings, tmp_path / "out")
    corrected = settings | {"max_steps": settings["max_steps"] + 1}
    experiment = open_experiment(corrected, tmp_path / "out")
    for job in experiment.jobs:
        assert job.folder.settings()["max_steps"] == corrected["max_steps"]
    experiment.jobs[0].folder.metrics_file.write_text("")
    with raises("settings_changed", "max_steps was"):
        open_experiment(settings, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks the comparison")
def test_a_comparison_that_is_stopped_midway_goes_on_with_the_rest(settings, quick_runs, contents, tmp_path):
    """SIGTERM after the first finished run: exit code 143, no results yet; then only the others are run."""
    config, folder = tmp_path / "config.yaml", tmp_path / "out"
    config.write_text(yaml.safe_dump(settings))

    def compare():
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        sys.exit(main(["compare", str(config), "--out", str(folder), "--workers", "1"]))

    process = multiprocessing.get_context("fork").Process(target=compare)
    process.start()
    while process.is_alive() and not (folder / "ntp-s1" / "DONE").is_file():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    done = {path.parent.name for path in folder.glob("*/DONE")}
    assert process.exitcode == 143 and "ntp-s1" in done and len(done) < 4
    assert not (folder / "results.json").exists()

    before = {name: contents(folder / name) for name in done}
    quick_runs.clear()
    results = run_experiment(open_experiment(settings, folder))
    assert sorted(quick_runs) == sorted({"ntp-s1", "jepa-s1", "ntp-s2", "jepa-s2"} - done)
    assert {name: contents(folder / name) for name in done} == before
    assert [arm.values.n for arm in results.arms.values()] == [2, 2]


# ---- what fails ----


@pytest.mark.slow
def test_a_run_that_fails_stops_no_other_and_is_named_with_its_reason(settings, quick_runs, tmp_path, caplog, raises):
    """A learning rate of 1e30 gives a loss that is not finite; the run after it is done, and kept."""
    hot = {"learning_rate": 1e30, "warmup_steps": 0}
    broken = settings | {"arms": {"hot": hot, "ntp": {}}, "seeds": [1], "workers": 1}
    quick_runs.clear()
    with raises("runs_failed", "1 of 2", "hot-s1", "exit code 1", "[gradient_not_finite]", exit_code=1) as error:
        run_experiment(open_experiment(broken, tmp_path / "out"))
    assert error.value.exit_code == 1
    assert "hot-s1 failed with exit code 1" in caplog.text
    assert quick_runs == ["hot-s1", "ntp-s1"]
    assert [path.parent.name for path in (tmp_path / "out").glob("*/DONE")] == ["ntp-s1"]

    quick_runs.clear()
    with raises("runs_failed", "1 of 2", exit_code=1):
        run_experiment(open_experiment(broken, tmp_path / "out"))
    assert quick_runs == ["hot-s1"]
    assert summarise(tmp_path / "out").arms["ntp"].values.n == 1


def test_a_broken_row_is_told_before_any_run_starts(settings, quick_runs, tmp_path, raises):
    """File and line; and no folder is made."""
    (tmp_path / "train.jsonl").write_text('{"text": "a", "code": "b"}\n{"text": "a"\n')
    quick_runs.clear()
    with raises("not_json", "train.jsonl:2") as error:
        open_experiment(settings | {"train_file": str(tmp_path / "train.jsonl")}, tmp_path / "out")
    assert error.value.exit_code == 2 and quick_runs == [] and not (tmp_path / "out").exists()


def test_a_comparison_needs_rows_that_no_arm_has_seen(settings, tmp_path, raises):
    with raises("setting_missing", "test_file", "test_files"):
        open_experiment({key: value for key, value in settings.items() if key != "test_file"}, tmp_path / "out")


def test_a_report_needs_an_experiment_and_its_baseline(settings, tmp_path, raises):
    with raises("not_an_experiment", tmp_path, "experiment.yaml"):
        summarise(tmp_path)
    open_experiment(settings, tmp_path / "out")
    with raises("run_not_finished", tmp_path / "out", "ntp"):
        summarise(tmp_path / "out")


# ---- other ways in ----


def test_a_dry_run_checks_everything_and_writes_nothing(settings, quick_runs, tmp_path):
    quick_runs.clear()
    experiment = open_experiment(settings, tmp_path / "out", dry_run=True)
    assert [job.name for job in experiment.jobs] == ["ntp-s1", "jepa-s1", "ntp-s2", "jepa-s2"]
    assert "train 52" in experiment.notes[0] and quick_runs == [] and not (tmp_path / "out").exists()


def test_generated_pairs_are_the_same_files_for_every_run(settings, tmp_path):
    """Without a training file, the experiment makes its own once, and its runs name them."""
    made = {key: value for key, value in settings.items() if key not in ("train_file", "test_file")}
    made |= {"generate_train": 40, "generate_test": 10}
    for _ in range(2):  # the second time they are found again
        experiment = open_experiment(made, tmp_path / "out")
    files = {(run.settings["train_file"], run.settings["test_file"]) for run in experiment.runs.values()}
    ((train, test),) = files
    assert Path(train).parent == tmp_path / "out" / "data"
    assert [len(Path(file).read_text().splitlines()) for file in (train, test)] == [40, 10]


def test_every_generated_file_reaches_every_run(settings, tmp_path):
    """Validation rows of their own and view rows among them: a run reads what the experiment's settings say."""
    made = {key: value for key, value in settings.items() if key not in ("train_file", "test_file")}
    made |= {"generate_train": 40, "generate_test": 10, "generate_validation": 12, "generate_views": 30}
    experiment = open_experiment(made | {"task_views": False}, tmp_path / "out")
    for run in experiment.runs.values():
        again = read_run(run.settings).data
        files = [again.train_file, again.test_file, again.validation_file, again.views_file]
        assert [len(Path(file).read_text().splitlines()) for file in files] == [40, 10, 12, 30]
    assert "validation 12" in experiment.notes[0]
