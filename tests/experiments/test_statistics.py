"""Statistics: right against scipy, hand and simulation, and honest where there is little to say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from llm_jepa.experiments.sentences import format_p, sentence
from llm_jepa.experiments.statistics import (
    compare_paired,
    correct_for_many,
    holm,
    sign_flip_p,
    smallest_detectable,
    verdict,
)

SEEDS = (82, 23, 37, 84, 4, 7)
ARM = dict(zip(SEEDS, (0.71, 0.74, 0.70, 0.73, 0.72, 0.75), strict=True))
BASE = dict(zip(SEEDS, (0.73, 0.75, 0.73, 0.74, 0.74, 0.76), strict=True))


# ---- compare_paired ----


def test_paired_t_equals_scipy():
    """Delta, interval and p are scipy's paired t-test on the same numbers."""
    comparison = compare_paired(ARM, BASE)
    reference = stats.ttest_rel(list(ARM.values()), list(BASE.values()))
    assert comparison.n == 6
    assert comparison.delta == pytest.approx(-0.01 * 10 / 6)
    assert comparison.p_value == pytest.approx(reference.pvalue)
    assert comparison.ci == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert comparison.std == pytest.approx(np.std([-2, -1, -3, -1, -2, -1], ddof=1) / 100)
    assert comparison.p_holm == comparison.p_value  # alone, there is nothing to correct


def test_seeds_are_paired_by_number_not_by_order():
    """A mapping read in another order gives the same comparison."""
    assert compare_paired(dict(reversed(ARM.items())), BASE) == compare_paired(ARM, BASE)


def test_only_seeds_of_both_arms_count_and_the_others_are_named():
    """A failed run takes its partner out of the comparison, and the sentence says so."""
    arm, base = dict(ARM), dict(BASE)
    del arm[84], base[7]
    comparison = compare_paired(arm, base, arm="jepa", baseline_arm="ntp")
    assert list(comparison.differences) == [4, 23, 37, 82]
    assert comparison.missing == {"jepa": [84], "ntp": [7]}
    assert comparison.baseline_mean == pytest.approx((0.73 + 0.75 + 0.73 + 0.74) / 4)
    assert "Seeds without jepa, left out: 84." in sentence(comparison)


def test_one_seed_shows_nothing():
    """No spread, no test: interval and p are None, and the reason says why."""
    comparison = compare_paired({1: 0.9}, {1: 0.1})
    assert comparison.delta == pytest.approx(0.8)
    assert comparison.ci is comparison.p_value is comparison.sign_flip_p is comparison.smallest_detectable is None
    assert comparison.verdict == "no difference shown"
    assert "one seed" in comparison.reason


@pytest.mark.parametrize(("values", "baseline"), [({}, {}), ({1: 0.5}, {2: 0.5}), ({1: 0.5}, {})])
def test_no_common_seed_is_said_not_raised(values, baseline):
    """An experiment in which every run of an arm failed still gets its table."""
    comparison = compare_paired(values, baseline, arm="jepa", baseline_arm="ntp")
    assert (comparison.n, comparison.delta, comparison.verdict) == (0, None, "no difference shown")
    assert "no seed has both arms" in sentence(comparison)


@pytest.mark.parametrize("n", [2, 5])
def test_equal_differences_of_few_seeds_are_no_certainty(n: int):
    """The t-test would divide by zero and say p = 0; with five seeds chance alone agrees once in sixteen."""
    comparison = compare_paired({s: 0.7 + s / 100 for s in range(n)}, {s: 0.6 + s / 100 for s in range(n)})
    assert comparison.p_value == pytest.approx(2 / 2**n)
    assert comparison.ci == (comparison.delta, comparison.delta) == pytest.approx((0.1, 0.1))
    assert comparison.smallest_detectable is None
    assert comparison.verdict == "no difference shown"
    assert "same in every seed" in comparison.reason


def test_equal_differences_of_six_seeds_are_shown():
    """Six signs that agree by chance: p = 1/32."""
    comparison = compare_paired({s: 0.7 + s / 100 for s in range(6)}, {s: 0.6 + s / 100 for s in range(6)})
    assert comparison.p_value == pytest.approx(1 / 32)
    assert comparison.verdict == "better"


