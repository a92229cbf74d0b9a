"""Runs in processes of their own, started as the command line starts them."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping

import pytest
from safetensors.torch import load_file

from llm_jepa.errors import ConfigError, LLMJEPAError
from llm_jepa.experiments import fork_server
from llm_jepa.experiments import workers as workers_module
from llm_jepa.experiments.compare import open_experiment
from llm_jepa.experiments.workers import ForkingPool, Job, StartingPool, local_pool, run_jobs

HAS_RAY = importlib.util.find_spec("ray") is not None
TIMES = ("training_time_s", "cost")


def results_of(experiment) -> dict[str, tuple[dict, dict]]:
    """Return scores and weights of each run, without what the clock says."""
    found = {}
    for job in experiment.jobs:
        report = json.loads((job.folder / "eval.json").read_text())
        weights = load_file(job.folder / "model" / "model.safetensors")
        scores = {key: value for key, value in report.items() if key not in TIMES}
        found[job.name] = scores, {name: each.tolist() for name, each in weights.items()}
    return found


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
def test_a_run_gives_the_same_bits_whichever_way_it_is_started(tiny_settings, tmp_path, monkeypatch):
    """Forked by the server beside others, or in an interpreter of its own; each has a log of its own."""
    settings = tiny_settings(arms=["ntp", "jepa"], seeds=[1], max_steps=2, dropout=0.1)
    forked = open_experiment(settings, tmp_path / "forked")
    assert run_jobs(forked.jobs, workers=2) == []
    monkeypatch.setattr(workers_module, "kind_of_pool", lambda: StartingPool)
    started = open_experiment(settings, tmp_path / "started")
    assert run_jobs(started.jobs, workers=2) == []
    assert results_of(forked) == results_of(started)
    assert all((job.folder / "log.txt").is_file() for job in [*forked.jobs, *started.jobs])


@pytest.mark.slow
def test_a_run_that_cannot_start_is_a_failure_with_its_reason(tmp_path):
    """A folder whose settings are not there: exit code 2, and the log says which file."""
    (tmp_path / "ntp-s1").mkdir()
    (failure,) = run_jobs([Job("ntp", 1, tmp_path / "ntp-s1")], workers=1)
    assert failure.exit_code == 2 and "config.yaml is not there" in " ".join(failure.log_tail.split())


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install 'llm-jepa[ray]'")
def test_ray_does_the_same_runs_to_the_same_bits(tiny_settings, tmp_path):
    """On a cluster of this machine; what asks for more than any machine has is refused, not waited for."""
    settings = tiny_settings(arms=["ntp", "jepa"], seeds=[1], max_steps=2)
    local = open_experiment(settings, tmp_path / "local")
    assert run_jobs(local.jobs, workers=2, resources={"cpus": 1}) == []
    far = open_experiment(settings, tmp_path / "ray")
    (tmp_path / "none").mkdir()
    jobs = [*far.jobs, Job("none", 1, tmp_path / "none")]  # one without settings fails, and the others do not
    (failure,) = run_jobs(jobs, workers=2, executor="ray", resources={"cpus": 1}, max_retries=1)
    assert failure.job.name == "none" and failure.exit_code == 2
    assert "config.yaml is not there" in " ".join(failure.log_tail.split())
    assert results_of(local) == results_of(far)
    with pytest.raises(ConfigError, match=r"a run takes 1 cpus and 1000 gpus, and no machine of the Ray cluster"):
        run_jobs(jobs[-1:], workers=1, executor="ray", resources={"gpus": 1000})


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_the_error_says_what_to_install(tmp_path):
    with pytest.raises(ConfigError, match=r"executor=ray needs Ray: pip install 'llm-jepa\[ray\]'"):
        run_jobs([Job("ntp", 1, tmp_path)], workers=1, executor="ray")


def test_nothing_is_started_where_all_is_done(tmp_path):
    """A finished run is known by its DONE; no process is made for it."""
    job = Job("ntp", 1, tmp_path / "ntp-s1")
    job.folder.mkdir()
    (job.folder / "DONE").touch()
    for where in ("local", "ray"):
        assert run_jobs([job], workers=2, executor=where) == []
    assert [path.name for path in job.folder.iterdir()] == ["DONE"]


def test_a_server_that_cannot_start_is_an_error_with_what_it_said(tmp_path, monkeypatch, quick_runs):
    """Not a failure of every run, each tried again."""
    monkeypatch.setattr(fork_server, "MODULES", ("no_such_module_of_ours",))
    job = Job("ntp", 1, tmp_path / "ntp-s1")
    job.folder.mkdir()
    with pytest.raises(LLMJEPAError, match=r"(?s)ended before any began:.*No module named 'no_such_module_of_ours'"):
        run_jobs([job], workers=1)


def test_devices_are_given_out_and_taken_back(monkeypatch):
    """Two runs of two GPUs each have different ones; what is not there is refused."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,8")
    pool = local_pool(2, {"gpus": 2}, None)
    assert isinstance(pool, ForkingPool | StartingPool)
    take = [pool._take_devices(number)["CUDA_VISIBLE_DEVICES"] for number in (1, 2)]
    assert take == ["4,5", "6,7"]
    pool.give_back(1)
    pool.give_back(1)
    assert pool._take_devices(3) == {"CUDA_VISIBLE_DEVICES": "4,5"}
    with pytest.raises(ConfigError, match=r"workers=3 with resources.gpus=2 take 6 GPUs, and 5 are here"):
        local_pool(3, {"gpus": 2}, None)
    with pytest.raises(ConfigError, match=r"resources.gpus=0.5: parts of a GPU are given out by Ray only"):
        local_pool(1, {"gpus": 0.5}, None)


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
    pool = local_pool(1, resources, None)
    assert isinstance(pool, ForkingPool | StartingPool) and pool.environment["OMP_NUM_THREADS"] == threads
