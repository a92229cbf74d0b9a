"""Planning: the planned seeds give the promised power, and a pilot's spread is split into seeds and rows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from llm_jepa.cli import main
from llm_jepa.errors import DataError
from llm_jepa.experiments.seeds_needed import Spread, decompose, seeds_needed, spreads_of
from llm_jepa.experiments.statistics import PairedComparison, correct_for_many, power_of_t_test
from llm_jepa.runs.folder import ExperimentFolder

CONFIG = "generate_train: 60\ngenerate_test: 8\narms: [ntp, jepa, jepa_shuffled]\n"


def compared(differences: np.ndarray, margin: float | None = None) -> list[list[PairedComparison]]:
    """Experiments with corrected comparisons, from differences (experiments, arms, seeds), by scipy's t-test alone."""
    test = stats.ttest_1samp(differences, 0.0, axis=-1)
    low, high = test.confidence_interval()
    against_margin = None if margin is None else stats.ttest_1samp(differences, -margin, axis=-1).pvalue
    return [
        correct_for_many(
            [
                PairedComparison(
                    f"arm{arm}",
                    "ntp",
                    differences.shape[-1],
                    delta=differences[place, arm].mean(),
                    ci=(low[place, arm], high[place, arm]),
                    p_value=test.pvalue[place, arm],
                    margin=margin,
                    p_margin=None if against_margin is None else against_margin[place, arm],
                )
                for arm in range(differences.shape[1])
            ]
        )
        for place in range(len(differences))
    ]


# ---- the number of seeds ----


@pytest.mark.parametrize(
    ("effect", "std", "count", "power"),
    [(2.0, 1.5, 1, 0.8), (2.0, 1.5, 3, 0.8), (1.0, 1.0, 2, 0.9), (0.5, 1.5, 1, 0.8)],
)
def test_the_planned_seeds_show_the_effect_as_often_as_promised(effect: float, std: float, count: int, power: float):
    """Simulation with the real correction and verdict; the other arms equal the baseline, the hardest case for Holm.

    2,000 experiments, 3 sigma allowed; with one seed fewer the promise would be broken.
    """
    n = seeds_needed(effect, std, num_comparisons=count, power=power)
    assert power_of_t_test(n - 1, std, effect, 0.05 / count) < power
    differences = np.random.default_rng(7).normal(0.0, std, (2000, count, n))
    differences[:, 0] += effect
    shown = sum(first.verdict == "better" for first, *_ in compared(differences))
    noise = 3 * math.sqrt(power * (1 - power) / 2000)
    expected = power_of_t_test(n, std, effect, 0.05 / count)
    assert power - noise <= shown / 2000 <= expected + noise + 0.01  # Holm's later steps add a little


def test_as_many_seeds_show_that_an_equal_arm_keeps_the_margin():
    """Against a loss of 2 points, as against no difference where the effect is 2 points."""
    n = seeds_needed(2.0, 1.5)
    differences = np.random.default_rng(8).normal(0.0, 0.015, (2000, 1, n))
    kept = [only.not_worse_shown for (only,) in compared(differences, margin=0.02)]
    assert np.mean(kept) == pytest.approx(power_of_t_test(n, 1.5, 2.0), abs=3 * math.sqrt(0.16 / 2000))
    assert np.mean(kept) > 0.78


def test_more_spread_more_arms_more_power_and_a_smaller_effect_need_more_seeds():
    """And an effect that is far too small is said to be so."""
    n = seeds_needed(2.0, 1.5)
    assert n == 7
    assert min(seeds_needed(2.0, 3.0), seeds_needed(1.0, 1.5), seeds_needed(2.0, 1.5, power=0.95)) > n
    assert seeds_needed(2.0, 1.5, num_comparisons=7) > seeds_needed(2.0, 1.5, num_comparisons=3) > n
    assert seeds_needed(50.0, 0.1) == 2
    assert seeds_needed(0.01, 5.0) is None


# ---- seeds and rows ----


def simulated(rng: np.random.Generator, num_seeds: int, num_rows: int, std: float) -> np.ndarray:
    """Differences of right answers, (S, N): seeds of standard deviation `std`, rows of 0.3, and single answers."""
    of_rows = rng.choice([-0.3, 0.3], num_rows)
    chance = np.clip(0.5 + of_rows + rng.normal(0, std, (num_seeds, 1)), 0, 1)
    return (rng.random((num_seeds, num_rows)) < chance) - (rng.random((num_seeds, num_rows)) < 0.5).astype(float)


