"""Grids: fields with several values become cells, arms of their own, named by where they stand."""

from __future__ import annotations

import itertools
import random
import re

import pytest
import yaml

from llm_jepa.cli import main
from llm_jepa.experiments.choose_cell import check_name, choose, validation_value
from llm_jepa.experiments.compare import open_experiment
from llm_jepa.experiments.experiment import read_experiment, read_grids
from llm_jepa.experiments.grids import Grid

FILES = {"train_file": "train.jsonl", "test_file": "test.jsonl"}


def runs_of(**settings):
    return read_experiment(FILES | settings)[1]


# ---- from settings to cells ----


def test_lists_in_an_arm_are_every_combination_of_their_values():
    """k x lambda: a cell each, with its own settings and the rest as the arm has it."""
    runs = runs_of(arms={"ntp": {}, "jepa": {"jepa_k": [0, 2], "jepa_lambda": [0.5, 1], "jepa_target": "shared"}})
    assert list(runs) == [
        "ntp",
        *("jepa.k0.lambda0.5", "jepa.k0.lambda1", "jepa.k2.lambda0.5", "jepa.k2.lambda1"),
    ]
    for (k, weight), run in zip(itertools.product([0, 2], [0.5, 1.0]), list(runs.values())[1:], strict=True):
        assert (run.jepa.jepa_k, run.jepa.jepa_lambda, run.jepa.jepa_target) == (k, weight, "shared")
    assert runs["ntp"].jepa.jepa_lambda == 0


@pytest.mark.parametrize("shared", [{"jepa_k": [0, 1]}, {"grid": {"jepa_k": [0, 1]}}])
def test_a_shared_list_is_a_grid_of_every_arm_that_it_acts_on(shared):
    """Not of an arm that sets the field itself, nor, for the objective's fields, of one without a JEPA term."""
    runs = runs_of(arms={"ntp": {}, "jepa": {}, "own": {"jepa_k": 3}, "jepa_shuffled": {}}, **shared)
    assert list(runs) == ["ntp", "jepa.k0", "jepa.k1", "own", "jepa_shuffled.k0", "jepa_shuffled.k1"]
    assert runs["own"].jepa.jepa_k == 3 and runs["ntp"].jepa.jepa_k == 1  # the default


def test_a_shared_grid_of_a_training_field_tunes_the_baseline_too():
    """And the cells of the baseline are as many as those of the arm."""
    grids = read_grids(FILES | {"arms": ["ntp", "jepa"], "learning_rate": ["1e-5", 3e-4]})
    assert list(grids["ntp"].cells) == ["ntp.lr1e-05", "ntp.lr0.0003"]
    assert list(grids["jepa"].cells.values()) == [{"learning_rate": 1e-5}, {"learning_rate": 3e-4}]


