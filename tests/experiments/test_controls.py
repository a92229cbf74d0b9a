"""Controls are recognised by their settings, and no arm is called better without a word on its controls."""

from __future__ import annotations

import pytest

from llm_jepa.experiments.build_results import build_results
from llm_jepa.experiments.controls import control_arms
from llm_jepa.experiments.experiment import read_experiment, read_grids
from llm_jepa.experiments.results import RunResult
from llm_jepa.experiments.sentences import about_controls, answer_of
from llm_jepa.report.terminal import format_table

DATA = {"train_file": "train.jsonl", "max_steps": 2, "model": "nano"}
SEEDS = (1, 2, 3, 4, 5, 6)
NOISE = (0.0, 0.01, -0.01, 0.005, -0.005, 0.002)
PLAIN, HIGH = [0.3 + each for each in NOISE], [0.4 - each for each in NOISE]
SAME_HIGH = [0.4 + each for each in NOISE]


def controls_among(arms, **settings):
    config, runs = read_experiment(DATA | settings | {"arms": arms})
    return control_arms(runs, config.baseline)


def results_of(controls, **values):
    runs = [
        RunResult(arm, seed, {"exact_match": value})
        for arm, by_seed in values.items()
        for seed, value in zip(SEEDS, by_seed, strict=True)
    ]
    return build_results(runs, controls=controls)


def test_an_arm_on_shuffled_pairs_is_the_control_of_the_arm_with_its_other_settings():
    """The built-in one, and one of another objective; a control has none itself, and the baseline is none."""
    infonce = {"jepa_distance": "infonce", "jepa_lambda": 0.2}
    arms = {"ntp": {}, "jepa": {}, "jepa_shuffled": {}, "infonce": infonce}
    arms["infonce_shuffled"] = infonce | {"shuffle_views": True}
    assert controls_among(arms) == {"jepa": ["jepa_shuffled"], "infonce": ["infonce_shuffled"]}


def test_the_path_without_its_term_is_a_control_of_every_objective():
    """`jepa_lambda0` under the published recipe: of the objective nothing is left that could differ."""
    arms = {"ntp": {}, "jepa_lambda0": {}, "jepa": {}, "deep": {"jepa_k": 4}, "late": {"learning_rate": 1.0e-4}}
    found = controls_among(arms, recipe="as_published")
    assert found == {"jepa": ["jepa_lambda0"], "deep": ["jepa_lambda0"], "late": []}


def test_what_trains_like_the_baseline_is_no_control():
    """A copy of the baseline, and a cell of its grid that was not chosen, say nothing that the baseline does not."""
    assert controls_among({"ntp": {}, "jepa": {}, "jepa_lambda0": {}}) == {"jepa": []}
    settings = DATA | {"arms": ["ntp", "jepa"], "grid": {"learning_rate": [1.0e-4, 1.0e-3]}}
    _, runs = read_experiment(settings)
    cells = read_grids(settings)["ntp"].cells
    found = control_arms(runs, "ntp.lr0.001", ["jepa.lr0.0001"], cells_of_baseline=list(cells))
    assert found == {"jepa.lr0.0001": []}


def test_another_weight_of_the_term_makes_no_control():
    """Shuffled pairs under a smaller lambda say nothing of the larger one."""
    assert controls_among({"ntp": {}, "jepa": {}, "weak": {"jepa_lambda": 0.1, "shuffle_views": True}}) == {"jepa": []}


def test_an_arm_is_compared_with_its_control_over_the_same_seeds():
    """+10 points over both: shown, beside the baseline's comparison."""
    results = results_of({"jepa": ["jepa_shuffled"]}, ntp=PLAIN, jepa=HIGH, jepa_shuffled=PLAIN)
    [beyond] = results.main.controls
    assert (beyond.arm, beyond.baseline, beyond.verdict) == ("jepa", "jepa_shuffled", "better")
    assert beyond.delta == pytest.approx(0.1, abs=1e-3) and beyond.p_holm == beyond.p_value
    assert "Beyond its control, jepa: 40.0% against 30.0% (jepa_shuffled)" in " ".join(format_table(results).split())
    assert ", p <0.001: better." in beyond.sentence
    assert about_controls(results, {"jepa": ["jepa_shuffled"]}) == []
    answer = answer_of(results)
    assert answer.short == "Yes." and "Over its control jepa_shuffled: +9.9 points" in answer.sentence


def test_a_gain_that_the_control_has_too_is_no_yes():
    """The arm is better than plain training, and so are shuffled pairs."""
    controls = {"jepa": ["jepa_shuffled"]}
    results = results_of(controls, ntp=PLAIN, jepa=HIGH, jepa_shuffled=SAME_HIGH)
    assert results.main.comparisons[0].verdict == "better"
    assert answer_of(results).short == "Not shown beyond its control."
    [note] = about_controls(results, controls)
    assert "not shown to be better than its control jepa_shuffled" in note


def test_no_gain_is_shown_beyond_a_control_that_was_not_run():
    """One control is beaten, the other has no run: the answer is no yes, and the note names the missing one."""
    controls = {"jepa": ["jepa_shuffled", "jepa_lambda0"]}
    results = results_of(controls, ntp=PLAIN, jepa=HIGH, jepa_lambda0=PLAIN)
    answer = answer_of(results)
    assert answer.short == "Not shown beyond its control."
    assert "cannot be compared with its control jepa_shuffled: no seed has both arms" in answer.sentence
    [note] = about_controls(results, controls)
    assert "its control jepa_shuffled has no finished run" in note


def test_a_gain_without_a_control_says_so():
    """Nobody looked whether it is the match of the views."""
    results = results_of({"jepa": []}, ntp=PLAIN, jepa=HIGH)
    assert answer_of(results).short == "Yes; no control was run."
    [note] = about_controls(results, {"jepa": []})
    assert "no control of it was run" in note and "shuffle_views: true" in note


def test_where_no_gain_is_shown_controls_are_not_spoken_of():
    """There is nothing to explain."""
    results = results_of({"jepa": ["jepa_shuffled"]}, ntp=PLAIN, jepa=PLAIN[::-1], jepa_shuffled=HIGH)
    assert about_controls(results, {"jepa": ["jepa_shuffled"]}) == []
    assert answer_of(results).short == "No difference shown."