def test_the_parts_of_seeds_and_rows_are_found():
    """200 seeds, 1,000 rows: noise of p (1 - p) of both answers; a file four times as large has the spread foretold."""
    rng = np.random.default_rng(9)
    differences = simulated(rng, 200, 1000, 0.02)
    noise_std, row_std = decompose(differences)
    assert noise_std**2 == pytest.approx(0.25 + (0.8 * 0.2), rel=0.02)
    assert row_std == pytest.approx(0.3, rel=0.05)
    spread = Spread("jepa", 200, float(differences.mean(axis=1).std(ddof=1)), 1000, noise_std, row_std)
    assert spread.std_at(1000) == pytest.approx(spread.std)
    larger = simulated(rng, 400, 4000, 0.02).mean(axis=1).std(ddof=1)
    assert spread.std_at(4000) == pytest.approx(larger, rel=0.15)
    assert spread.std_at(10**9) == pytest.approx(0.02, rel=0.25)


def test_a_lucky_pilot_is_not_believed_below_the_noise_of_its_rows():
    """Three seeds that happen to agree: the rows alone make more spread than was seen."""
    spread = Spread("jepa", 3, 0.001, 100, noise_std=0.5, row_std=0.1)
    assert spread.std_at(100) == pytest.approx(0.05)
    assert spread.std_at(400) == pytest.approx(0.025)


def test_the_interval_of_the_spread_is_that_of_the_chi_square():
    """With three seeds half to six times as large, as tables say."""
    assert Spread("jepa", 3, 1.0, 100).ci == pytest.approx((0.5207, 6.2847), rel=1e-3)


# ---- a pilot's folder ----


@pytest.fixture
def pilot(tmp_path) -> Path:
    """Finished runs of three arms and four seeds, on 50 rows."""
    rng = np.random.default_rng(10)
    for arm, chance in (("ntp", 0.5), ("jepa", 0.6), ("jepa_shuffled", 0.5)):
        for seed in range(4):
            write_run(tmp_path / "pilot", arm, seed, rng.random(50) < chance)
    return tmp_path / "pilot"


def write_run(pilot: Path, arm: str, seed: int, right: np.ndarray, predictions: bool = True) -> None:
    run = ExperimentFolder(pilot).run(arm, seed)
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_evaluation({"exact_match": float(np.mean(right)), "num_rows": len(right)})
    if predictions:
        run.write_predictions(
            {"text": f"row {place % 40}", "gold": "a", "exact_match": bool(each)} for place, each in enumerate(right)
        )
    run.mark_done()


def plan(pilot: Path, *flags: str, config: str = CONFIG) -> int:
    file = pilot.parent / "config.yaml"
    file.write_text(config)
    return main(["plan", str(file), *flags])


def test_a_pilot_is_read_from_its_run_folders(pilot):
    """Spread by seed, noise by row; rows with equal texts are rows of their own."""
    first, second = spreads_of(pilot, ["ntp", "jepa", "jepa_shuffled"], "ntp", "exact_match")
    folder = ExperimentFolder(pilot)
    right = {
        arm: np.array([[row["exact_match"] for row in folder.run(arm, seed).predictions()] for seed in range(4)])
        for arm in ("ntp", "jepa")
    }
    differences = right["jepa"].astype(float) - right["ntp"]
    assert (first.arm, second.arm, first.n, first.num_rows) == ("jepa", "jepa_shuffled", 4, 50)
    assert first.std == pytest.approx(differences.mean(axis=1).std(ddof=1))
    assert (first.noise_std, first.row_std) == pytest.approx(decompose(differences))


def test_the_plan_is_short_and_its_last_line_is_json(pilot, capsys):
    """80 columns; a larger test file never needs more seeds; the margin of the config is planned too."""
    assert plan(pilot, "--effect", "5", "--pilot", str(pilot), config=CONFIG + "margin: 2.0\n") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) < 25
    record = json.loads(last)
    assert (record["num_comparisons"], record["power"], record["num_rows"]) == (2, 0.8, 50)
    for arm in record["arms"].values():
        assert list(arm["seeds"]) == ["50", "100", "200", "400"]
        assert list(arm["seeds"].values()) == sorted(arm["seeds"].values(), reverse=True)
        assert arm["seeds"]["50"] == seeds_needed(
            5.0, max(arm["std_points"], arm["rows_std_points"]), num_comparisons=2
        )
    assert "not worse by more than 2.0 points" in "\n".join(lines)