def test_a_list_for_a_field_that_takes_one_is_no_grid():
    """Seeds, target modules of LoRA, accepted changes: their value is the list."""
    settings = {"lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "allow_changed": ["max_steps"]}
    assert list(runs_of(arms=["ntp", "jepa"], seeds=[1, 2], model_name_or_path="base", **settings)) == ["ntp", "jepa"]


@pytest.mark.parametrize(
    ("settings", "code", "values"),
    [
        ({"jepa_k": [1, 1.0]}, "value_repeated", ["jepa_k=[1, 1]", " 1 twice"]),
        ({"jepa_k": []}, "value_empty", ["jepa_k=[]"]),
        ({"jepa_k": [1, "two"]}, "wrong_type", ["jepa_k='two'", "text", "whole number"]),
        ({"jepa_k": [1, 9]}, "value_out_of_range", ["In arm jepa.k9: ", "jepa_k=9", "0 to 8"]),
        ({"grid": {"jepa_k": 2}}, "wrong_type", ["grid.jepa_k=2"]),
        ({"grid": {"jepa_kk": [2]}}, "key_unknown", ["'jepa_kk'", "'jepa_k'"]),
        ({"grid": {"lora_target_modules": [["q_proj"]]}}, "grid_not_possible", ["grid.lora_target_modules"]),
        ({"grid": {"jepa_k": [1, 2]}, "jepa_k": 1}, "settings_conflict", ["jepa_k and grid.jepa_k"]),
        ({"jepa_k": [1, 2], "arms": ["ntp"]}, "setting_without_effect", ["jepa_k=[1, 2]"]),
        (
            {"jepa_k": [0, 1], "arms": {"ntp": {}, "jepa": {}, "jepa.k1": {"jepa_k": 2}}},
            "name_repeated",
            ["'jepa.k1'"],
        ),
        (
            {"choose_by": "jepa_loss"},
            "value_not_allowed",
            ["choose_by='jepa_loss'", "exact_match, ce_loss, gap, retrieval@1"],
        ),
        ({"compare_at": ["flops"]}, "value_missing", ["compare_at=['flops']", "steps"]),
        ({"compare_at": ["steps", "watts"]}, "value_not_allowed", ["'watts'", "steps, flops, time"]),
        ({"compare_at": ["steps", "steps"]}, "value_repeated", ["compare_at=['steps', 'steps']"]),
        ({"executor": "slurm"}, "value_not_allowed", ["executor='slurm'", "local, ray"]),
        ({"resources": {"gpu": 1}}, "key_unknown", ["resources.gpu ", "cpus, gpus", "'gpus'"]),
        ({"resources": {"gpus": -1}}, "value_out_of_range", ["resources.gpus=-1"]),
        ({"resources": {"cpus": 0.5}}, "settings_conflict", ["resources.cpus=0.5", "executor=local"]),
        ({"max_retries": -1}, "value_out_of_range", ["max_retries=-1", " 0"]),
        ({"arms": {}}, "value_empty", ["arms"]),
        ({"arms": {"ntp": {}, "a/b": {"jepa_k": 2}}}, "name_not_allowed", ["'a/b'"]),
        ({"arms": {"ntp": {}, "jepa": False}}, "wrong_type", ["arms.jepa is False"]),
        ({"arms": {"ntp": {}, "jepa": 3}}, "wrong_type", ["arms.jepa is 3"]),
        ({"arms": {"ntp": {}, "jepa": {"workers": 2}}}, "key_misplaced", ["arms.jepa.workers"]),
        ({"arms": ["jepa"]}, "unknown_arm", ["baseline='ntp'", "jepa"]),
    ],
)
def test_what_cannot_be_a_sweep_is_refused_by_name(settings, code, values, raises):
    """The field, what was found, what was expected."""
    with raises(code, *values):
        runs_of(**({"arms": ["ntp", "jepa"]} | settings))


def test_too_many_runs_are_refused_before_a_cell_is_made(raises):
    """A slip of a list would be a million runs; runs of equal FLOPs and time count."""
    many = {"jepa_lambda": [0.1 * n for n in range(1, 1001)], "jepa_temperature": [0.1 * n for n in range(1, 1001)]}
    with raises("too_many_runs", "3,000,003 runs", "max_runs is 1,000"):
        runs_of(arms={"ntp": {}, "jepa": many}, seeds=[1, 2, 3])
    grid = {"arms": {"ntp": {}, "jepa": {"jepa_k": [0, 1]}}, "seeds": [1, 2], "compare_at": ["steps", "flops", "time"]}
    assert len(runs_of(**grid, max_runs=10)) == 3
    with raises("too_many_runs", "10 runs", "max_runs is 9"):
        runs_of(**grid, max_runs=9)


# ---- names ----


def test_names_are_unique_fit_a_folder_and_are_the_same_every_time():
    """Whatever the values: text, paths, none, values that would be written alike, and very many axes."""
    axes = {
        "model_name_or_path": ["models/base", "models base", None],
        "jepa_distance": ["cosine", "infonce"],
        "learning_rate": [1e20, 1e-5, 0.5],
        "jepa_gather": [True, False],
    }
    cells = Grid.of("jepa", axes).cells
    assert len(cells) == 3 * 2 * 3 * 2
    assert cells == Grid.of("jepa", axes).cells
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in cells)
    assert "jepa.model_name_or_path-none.distance-cosine.lr0.5.gather-true" in cells
    long = Grid.of("jepa", {f"a_rather_long_name_of_a_field_{n}": [1, 2] for n in range(8)}).cells
    assert len(long) == 2**8 and max(map(len, long)) <= 120


def test_a_cell_keeps_its_name_when_values_are_added():
    """So that its runs are found again, in this experiment and in another."""
    few = Grid.of("jepa", {"jepa_k": [1], "jepa_lambda": [0.5]}).cells
    more = Grid.of("jepa", {"jepa_k": [0, 1, 2], "jepa_lambda": [1.0, 0.5]}).cells
    assert few.items() <= more.items()


def test_axes_whose_short_names_are_the_same_are_written_out():
    assert list(Grid.of("a", {"jepa_target": ["x"], "target": ["y"]}).cells) == ["a.jepa_target-x.target-y"]


# ---- the choice ----


def literal_choice(values, seeds, higher):
    """Sort cells by their mean, in the order of the grid where equal."""
    whole = [(cell, sum(by[s] for s in seeds) / len(seeds)) for cell, by in values.items() if set(seeds) <= set(by)]
    return sorted(whole, key=lambda item: -item[1] if higher else item[1])[0][0]


