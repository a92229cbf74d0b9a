"""The folders of runs and experiments: how a run is named, what state it is in, and what its files hold."""

from __future__ import annotations

import math

import pytest
import torch

from llm_jepa.runs.folder import ExperimentFolder, RunFolder, arm_at, without_budget


@pytest.mark.parametrize(
    ("arm", "seed"), [("jepa", 82), ("jepa.k1-s2", 7), ("jepa@flops", 0), ("a-s", 4294967295), ("-s1", 1)]
)
def test_a_name_gives_back_arm_and_seed(arm, seed, tmp_path):
    """Also where the arm's own name looks like a run's."""
    assert ExperimentFolder(tmp_path).run(arm, seed).arm_and_seed == (arm, seed)


@pytest.mark.parametrize("name", ["jepa", "-s1", "jepa-s", "jepa-sx", "data", "jepa-s-1"])
def test_another_folder_is_no_run_of_an_arm(name, tmp_path):
    (tmp_path / name).mkdir()
    assert RunFolder(tmp_path / name).arm_and_seed is None
    assert not any(ExperimentFolder(tmp_path).runs_of(arm) for arm in ("jepa", "", "data"))


def test_an_arm_at_a_budget_has_the_settings_of_the_arm():
    assert without_budget(arm_at("jepa.k1", "flops")) == without_budget("jepa.k1") == "jepa.k1"


def test_the_runs_of_an_arm_are_found_by_their_names_alone(tmp_path):
    """An arm whose name begins alike, or that has a budget, is another; seeds are in order of size."""
    folder = ExperimentFolder(tmp_path / "out")
    assert folder.runs_of("jepa") == {}
    for arm, seed in (("jepa", 10), ("jepa", 9), ("jepa.k1", 1), ("jepa@flops", 2), ("[j]epa", 3)):
        folder.run(arm, seed).path.mkdir(parents=True)
    assert list(folder.runs_of("jepa")) == [9, 10] and list(folder.runs_of("[j]epa")) == [3]
    assert folder.runs() == []  # none is claimed yet
    folder.run("jepa", 9).write_settings({"seed": 9})
    assert folder.runs() == [folder.run("jepa", 9)]


def test_a_run_goes_from_claimed_to_begun_to_done(tmp_path):
    """Each state has its file; what a sweep gave up is no failure any more when it is done."""
    run = RunFolder(tmp_path / "jepa-s1")
    assert not (run.has_settings or run.has_begun or run.is_done or run.has_failed)
    run.write_settings({"jepa_k": 2, "seed": 1})
    assert run.has_settings and not run.has_begun and run.settings() == {"jepa_k": 2, "seed": 1}
    run.write_metrics([{"step": 1, "loss": 2.0}])
    assert run.has_begun and not run.is_done
    assert run.missing == ["DONE", "eval.json", "data.json"]
    run.mark_failed({"reason": "exit code 1"})
    assert run.has_failed and run.failure() == {"reason": "exit code 1"}
    run.write_data({"notes": []})
    run.write_evaluation({"exact_match": 0.5})
    run.mark_done()
    assert run.is_done and not run.has_failed and run.failure() is None and run.missing == []


def test_what_is_not_a_number_is_null(tmp_path):
    """JSON has no nan; tensors are numbers."""
    run = RunFolder(tmp_path)
    run.write_metrics([{"step": 1, "loss": math.nan}])
    run.add_metrics({"step": 2, "loss": torch.tensor(1.5), "all": [math.inf, 1]})
    assert run.metrics() == [{"step": 1, "loss": None}, {"step": 2, "loss": 1.5, "all": [None, 1]}]
    run.write_evaluation({"cost": {"step_time_s": math.nan}})
    assert run.evaluation() == {"cost": {"step_time_s": None}}


def test_what_an_earlier_version_did_not_write_is_empty(tmp_path):
    run = RunFolder(tmp_path)
    assert run.environment() == {} and run.data() == {} and run.budget() is None and run.log_tail(3) == ""
    assert ExperimentFolder(tmp_path).results() is None and ExperimentFolder(tmp_path).looks() == []


def test_only_generated_rows_and_an_owner_may_be_there_before_an_experiment(tmp_path):
    folder = ExperimentFolder(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / ".owner.json").touch()
    assert folder.holds_nothing_else
    (tmp_path / "notes.txt").touch()
    assert not folder.holds_nothing_else and not ExperimentFolder(tmp_path / "notes.txt").holds_nothing_else
