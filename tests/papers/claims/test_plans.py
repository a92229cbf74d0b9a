"""What is run for the claims: experiments that `compare` accepts, and checks whose arms exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_jepa.experiments.experiment import read_experiment
from llm_jepa.papers.claims.catalogue import read_catalogue
from llm_jepa.papers.claims.measures import MEASURES
from llm_jepa.papers.claims.paper_protocol import why_not
from llm_jepa.papers.claims.plan import SEEDS
from llm_jepa.papers.claims.plans import DATA, data_files, plan_of, read_plans
from llm_jepa.papers.claims.reproduce import why_left_out
from llm_jepa.runs.settings import read_yaml

CONFIGS = Path(__file__).parents[3] / "configs"


def experiment(plan, arms=None):
    files = data_files(plan.stem, DATA) | ({"model_name_or_path": "base/model"} if plan.base else {})
    return plan.experiment(arms or list(plan.arms), files)


@pytest.mark.parametrize("recipe", ["as_published", "fixed"])
@pytest.mark.parametrize("scale", ["tiny", "full"])
def test_every_experiment_is_accepted_and_its_checks_have_their_arms(scale, recipe):
    """All arms at once, and the five seeds of the papers."""
    for plan in read_plans(scale, recipe).values():
        config, runs = read_experiment(experiment(plan))
        assert config.seeds == SEEDS == [82, 23, 37, 84, 4] and list(runs) == list(plan.arms)
        for claim, parts in plan.checks.items():
            assert claim in read_catalogue() and parts
            for part in parts:
                assert set(part.arms) <= set(plan.arms) and part.measure in MEASURES


def test_each_claim_is_decided_by_one_experiment_or_says_why_by_none():
    """Forty claims and more can be decided on a small model."""
    decided = {
        scale: [claim for plan in read_plans(scale).values() for claim in plan.checks] for scale in ("tiny", "full")
    }
    assert all(len(claims) == len(set(claims)) for claims in decided.values())
    assert len(decided["tiny"]) >= 40 and set(decided["tiny"]) <= set(decided["full"])
    for name, claim in read_catalogue().items():
        for scale in ("tiny", "full"):
            assert (plan_of(name, scale) is None) == (name not in decided[scale])
            assert name in decided[scale] or why_left_out(claim, scale)


def test_only_the_baseline_goes_through_the_published_baselines_trainer():
    """Plain arms of other ranks and sizes too: `sum_micro_batches` is off in them, and on in every control."""
    for plan in read_plans("tiny").values():
        _, runs = read_experiment(experiment(plan))
        for arm, run in runs.items():
            assert run.training["sum_micro_batches"] is not arm.startswith("ntp"), (plan.name, arm)


def test_by_the_fixed_recipe_every_arm_scales_its_loss_alike_and_both_views_have_gradients():
    """What differs is what the published script does by accident."""
    plan = read_plans("tiny", "fixed")["finetune.fixed"]
    _, runs = read_experiment(experiment(plan))
    assert plan.name == "finetune.fixed"
    assert not any(run.training.get("sum_micro_batches") for run in runs.values())
    assert runs["jepa"].jepa.jepa_target == "shared" and runs["jepa"].jepa.train_end_token


@pytest.mark.parametrize(("recipe", "config"), [("as_published", "as_published.yaml"), ("fixed", "fixed.yaml")])
def test_table_2_at_tiny_scale_is_the_experiment_of_the_configs(recipe, config):
    """Its runs are taken from that experiment's folder, by --from."""
    plan = plan_of("llmjepa.t2.synth", "tiny", recipe)
    settings = read_yaml(CONFIGS / config)
    assert experiment(plan, list(settings["arms"])) == settings


def test_table_2_at_the_papers_size_is_the_config_for_one_gpu():
    """It has a billion parameters, and is not built here."""
    plan = plan_of("llmjepa.t2.synth", "full")
    settings = read_yaml(CONFIGS / "gpu" / "table2_llama1b.yaml")
    assert experiment(plan) == settings
    _, runs = read_experiment(settings)
    assert runs["jepa"].model.model == "llama-1b" and runs["jepa"].model.weights_dtype == "bf16"


def test_claimed_sizes_come_from_the_catalogue():
    """Points become shares; Table 6 compares with the same stage; geometry compares ratios."""
    finetune, dropout = read_plans("tiny")["finetune"], read_plans("tiny")["loss_dropout"]
    assert finetune.checks["llmjepa.t3.cosine"][0].size == pytest.approx(0.1417)
    assert finetune.checks["llmjepa.t3.l2"][0].direction == -1
    (stage,) = dropout.checks["llmjepa.t6.s2.ld75_l1"]
    assert stage.size == pytest.approx((53.77 - 40.70) / 100) and stage.measure == "accuracy@2"
    (geometry,) = finetune.checks["llmjepa.t14.jepa_k0.sv100"]
    assert geometry.logarithm and geometry.size == pytest.approx(-3.01, abs=0.01)


def test_a_claim_needs_only_its_own_arms():
    """Table 3's l2 runs four arms of the thirty; arms of `also` are run and decide nothing."""
    plan = read_plans("tiny")["finetune"]
    assert plan.arms_of(["llmjepa.t3.l2"]) == ["ntp", "jepa_lambda0", "l2", "l2_shuffled"]
    dropout = read_plans("tiny")["loss_dropout"]
    assert dropout.arms_of(["llmjepa.sec5.2.cost"]) == ["ntp", "ld0_l1", "ld50_l1", "ld75_l1"]  # ntp for its FLOPs
    assert plan.arms_of(["stp.fig5a.synth.vs_ntp"]) == ["ntp", "jepa_lambda0", "stp", "stp_released"]


def test_stages_of_equal_compute_cost_the_same():
    """By the papers' reckoning a step costs 2 - alpha times a plain one; to half a step a stage."""
    for scale in ("tiny", "full"):
        plan = plan_of("llmjepa.sec5.2.cost", scale)
        _, runs = read_experiment(experiment(plan))
        plain = runs["ntp"].training["eval_steps"]
        for run in runs.values():
            share = 2 - run.jepa.jepa_loss_dropout if run.jepa.has_term else 1
            assert abs(run.training["eval_steps"] * share - plain) <= 0.5 * share
            assert run.training["max_steps"] == 6 * run.training["eval_steps"]


def test_reference_rows_and_other_papers_auxiliaries_say_what_they_are():
    """No experiment decides them, at any size."""
    catalogue = read_catalogue()
    assert "reference row" in why_not(catalogue["llmjepa.t6.s1.ld0_l1"])
    assert "two trainings" in why_not(catalogue["llmjepa.t9.yelp"])
    assert "auxiliary losses" in why_not(catalogue["audit.null22"])
    assert "--scale full" in why_left_out(catalogue["llmjepa.t5.qwen3"], "tiny")


def test_a_method_that_is_said_to_beat_two_others_is_compared_with_both():
    """STP on gemma-2-2b-it, against plain training and against LLM-JEPA at the setting of its own table."""
    plan = plan_of("stp.fig5bc.gemma2b", "full")
    first, second = plan.checks["stp.fig5bc.gemma2b"]
    assert (first.baseline, second.baseline) == ("ntp", "jepa.k4.lambda2")
    assert plan.arms["jepa.k4.lambda2"] == {"jepa_k": 4, "jepa_lambda": 2.0}
    assert plan.settings["learning_rate"] == 1e-5 and plan.settings["model_name_or_path"] == "google/gemma-2-2b-it"
