"""What is run to decide claims, and what each claim says of it: read from `experiments/*.yaml`.

A file holds one experiment of `compare` at two sizes, `tiny` and `full`, and the checks of the claims that it decides:

    settings, tiny, full       flat settings of both sizes, and those that each size adds
    arms, tiny_arms, full_arms the fields that an arm changes at both sizes, and those that each size adds
    data                       stem of the files NAME_train.jsonl and NAME_test.jsonl
    ranks                      LoRA ranks by name, at each size: four arms and a check of Table 8 each
    stage_checks               the checks of Table 6, at `stages` stages
    checks                     claim: fields of a `Check`, or a list of them; `over` names the claim that has the
                               baseline's figure, `also` names arms that are run too but decide nothing
    cpu_s                      CPU seconds of a run, measured once: the mean over the kinds of run

`tiny: {base: true}`: the runs start from a model that is trained here on the first half of the training rows, and read
the second half (`reproduce.py`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from llm_jepa.runs.settings import Settings
from llm_jepa.yaml_loading import load_yaml

from .catalogue import PACKAGE, Claim, read_catalogue
from .measures import MEASURES
from .paper_protocol import other_plans
from .plan import Plan, Scale
from .verdicts import Check

FULL = "full."
"""Prefix of the names of experiments at the papers' size."""

DATA = "../shared/data"
"""Default folder of the data files, as in configs/."""


@functools.cache
def read_plans(scale: Scale, recipe: str = "as_published") -> dict[str, Plan]:
    """Return the experiments of one size by name (`finetune`, `finetune.fixed`, `full.finetune`), and what they decide.

    Each claim is in at most one of them.
    """
    folder = resources.files(PACKAGE) / "experiments"
    plans = {}
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        if file.name.endswith(".yaml"):
            name = file.name.removesuffix(".yaml")
            plans[name] = _read_plan(name, load_yaml(file.read_text(encoding="utf-8")), scale)
    if scale == "full":
        decided = {claim for plan in plans.values() for claim in plan.checks}
        plans |= other_plans([claim for name, claim in read_catalogue().items() if name not in decided])
    return {plan.name: plan for plan in (_named(each, recipe) for each in plans.values())}


def plan_of(claim: str, scale: Scale, recipe: str = "as_published") -> Plan | None:
    """Return the experiment that decides a claim at one size; None if none does."""
    return next((plan for plan in read_plans(scale, recipe).values() if claim in plan.checks), None)


def data_files(stem: str, folder: str | Path) -> Settings:
    """Return train_file and test_file of a data set in a folder; for Spider also databases, to run its answers."""
    files = {f"{part}_file": str(Path(folder) / f"{stem}_{part}.jsonl") for part in ("train", "test")}
    return files | ({"databases": str(Path(folder) / "spider_databases")} if stem == "spider" else {})


# ---- reading ----


def _read_plan(name: str, content: dict[str, Any], scale: Scale) -> Plan:
    settings = content["settings"] | content[scale]
    base = bool(settings.pop("base", False))
    arms = {arm: own | content.get(f"{scale}_arms", {}).get(arm, {}) for arm, own in content.get("arms", {}).items()}
    ranks = content.get("ranks", {}).get(scale, {})
    arms |= _rank_arms(ranks)
    rows = content["checks"] | _stage_checks(content) | _rank_checks(ranks)
    checks, also = {}, {}
    for claim, given in rows.items():
        parts = given if isinstance(given, list) else [given]
        also[claim] = tuple(arm for part in parts for arm in part.get("also", ()))
        checks[claim] = tuple(
            _read_check(read_catalogue()[claim], part, first=place == 0) for place, part in enumerate(parts)
        )
    recipe = settings.pop("recipe")
    cpu_s = content.get("cpu_s", {}).get(scale)
    return Plan(name, content["title"], scale, recipe, content["data"], base, settings, arms, checks, also, cpu_s)