def test_an_arm_that_equals_its_baseline_has_p_one():
    """As lambda = 0 must: the same values, bit for bit."""
    comparison = compare_paired(BASE, BASE)
    assert (comparison.delta, comparison.p_value, comparison.verdict) == (0, 1, "no difference shown")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["jepa", "ntp"])
def test_a_value_that_is_not_finite_is_refused_by_arm_and_seed(bad: float, side: str, raises):
    """A nan would make every number nan and no one would know why."""
    arm, base = dict(ARM), dict(BASE)
    (arm if side == "jepa" else base)[37] = bad
    with raises("value_not_finite", f"'{side}', seed 37", bad):
        compare_paired(arm, base, arm="jepa", baseline_arm="ntp")


def test_no_number_is_ever_nan():
    """Over many odd inputs, every number is finite or None."""
    rng = np.random.default_rng(0)
    for n, scale in itertools.product(range(7), (0, 1e-17, 1e-9, 1e-3, 1)):
        arm = {s: 0.5 + scale * rng.normal() for s in range(n)}
        c = compare_paired(arm, dict.fromkeys(range(n), 0.5))
        numbers = [c.delta, c.std, c.p_value, c.p_holm, c.sign_flip_p, c.smallest_detectable, *(c.ci or ())]
        assert all(number is None or math.isfinite(number) for number in numbers)
        assert c.p_value is None or 0 < c.p_value <= 1
        assert "nan" not in sentence(c)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Six seeds, true difference 1 point, 600 experiments: about 95% of intervals hold it (3.4 sigma allowed)."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(600):
        shared = rng.normal(0.7, 0.05, 6)  # what a seed does to both arms cancels
        arm = dict(enumerate(shared + 0.01 + rng.normal(0, 0.01, 6)))
        low, high = compare_paired(arm, dict(enumerate(shared + rng.normal(0, 0.01, 6)))).ci
        covered += low <= 0.01 <= high
    assert covered / 600 == pytest.approx(0.95, abs=0.03)


# ---- sign flips ----


def test_sign_flip_p_counts_all_flips():
    """Independent reference: every sign choice of four differences, one by one."""
    differences = [0.3, -0.1, 0.4, 0.2]
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in flips(4)]
    assert sign_flip_p(differences) == sum(s >= 0.8 - 1e-12 for s in sums) / 16


def test_five_seeds_cannot_go_below_one_sixteenth():
    """The reason for six seeds or more."""
    assert sign_flip_p([5, 4, 6, 5, 7]) == 2 / 32
    assert sign_flip_p([5, 4, 6, 5, 7, 6]) == 2 / 64


def test_many_seeds_are_drawn_and_agree_with_all_flips():
    """Above 14 seeds flips are drawn; the p agrees with that of every flip, added up seed by seed."""
    for n, expected in ((15, 0.1495), (20, 0.0999)):
        differences = np.random.default_rng(2).normal(0.4, 1, n)
        sums = np.zeros(1)
        for each in differences:
            sums = np.concatenate([sums + each, sums - each])
        exact = np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-12)
        assert exact == pytest.approx(expected, abs=1e-4)
        assert sign_flip_p(differences) == pytest.approx(exact, abs=0.003)
    assert sign_flip_p(np.ones(24)) > 0  # the choice that was seen is always one of them


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([0.02, -0.01], 1.0),
        ([0.1, 0.2, -0.3], 1.0),  # on paper a sum of 0, in binary 5.6e-17
        ([0.72 - 0.7, 0.71 - 0.7, 0.74 - 0.7], 0.25),
        ([0.02, 0.01, 0.03, 0.01, 0.02, -0.01], 0.125),
        ([0.3, -0.1, 0.4, 0.2, 0.25, 0.1, -0.05], 0.09375),
        ([0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1], 2 / 1024),
    ],
)
def test_sign_flip_p_counts_equal_sums_as_equal(differences, expected):
    """Values of the hand-written test that was here before: ties are ties, whatever the last binary digit says."""
    assert sign_flip_p(differences) == expected


def flips(n: int):
    return itertools.product((1, -1), repeat=n)


