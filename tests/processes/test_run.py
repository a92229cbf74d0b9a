"""A run of two processes: one folder, one voice, and the scores of a single process."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from llm_jepa import JEPAConfig
from llm_jepa.cli import main
from llm_jepa.errors import ConfigError
from llm_jepa.evaluation.evaluate import evaluate
from llm_jepa.evaluation.generation import generate_greedy
from llm_jepa.files import read_json_lines
from llm_jepa.objective import LLMJEPA
from llm_jepa.processes import gather, join, leave, on_main, rank, turns
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run
from llm_jepa.runs.trained_run import load_run
from llm_jepa.training.view_embeddings import view_embeddings

SETTINGS = {
    "generate_train": 40,
    "generate_test": 23,
    "validation_size": 7,
    "validation_generations": 5,
    "generation_batch_size": 5,
    "max_new_tokens": 8,
    "max_steps": 4,
    "eval_steps": 2,
    "logging_steps": 1,
    "monitor_pairs": 7,
    "per_device_eval_batch_size": 3,
    "use_cpu": True,
}
FILES = ["DONE", "config.yaml", "data", "data.json", "embeddings.safetensors", "environment.json", "eval.json"]
FILES += ["metrics.jsonl", "model", "predictions.jsonl"]


@pytest.mark.slow
def test_two_processes_write_one_folder_with_the_scores_of_one_process(start_ranks, tmp_path):
    """Scores and answers are those that a single process gives for the saved model; the training is that of one."""

    def train(name: str, batch_size: int):
        run = read_run(SETTINGS | {"per_device_train_batch_size": batch_size})
        return lambda rank: train_run(run, 3, tmp_path / name)

    first, second = start_ranks(train("two", 4)).results()
    (alone,) = start_ranks(train("one", 8), 1).results()
    assert first == second == json.loads((tmp_path / "two" / "eval.json").read_text())
    assert sorted(each.name for each in (tmp_path / "two").iterdir()) == FILES
    assert first["validation"]["ce_loss"] == pytest.approx(alone["validation"]["ce_loss"], rel=1e-5)
    assert first["validation"]["monitor/gap"] == pytest.approx(alone["validation"]["monitor/gap"], abs=1e-5)
    lines, its_lines = (read_json_lines(tmp_path / name / "metrics.jsonl") for name in ("two", "one"))
    assert [line["step"] for line in lines] == [line["step"] for line in its_lines]

    trained = load_run(tmp_path / "two")
    rows = trained.rows(str(tmp_path / "two" / "data" / "nlrx-40-23-0-test.jsonl"))
    metrics, records = evaluate(trained.jepa, trained.encoder, rows, trained.evaluation)
    assert records == read_json_lines(tmp_path / "two" / "predictions.jsonl")
    assert {name: first[name] for name in metrics} == metrics


def test_answers_and_embeddings_are_shared_out_and_come_back_in_order(tiny_model, make_pairs, start_ranks):
    """To the bit what one process gives, for its batches are the same; 7 rows in batches of 2: 4 turns."""
    jepa, pairs = LLMJEPA(tiny_model("llama"), JEPAConfig()), make_pairs(7)

    def look(_):
        join()
        prompts = [pair.text_ids for pair in pairs]
        answers = generate_greedy(jepa.model, prompts, end_ids=[1], pad_id=0, max_new_tokens=6, batch_size=2)
        return answers, view_embeddings(jepa, pairs, 0, batch_size=2)

    (answers, views), (its_answers, its_views) = start_ranks(look).results()
    expected, alone = look(0)
    assert answers == its_answers == expected
    assert len({tuple(answer) for answer in answers}) > 3
    for name in ("text_pred", "code_emb", "code_groups"):
        assert torch.equal(getattr(views, name), getattr(alone, name))
        assert torch.equal(getattr(views, name), getattr(its_views, name))
    assert views.jepa_loss == alone.jepa_loss


def test_turns_are_as_many_for_each_and_every_piece_is_done_once(start_ranks):
    """5 pieces over 2 processes: 3 turns each; the last of rank 1 is one more time the last piece."""

    def run(rank):
        join()
        return list(turns(5))

    assert start_ranks(run).results() == [[(0, True), (2, True), (4, True)], [(1, True), (3, True), (4, False)]]


def test_what_the_main_process_does_is_done_once_and_its_error_is_everybodys(start_ranks, raises):
    """Rank 0 says it; in the others it is marked, so that it is not said twice."""

    def run(_):
        join()
        result = on_main(lambda: f"made by {rank()}")
        with raises("file_missing", "a.jsonl") as caught:
            on_main(_fail)
        return result, caught.value.told_by_main, gather(rank())

    assert start_ranks(run).results() == [("made by 0", False, [0, 1]), ("made by 0", True, [0, 1])]


def _fail():
    raise ConfigError("file_missing", "a.jsonl: no such file.")


class Cycle:
    """Holds itself, as a trainer does: gone only after garbage was collected."""

    def __init__(self, held):
        self.itself, self.held = self, held


def names_of_threads():
    return [Path(f"/proc/self/task/{each}/comm").read_text().strip() for each in os.listdir("/proc/self/task")]


def train_a_step():
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
    model(torch.ones(2, 4)).sum().backward()
    Cycle(model)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the names of threads from /proc")
def test_no_thread_of_the_group_is_left_when_the_processes_part(start_ranks):
    """One that lived on would end the process by SIGABRT as the interpreter ends, now and then.

    Negative control: where the group is destroyed while a trainer still holds it, its threads live on.
    """

    def threads_after(part):
        def run(_):
            gc.disable()  # its own moments would be chance
            join()
            train_a_step()
            part()
            return [name for name in names_of_threads() if "gloo" in name]

        return start_ranks(run).results()

    assert threads_after(leave) == [[], []]
    assert all(threads_after(torch.distributed.destroy_process_group))


def test_a_group_that_the_caller_made_is_left_to_the_caller(start_ranks):
    """A program that met the others itself goes on with them after a run."""

    def run(_):
        torch.distributed.init_process_group("gloo")
        join()
        leave()
        return gather(rank())

    assert start_ranks(run).results() == [[0, 1], [0, 1]]


@pytest.mark.parametrize("number", [0, 1])
def test_commands_that_share_no_work_are_refused_in_several_processes(number, monkeypatch, capsys):
    """They would do the same twice, in one folder; it is said once."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(number))
    assert main(["env"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert ("torchrun" in printed.err) == (number == 0)


def torchrun(config: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "127.0.0.1:0", "-m", "llm_jepa", "train", str(config), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.long
def test_torchrun_trains_and_a_signal_to_it_stops_all_with_a_checkpoint(tmp_path):
    """`torchrun -m llm_jepa train` end to end: one line of result; SIGTERM to it, and the same command goes on.

    The losses of every step are, bit for bit, those of the run that was never stopped.
    """
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(SETTINGS | {"max_steps": 40, "per_device_train_batch_size": 4, "eval_steps": 40}))
    whole = torchrun(config, tmp_path / "whole")
    out, err = whole.communicate()
    assert whole.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["num_steps"] == 40
    assert err.count("step   40/40") == 1

    stopped = torchrun(config, tmp_path / "stopped")
    log = tmp_path / "stopped" / "metrics.jsonl"
    while stopped.poll() is None and not (log.is_file() and len(log.read_bytes().splitlines()) >= 3):
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)
    out, err = stopped.communicate()
    assert stopped.returncode != 0
    assert out == ""
    assert err.count("Files that were written are kept") == 1
    assert not (tmp_path / "stopped" / "DONE").exists()
    assert list((tmp_path / "stopped").glob("checkpoint-*"))

    again = torchrun(config, tmp_path / "stopped")
    out, err = again.communicate()
    assert again.returncode == 0, err
    lines, its_lines = (read_json_lines(tmp_path / name / "metrics.jsonl") for name in ("stopped", "whole"))
    losses, its_losses = ({x["step"]: x["loss"] for x in each if "loss" in x} for each in (lines, its_lines))
    assert losses == its_losses
