"""Runs in processes of their own, started as the command line starts them."""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import forkserver

import pytest
from safetensors.torch import load_file

from llm_jepa.experiments import jobs, workers
from llm_jepa.experiments.compare import open_experiment
from llm_jepa.experiments.jobs import Job, run_jobs
from llm_jepa.experiments.ray_workers import RayPool
from llm_jepa.experiments.workers import LocalPool
from llm_jepa.runs.claim import claim_folder
from llm_jepa.runs.folder import RunFolder
from llm_jepa.runs.settings import read_run

HAS_RAY = importlib.util.find_spec("ray") is not None
TIMES = ("training_time_s", "evaluation_time_s", "total_time_s", "cost")


def results_of(experiment) -> dict[str, tuple[dict, dict]]:
    """Return scores and weights of each run, without what the clock says."""
    found = {}
    for job in experiment.jobs:
        report = job.folder.evaluation()
        weights = load_file(job.folder.model / "model.safetensors")
        scores = {key: value for key, value in report.items() if key not in TIMES}
        found[job.name] = scores, {name: each.tolist() for name, each in weights.items()}
    return found


@pytest.mark.slow
def test_a_run_gives_the_same_bits_whichever_way_it_is_started(tiny_settings, tmp_path, monkeypatch):
    """By a sweep, beside others, or by `llm-jepa train` in an interpreter of its own; each has a log of its own."""
    settings = tiny_settings(arms=["ntp", "jepa"], seeds=[1], max_steps=2, dropout=0.1)
    alone = open_experiment(settings, tmp_path / "alone")
    for job in alone.jobs:
        command = ["train", str(job.folder.config_file), "--out", str(job.folder)]
        own = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "llm_jepa", *command], check=True, capture_output=True, env=own)
    for method in {workers.METHOD, "spawn"}:
        monkeypatch.setattr(workers, "METHOD", method)
        swept = open_experiment(settings, tmp_path / method)
        assert run_jobs(swept.jobs, 2, lambda: LocalPool(2, {"cpus": 1})) == []
        assert results_of(swept) == results_of(alone)
        for job in swept.jobs:
            log = job.folder.log_file.read_text()
            assert "step" in log and "Traceback" not in log


@pytest.fixture
def job_without_rows(tiny_settings, tmp_path):
    """A run that ends at once."""
    job = Job(
        "none", 1, RunFolder(tmp_path / "none-s1"), read_run(tiny_settings(train_file=str(tmp_path / "gone.jsonl")))
    )
    claim_folder(job.folder, job.run.settings | {"seed": 1})
    return job


def test_a_run_that_cannot_begin_is_a_failure_with_its_reason(job_without_rows):
    """Its exit code is that of the command, and its log says which file is wrong."""
    (failure,) = run_jobs([job_without_rows], 1, lambda: LocalPool(1, {"cpus": 1}), max_retries=2)
    assert failure.exit_code == 2 and failure.reason == "exit code 2"
    assert "gone.jsonl" in failure.log_tail and "Traceback" not in failure.log_tail


def test_a_run_does_not_import_the_script_that_started_it(job_without_rows, tmp_path, monkeypatch):
    """A script needs no `if __name__ == "__main__"`, and what it does is done once."""
    (tmp_path / "script.py").write_text(f"open({str(tmp_path / 'again')!r}, 'w')")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "script.py"), raising=False)
    (failure,) = run_jobs([job_without_rows], 1, lambda: LocalPool(1, {"cpus": 1}))
    assert failure.exit_code == 2 and not (tmp_path / "again").exists()


def test_a_finished_run_is_logged_with_the_times_that_a_watch_would_show(tmp_path, caplog):
    """Training, evaluation and total apart, in lines of at most 80 columns."""
    job = Job("jepa_infonce", 82, RunFolder(tmp_path / "jepa_infonce-s82"))
    job.folder.path.mkdir()
    job.folder.config_file.write_text("metric: exact_match\n")
    times = {"training_time_s": 80.2, "evaluation_time_s": 12.4, "total_time_s": 95.0}
    with caplog.at_level(logging.INFO, logger="llm_jepa"):
        job.folder.write_evaluation(times | {"exact_match": 0.184})
        jobs._report_done(job)
    assert caplog.messages == ["run    jepa_infonce-s82: exact_match 0.184, 95 s (trained 80 s, evaluated 12 s)"]


