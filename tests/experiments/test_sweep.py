"""A grid from settings to verdict: chosen on validation rows, compared on test rows, and again at equal cost."""

from __future__ import annotations

import json
import shutil
from statistics import mean, median

import pytest
import yaml

from llm_jepa.experiments.compare import open_experiment, run_experiment
from llm_jepa.experiments.summary import summarise
from llm_jepa.report.experiment_report import write_experiment_report

pytestmark = pytest.mark.slow
SEEDS = [1, 2]
STEPS = 6  # enough that a step of 1.16 times the cost makes one step less
CELLS = ["jepa.k0", "jepa.k2"]


@pytest.fixture(scope="module")
def settings(tiny_settings):
    arms = {"ntp": {}, "jepa": {"jepa_k": [0, 2]}, "jepa_lambda0": {}}
    changes = {"choose_by": "eval_ce_loss", "compare_at": ["steps", "flops", "time"], "max_steps": STEPS}
    return tiny_settings(arms=arms, seeds=SEEDS, eval_steps=STEPS, **changes)


@pytest.fixture(scope="module")
def swept(settings, quick_runs, tmp_path_factory):
    """The folder of a whole sweep, and its results as results.json holds them. Read only."""
    folder = tmp_path_factory.mktemp("sweeps") / "out"
    return folder, run_experiment(open_experiment(settings, folder), render=write_experiment_report).to_json()


def report_of(folder, arm, seed):
    return json.loads((folder / f"{arm}-s{seed}" / "eval.json").read_text())


def test_the_cell_with_the_lowest_validation_loss_is_compared_and_no_other(swept):
    """Read from the runs themselves; the other cell is in the grid, with its values, and in no comparison."""
    folder, results = swept
    losses = {cell: mean(report_of(folder, cell, seed)["validation"]["ce_loss"] for seed in SEEDS) for cell in CELLS}
    chosen = min(losses, key=losses.get)
    grid = results["grids"]["jepa"]
    assert grid["chosen"] == chosen and grid["choose_by"] == "ce_loss" and grid["higher_is_better"] is False
    assert grid["axes"] == {"jepa_k": [0, 2]}
    for cell in grid["cells"]:
        assert cell["validation"]["mean"] == pytest.approx(losses[cell["arm"]])
        assert cell["test"]["seeds"] == {str(s): report_of(folder, cell["arm"], s)["exact_match"] for s in SEEDS}
        assert cell["chosen"] == (cell["arm"] == chosen)
        assert cell["coordinates"] == {"jepa_k": int(cell["arm"][-1])}
    assert list(results["arms"]) == ["ntp", chosen, "jepa_lambda0"]
    assert [each["arm"] for each in results["comparisons"]] == [chosen, "jepa_lambda0"]
    assert any("Not tuned alike: the baseline ntp has 1 cell, jepa 2" in note for note in results["notes"])


def test_equal_flops_is_a_table_of_its_own_with_its_own_runs(swept):
    """The same keys; the arm's runs have the steps that the counted FLOPs allow; the baseline's runs stay."""
    folder, results = swept
    chosen, again = results["grids"]["jepa"]["chosen"], results["equal_flops"]
    assert results.keys() - again.keys() == {"grids", "equal_flops", "equal_time"}
    flops = {arm: mean(report_of(folder, arm, s)["cost"]["flops_per_step"] for s in SEEDS) for arm in ("ntp", chosen)}
    steps = round(STEPS * flops["ntp"] / flops[chosen])
    assert steps < STEPS  # the control: a JEPA step costs more
    name = f"{chosen}@flops"
    assert [report_of(folder, name, seed)["num_steps"] for seed in SEEDS] == [steps] * 2
    assert yaml.safe_load((folder / f"{name}-s1" / "config.yaml").read_text())["max_steps"] == steps
    assert again["budgets"].keys() == {name} and again["budgets"][name]["max_steps"] == steps
    assert again["arms"]["ntp"] == results["arms"]["ntp"]
    # An arm whose step costs as much as the baseline's is not run again.
    assert list(again["arms"]) == ["ntp", "jepa_lambda0", name]
    assert {each["arm"] for each in again["comparisons"]} == {"jepa_lambda0", name}


