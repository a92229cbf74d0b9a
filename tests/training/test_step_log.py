"""What a person sees of a run: fixed columns, nothing that is not known."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace

import pytest

from llm_jepa.training.step_log import StepLog, format_step

LOGS = {"ce_loss": 1.8312, "jepa_loss": 0.2147, "loss": 2.0459, "tokens_per_s": 41200.0}
LOSS = lambda: 1.25  # noqa: E731
STATE = SimpleNamespace(global_step=120, max_steps=2000, is_world_process_zero=True)


def test_the_terms_stand_apart():
    line = format_step(120, 2000, LOGS, {"monitor/gap": 0.314})
    assert line == "step   120/2000 | ce 1.8312 | jepa 0.2147 | loss 2.0459 | gap 0.31 | 41,200 tok/s"


def test_what_is_not_known_is_left_out():
    """Plain training has no jepa_loss (nan), and before the first look there is no gap."""
    line = format_step(120, 2000, LOGS | {"jepa_loss": math.nan}, {})
    assert line == "step   120/2000 | ce 1.8312 | loss 2.0459 | 41,200 tok/s"


def test_long_runs_stay_within_a_line():
    line = format_step(120000, 200000, LOGS | {"tokens_per_s": 9_876_543.0}, {"monitor/gap": -0.31})
    assert len(line) <= 100 and "\n" not in line


def test_lines_of_training_are_logged_with_the_latest_look(caplog):
    """A look at held-out rows makes no line of its own; the next line of training shows its gap."""
    log = StepLog(LOSS)
    with caplog.at_level(logging.INFO, logger="llm_jepa"):
        log.on_log(None, STATE, None, logs={"eval_ce_loss": 1.0, "monitor/gap": 0.5})
        log.on_log(None, STATE, None, logs={"train_runtime": 3.0})
        log.on_log(None, STATE, None, logs=LOGS)
    assert [record.message for record in caplog.records] == [format_step(120, 2000, LOGS, {"monitor/gap": 0.5})]


def test_other_processes_say_nothing(caplog):
    """In a run of several processes one of them talks."""
    state = SimpleNamespace(global_step=1, max_steps=2, is_world_process_zero=False)
    log = StepLog(LOSS, progress=True)
    with caplog.at_level(logging.INFO, logger="llm_jepa"):
        log.on_train_begin(None, state, None)
        log.on_step_end(None, state, None)
        log.on_log(None, state, None, logs=LOGS)
        log.on_train_end(None, state, None)
    assert not caplog.records and log.shown is None


def test_how_far_it_is_goes_to_the_bottom_of_standard_error(capsys, monkeypatch):
    """With the loss of the last step; standard output stays free for results; a resumed run begins where it does."""
    monkeypatch.setattr("llm_jepa.progress.DRAW_EVERY_S", 0.0)
    log = StepLog(LOSS, progress=True)
    log.on_train_begin(None, STATE, None)
    log.on_step_end(None, SimpleNamespace(global_step=125), None)
    log.on_train_end(None, STATE, None)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line.strip() for line in captured.err.split("\r") if line.strip()]
    assert lines[0] == "train    6% | 120 of 2,000 steps"
    assert lines[1].startswith("train    6% | 125 of 2,000 steps | 0 s left | loss 1.2500")


@pytest.mark.parametrize("progress", [True, False])
def test_a_run_may_end_without_a_line(progress):
    log = StepLog(LOSS, progress)
    log.on_train_begin(None, STATE, None)
    log.on_log(None, STATE, None, logs=None)
    log.on_train_end(None, STATE, None)
