"""`recipe: as_published`: the published training script's settings, spelled out, and a run of them from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from llm_jepa.experiments.compare import open_experiment, run_experiment
from llm_jepa.experiments.experiment import read_experiment
from llm_jepa.export.export_run import export_run
from llm_jepa.runs.build_trainer import build_trainer
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import RECIPES, read_run
from llm_jepa.runs.trained_run import load_run

ARMS = ["ntp", "jepa_lambda0", "jepa"]
CONFIGS = Path(__file__).parents[2] / "configs"


def as_published(tiny_settings, **changes):
    return tiny_settings(recipe="as_published", validation_size=None, **changes)


def arms(settings):
    return read_experiment(settings | {"arms": ARMS})[1]


def test_the_recipe_is_the_published_script():
    """Each setting where it takes effect; nothing of it without the recipe."""
    runs = arms({"recipe": "as_published"})
    run = runs["jepa"]
    args = run.training_arguments("out")
    assert (run.jepa.loss_on, run.jepa.train_end_token) == ("all", False)
    assert (run.jepa.jepa_target, run.jepa.jepa_pred_tokens) == ("shared", "distinct")
    assert (args.sum_micro_batches, args.gradient_accumulation_steps) == (True, 4)
    assert (args.lr_scheduler_type, args.warmup_steps, args.weight_decay, args.max_grad_norm) == ("linear", 0, 0.0, 1.0)
    assert args.train_sampling_strategy == "random"
    assert (run.model.weights_dtype, run.data.validation_size, run.evaluation.metric) == ("bf16", 0, "starts_with")
    for settings in ({}, {"recipe": "fixed"}):
        fixed = arms(settings)["jepa"]
        assert fixed.settings == settings
        assert fixed.jepa.train_end_token and not fixed.training_arguments("out").sum_micro_batches
        assert (fixed.model.weights_dtype, fixed.data.validation_size) == ("float32", 200)


def test_the_baseline_alone_goes_through_the_other_trainer():
    """The published arms differ in their trainer too; `jepa_lambda0` differs from the baseline in that alone."""
    runs = arms({"recipe": "as_published"})
    assert [runs[arm].settings["sum_micro_batches"] for arm in ARMS] == [False, True, True]
    assert runs["jepa_lambda0"].settings == runs["ntp"].settings | {"sum_micro_batches": True}
    assert runs["jepa"].settings | {"jepa_lambda": 0.0} == runs["jepa_lambda0"].settings


@pytest.mark.parametrize("key", sorted(RECIPES["as_published"]))
def test_a_key_given_explicitly_wins(key):
    """In the file or in an arm, for every key of the recipe, so that a difference can be taken apart."""
    value = {"loss_on": "code", "jepa_target": "stop_grad", "jepa_pred_tokens": "shared", "metric": "exact_match"}
    value |= {"train_end_token": True, "sum_micro_batches": False, "gradient_accumulation_steps": 2, "warmup_steps": 5}
    value |= {"weights_dtype": "float32", "validation_size": 10, "train_sampling_strategy": "group_by_length"}
    value |= {"lr_scheduler_type": "cosine", "weight_decay": 0.1, "max_grad_norm": 0.5}
    assert value[key] != RECIPES["as_published"][key]
    for run in arms({"recipe": "as_published", key: value[key]}).values():
        assert run.settings[key] == value[key]
    _, runs = read_experiment({"recipe": "as_published", "arms": {"ntp": {}, "mine": {key: value[key]}}})
    assert runs["mine"].settings == RECIPES["as_published"] | {"recipe": "as_published", key: value[key]}
    assert runs["ntp"].settings[key] == (RECIPES["as_published"] | {"sum_micro_batches": False})[key]


def test_the_recipe_of_a_single_run_is_that_of_the_jepa_trainer():
    """Spelled out once, it is the same when it is read again."""
    run = read_run({"recipe": "as_published", "jepa_lambda": 0.0})
    assert run.settings["sum_micro_batches"] is True
    assert read_run(run.settings).settings == run.settings
    ntp = arms({"recipe": "as_published"})["ntp"]
    assert read_run(ntp.settings).settings == ntp.settings


@pytest.mark.parametrize(
    ("settings", "code", "values"),
    [
        ({"recipe": "published"}, "value_not_allowed", ["recipe='published'", "fixed, as_published"]),
        (
            {"recipe": "as_published", "precision": "float32"},
            "settings_conflict",
            ["precision: float32", "weights_dtype=bf16"],
        ),
        ({"weights_dtype": "bf16", "fp16": True}, "settings_conflict", ["fp16: true", "weights_dtype=bf16"]),
        (
            {"weights_dtype": "bf16", "jepa_target": "ema"},
            "settings_conflict",
            ["jepa_target=ema", "weights_dtype=bf16"],
        ),
    ],
)
def test_what_cannot_be_together_is_refused(settings, code, values, raises):
    with raises(code, *values):
        read_experiment({"arms": {"ntp": {}, "mine": {"jepa_k": 2}}, **settings})


def test_the_configs_of_the_comparison_differ_in_the_recipe_alone():
    """configs/as_published.yaml and configs/fixed.yaml: the same rows, model, steps, learning rate, arms and seeds."""
    files = [yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in ("as_published", "fixed")]
    differing = {key for key in files[0].keys() | files[1].keys() if files[0].get(key) != files[1].get(key)}
    assert differing == {"recipe", "jepa_target"}
    assert list(files[0]["arms"]) == ARMS and files[0]["seeds"] == [82, 23, 37, 84, 4]
    _, runs = read_experiment(files[1])
    assert runs["jepa"].jepa.jepa_target == "shared"


# ---- a run from end to end ----


@pytest.fixture(scope="module")
def published(tiny_settings, tmp_path_factory):
    """The folder of a whole run under the recipe, without validation rows. Read only."""
    folder = tmp_path_factory.mktemp("published") / "run"
    train_run(read_run(as_published(tiny_settings)), 3, folder)
    return folder


def read_json(path):
    return json.loads(path.read_text())


def test_a_runs_settings_say_all_of_its_recipe(published):
    """config.yaml does not need the table of recipes to be understood."""
    config = yaml.safe_load((published / "config.yaml").read_text())
    assert config.items() >= RECIPES["as_published"].items()
    assert config["recipe"] == "as_published"


def test_a_run_without_validation_rows_is_whole(published):
    """No looks, no validation scores, and a note that says so; test rows are scored all the same."""
    lines = [json.loads(line) for line in (published / "metrics.jsonl").read_text().splitlines()]
    assert not any(key.startswith("eval_") for line in lines for key in line)
    assert len([line for line in lines if "loss" in line]) == 3
    report = read_json(published / "eval.json")
    assert "validation" not in report and report["num_rows"] == 12
    notes = read_json(published / "data.json")["notes"]
    assert sum("No validation rows" in note for note in notes) == 1
    assert sum("train_end_token: false" in note for note in notes) == 1


def test_the_saved_model_is_bf16_and_its_card_says_what_was_trained(published, tmp_path):
    """Loaded as a run it answers; exported, its card has the settings and warns of answers that do not end."""
    assert read_json(published / "model" / "config.json")["dtype"] == "bfloat16"
    assert isinstance(load_run(published).generate("lines with a dog"), str)
    export_run(published, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "train_end_token" in card and "It was never trained to stop" in card


def test_what_needs_looks_is_refused_without_validation_rows(tiny_settings, tmp_path, raises):
    settings = tiny_settings(validation_size=0, save_steps=2, load_best_model_at_end=True)
    with raises("no_validation_rows", "load_best_model_at_end", "validation_size"):
        build_trainer(read_run(settings), 3, tmp_path / "run")


def test_the_arms_of_the_recipe_train_on_the_same_rows_in_the_same_order(tiny_settings, tmp_path):
    """As in every comparison: the trainers' difference is a scale, and no more."""
    runs = arms(as_published(tiny_settings, max_steps=2))
    seen = {}
    for arm in ARMS:
        trainer, _ = build_trainer(runs[arm], 82, tmp_path / arm)
        rows = []
        trainer.jepa.register_forward_pre_hook(lambda module, inputs, rows=rows: rows.append(inputs[0].sources))
        before = {name: each.detach().clone() for name, each in trainer.jepa.model.named_parameters()}
        trainer.train()
        line = next(line for line in trainer.state.log_history if "loss" in line)
        seen[arm] = (rows, before, line)
    for arm in ARMS:
        assert seen[arm][0] == seen["ntp"][0] and len(seen[arm][0]) == 2 * 4
        assert all((seen[arm][1][name] == each).all() for name, each in seen["ntp"][1].items())
    first, control = seen["ntp"][2], seen["jepa_lambda0"][2]
    assert control["loss"] == pytest.approx(4 * first["loss"], rel=0.05)
    assert control["grad_norm"] == pytest.approx(4 * first["grad_norm"], rel=0.3)
    assert control["ce_loss"] == pytest.approx(first["ce_loss"], rel=0.05)


@pytest.mark.slow
def test_a_comparison_under_the_recipe_is_spelled_out_and_whole(tiny_settings, tmp_path, quick_runs):
    """Three arms, one seed: each run's config.yaml has every setting of the recipe, and the arms are compared."""
    settings = as_published(tiny_settings, arms=ARMS, seeds=[82], max_steps=1)
    results = run_experiment(open_experiment(settings, tmp_path / "out")).to_json()
    assert results["metric"] == "starts_with"
    assert [each["arm"] for each in results["comparisons"]] == ["jepa_lambda0", "jepa"]
    assert results["alarms"] == {}, "no row is held out, so no run was watched for a collapse: none is called healthy"
    assert [(each["arm"], each["baseline"]) for each in results["controls"]] == [("jepa", "jepa_lambda0")]
    for arm in ARMS:
        config = yaml.safe_load((tmp_path / "out" / f"{arm}-s82" / "config.yaml").read_text())
        assert config.items() >= (RECIPES["as_published"] | {"sum_micro_batches": arm != "ntp"}).items()
        assert config["recipe"] == "as_published"