# ---- smallest detectable difference ----


@pytest.mark.parametrize("n", [3, 5, 6, 10])
def test_the_smallest_detectable_difference_is_detected_four_times_in_five(n: int):
    """Simulation: with that true difference, scipy's t-test rejects in 80% of 4,000 experiments."""
    true = smallest_detectable(n, std=0.02)
    draws = np.random.default_rng(n).normal(true, 0.02, (4000, n))
    assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.02)


def test_more_seeds_and_less_spread_detect_less():
    """It falls with n, is proportional to the spread, and has no meaning without either."""
    values = [smallest_detectable(n, 0.02) for n in range(2, 60)]
    assert all(a > b for a, b in itertools.pairwise(values))
    assert smallest_detectable(6, 0.04) == pytest.approx(2 * smallest_detectable(6, 0.02))
    assert smallest_detectable(1, 0.02) is None
    assert smallest_detectable(6, 0.0) is None
    # For large n: (1.960 + 0.842) standard errors.
    assert smallest_detectable(10_000, 1.0) == pytest.approx((1.95996 + 0.84162) / 100, rel=1e-3)


# ---- holm and verdict ----


def test_holm_by_hand():
    """0.01, 0.04, 0.03 become 0.03, 0.06 and 0.06: times 3, times 2, times 1, and never falling."""
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})


def test_holm_leaves_out_what_was_not_tested_and_stays_below_one():
    """None is not counted; order of names is kept."""
    corrected = holm({"x": None, "a": 0.9, "b": 0.8})
    assert corrected == {"x": None, "a": 1.0, "b": 1.0}
    assert list(corrected) == ["x", "a", "b"]
    assert holm({"only": 0.03}) == {"only": 0.03}
    assert holm({}) == {}


def test_many_comparisons_need_stronger_evidence():
    """A p of 0.03 alone is shown; among five like it, none is."""
    one = compare_paired({s: v + 0.02 * (s == 4) for s, v in ARM.items()}, BASE, arm="a0")
    assert 0.01 < one.p_value < 0.05
    assert one.verdict == "worse"
    many = correct_for_many(
        [compare_paired({s: v + 0.02 * (s == 4) for s, v in ARM.items()}, BASE, arm=f"a{i}") for i in range(5)]
    )
    assert {c.verdict for c in many} == {"no difference shown"}


@pytest.mark.slow
def test_no_effect_is_called_an_effect_in_one_experiment_of_twenty():
    """400 experiments of four arms that equal the baseline: any false verdict in at most 5% (3 sigma allowed)."""
    rng = np.random.default_rng(4)
    false = 0
    for _ in range(400):
        base = dict(enumerate(rng.normal(0.7, 0.01, 6)))
        arms = [compare_paired(dict(enumerate(rng.normal(0.7, 0.01, 6))), base, arm=f"a{i}") for i in range(4)]
        false += any(c.verdict != "no difference shown" for c in correct_for_many(arms))
    assert false / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize(
    ("delta", "p_holm", "ci", "expected"),
    [
        (0.02, 0.01, (0.01, 0.03), "better"),
        (-0.02, 0.01, (-0.03, -0.01), "worse"),
        (0.02, 0.05, (0.001, 0.03), "no difference shown"),
        (0.02, 0.01, (-0.01, 0.05), "no difference shown"),
        (0.02, 0.01, None, "better"),
        (0.02, None, None, "no difference shown"),
        (None, None, None, "no difference shown"),
        (0.0, 0.01, None, "no difference shown"),
    ],
)
def test_a_verdict_needs_a_holm_p_below_five_percent(delta, p_holm, ci, expected):
    """And an interval, where there is one, that leaves out 0."""
    assert verdict(delta, p_holm, ci) == expected


# ---- margin ----


def test_the_margin_test_equals_scipys_one_sided_test():
    """p against a loss of 2.5 points is twice scipy's one-sided p, so that 0.05 is the lower end of the interval."""
    comparison = compare_paired(ARM, BASE, margin=0.025)
    differences = np.array(list(comparison.differences.values()))
    assert comparison.p_margin == pytest.approx(
        2 * stats.ttest_1samp(differences, -0.025, alternative="greater").pvalue
    )
    assert compare_paired(ARM, BASE, margin=0.01).p_margin == 1.0  # 1.7 points worse: no sign of it


