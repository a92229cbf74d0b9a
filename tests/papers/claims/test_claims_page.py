"""docs/claims.md is what the catalogue and the committed records say."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_jepa.data.config import SHUFFLE_RULE
from llm_jepa.papers.claims.catalogue import read_catalogue
from llm_jepa.papers.claims.claims_page import RECORDS, claims_page
from llm_jepa.papers.claims.plans import plan_of, read_plans
from llm_jepa.papers.claims.records import SCHEMA, judge_record, read_records

ROOT = Path(__file__).parents[3]


def record_of(plan, values, claims, **changes):
    """A record made by hand."""
    record = {
        "schema": SCHEMA,
        "shuffle_rule": SHUFFLE_RULE,
        "experiment": plan.name,
        "scale": plan.scale,
        "recipe": plan.recipe,
        "command": "llm-jepa reproduce 'llmjepa.t3.*' --scale tiny",
        "changed": {},
        "environment": {"cpu": "A Processor", "device": "cpu", "torch": "2.13.0", "commit": "0123456789abcdef"},
        "settings": plan.settings,
        "claims": claims,
        "values": {"accuracy": values},
    }
    return record | changes


def seeds(*values):
    return {str(seed): value for seed, value in zip((82, 23, 37, 84, 4), values, strict=True)}


def test_the_page_is_up_to_date():
    """`python -m llm_jepa.papers.claims.claims_page > docs/claims.md` makes it."""
    page = claims_page(read_records(ROOT / RECORDS))
    assert (ROOT / "docs" / "claims.md").read_text(encoding="utf-8") == page


def test_every_claim_is_on_the_page_and_says_how_to_run_it_or_why_it_cannot_be():
    """Without a single record."""
    page = claims_page([])
    for name in read_catalogue():
        assert f"| `{name}`: " in page
    assert "| not run | 187 |" in page
    assert "not run: `llm-jepa reproduce llmjepa.t3.mse --scale tiny`" in page
    assert "`llm-jepa reproduce llmjepa.t12.gemma2b` (gated weights, " in page
    assert "it is a reference row" in page


def test_a_record_becomes_verdicts_figures_and_a_table_of_arms():
    """JEPA 20 points above the baseline and no further than lambda 0: explained; the missing control is named."""
    plan = read_plans("tiny")["finetune"]
    values = {
        "ntp": seeds(0.50, 0.51, 0.49, 0.50, 0.50),
        "jepa_lambda0": seeds(0.70, 0.69, 0.71, 0.70, 0.705),
        "jepa": seeds(0.70, 0.70, 0.70, 0.70, 0.69),
    }
    page = claims_page([record_of(plan, values, ["llmjepa.t3.cosine", "llmjepa.t10.ratioinf"])])
    (row,) = [line for line in page.splitlines() if line.startswith("| `llmjepa.t3.cosine`")]
    assert "57.29 → 71.46 (+14.17)" in row and "50.0 → 69.8 (+19.8 [" in row and "n 5" in row
    assert "**explained by a control** (tiny, as_published) jepa_lambda0 did it as well" in row
    assert "jepa_shuffled not run" in row
    (row,) = [line for line in page.splitlines() if line.startswith("| `llmjepa.t10.ratioinf`")]
    assert "**not reproduced**" in row and "beyond the margin" in row
    assert "| explained by a control | 1 |" in page and "| not run | 185 |" in page
    assert "| `jepa` | 5 | 69.8 ± 0.4 |" in page and "A Processor; torch 2.13.0; commit 0123456789ab" in page


def test_two_recipes_stand_side_by_side_and_the_published_one_counts():
    """By the fixed recipe lambda 0 is the baseline itself."""
    published, fixed = (plan_of("llmjepa.t2.synth", "tiny", recipe) for recipe in ("as_published", "fixed"))
    up, level = seeds(0.70, 0.71, 0.69, 0.70, 0.70), seeds(0.50, 0.51, 0.49, 0.50, 0.505)
    claims = ["llmjepa.t2.synth"]
    one = record_of(published, {"ntp": level, "jepa": up, "jepa_lambda0": level, "jepa_shuffled": level}, claims)
    other = record_of(fixed, {"ntp": level, "jepa": level, "jepa_lambda0": level, "jepa_shuffled": level}, claims)
    page = claims_page([one, other])
    rows = [line for line in page.splitlines() if line.startswith("| `llmjepa.t2.synth`")]
    assert len(rows) == 2 and "**reproduced** (tiny, as_published)" in rows[0]
    assert "**not reproduced** (tiny, fixed)" in rows[1]
    assert "| reproduced | 1 |" in page and "| not reproduced | 0 |" in page


def test_a_record_of_changed_settings_says_so():
    """A smoke test must not pass for the protocol."""
    plan = read_plans("tiny")["finetune"]
    level = seeds(0.5, 0.5, 0.5, 0.5, 0.5)
    page = claims_page(
        [record_of(plan, {"ntp": level, "jepa": level}, ["llmjepa.t3.cosine"], changed={"max_steps": 2})]
    )
    assert "(tiny, as_published, settings changed)" in page and "Settings that were changed: {'max_steps': 2}." in page


def test_claims_of_one_table_are_corrected_together():
    """Holm over the two rows of Table 3 in the record; Table 12's one row stays as it is."""
    plan = read_plans("tiny")["finetune"]
    values = {
        "ntp": seeds(0.50, 0.51, 0.49, 0.50, 0.50),
        "jepa": seeds(0.54, 0.50, 0.53, 0.55, 0.51),
        "mse": seeds(0.55, 0.52, 0.53, 0.52, 0.57),
    }
    judged = judge_record(record_of(plan, values, ["llmjepa.t3.cosine", "llmjepa.t3.mse", "llmjepa.t12.llama1b"]))
    cosine, mse, alone = (
        judged[name].outcomes[0] for name in ("llmjepa.t3.cosine", "llmjepa.t3.mse", "llmjepa.t12.llama1b")
    )
    assert alone.p_holm == alone.p_value == cosine.p_value
    assert sorted([cosine.p_holm, mse.p_holm]) == pytest.approx(
        [2 * min(cosine.p_value, mse.p_value), max(2 * min(cosine.p_value, mse.p_value), cosine.p_value, mse.p_value)]
    )