def test_settings_survive_the_way_to_another_process(tiny_settings):
    """A worker gets them as objects."""
    run = read_run(tiny_settings(learning_rate="1e-3", jepa_k=2))
    assert pickle.loads(pickle.dumps(run)) == run


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install 'llm-jepa[ray]'")
def test_ray_does_the_same_runs_to_the_same_bits(tiny_settings, job_without_rows, tmp_path, raises):
    """On a cluster of this machine; what asks for more than any machine has is refused, not waited for."""
    settings = tiny_settings(arms=["ntp", "jepa"], seeds=[1], max_steps=2)
    local = open_experiment(settings, tmp_path / "local")
    assert run_jobs(local.jobs, 2, lambda: LocalPool(2, {"cpus": 1})) == []
    far = open_experiment(settings, tmp_path / "ray")
    jobs = [*far.jobs, job_without_rows]  # it fails, and the others do not
    (failure,) = run_jobs(jobs, 2, lambda: RayPool({"cpus": 1}), max_retries=1)
    assert failure.job.name == "none-s1" and failure.exit_code == 2
    assert "gone.jsonl" in " ".join(failure.log_tail.split())
    assert results_of(local) == results_of(far)
    with raises("resources_missing", "1 cpus and 1000 gpus"):
        run_jobs(jobs[-1:], 1, lambda: RayPool({"gpus": 1000}))


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_the_error_says_what_to_install(tmp_path, raises):
    with raises("package_missing", "executor=ray", "pip install 'llm-jepa[ray]'"):
        run_jobs([Job("ntp", 1, RunFolder(tmp_path))], 1, lambda: RayPool({}))


def test_nothing_is_started_where_all_is_done(tmp_path):
    """A finished run is known by its DONE; no process is made for it."""
    job = Job("ntp", 1, RunFolder(tmp_path / "ntp-s1"))
    job.folder.path.mkdir()
    job.folder.mark_done()
    assert run_jobs([job], 2, lambda: pytest.fail("no pool was due")) == []
    assert [path.name for path in job.folder.path.iterdir()] == ["DONE"]


@pytest.mark.skipif(workers.METHOD != "forkserver", reason="runs are not forked here")
def test_a_server_that_cannot_start_is_an_error_and_not_a_failure_of_every_run(tmp_path, monkeypatch, capfd, raises):
    """What went wrong stands on standard error."""
    (tmp_path / "broken.py").write_text("raise RuntimeError('this module does not load')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setattr(workers, "PRELOADED", ["broken"])
    server = forkserver.ForkServer()
    for name in ("connect_to_new_process", "set_forkserver_preload"):
        monkeypatch.setattr(forkserver, name, getattr(server, name))
    job = Job("ntp", 1, RunFolder(tmp_path / "ntp-s1"))
    job.folder.path.mkdir()
    with raises("worker_not_started", exit_code=1) as caught:
        run_jobs([job], 1, lambda: LocalPool(1, {}))
    assert caught.value.exit_code == 1
    assert "this module does not load" in capfd.readouterr().err


def test_each_run_has_devices_of_its_own(monkeypatch, raises):
    """Two runs of two GPUs each have different ones; those of a run that has ended are free; too few are refused."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,8")
    given, ended = [], []

    class Running:
        def __init__(self, number):
            self.number = number

        def poll(self):
            return 0 if self.number in ended else None

    def start_run(job, environment, lock):
        given.append(environment["CUDA_VISIBLE_DEVICES"])
        return Running(job)

    monkeypatch.setattr(workers, "start_run", start_run)
    monkeypatch.setattr(workers, "wait_for_server", lambda environment: None)
    pool = LocalPool(2, {"gpus": 2})
    for number in (1, 2):
        pool.start(number)
    ended.append(1)
    pool.start(3)
    ended.append(2)
    pool.start(4)
    assert given == ["4,5", "6,7", "4,5", "6,7"]
    with raises("resources_missing", "workers=3", "resources.gpus=2", "6 GPUs", "has 5"):
        LocalPool(3, {"gpus": 2})
    with raises("settings_conflict", "resources.gpus=0.5", "executor: ray"):
        LocalPool(1, {"gpus": 0.5})


@pytest.mark.parametrize(
    ("environment", "resources", "threads"),
    [({}, {"cpus": 3}, "3"), ({"OMP_NUM_THREADS": "5"}, {}, "5"), ({"OMP_NUM_THREADS": "5"}, {"cpus": 2}, "2")],
)
def test_a_run_has_the_threads_that_were_stated(
    environment: Mapping[str, str], resources: dict[str, float], threads: str, monkeypatch: pytest.MonkeyPatch
):
    """`cpus` if given, else what the environment says, else its share of the cores."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert LocalPool(1, resources).environment["OMP_NUM_THREADS"] == threads