def _stage_checks(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the checks of Table 6: every setting at every stage."""
    rule = content.get("stage_checks", {})
    return {
        rule["claim"].format(stage=stage, arm=arm): {
            "measure": f"accuracy@{stage}",
            "arm": arm,
            "baseline": rule["baseline"],
            "controls": rule["controls"],
            "over": rule["over"].format(stage=stage),
        }
        for stage in range(1, content.get("stages", 0) + 1)
        for arm in rule.get("arms", ())
    }


def _rank_arms(ranks: Mapping[str, int]) -> dict[str, Settings]:
    """Return the four arms of each LoRA rank; alpha is twice the rank (arXiv 2509.14252, its code)."""
    arms: dict[str, Settings] = {}
    for name, rank in ranks.items():
        size = {"lora_r": rank, "lora_alpha": 2.0 * rank}
        # Only the arm called ntp uses the published baseline's trainer by default.
        arms[f"ntp.{name}"] = size | {"jepa_lambda": 0.0, "sum_micro_batches": False}
        arms[f"jepa_lambda0.{name}"] = size | {"jepa_lambda": 0.0}
        arms[f"jepa.{name}"] = dict(size)
        arms[f"jepa_shuffled.{name}"] = size | {"shuffle_views": True}
    return arms


def _rank_checks(ranks: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return the checks of Table 8: the JEPA arm against the plain one, at each rank."""
    return {
        f"llmjepa.t8.{name}": {
            "arm": f"jepa.{name}",
            "baseline": f"ntp.{name}",
            "controls": [f"jepa_lambda0.{name}", f"jepa_shuffled.{name}"],
        }
        for name in ranks
    }


def _read_check(claim: Claim, given: Mapping[str, Any], *, first: bool) -> Check:
    """Return a check; its size and direction come from the catalogue's figures if they are not stated."""
    own = not {"over", "size"} & given.keys() and (first or given.get("kind", "gain") == "gain")
    fields = {key: value for key, value in given.items() if key not in ("over", "also")}
    measure = MEASURES[fields.get("measure", Check.measure)]
    if "size" not in fields and fields.get("kind", "gain") == "gain":
        fields["size"] = claimed_size(claim, measure.unit, given.get("over"))
    if "direction" not in fields and fields.get("size"):
        fields["direction"] = 1 if fields["size"] > 0 else -1
    for key in ("controls", "pairs"):
        if key in fields:
            fields[key] = tuple(tuple(each) if isinstance(each, list) else each for each in fields[key])
    if "trends" in fields:
        fields["trends"] = tuple((name, tuple(map(tuple, levels))) for name, levels in fields["trends"].items())
    return Check(**fields, own=own, logarithm=measure.unit == "logarithm")


def claimed_size(claim: Claim, unit: str, over: str | None = None) -> float | None:
    """Return the difference that a claim states; None if it states none.

    Points become shares; for a `logarithm` it is the logarithm of the ratio. `over` names the claim whose method is the
    baseline, if the baseline is not the claim's own.
    """
    if over is not None:
        ours, theirs = claim.jepa_mean, read_catalogue()[over].jepa_mean
        return None if ours is None or theirs is None else round(ours - theirs, 6) / 100
    if unit == "logarithm":
        known = claim.jepa_mean and claim.baseline_mean
        return math.log(claim.jepa_mean / claim.baseline_mean) if known else None  # type: ignore[operator]
    return None if claim.delta is None else claim.delta / 100 if unit == "share" else claim.delta


def _named(plan: Plan, recipe: str) -> Plan:
    """Return the plan for a recipe; each size and recipe has its own name, for its folder and its record."""
    if plan.scale == "full":
        plan = replace(plan, name=f"{FULL}{plan.name}")
    if recipe == plan.recipe:
        return plan
    # The published objective has gradients through both views with every recipe; STP has no views.
    settings = {"jepa_target": "shared"} | plan.settings
    return replace(plan, recipe=recipe, name=f"{plan.name}.{recipe}", settings=settings)