def test_equal_time_goes_by_the_median_step_of_the_runs_of_equal_steps(swept):
    """Recorded beside each run's settings and in the results."""
    folder, results = swept
    chosen = results["grids"]["jepa"]["chosen"]
    times = {arm: median(report_of(folder, arm, s)["cost"]["step_time_s"] for s in SEEDS) for arm in ("ntp", chosen)}
    steps = max(1, round(STEPS * times["ntp"] / times[chosen]))
    budgets = results["equal_time"]["budgets"]
    if steps == STEPS:  # equally fast, by this clock
        assert f"{chosen}@time" not in budgets
        return
    assert budgets[f"{chosen}@time"]["max_steps"] == steps
    assert budgets[f"{chosen}@time"]["ratio"] == pytest.approx(times[chosen] / times["ntp"])
    for seed in SEEDS:
        record = json.loads((folder / f"{chosen}@time-s{seed}" / "budget.json").read_text())
        assert record == budgets[f"{chosen}@time"]
        assert report_of(folder, f"{chosen}@time", seed)["num_steps"] == steps


def test_a_finished_sweep_is_not_run_again_and_its_results_come_from_the_folders(swept, settings, quick_runs, tmp_path):
    folder, results = swept
    shutil.copytree(folder, tmp_path / "out")
    for name in ("results.json", "results.csv", "report.html"):
        (tmp_path / "out" / name).unlink()
    quick_runs.clear()
    again = run_experiment(open_experiment(settings, tmp_path / "out"), render=write_experiment_report)
    assert again.to_json() == results and quick_runs == []
    assert summarise(tmp_path / "out").to_json() == results
    pages = [(each / "report.html").read_text().replace(str(each), "") for each in (tmp_path / "out", folder)]
    assert pages[0] == pages[1]


def test_a_value_more_extends_a_grid_and_another_choice_is_refused(swept, settings, tmp_path, raises):
    """The cells that are there stay; but what they are chosen by was said before test rows were seen."""
    shutil.copytree(swept[0], tmp_path / "out")
    arms = settings["arms"] | {"jepa": {"jepa_k": [0, 1, 2]}}
    experiment = open_experiment(settings | {"arms": arms}, tmp_path / "out")
    assert [job.name for job in experiment.jobs if not job.folder.is_done] == ["jepa.k1-s1", "jepa.k1-s2"]
    halfway = summarise(tmp_path / "out").to_json()
    assert halfway["grids"]["jepa"]["chosen"] is None and "jepa.k0" not in halfway["arms"]
    assert any("No cell of jepa is chosen yet: 2 of its 6 runs are not done" in note for note in halfway["notes"])
    with raises("settings_changed", "choose_by was 'eval_ce_loss' and is 'exact_match'"):
        open_experiment(settings | {"choose_by": "exact_match"}, tmp_path / "out")


def test_a_cell_that_fails_is_shown_and_not_chosen_and_the_others_are_compared(
    tiny_settings, quick_runs, tmp_path, raises
):
    """A learning rate that ends in nan is a result of the sweep; the exit code still says that a run failed."""
    arms = {"ntp": {}, "jepa": {"learning_rate": [1e30, 1e-3], "warmup_steps": 0}}
    settings = tiny_settings(arms=arms, seeds=[1], choose_by="ce_loss", max_steps=2)
    quick_runs.clear()
    with raises("runs_failed", "1 of 3", "jepa.lr1e30-s1", exit_code=1) as error:
        run_experiment(open_experiment(settings, tmp_path / "out"), render=write_experiment_report)
    assert error.value.exit_code == 1 and len(quick_runs) == 3  # what fails by itself is not tried again
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    hot, mild = results["grids"]["jepa"]["cells"]
    assert hot["failed"] == {"1": "exit code 1"} and hot["validation"]["n"] == 0 and not hot["chosen"]
    assert mild["chosen"] and [each["arm"] for each in results["comparisons"]] == ["jepa.lr0.001"]
    assert "seed 1: exit code 1" in (tmp_path / "out" / "report.html").read_text()


def test_runs_of_equal_cost_do_not_outlive_their_baseline(swept, settings, tmp_path, raises):
    """Steps for what one baseline costs are no equal cost against another."""
    shutil.copytree(swept[0], tmp_path / "out")
    changed = settings | {"baseline": "jepa_lambda0"}
    with raises("baseline_changed", "@flops", " ntp ", " jepa_lambda0 "):
        run_experiment(open_experiment(changed, tmp_path / "out"))
