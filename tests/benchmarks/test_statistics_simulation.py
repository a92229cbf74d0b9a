"""The simulation behind docs/statistics.md: the script runs, and the page says what the record says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

# A script, not a package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import statistics_simulation as simulation

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
RECORD = json.loads((ROOT / "benchmarks" / "results" / "statistics.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("table", ["rates", "new_rows", "planned"])
def test_the_page_has_the_tables_of_the_record(table):
    """Every figure; the record is of the script's defaults."""
    assert simulation.tables_of(RECORD)[table] in PAGE
    assert RECORD["settings"] == {"experiments": 10_000, "seed": 0, "margin_points": 1.0}


def test_the_text_of_the_page_is_true_of_the_record():
    """Where the spread is normal what is promised is kept, within 4 standard errors; the worst skewed rate is told."""
    normal = [rates for kind in ("rows", "both", "seeds") for rates in RECORD["rates"][kind].values()]
    assert all(abs(rates["coverage"] - 0.95) < 0.009 for rates in normal)
    assert all(max(rates["one_arm"], rates["three_arms"], rates["family"]) < 0.059 for rates in normal)
    assert all(rates["margin"] < 0.025 + 4 * 0.0016 for rates in normal)
    skewed = RECORD["rates"]["skewed"].values()
    worst = max(max(rates["one_arm"], rates["three_arms"], rates["family"]) for rates in skewed)
    margin = max(rates["margin"] for rates in skewed)
    assert f"up to {100 * worst:.1f}% instead of 5%, and {100 * margin:.1f}% instead of 2.5%" in PAGE
    assert all(plan["shown"] > 0.8 - 0.012 and plan["margin"] > 0.8 - 0.012 for plan in RECORD["planned"])


@pytest.mark.slow
def test_the_script_makes_a_record_of_that_form():
    """With 20 experiments of each kind; the first of each are done by `compare_paired` too, and must be the same."""
    record = simulation.simulate(20)
    assert record.keys() == RECORD.keys()
    assert {name: by_seeds.keys() for name, by_seeds in record["rates"].items()} == {
        name: by_seeds.keys() for name, by_seeds in RECORD["rates"].items()
    }
    assert [plan["seeds"] for plan in record["planned"]] == [plan["seeds"] for plan in RECORD["planned"]]
    assert simulation.simulate(20) == record


def test_equal_differences_are_those_of_the_product():
    """Where the t-test would divide by zero, the sign-flip test stands in for it."""
    ((only,),) = simulation.compare(np.full((1, 1, 6), 0.02), margin=0.01)
    assert (only.verdict, only.p_value) == ("better", 2 / 64)
