"""An experiment with teachers: a run that is taught comes after its teacher, whatever happens to either."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llm_jepa.experiments import preflight
from llm_jepa.experiments.comparability import check_teachers
from llm_jepa.experiments.compare import open_experiment, run_experiment
from llm_jepa.experiments.experiment import Experiment, read_experiment
from llm_jepa.experiments.jobs import Job, run_jobs
from llm_jepa.files import read_json_lines
from llm_jepa.report.experiment_report import write_experiment_report
from llm_jepa.runs.folder import ExperimentFolder, RunFolder
from llm_jepa.runs.settings import read_yaml
from llm_jepa.yaml_loading import dump_yaml

ROOT = Path(__file__).parents[2]
ARMS = {
    "labelled_only": {"views_ratio": 0, "jepa_lambda": 0.0},
    "ntp": {},
    "jepa": {},
    "self_training": {"teacher": "labelled_only", "jepa_lambda": 0.0},
    "self_training_jepa": {"teacher": "labelled_only"},
    "self_training_jepa_shuffled": {"teacher": "labelled_only", "shuffle_views": True},
    "rewrite_first": {"teacher": "ntp", "rewrite_first": True, "jepa_lambda": 0.0},
}


class Over:
    """A run that is over, with an exit code."""

    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int:
        return self.code

    def ask_to_stop(self) -> None: ...

    def kill(self) -> None: ...


class Instantly:
    """A place where a run is over at once, with an exit code by its arm; the order of starts is kept."""

    def __init__(self, failing: tuple[str, ...] = ()) -> None:
        self.started: list[str] = []
        self.failing = failing

    def start(self, job: Job) -> Over:
        assert job.after is None or job.after.folder.is_done
        self.started.append(job.name)
        if job.arm in self.failing:
            return Over(1)
        job.folder.write_settings({})
        job.folder.write_evaluation({"training_time_s": 0.0, "evaluation_time_s": 1.0, "total_time_s": 1.0})
        job.folder.mark_done()
        return Over(0)

    def close(self) -> None: ...


def jobs(folder: Path) -> list[Job]:
    teacher = Job("teacher", 1, RunFolder(folder / "teacher-s1"))
    pupil = Job("pupil", 1, RunFolder(folder / "pupil-s1"), after=teacher)
    return [pupil, Job("plain", 1, RunFolder(folder / "plain-s1")), teacher]


def test_a_taught_run_begins_when_its_teacher_is_done(tmp_path, monkeypatch):
    """Wherever it stands in the list, and however many runs there are at a time."""
    monkeypatch.setattr("llm_jepa.experiments.jobs.POLL_S", 0.0)
    pool = Instantly()
    assert run_jobs(jobs(tmp_path), 3, lambda: pool) == []
    assert pool.started == ["plain-s1", "teacher-s1", "pupil-s1"]


def test_a_run_whose_teacher_failed_fails_with_that_reason(tmp_path, monkeypatch):
    """It is not started, and the others go on."""
    monkeypatch.setattr("llm_jepa.experiments.jobs.POLL_S", 0.0)
    for each in ("teacher", "pupil"):
        (tmp_path / f"{each}-s1").mkdir()
    pool = Instantly(failing=("teacher",))
    failures = run_jobs(jobs(tmp_path), 2, lambda: pool)
    assert [each.job.name for each in failures] == ["teacher-s1", "pupil-s1"]
    assert "teacher-s1 has no finished run" in failures[1].log_tail and "pupil-s1" not in pool.started
    assert RunFolder(tmp_path / "pupil-s1").failure()["reason"] == "no finished teacher teacher-s1"


def test_a_pupil_of_a_teacher_that_was_trained_again_is_not_compared(tmp_path, raises):
    """By the weights: the same ones, trained again, are the same teacher. A run that rewrites has no answers of it."""
    pupil, _, teacher = jobs(tmp_path)
    teacher.folder.model.mkdir(parents=True)
    pupil.folder.path.mkdir()
    weights = teacher.folder.model / "model.safetensors"
    weights.write_bytes(b"first")
    teacher.folder.write_evaluation({"training_time_s": 1.25})
    teacher.folder.mark_done()
    pupil.folder.write_pseudo_labels([{"answer": "a", "teacher_sha256": teacher.folder.weights_sha256()}])
    records = {pupil: {"cost": {"teacher": {"training_time_s": 1.25}}}, teacher: {"cost": {}}}
    check_teachers(records)
    teacher.folder.write_evaluation({"training_time_s": 1.75})
    check_teachers(records)
    weights.write_bytes(b"other")
    for _ in range(2):
        with raises("teacher_changed", "pupil-s1 (teacher-s1)"):
            check_teachers(records)
        pupil.folder.pseudo_labels_file.unlink(missing_ok=True)


def test_runs_of_equal_cost_come_after_their_teacher_too(tmp_path):
    """So that they are checked against it, and not begun without it."""
    arms = {"ntp": {}, "pupil": {"teacher": "ntp"}}
    config, runs = read_experiment({"train_file": "a.jsonl", "test_file": "b.jsonl", "views_file": "c", "arms": arms})
    job = Experiment(config, runs, ExperimentFolder(tmp_path), []).job("pupil@flops", 82)
    assert job.after.name == "ntp-s82" and job.name == "pupil@flops-s82"


@pytest.mark.parametrize(
    ("arms", "code", "values"),
    [
        ({"ntp": {}, "pupil": {"teacher": "nptt"}}, "unknown_arm", ["arm pupil", "teacher=nptt"]),
        ({"ntp": {}, "a": {"teacher": "ntp"}, "b": {"teacher": "a"}}, "settings_conflict", ["arm b", "teacher=a "]),
    ],
)
def test_a_teacher_is_an_arm_without_a_teacher(arms, code, values, raises):
    files = {"train_file": "a.jsonl", "test_file": "b.jsonl", "views_file": "c.jsonl"}
    with raises(code, *values):
        read_experiment(files | {"arms": arms})


def small_transfer() -> dict[str, Any]:
    """All arms of the transfer experiment with its rivals, two test sets and a margin, made small."""
    return read_yaml(ROOT / "configs" / "transfer_generated.yaml") | {
        **{"generate_train": 24, "generate_views": 40, "generate_test": 6, "views_validation_size": 8},
        **{"vocab_size": 300, "max_steps": 3, "per_device_train_batch_size": 4, "max_new_tokens": 4, "use_cpu": True},
        **{"arms": ARMS, "baseline": "ntp", "seeds": [3], "workers": 2, "margin": 1.0},
    }


@pytest.mark.parametrize(
    "names", [("ntp", "self_training", "rewrite_first"), ("ntp", "rewrite_first", "self_training")]
)
def test_an_arm_that_rewrites_and_one_that_trains_are_both_tried_before(names, tmp_path, monkeypatch):
    """They differ in what the teacher is for alone, in either order."""
    tried = []
    monkeypatch.setattr(preflight, "check_can_rewrite", lambda context: tried.append("rewrites"))
    build = preflight.build_trainer
    monkeypatch.setattr(preflight, "build_trainer", lambda *a, **named: tried.append("trains") or build(*a, **named))
    arms = {"ntp": ARMS["ntp"], "labelled_only": ARMS["labelled_only"]} | {name: ARMS[name] for name in names}
    settings = small_transfer() | {"arms": arms, "baseline": "ntp", "question": "self_training"}
    experiment = open_experiment(settings, tmp_path / "out", dry_run=True)
    assert tried.count("rewrites") == 1 and "trains" in tried
    assert set(experiment.estimates) == set(arms) - {"rewrite_first"}


@pytest.mark.slow
def test_a_comparison_with_teachers_from_one_yaml(quick_runs, tmp_path):
    """The cost of a taught run names its teacher's; each test set has its table."""
    settings = small_transfer()
    folder = tmp_path / "out"
    results = run_experiment(open_experiment(settings, folder), render=write_experiment_report).to_json()
    assert set(results["arms"]) == set(ARMS)
    assert len(quick_runs) == len(ARMS)
    assert results["comparisons"][0]["baseline"] == "ntp"
    for arm, own in ARMS.items():
        cost = RunFolder(folder / f"{arm}-s3").evaluation()["cost"]
        assert ("teacher" in cost) == ("teacher" in own)
    page = (folder / "report.html").read_text()
    assert "rewrites each test text into the other phrasing" in page and "self_training_jepa_shuffled" in page
    assert set(results["tests"]) == {"colloquial", "plain"} and "Test set plain" in page
    assert set(results["tests"]["plain"]["arms"]) == set(ARMS)
    again = run_experiment(open_experiment(settings, folder)).to_json()
    assert len(quick_runs) == len(ARMS) and again["arms"] == results["arms"]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")