def test_the_best_mean_over_seeds_is_chosen_whichever_way_is_better():
    """Against sorting, on random values with ties; a cell that lacks a seed is never chosen."""
    rng = random.Random(0)
    for _ in range(200):
        values = {f"cell{n}": {seed: rng.randint(0, 3) / 4 for seed in range(3)} for n in range(6)}
        values["cell0"] = {0: 9.0, 1: 9.0}
        values["cell1"] = {0: -9.0}
        assert choose(values, range(3), "exact_match") == literal_choice(values, range(3), True)
        assert choose(values, range(3), "ce_loss") == literal_choice(values, range(3), False)
    assert choose({"a": {0: 1.0}}, [0, 1], "exact_match") is None


def test_names_of_the_log_and_of_eval_json_mean_the_same():
    """`eval_ce_loss` is `ce_loss`; monitors are found by their last name; nan is not a value."""
    assert check_name("eval_ce_loss", "exact_match") == "ce_loss"
    assert check_name(None, "starts_with") == "starts_with"
    record = {"exact_match": 0.9, "validation": {"exact_match": 0.5, "monitor/gap": 0.25, "ce_loss": float("nan")}}
    assert validation_value(record, "exact_match") == 0.5  # never the one on test rows
    assert validation_value(record, "gap") == 0.25
    assert validation_value(record, "ce_loss") is None


@pytest.mark.parametrize(
    ("changes", "code", "values"),
    [
        ({"validation_size": 0}, "no_validation_rows", ["validation_size", "validation_file"]),
        ({"eval_strategy": "no"}, "settings_conflict", ["eval_strategy=no"]),
        ({"validation_generations": 0}, "settings_conflict", ["validation_generations=0", "choose_by"]),
    ],
)
def test_a_grid_whose_choice_could_not_be_made_is_refused_before_it_is_run(
    changes, code, values, tiny_settings, tmp_path, raises
):
    """Not after a night of runs; with choose_by ce_loss no answers are needed."""
    settings = tiny_settings(arms={"ntp": {}, "jepa": {"jepa_k": [0, 1]}}, seeds=[1])
    with raises(code, "exact_match", *values):
        open_experiment(settings | changes, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    if "validation_generations" in changes:
        open_experiment(settings | changes | {"choose_by": "ce_loss"}, tmp_path / "out", dry_run=True)


# ---- before it starts ----


def test_a_baseline_with_fewer_cells_is_told(tiny_settings, tmp_path):
    """As in the published comparison; where all have as many, nothing is said."""
    arms = {"ntp": {}, "jepa": {"learning_rate": [1e-3, 3e-3]}}
    uneven = open_experiment(tiny_settings(arms=arms, seeds=[1]), tmp_path / "out", dry_run=True)
    assert any("Not tuned alike: the baseline ntp has 1 cell, jepa 2." in note for note in uneven.notes)
    even = tiny_settings(arms=["ntp", "jepa"], learning_rate=[1e-3, 3e-3], seeds=[1])
    assert not any("Not tuned" in note for note in open_experiment(even, tmp_path / "out", dry_run=True).notes)


def test_a_dry_run_prints_how_many_runs_and_which(tiny_settings, tmp_path, capsys):
    config = tmp_path / "sweep.yaml"
    settings = tiny_settings(arms={"ntp": {}, "jepa": {"jepa_k": [0, 1]}}, seeds=[1, 2], compare_at=["steps", "flops"])
    config.write_text(yaml.safe_dump(settings))
    assert main(["compare", str(config), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "6 runs: 3 arms x 2 seeds, then at most 2 of flops" in printed
    assert "  jepa.k1-s2\n" in printed and '"most_runs": 8' in printed
    assert not (tmp_path / "out").exists()


def test_one_cell_can_be_trained_by_its_name_and_a_grid_cannot(tiny_settings, tmp_path, capsys):
    """`train --arm` takes a cell; the arm's own name stands for all of them."""
    config = tmp_path / "sweep.yaml"
    config.write_text(yaml.safe_dump(tiny_settings(arms=["ntp", "jepa"], grid={"jepa_k": [0, 1]}, max_steps=1)))
    for arm in ([], ["--arm", "jepa"]):
        assert main(["train", str(config), *arm, "--out", str(tmp_path / "run")]) == 2
        message = " ".join(capsys.readouterr().err.split())
        assert message.endswith("[unknown_arm]") and "--arm jepa:" in message and "ntp, jepa.k0, jepa.k1" in message
