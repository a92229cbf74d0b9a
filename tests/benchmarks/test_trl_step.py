"""The benchmark beside TRL: it compares like with like, and says what it needs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

# The benchmark is a script beside its helpers, not a package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import trl_step


def watch(step_s, losses):
    seen = trl_step.Watch()
    seen.step_s, seen.loop_s, seen.losses = step_s, [2 * each for each in step_s], losses
    return seen


def test_figures_are_medians_without_the_first_steps():
    """Two runs of five steps, three of them warm-up: medians 1 and 3 against 2 and 4, ratios 1/2 and 3/4."""
    ours = [watch([9, 9, 9, 1, 1], [3.0, 2.0]), watch([9, 9, 9, 3, 3], [3.0, 2.0])]
    theirs = [watch([9, 9, 9, 2, 2], [3.0, 2.5]), watch([9, 9, 9, 4, 4], [3.0, 2.0])]
    report = trl_step.compare({trl_step.OURS: ours, trl_step.TRL: theirs})
    assert report["step_ratio"] == report["loop_ratio"] == 0.625
    assert report["step_ms"] == {trl_step.OURS: 2000, trl_step.TRL: 3000}
    assert report["loss_difference"] == 0.5
    assert "NOT the same" in trl_step.format_report(report)


def test_without_trl_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trl", None)
    assert trl_step.main([]) == 2
    assert "pip install -e '.[trl]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_both_trainers_take_the_same_steps(capsys, monkeypatch):
    """From the same weights, on the same rows: every loss within 1e-4."""
    pytest.importorskip("trl")
    assert trl_step.main(["--batch-size", "4", "--steps", "2", "--runs", "1", "--threads", "1"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["loss_difference"] < trl_step.TOLERANCE and report["step_ratio"] > 0
