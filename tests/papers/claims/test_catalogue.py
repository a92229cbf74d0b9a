"""Every claim is there, with the papers' figures, and with what it needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_jepa.papers.claims.catalogue import find, read_catalogue
from llm_jepa.papers.claims.resources_needed import datasets_of, gpu_hours, models_of, weights_of

SHARED = Path(__file__).parents[4] / "shared" / "paper" / "claims.json"
WORDS = ("claim",)  # our sentences may be better than those of the shared file; every figure is the same


@pytest.mark.skipif(not SHARED.is_file(), reason="the shared list of claims is not beside this checkout")
def test_the_catalogue_has_every_claim_of_the_shared_list_and_its_figures():
    """187 claims, field by field."""
    shared = json.loads(SHARED.read_text(encoding="utf-8"))
    catalogue = read_catalogue()
    assert list(catalogue) == [row["id"] for row in shared] and len(catalogue) == 187
    for row in shared:
        ours = vars(catalogue[row["id"]])
        assert {key: ours[key] for key in row if key not in WORDS} == {key: row[key] for key in row if key not in WORDS}


def test_every_claim_says_something_and_names_known_models_and_data():
    """A model or data set that resources_needed.py does not know would be an error here."""
    catalogue = read_catalogue()
    assert len(catalogue) == 187
    for claim in catalogue.values():
        assert claim.claim.endswith(".") and claim.where
        assert models_of(claim) or claim.model is None
        assert datasets_of(claim) or claim.dataset is None


def test_weights_are_none_free_or_gated():
    """Random weights need none; a claim of several models needs what the most guarded one needs."""
    words = {name: weights_of(claim) for name, claim in read_catalogue().items()}
    assert words["llmjepa.t2.synth"] == "none" and words["llmjepa.t5.qwen3"] == "free"
    assert words["llmjepa.t3.cosine"] == words["llmjepa.v1.fig1"] == "gated" and words["llmjepa.fig7.grid"] == "-"


def test_hours_follow_from_one_formula():
    """A larger model takes longer; without a number there are none."""
    one, large = find(["llmjepa.t15.llama1b", "llmjepa.t15.llama8b"])
    assert gpu_hours(large) > 2 * gpu_hours(one) > 0
    assert gpu_hours(find(["llmjepa.t9.yelp"])[0]) is None


def test_claims_are_found_by_id_and_by_pattern_in_the_order_of_the_papers():
    """A pattern is that of a shell."""
    assert [claim.id for claim in find(["llmjepa.t3.mse", "llmjepa.t2.*"])] == ["llmjepa.t2.synth", "llmjepa.t3.mse"]
    assert len(find(["llmjepa.t6.*"])) == 36


def test_an_unknown_claim_is_named_with_the_nearest_one(raises):
    """After a typing error."""
    with raises("unknown_claim", "'llmjepa.t3.cosin'", "'llmjepa.t3.cosine'"):
        find(["llmjepa.t3.cosin"])
