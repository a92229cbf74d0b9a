"""D1 to D5: a sweep loses no run and does none twice, whoever is killed, and has one owner."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
import yaml

from llm_jepa.errors import ConfigError
from llm_jepa.experiments.compare import open_experiment, run_experiment
from llm_jepa.experiments.jobs import run_jobs
from llm_jepa.experiments.workers import LocalPool
from llm_jepa.files import read_json_lines
from llm_jepa.runs.locks import OWNER_FILE, sole_owner, sole_trainer
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")

RUNS, KILLED = 8, 2
RACES = 20
ORPHANS_S = 5.0


@pytest.fixture
def sweep(tiny_settings):
    """Settings of RUNS runs of a few steps, of which each is saved: who is to be killed must live until it is found."""
    quick = {"max_steps": 10, "save_steps": 1, "eval_steps": 10, "validation_generations": 0}
    return tiny_settings(arms={"ntp": {}, "jepa": {}}, seeds=list(range(RUNS // 2)), workers=2, **quick)


def holders(folder: Path) -> dict[int, str]:
    """Return pid and state of each other process that is alive and has a sweep's lock open."""
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            names = [os.readlink(each) for each in (process / "fd").iterdir()]
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # ended meanwhile
            continue
        if any(name.startswith(str(folder.resolve() / OWNER_FILE)) for name in names) and state != "Z":
            found[int(process.name)] = state
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_until(there, timeout_s=60.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not there():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def finished(folder: Path) -> dict[str, int]:
    """Return the runs that are done, and when."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/DONE")}


# ---- D1: a run is killed ----


def kill_runs(folder: Path, count: int) -> threading.Thread:
    """Kill `count` different runs as soon as each has saved its first checkpoint; -9, as the kernel does for memory."""

    def hunt() -> None:
        killed: set[str] = set()
        deadline = time.monotonic() + 120
        while len(killed) < count and time.monotonic() < deadline:
            for pid in holders(folder):
                try:
                    command = {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()}
                except OSError:
                    continue
                # A run holds its own folder too, which the sweep does not.
                runs = {Path(each).name for each in command if Path(each).parent == folder.resolve()}
                for run in runs - killed - {OWNER_FILE}:
                    if (folder / run / "metrics.jsonl").is_file() and not (folder / run / "DONE").is_file():
                        os.kill(pid, signal.SIGKILL)
                        killed.add(run)
                        if len(killed) == count:
                            return
            time.sleep(0.005)

    thread = threading.Thread(target=hunt)
    thread.start()
    return thread


@pytest.mark.slow
def test_d1_a_killed_run_is_marked_and_the_rest_finish_and_a_rerun_does_only_it(
    sweep, quick_runs, tmp_path, caplog, fault_row
):
    """Two of eight runs are killed: both are marked failed with the signal, six are done; then the two are."""
    folder = tmp_path / "out"
    with fault_row("D1", "a run of a sweep is killed (kill -9, as when memory runs out)", RUNS) as row:
        experiment = open_experiment(sweep, folder)
        quick_runs.clear()
        with sole_owner(folder) as lock:
            hunter = kill_runs(folder, KILLED)
            failures = run_jobs(experiment.jobs, 2, lambda: LocalPool(2, {}, lock))
            hunter.join()
        assert len(failures) == KILLED and len(quick_runs) == RUNS
        for failure in failures:
            assert failure.exit_code == -signal.SIGKILL
            record = failure.job.folder.failure()
            assert (record["reason"], record["tries"]) == ("signal 9 (SIGKILL)", 1)
            assert f"{failure.job.name} failed with signal 9 (SIGKILL)" in caplog.text
        before = finished(folder)
        assert len(before) == RUNS - KILLED

        quick_runs.clear()
        run_experiment(open_experiment(sweep, folder))
        assert sorted(quick_runs) == sorted(failure.job.name for failure in failures)  # and no other
        after = finished(folder)
        assert len(after) == RUNS and before.items() <= after.items()
        assert not list(folder.glob("*/FAILED"))
        row.passed = len(after)


def test_d1_a_killed_run_is_tried_again_and_one_that_failed_by_itself_is_not(sweep, quick_runs, tmp_path, fault_row):
    """With a retry nobody notices a kill; a setting that fails is started once, the negative control."""
    hot = {"learning_rate": 1e30, "warmup_steps": 0}
    settings = sweep | {"arms": {"ntp": {}, "hot": hot}, "seeds": [0], "workers": 1}
    with fault_row("D1", "a run of a sweep is killed (kill -9, as when memory runs out)", 1) as row:
        folder = tmp_path / "out"
        experiment = open_experiment(settings, folder)
        quick_runs.clear()
        with sole_owner(folder) as lock:
            hunter = kill_runs(folder, 1)
            (failure,) = run_jobs(experiment.jobs, 1, lambda: LocalPool(1, {}, lock), max_retries=2)
            hunter.join()
        assert quick_runs == ["ntp-s0", "ntp-s0", "hot-s0"]
        assert failure.job.name == "hot-s0" and failure.exit_code == 1
        row.passed = int((folder / "ntp-s0" / "DONE").is_file())
    assert row.passed == 1


@pytest.mark.slow
def test_d1_when_the_fork_server_is_killed_its_runs_are_tried_again(tiny_settings, quick_runs, tmp_path, fault_row):
    """A run saves and ends when its server is gone, and continues under a new one; nothing is done twice."""
    settings = tiny_settings(arms=["ntp"], seeds=[0], max_steps=40, validation_generations=0)
    folder = tmp_path / "out"

    def kill_server():
        wait_until((folder / "ntp-s0" / "metrics.jsonl").is_file)
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)

    with fault_row("D1", "the server that forks the runs is killed", 1) as row:
        experiment = open_experiment(settings, folder)
        quick_runs.clear()
        killer = threading.Thread(target=kill_server)
        killer.start()
        assert run_jobs(experiment.jobs, 1, lambda: LocalPool(1, {}), max_retries=1) == []
        killer.join()
        assert quick_runs == ["ntp-s0"] * 2
        steps = [line["step"] for line in read_json_lines(folder / "ntp-s0" / "metrics.jsonl") if "loss" in line]
        assert steps == list(range(1, 41))
        row.passed = 1


# ---- D2: the sweep itself is killed ----


def kill_sweeps(numbers, sweep, run_child, folder: Path) -> int:
    """Kill the sweep at a random moment, for each number, and start it again; return how often nothing was wrong."""
    fine = 0
    for number in numbers:
        rng = random.Random(number)

        def work():
            run_experiment(open_experiment(sweep, folder))

        before = finished(folder)
        target = min(len(before) + rng.randint(0, 1), RUNS - 1)
        child = run_child(work)
        wait_until(lambda target=target, child=child: len(finished(folder)) >= target and holders(folder))
        time.sleep(rng.uniform(0, 0.5))
        child.kill()
        assert child.wait() == -signal.SIGKILL
        gone = wait_until(lambda: not holders(folder), ORPHANS_S)
        fine += gone and before.items() <= finished(folder).items()
    return fine


def finish(sweep, folder, quick_runs) -> None:
    """Let the sweep end; each run is there once, and none was done after it was DONE."""
    before = finished(folder)
    quick_runs.clear()
    results = run_experiment(open_experiment(sweep, folder))
    assert sorted(quick_runs) == sorted({job.name for job in open_experiment(sweep, folder).jobs} - set(before))
    assert before.items() <= finished(folder).items() and len(finished(folder)) == RUNS
    assert [arm.values.n for arm in results.arms.values()] == [RUNS // 2] * 2
    for run in folder.glob("*/metrics.jsonl"):
        steps = [line["step"] for line in read_json_lines(run) if "loss" in line]
        assert steps == [*range(1, sweep["max_steps"] + 1)]  # a run that was cut short and went on took each step once
    assert not (folder / OWNER_FILE).exists()


@pytest.mark.slow
def test_d2_a_killed_sweep_leaves_no_process_and_goes_on_from_its_folders(
    sweep, quick_runs, run_child, tmp_path, fault_row
):
    """kill -9 of the controller: its runs stop within five seconds, finished ones stay, the next call does the rest."""
    with fault_row("D2", "the controller of a sweep is killed at a random moment", 2) as row:
        row.passed = kill_sweeps(range(2), sweep, run_child, tmp_path / "out")
        finish(sweep, tmp_path / "out", quick_runs)
    assert row.passed == 2


@pytest.mark.long
def test_d2_ten_kills_of_the_controller(sweep, quick_runs, run_child, tmp_path, fault_row):
    """The long run of the same."""
    with fault_row("D2 long", "the controller of a sweep is killed at a random moment", 10) as row:
        row.passed = kill_sweeps(range(100, 110), sweep, run_child, tmp_path / "out")
        finish(sweep, tmp_path / "out", quick_runs)
    assert row.passed == 10


def test_a_child_that_nobody_stops_outlives_its_parent(run_child, tmp_path):
    """Negative control of D2: a process that is killed does not take its children along."""

    def parent():
        pid = os.fork()
        if not pid:
            time.sleep(60)
            os._exit(0)
        (tmp_path / "pid").write_text(str(pid))
        time.sleep(60)

    child = run_child(parent)
    assert wait_until(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
    child.kill()
    child.wait()
    orphan = int((tmp_path / "pid").read_text())
    os.kill(orphan, 0)  # it is there
    assert parent_of(orphan) != child.pid
    os.kill(orphan, signal.SIGKILL)


# ---- D3: two sweeps in one folder ----


def test_d3_of_two_sweeps_in_a_folder_one_is_refused_with_pid_and_host(run_child, tmp_path, fault_row):
    """Both start at once, twenty times: exactly one has the folder; the other says whose it is, and touches nothing."""
    passed = 0
    with fault_row("D3", "two sweeps are started in one folder at once", RACES) as row:
        for number in range(RACES):
            folder, out = tmp_path / f"out{number}", tmp_path / f"said{number}"
            out.mkdir()
            go = tmp_path / f"go{number}"

            def race(folder=folder, out=out, go=go):
                wait_until(go.exists)
                try:
                    with sole_owner(folder):
                        (out / f"owner-{os.getpid()}").touch()
                        wait_until(lambda: list(out.glob("refused-*")), 20)
                except ConfigError as error:
                    (out / f"refused-{os.getpid()}").write_text(f"{error.code}: {error}")

            children = [run_child(race), run_child(race)]
            go.touch()
            assert [child.wait() for child in children] == [0, 0]
            (owner,), (refused,) = out.glob("owner-*"), out.glob("refused-*")
            pid = owner.name.removeprefix("owner-")
            said = refused.read_text()
            assert said.startswith("folder_in_use: ") and str(folder) in said
            assert f"process {pid} on {socket.gethostname()}" in said
            assert not (folder / OWNER_FILE).exists()
            passed += 1
        row.passed = passed


def test_d3_a_sweep_is_refused_while_another_runs_in_its_folder(sweep, tmp_path, contents, raises):
    """By name, when it is opened; nothing is written. Afterwards the same call is fine, the negative control."""
    with sole_owner(tmp_path / "out"):
        before = contents(tmp_path / "out")
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        with raises("folder_in_use", tmp_path / "out", owner) as error:
            open_experiment(sweep, tmp_path / "out")
        assert error.value.exit_code == 2 and contents(tmp_path / "out") == before
    open_experiment(sweep, tmp_path / "out")


def test_d3_an_owner_that_was_killed_is_cleared_away(run_child, tmp_path, caplog, fault_row):
    """Its file is still there, which alone would refuse every later sweep (the negative control); its lock is not."""
    caplog.set_level("INFO")
    with fault_row("D3", "two sweeps are started in one folder at once", 1) as row:

        def hold():
            with sole_owner(tmp_path):
                time.sleep(60)

        child = run_child(hold)
        assert wait_until(lambda: (tmp_path / OWNER_FILE).is_file() and (tmp_path / OWNER_FILE).read_text())
        child.kill()
        child.wait()
        assert json.loads((tmp_path / OWNER_FILE).read_text())["pid"] == child.pid
        with sole_owner(tmp_path):
            assert json.loads((tmp_path / OWNER_FILE).read_text())["pid"] == os.getpid()
        assert f"process {child.pid} on {socket.gethostname()}) did not end by itself" in caplog.text
        row.passed = 1


def test_d3_the_runs_of_a_killed_sweep_keep_its_folder_until_they_end(run_child, tmp_path):
    """A run that still saves must not meet its own successor: the next sweep waits for it."""

    def hold():
        with sole_owner(tmp_path):
            if not os.fork():
                time.sleep(0.5)
                (tmp_path / "saved").touch()
                os._exit(0)
            time.sleep(60)

    child = run_child(hold)
    assert wait_until(lambda: holders(tmp_path).keys() - {child.pid})
    child.kill()
    child.wait()
    with sole_owner(tmp_path):
        assert (tmp_path / "saved").exists()


# ---- D4: the same run, other settings ----


def test_d4_a_run_of_other_settings_is_refused_and_no_byte_is_overwritten(
    tiny_settings, tmp_path, contents, fault_row, raises
):
    """By `train` and by `compare`; the same settings are the negative control, and are read, not run again."""
    settings, run = tiny_settings(max_steps=1), tmp_path / "out" / "jepa-s1"
    with fault_row("D4", "a run's folder is used with other settings", 2) as row:
        report = train_run(read_run(settings), 1, run)
        before = contents(tmp_path)
        with raises("settings_changed", run, "jepa_k was 'not set' and is 2"):
            train_run(read_run(settings | {"jepa_k": 2}), 1, run)
        row.passed += contents(tmp_path) == before
        (tmp_path / "out" / "experiment.yaml").write_text(yaml.safe_dump(settings | {"arms": ["ntp", "jepa"]}))
        before = contents(tmp_path)
        with raises("settings_changed", "jepa-s1", "jepa_k was 'not set' and is 2"):
            open_experiment(settings | {"arms": {"ntp": {}, "jepa": {"jepa_k": 2}}, "seeds": [1]}, tmp_path / "out")
        row.passed += contents(tmp_path) == before
    assert row.passed == 2
    assert train_run(read_run(settings), 1, run) == report


def test_d4_a_run_that_is_being_trained_is_left_alone(run_child, tmp_path, monkeypatch, raises):
    """A second process waits for the first, and gives up; when the first has gone it may train."""
    from llm_jepa.runs import locks

    monkeypatch.setattr(locks, "PATIENCE_S", 0.2)
    here = tmp_path / "here"

    def train():
        with sole_trainer(tmp_path):
            here.touch()
            time.sleep(60)

    child = run_child(train)
    assert wait_until(here.exists)
    with raises("folder_in_use", tmp_path), sole_trainer(tmp_path):
        pass
    child.kill()
    child.wait()
    with sole_trainer(tmp_path):
        pass


# ---- D5: the log is cut ----


def test_d5_a_log_cut_at_any_byte_gives_its_whole_lines(tmp_path, fault_row):
    """Also within a character of two bytes; a plain reading line by line fails there, the negative control."""
    lines = [{"step": step, "loss": 1 / step, "note": "é – 数"} for step in range(1, 6)]
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    file, refused = tmp_path / "metrics.jsonl", 0
    with fault_row("D5", "metrics.jsonl is cut at a byte", len(content) + 1) as row:
        for cut in range(len(content) + 1):
            file.write_bytes(content[:cut])
            row.passed += read_json_lines(file) == lines[: content[:cut].count(b"\n")]
            try:
                [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            except ValueError:
                refused += 1
    assert row.passed == len(content) + 1
    assert refused > 0.9 * len(content)


@pytest.mark.slow
def test_d5_a_run_that_goes_on_after_a_cut_log_has_each_step_once(tiny_settings, tmp_path):
    """The half line is not written on: the log begins with what the checkpoint remembers."""
    settings = tiny_settings(max_steps=3, save_steps=1)
    train_run(read_run(settings), 1, tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    whole = [line["step"] for line in read_json_lines(log) if "loss" in line]
    log.write_bytes(log.read_bytes()[:-20])
    for name in ("DONE", "eval.json"):
        (tmp_path / "run" / name).unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint-3")
    train_run(read_run(settings), 1, tmp_path / "run")
    assert [line["step"] for line in read_json_lines(log) if "loss" in line] == whole == [1, 2, 3]