@pytest.mark.parametrize("seed", range(20))
def test_alone_not_worse_is_shown_where_the_interval_lies_above_the_margin(seed: int):
    """One interval says it all: each verdict of a single comparison can be read from it."""
    arm = dict(enumerate(np.random.default_rng(seed).normal(0.698, 0.006, 6)))
    comparison = compare_paired(arm, dict.fromkeys(range(6), 0.7), margin=0.01)
    assert comparison.not_worse_shown is (comparison.ci[0] > -0.01)
    assert comparison.verdict != "better" or comparison.not_worse_shown


def shifted(by: float, spread: float = 0.002) -> dict[int, float]:
    """Six values about 0.7 + by; the last digits of the seeds differ."""
    return {seed: 0.7 + by + spread * step for seed, step in enumerate((-1.3, -0.6, -0.1, 0.2, 0.7, 1.1))}


@pytest.mark.parametrize(
    ("by", "margin", "expected", "said"),
    [
        (0.0, None, "no difference shown", "no difference shown. With 6 seeds"),
        (0.0, 0.01, "not worse by more than 1.0 point, shown", "shown. It is neither shown to be better nor"),
        (0.0, 0.0025, "not worse by more than 0.25 points, shown", "loss of 0.25 points Holm p 0.017"),
        (0.0, 0.001, "no difference shown", "A loss of more than 0.1 points is not ruled out. With 6 seeds"),
        (0.02, 0.01, "better", "Holm p <0.001: better."),
        (-0.02, 0.01, "worse", "Holm p <0.001: worse."),
        (-0.009, 0.01, "worse", "worse. A loss of more than 1.0 point is not ruled out."),
        (-0.005, 0.01, "worse", "worse, but not by more than 1.0 point, both shown."),
    ],
)
def test_a_margin_adds_a_verdict_and_a_difference_wins_over_it(by: float, margin: float, expected: str, said: str):
    """What is shown of difference and margin is said, both where both are."""
    comparison = compare_paired(shifted(by), dict.fromkeys(range(6), 0.7), margin=margin)
    assert comparison.verdict == expected
    assert said in sentence(comparison)


def test_equal_differences_above_the_margin_need_six_seeds():
    """An arm that equals its baseline in five seeds: p = 2/32, as by chance; in six 2/64."""
    for n, shown in ((5, False), (6, True)):
        comparison = compare_paired(dict.fromkeys(range(n), 0.4), dict.fromkeys(range(n), 0.4), margin=0.01)
        assert comparison.p_margin == 2 / 2**n
        assert comparison.not_worse_shown is shown


def test_without_a_spread_or_at_the_margin_nothing_is_shown():
    """One seed, every run at 0%, and a loss of exactly the margin."""
    assert compare_paired({1: 0.9}, {1: 0.9}, margin=0.01).p_margin is None
    assert compare_paired(dict.fromkeys(SEEDS, 0.0), dict.fromkeys(SEEDS, 0.0), margin=0.01).p_margin is None
    assert compare_paired(dict.fromkeys(SEEDS, 0.69), dict.fromkeys(SEEDS, 0.70), margin=0.01).p_margin == 1.0


def test_two_tests_of_an_arm_count_once_since_both_nulls_cannot_be_true():
    """By hand: a is out after its second test, and only then b's are multiplied by 1; plain Holm would begin at 4."""
    tests = {("a", "p"): 0.02, ("a", "margin"): 0.004, ("b", "p"): 0.30, ("b", "margin"): 0.03}
    corrected = holm(tests, arm_of=lambda test: test[0])
    assert corrected == pytest.approx(
        {("a", "margin"): 0.008, ("a", "p"): 0.04, ("b", "margin"): 0.04, ("b", "p"): 0.30}
    )