def test_a_comparison_that_is_killed_twice_ends_as_one_that_was_not(tmp_path):
    """Teachers, two test sets and a margin from one YAML, by the command line; -9 after one and four runs."""
    config = tmp_path / "config.yaml"
    config.write_text(dump_yaml(small_transfer() | {"save_steps": 1, "seeds": [3, 5]}))
    begin_compare(config, tmp_path / "whole").wait()
    for num_done in (1, 4, None):
        process = begin_compare(config, tmp_path / "killed")
        while num_done and len(list((tmp_path / "killed").glob("*/DONE"))) < num_done and process.poll() is None:
            time.sleep(0.02)
        if num_done:
            assert process.poll() is None, "the runs were over before the kill"
            process.kill()
        assert process.wait() == (-signal.SIGKILL if num_done else 0)
    results, expected = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("killed", "whole"))
    for key in ("arms", "comparisons", "controls", "tests", "retrieval", "views_retrieval", "alarms"):
        assert results[key] == expected[key], key
    assert set(results["tests"]) == {"colloquial", "plain"} and results["comparisons"][0]["margin_points"] == 1.0
    for file in (tmp_path / "whole").glob("*/p*.jsonl"):  # answers to both test sets, pseudo-labels
        lines = [
            [
                {**row, "seconds": None, "source": None}
                for row in read_json_lines(tmp_path / name / file.parent.name / file.name)
            ]
            for name in ("killed", "whole")
        ]
        assert lines[0] == lines[1], file


def begin_compare(config: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "llm_jepa", "compare", str(config), "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
