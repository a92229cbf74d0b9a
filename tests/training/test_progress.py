"""What a person sees of a run: fixed columns, nothing that is not known."""

from __future__ import annotations

import io
import logging
import math
from types import SimpleNamespace

import pytest

from llm_jepa.training.progress import StepLog, format_step

LOGS = {"ce_loss": 1.8312, "jepa_loss": 0.2147, "loss": 2.0459, "tokens_per_s": 41200.0}
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
    log = StepLog()
    with caplog.at_level(logging.INFO, logger="llm_jepa"):
        log.on_log(None, STATE, None, logs={"eval_ce_loss": 1.0, "monitor/gap": 0.5})
        log.on_log(None, STATE, None, logs={"train_runtime": 3.0})
        log.on_log(None, STATE, None, logs=LOGS)
    assert [record.message for record in caplog.records] == [format_step(120, 2000, LOGS, {"monitor/gap": 0.5})]


def test_other_processes_say_nothing(caplog):
    """In a run of several processes one of them talks."""
    state = SimpleNamespace(global_step=1, max_steps=2, is_world_process_zero=False)
    log = StepLog(progress=True)
    with caplog.at_level(logging.INFO, logger="llm_jepa"):
        log.on_train_begin(None, state, None)
        log.on_step_end(None, state, None)
        log.on_log(None, state, None, logs=LOGS)
        log.on_train_end(None, state, None)
    assert not caplog.records and log.bar is None


def test_with_a_bar_the_lines_go_above_it_on_standard_error(capsys):
    """Standard output stays free for results; a resumed run's bar begins where the run does."""
    log = StepLog(progress=True)
    log.on_train_begin(None, STATE, None)
    assert (log.bar.n, log.bar.total) == (120, 2000)
    log.on_log(None, STATE, None, logs=LOGS)
    log.on_step_end(None, SimpleNamespace(global_step=125), None)
    assert log.bar.n == 125
    log.on_train_end(None, STATE, None)
    captured = capsys.readouterr()
    assert captured.out == "" and "ce 1.8312" in captured.err


@pytest.mark.parametrize("progress", [True, False])
def test_a_run_may_end_without_a_line(progress):
    log = StepLog(progress)
    log.on_train_begin(None, STATE, None)
    if log.bar is not None:
        log.bar.fp = io.StringIO()
    log.on_log(None, STATE, None, logs=None)
    log.on_train_end(None, STATE, None)
