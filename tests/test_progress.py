"""How far a piece of work is: on a terminal at the bottom, elsewhere in the log; nothing is cut or broken by it."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from llm_jepa import progress
from llm_jepa.experiments.sweep_progress import SweepProgress
from llm_jepa.progress import AboveProgress, Progress, read_record, recorded
from llm_jepa.runs.folder import RunFolder


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_has_percent_counts_time_left_and_as_much_as_fits(clock):
    """What does not fit into the width is left out whole: no word is cut."""
    with Progress("train", 200, "steps") as shown:
        clock[0] += 60
        shown.set(50, ["loss 1.8312", "a part that is much too long for what is left of the line", "short"])
        assert shown.line() == "train   25% | 50 of 200 steps | 3 min left | loss 1.8312 | short"
        assert shown.line(40) == "train   25% | 50 of 200 steps | 3 min left"[:42].rstrip()


def test_what_was_done_before_does_not_count_in_the_time_left(clock):
    """A run that was resumed at step 150 of 200 and took ten steps in 20 s has 80 s to go."""
    with Progress("train", 200, "steps", done=150) as shown:
        clock[0] += 20
        shown.set(160)
        assert shown.line() == "train   80% | 160 of 200 steps | 80 s left"


def test_without_a_terminal_a_line_is_logged_every_30_seconds(clock, caplog):
    """Also where the work is made of parts that take less than that each."""
    with caplog.at_level(logging.INFO, logger="llm_jepa"), Progress("runs", 10) as outer:
        for number in range(10):
            with Progress("answer", 2, "rows") as inner:
                clock[0] += 7
                inner.advance()
            outer.set(number)
        lines = [record.message.split(" | ")[0] for record in caplog.records]
    assert lines == ["answer  50%", "answer  50%"] and all(len(record.message) <= 80 for record in caplog.records)


def test_a_line_of_the_log_goes_above_the_one_at_the_bottom(clock, capsys):
    """As a terminal shows it: the line is removed, the log's is whole, and the line comes back below it."""
    log = logging.Logger("apart")
    log.addHandler(AboveProgress(sys.stderr))
    with Progress("train", 4, "steps", bar=True) as shown:
        shown.advance()
        log.warning("a result")
    screen = [""]
    for part in capsys.readouterr().err.replace("\n", "\n\r").split("\r"):
        screen[-1] = part.rstrip("\n") + screen[-1][len(part.rstrip("\n")) :]
        screen += [""] if part.endswith("\n") else []
    assert [line.rstrip() for line in screen] == ["a result", ""]


def test_work_of_any_kind_is_drawn_on_a_terminal_and_logged_elsewhere(clock, capsys, monkeypatch, caplog):
    """Where nobody says which: rows that are encoded, near-duplicates, choices, embeddings."""
    for is_terminal in (False, True):
        with monkeypatch.context() as patch, caplog.at_level(logging.INFO, logger="llm_jepa"):
            patch.setattr(progress._state, "on_terminal", False)
            patch.setattr(sys.stderr, "isatty", lambda is_terminal=is_terminal: is_terminal, raising=False)
            progress.draw_on_terminal()
            for _ in progress.tracked([1, 2], "encode", "rows"):
                clock[0] += 40
        drawn = "encode  50% | 1 of 2 rows | 40 s left" in capsys.readouterr().err
        assert drawn is is_terminal
    assert [message.split(" | ")[0] for message in caplog.messages] == ["encode  50%", "encode 100%"]


def test_a_run_writes_how_far_it_is_and_nothing_stays(clock, tmp_path):
    """The outermost work is recorded: not the answers to validation rows within the training."""
    file = tmp_path / "progress.json"
    with pytest.raises(KeyError), recorded(file), Progress("train", 10, "steps") as shown:
        clock[0] += 2
        shown.set(5, ["loss 1.0"])
        with Progress("answer", 2) as inner:
            clock[0] += 2
            inner.advance()
        assert read_record(file) == {"name": "train", "done": 5, "total": 10, "more": ["loss 1.0"]}
        Progress("left open", 3).__enter__()
        raise KeyError
    assert not file.exists() and not progress._state.open


def test_a_sweep_shows_its_runs_in_parts_with_step_and_loss(clock, tmp_path):
    """From the first step on: one of two runs at half of its training is 0.8 x 0.5 of a run."""
    running = RunFolder(tmp_path / "jepa-s82")
    running.path.mkdir()
    with SweepProgress(2, 0, bar=False) as shown:
        clock[0] += 60
        with recorded(running.progress_file):
            # as the run's own process does
            progress._write(running.progress_file, {"name": "train", "done": 5, "total": 10, "more": ["loss 1.25"]})
            shown.look([running])
        assert shown.line() == "runs    20% | 4 min left | 0 of 2 done | jepa-s82 step 5/10 loss 1.25"
        progress._write(running.progress_file, {"name": "answer", "done": 1, "total": 2, "more": []})
        clock[0] += 60
        shown.look([running])
        assert shown.line() == "runs    45% | 2 min left | 0 of 2 done | jepa-s82 answer 1/2"
        for half_written in ('{"name": "emb', json.dumps({"name": "embed", "done": 0, "total": 9, "more": []})):
            running.progress_file.write_text(half_written)
            clock[0] += 60
            shown.look([running])
            assert shown.line().startswith("runs    45%")
        shown.end(running)
        clock[0] += 60
        shown.look([])
        assert shown.line() == "runs    50% | 5 min left | 1 of 2 done"