def test_a_margin_costs_better_arms_nothing_and_is_corrected_with_the_rest():
    """Holm's p of arms that are better is the same with a margin; that of the margin is of the same table."""
    base = dict.fromkeys(range(6), 0.7)
    arms = {"good": shifted(0.02), "fair": shifted(0.004), "same": shifted(0.0)}
    plain = correct_for_many([compare_paired(values, base, arm=arm) for arm, values in arms.items()])
    both = correct_for_many([compare_paired(values, base, arm=arm, margin=0.01) for arm, values in arms.items()])
    assert [c.p_holm for c in both] == [c.p_holm for c in plain]
    assert [c.verdict for c in both] == ["better", "better", "not worse by more than 1.0 point, shown"]
    assert all(c.p_margin <= c.p_margin_holm <= 3 * c.p_margin for c in both)


@pytest.mark.slow
def test_a_false_statement_is_made_in_one_experiment_of_twenty_with_a_margin_too():
    """400 experiments: two arms equal the baseline, two lose exactly the margin; 5% at most (3 sigma allowed)."""
    rng = np.random.default_rng(5)
    false = 0
    for _ in range(400):
        base = dict(enumerate(rng.normal(0.7, 0.005, 6)))
        arms = [
            compare_paired(dict(enumerate(rng.normal(0.7 - loss, 0.005, 6))), base, arm=f"a{i}", margin=0.01)
            for i, loss in enumerate((0, 0, 0.01, 0.01))
        ]
        *equal, first, second = correct_for_many(arms)
        false += any(c.verdict in ("better", "worse") for c in equal) or first.not_worse_shown or second.not_worse_shown
    assert false / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


# ---- words ----


def test_a_clear_result_is_said_in_one_sentence():
    """Means in percent, difference and interval in points, p, verdict."""
    text = sentence(compare_paired(ARM, BASE, arm="jepa", baseline_arm="ntp"))
    assert text == "jepa: 72.5% against 74.2% (ntp), -1.7 points, 95% interval -2.5 to -0.8, Holm p 0.004: worse."


def test_a_null_result_says_what_could_have_been_shown():
    """No difference shown is no proof of equality: the sentence gives the power of the experiment."""
    noisy = {s: v + d for (s, v), d in zip(BASE.items(), (0.02, -0.02, 0.01, -0.01, 0.02, -0.01), strict=True)}
    comparison = compare_paired(noisy, BASE, arm="jepa", baseline_arm="ntp")
    text = sentence(comparison)
    assert "no difference shown. With 6 seeds" in text
    assert f"about {100 * comparison.smallest_detectable:.1f} points would be shown four times in five" in text


def test_a_result_of_few_seeds_carries_its_warning():
    """Three seeds that agree closely give a small t-test p; the sentence says how little three seeds can say."""
    text = sentence(compare_paired({1: 0.80, 2: 0.81, 3: 0.82}, {1: 0.70, 2: 0.712, 3: 0.721}))
    assert "better. 3 seeds are few: the sign-flip test cannot go below p 0.25 with them." in text


def test_p_values_are_short():
    """Two significant digits are all that is read."""
    assert [format_p(p) for p in (None, 0.0004, 0.0213, 0.28, 1.0)] == ["-", "<0.001", "0.021", "0.28", "1.00"]


@pytest.mark.parametrize(("value", "told"), [(0.0, "0%"), (1.0, "100%")])
def test_at_a_floor_or_a_ceiling_there_is_no_interval(value: float, told: str):
    """Nothing right in any run is no proof that the arms are equal; three runs at 40% each are another thing."""
    comparison = compare_paired(dict.fromkeys(SEEDS, value), dict.fromkeys(SEEDS, value))
    assert comparison.ci is None and comparison.p_value is None and comparison.verdict == "no difference shown"
    assert f"very run of both is at {told}, where no difference can be seen" in sentence(comparison)
    assert compare_paired(dict.fromkeys(SEEDS, 0.4), dict.fromkeys(SEEDS, 0.4)).ci == (0.0, 0.0)


def test_a_difference_that_cannot_be_is_not_promised():
    """Two seeds that disagree: the smallest difference that could be shown is beyond 100 points."""
    comparison = compare_paired({1: 0.1, 2: 0.9}, {1: 0.5, 2: 0.2})
    assert comparison.smallest_detectable > 1
    assert "no possible difference would be shown four times in five" in sentence(comparison)