def test_a_stated_spread_needs_no_pilot(pilot, capsys):
    """And the output says that it tells nothing of test rows."""
    assert plan(pilot, "--effect", "2", "--std", "1.5", "--power", "0.9") == 0
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[-1])["seeds"] == seeds_needed(2.0, 1.5, num_comparisons=2, power=0.9)
    assert "Test rows: --std does not say" in out
    two = CONFIG + "generate_views: 20\ngenerate_test_phrasing: both\n"
    assert plan(pilot, "--effect", "2", "--std", "1.5", config=two) == 0  # Holm runs over arms and test sets
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_comparisons"] == 4
    assert plan(pilot, "--effect", "0.01", "--std", "5") == 0
    assert "over 10,000 seeds" in " ".join(capsys.readouterr().out.split())


def test_without_predictions_the_part_of_the_rows_is_not_known(pilot, capsys):
    """The seeds for the pilot's own test file are planned all the same."""
    ExperimentFolder(pilot).run("jepa", 2).predictions_file.unlink()
    assert plan(pilot, "--effect", "5", "--pilot", str(pilot)) == 0
    out = capsys.readouterr().out
    assert "'-' means that the effect of more test rows is unknown" in " ".join(out.split())
    arms = json.loads(out.splitlines()[-1])["arms"]
    assert list(arms["jepa"]["seeds"]) == ["50"] and arms["jepa"]["rows_std_points"] is None
    assert len(arms["jepa_shuffled"]["seeds"]) == 4


@pytest.mark.parametrize(
    ("flags", "code", "values"),
    [
        (["--effect", "0", "--std", "1"], "value_out_of_range", ["--effect 0.0", "0 and 100"]),
        (["--effect", "nan", "--std", "1"], "value_out_of_range", ["--effect nan"]),
        (["--effect", "2", "--std", "-1"], "value_out_of_range", ["--std -1.0"]),
        (["--effect", "2", "--std", "1", "--power", "1"], "value_out_of_range", ["--power 1.0"]),
        (["--effect", "2"], "wrong_call", ["--pilot --std"]),
        (["--effect", "2", "--std", "1", "--pilot", "x"], "wrong_call", ["--pilot", "--std"]),
        (["--effect", "2", "--pilot", "nowhere"], "run_not_finished", ["nowhere", "ntp"]),
        (["--effect", "2", "--std", "1", "--set", "arms=[ntp]"], "nothing_to_compare", ["config.yaml"]),
        (
            ["--effect", "2", "--pilot", "x", "--set", "arms={ntp: {jepa_k: [1, 2]}, jepa: {}}"],
            "settings_conflict",
            ["ntp", "--pilot", "--std"],
        ),
    ],
)
def test_a_wrong_call_is_exit_code_2_and_says_what_to_do(flags, code, values, pilot, capsys):
    """Nothing is printed on standard output."""
    try:
        exit_code = plan(pilot, *flags)
    except SystemExit as stop:
        exit_code = stop.code
    captured = capsys.readouterr()
    assert exit_code == 2 and captured.out == ""
    message = " ".join(captured.err.split())
    assert message.endswith(f"[{code}]") and all(value in message for value in values)


def test_an_arm_without_a_spread_is_left_out_by_name(pilot, caplog):
    """The others are planned with."""
    for seed in range(4):
        write_run(pilot, "ntp", seed, np.zeros(50))
        write_run(pilot, "equal", seed, np.zeros(50))
        write_run(pilot, "jepa", seed, np.arange(50) < 10 + seed)
    assert [each.arm for each in spreads_of(pilot, ["ntp", "equal", "jepa"], "ntp", "exact_match")] == ["jepa"]
    assert "Left out: equal. The difference to ntp is the same in every seed." in caplog.text


def test_a_pilot_that_cannot_be_planned_with_is_refused(pilot, raises):
    """One seed, equal differences, other rows, a damaged file."""
    for seed in range(4):
        write_run(pilot, "one", 9 + seed, np.ones(50))  # no partner
        write_run(pilot, "equal", seed, np.zeros(50), predictions=False)
        write_run(pilot, "base", seed, np.zeros(50), predictions=False)
        write_run(pilot, "rows", seed, np.zeros(40))
    with raises("too_few_seeds", pilot, "ntp"):
        spreads_of(pilot, ["one"], "ntp", "exact_match")
    with raises("no_spread", "equal"):
        spreads_of(pilot, ["equal"], "base", "exact_match")
    with raises("row_counts_differ", "rows", "40 and 50"):
        spreads_of(pilot, ["rows"], "ntp", "exact_match")
    with raises("run_damaged", "'regex'") as caught:
        spreads_of(pilot, ["jepa"], "ntp", "regex")
    assert isinstance(caught.value, DataError)
