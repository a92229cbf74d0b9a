"""Runs in processes of their own, started as the command line starts them."""

from __future__ import annotations

import pytest

from llm_jepa.experiments.compare import open_experiment
from llm_jepa.experiments.executor import Job, run_jobs


@pytest.mark.slow
def test_runs_share_nothing_but_their_folder(tiny_settings, tmp_path):
    """Two interpreters at the same time do two runs whole; each has a log of its own."""
    settings = tiny_settings(arms=["ntp", "jepa"], seeds=[1], max_steps=1)
    experiment = open_experiment(settings, tmp_path / "out")
    assert run_jobs(experiment.jobs, workers=2) == []
    assert all(job.is_done and (job.folder / "log.txt").is_file() for job in experiment.jobs)


@pytest.mark.slow
def test_a_run_that_cannot_start_is_a_failure_with_its_reason(tmp_path):
    """A folder whose settings are not there: exit code 2, and the log says which file."""
    (tmp_path / "ntp-s1").mkdir()
    (failure,) = run_jobs([Job("ntp", 1, tmp_path / "ntp-s1")], workers=1)
    assert failure.exit_code == 2 and "config.yaml is not there" in " ".join(failure.log_tail.split())


def test_nothing_is_started_where_all_is_done(tmp_path):
    """A finished run is known by its DONE; no process is made for it."""
    job = Job("ntp", 1, tmp_path / "ntp-s1")
    job.folder.mkdir()
    (job.folder / "DONE").touch()
    assert run_jobs([job], workers=2) == []
    assert [path.name for path in job.folder.iterdir()] == ["DONE"]
