"""The papers' protocol for claims that no file of `experiments/` decides: other models and data sets, at full size.

There is one experiment for each model, data set and learning rate, with an arm for each setting that a claim names, and
its controls. Claims without such a setting (figures without numbers, ablations whose term this library does not have,
two-stage pretraining, other papers' auxiliary losses) have no plan: `why_not` says why.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llm_jepa.runs.settings import Settings

from .catalogue import Claim, read_catalogue
from .plan import Plan
from .resources_needed import Dataset, Model, datasets_of, models_of
from .verdicts import Check

BATCH, ACCUMULATION = 32, 4
"""128 pairs a step, as theirs on eight devices."""
STEPS_PER_EPOCH_ROUNDING = 128  # their last batch is dropped

_STP: Settings = {
    "jepa_term": "stp",
    "jepa_target": "stop_grad",
    "jepa_pred_tokens": "shared",
    "jepa_views": "prefix",
}


def other_plans(claims: Sequence[Claim]) -> dict[str, Plan]:
    """Return a plan for each group of claims that one experiment decides, by name."""
    plans: dict[str, Plan] = {}
    for claim in claims:
        if why_not(claim) is None:
            plan = _plan(claim, models_of(claim)[0], datasets_of(claim)[0])
            known = plans.get(plan.name, plan)
            plans[plan.name] = replace(known, arms=known.arms | plan.arms, checks=known.checks | plan.checks)
    return plans


def why_not(claim: Claim) -> str | None:
    """Return why a claim has no experiment of its own; None if it can have one."""
    if claim.regime == "pretrain+finetune":
        return "it needs two trainings, one after the other, which one experiment cannot do"
    if claim.method in ("llm-jepa(cosine)", "stp") or claim.method.startswith("stp ("):
        if len(models_of(claim)) != 1 or len(datasets_of(claim)) != 1:
            return "it is about several models or data sets at once, whose own claims are in the list"
        if claim.regime == "lora" or _protocol(claim) is None:
            return "it is about a curve without numbers, or its setting is unknown"
        return None
    reasons = {
        r"audit\.": "it is about auxiliary losses that this library does not have, or about the scope of a study",
        r"stp\.(fig13|t4|t5)\.": "it is about a variant whose term this library does not have",
        r".*\.(ld0_l1|(base|ntp)\.\w+)$": "it is a reference row, with which others are compared",
    }
    found = [reason for pattern, reason in reasons.items() if re.match(pattern, claim.id)]
    return found[0] if found else "it is about samples, or about a curve without numbers"


def _protocol(claim: Claim) -> dict[str, Any] | None:
    """Return lr, lambda and k of a claim; missing ones come from LLM-JEPA's claim on the same model and data."""
    config = {key: value for key, value in claim.config.items() if value is not None}
    if claim.method.startswith("stp") and "lambda" not in config:
        return None
    if claim.delta is None and claim.jepa_mean is None and not claim.id.startswith("stp.fig5bc"):
        return None
    merged = (_llm_jepa_setting(claim) or {}) | config
    return merged if {"lr", "lambda", "k"} <= merged.keys() else None


def _llm_jepa_setting(claim: Claim) -> dict[str, Any] | None:
    """Return the setting with which LLM-JEPA's own main tables compare the same model on the same data."""
    for other in read_catalogue().values():
        same = other.model == claim.model and datasets_of(other) == datasets_of(claim)
        if same and re.match(r"llmjepa\.t(2|4|5|12|13|15)\.", other.id):
            return {key: other.config[key] for key in ("lr", "lambda", "k")}
    return None


def _plan(claim: Claim, model: Model, data: Dataset) -> Plan:
    protocol = _protocol(claim)
    assert protocol is not None and data.train_rows is not None
    steps = int((protocol.get("epochs") or 4) * (data.train_rows // STEPS_PER_EPOCH_ROUNDING))
    settings: Settings = {
        "model_name_or_path": model.hub,
        "metric": data.metric,
        "jepa_views": "rendered",
        "max_steps": steps,
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": ACCUMULATION,
        "learning_rate": protocol["lr"],
    }
    arms, checks = _arms(claim, protocol)
    slug = re.sub(r"[^a-z0-9.]+", "-", str(claim.model).lower()).strip("-")
    name = f"{slug}.{data.stem}.lr{protocol['lr']:g}"
    title = f"{claim.model} on {claim.dataset}"
    return Plan(name, title, "full", "as_published", data.stem, False, settings, arms, {claim.id: checks})


def _arms(claim: Claim, protocol: dict[str, Any]) -> tuple[dict[str, Settings], tuple[Check, ...]]:
    """Return the arms that decide a claim, and its checks."""
    size = None if claim.delta is None else claim.delta / 100
    arms: dict[str, Settings] = {"ntp": {}, "jepa_lambda0": {}}
    if not claim.method.startswith("stp"):
        name, own = _jepa_arm(protocol)
        arms |= {name: own, f"{name}_shuffled": own | {"shuffle_views": True}}
        return arms, (Check(arm=name, controls=("jepa_lambda0", f"{name}_shuffled"), size=size),)
    stp = f"stp.lambda{protocol['lambda']:g}"
    arms[stp] = _STP | {"jepa_lambda": float(protocol["lambda"])}
    against_ntp = Check(arm=stp, controls=("jepa_lambda0",), size=size)
    views = _llm_jepa_setting(claim)
    if claim.id.endswith("vs_ntp") or views is None:
        return arms, (against_ntp,)
    name, own = _jepa_arm(views)
    arms[name] = own
    against_jepa = replace(against_ntp, baseline=name)
    return arms, (against_jepa,) if claim.id.endswith("vs_llmjepa") else (against_ntp, against_jepa)


def _jepa_arm(setting: dict[str, Any]) -> tuple[str, Settings]:
    own = {"jepa_k": setting["k"], "jepa_lambda": float(setting["lambda"])}
    return f"jepa.k{setting['k']}.lambda{setting['lambda']:g}", own
