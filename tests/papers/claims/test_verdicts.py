"""The rule of a verdict, on numbers that can be checked by hand."""

from __future__ import annotations

import pytest

from llm_jepa.papers.claims.verdicts import Check, Outcome, combine, judge

SEEDS = (82, 23, 37, 84, 4)
WOBBLE = (0.00, 0.01, -0.01, 0.005, -0.005)  # what a seed does to an arm, over what it does to all


def around(mean, wobble=WOBBLE):
    """Five values about a mean; differences of two arms with opposite wobbles have a deviation of about 0.016."""
    return {seed: mean + each for seed, each in zip(SEEDS, wobble, strict=True)}


def against(mean):
    return around(mean, tuple(-each for each in WOBBLE))


GAIN = Check(arm="jepa", controls=("lambda0", "shuffled"), size=0.10)
BASE = {"ntp": against(0.50)}


def test_a_gain_beyond_every_control_is_reproduced():
    """+20 points over the baseline, +20 and +19 over the controls."""
    outcome = judge(GAIN, BASE | {"jepa": around(0.70), "lambda0": against(0.50), "shuffled": against(0.51)})
    assert outcome.word == "reproduced" and outcome.n == 5 and "less" not in outcome.reason
    assert outcome.delta == pytest.approx(0.20) and outcome.arm_mean == pytest.approx(0.70)
    assert outcome.controls["shuffled"][0] == pytest.approx(0.19)


def test_a_gain_that_a_control_has_too_is_explained_by_it():
    """The control is as far above the baseline as the arm is."""
    outcome = judge(GAIN, BASE | {"jepa": around(0.70), "lambda0": around(0.70), "shuffled": against(0.50)})
    assert outcome.word == "explained by a control" and "lambda0" in outcome.reason


def test_a_control_that_goes_part_of_the_way_explains_nothing_if_the_arm_goes_beyond_it():
    """+8 for the control and +20 for the arm: both are shown, and so is their difference."""
    values = {
        "ntp": around(0.50, (0.0,) * 5),
        "lambda0": against(0.58),
        "jepa": around(0.70),
        "shuffled": against(0.50),
    }
    assert judge(Check(arm="lambda0"), values).word == "reproduced"
    assert judge(GAIN, values).word == "reproduced"


def test_a_control_that_has_most_of_a_gain_explains_it_however_little_the_arm_adds():
    """+19 for the control and +20 for the arm: their difference is shown, and is a twentieth of the gain."""
    flat = (0.0,) * 5
    values = {"ntp": against(0.50), "lambda0": around(0.69), "jepa": around(0.70), "shuffled": around(0.50, flat)}
    values["jepa"] = {seed: value + 1e-4 * seed for seed, value in values["jepa"].items()}
    outcome = judge(GAIN, values)
    assert outcome.controls["lambda0"][1][0] > 0
    assert outcome.word == "explained by a control" and "lambda0 did it as well (9" in outcome.reason


def test_a_gain_that_is_less_than_claimed_is_told_apart():
    """+5 points, the whole interval below the 10 that are claimed."""
    level = around(0.50, (0.0,) * 5)
    outcome = judge(GAIN, {"ntp": level, "jepa": against(0.55), "lambda0": level, "shuffled": level})
    assert outcome.word == "reproduced" and outcome.falls_short and "by less than claimed" in outcome.reason
    more = judge(GAIN, {"ntp": level, "jepa": against(0.70), "lambda0": level, "shuffled": level})
    assert more.word == "reproduced" and not more.falls_short


def test_a_gain_that_is_not_shown_beyond_a_control_which_has_none_itself_is_inconclusive():
    """The control's values are all over the place: neither it nor the rest is shown."""
    wild = {seed: 0.6 + each for seed, each in zip(SEEDS, (0.3, -0.3, 0.2, -0.2, 0.0), strict=True)}
    outcome = judge(GAIN, BASE | {"jepa": around(0.70), "lambda0": wild, "shuffled": against(0.50)})
    assert outcome.word == "inconclusive" and "not against lambda0" in outcome.reason


def test_a_control_that_was_not_run_cannot_be_passed():
    """The difference is shown, one control is missing."""
    outcome = judge(GAIN, BASE | {"jepa": around(0.70), "lambda0": against(0.50)})
    assert outcome.word == "inconclusive" and "shuffled was not run" in outcome.reason


def test_a_missing_control_does_not_save_a_gain_that_another_explains():
    """What was run is enough to say so."""
    assert judge(GAIN, BASE | {"jepa": around(0.70), "lambda0": around(0.70)}).word == "explained by a control"


def test_the_opposite_of_a_claim_is_not_reproduced():
    """-10 where +10 was claimed."""
    outcome = judge(GAIN, BASE | {"jepa": around(0.40)})
    assert (outcome.word, outcome.reason) == ("not reproduced", "the opposite is shown")


def test_what_could_have_been_shown_is_of_the_comparison_that_was_not():
    """Shown against the baseline, but not against a control whose differences spread more."""
    values = BASE | {"jepa": around(0.60), "lambda0": against(0.50), "shuffled": around(0.59, [9 * x for x in WOBBLE])}
    outcome = judge(GAIN, values)
    assert outcome.word == "inconclusive" and outcome.reason.endswith("but not against shuffled")
    alone = judge(Check(arm="jepa", baseline="shuffled"), values)
    assert outcome.smallest == alone.smallest > 2 * judge(Check(arm="jepa"), BASE | {"jepa": around(0.50)}).smallest


def test_no_difference_is_not_reproduced_only_if_the_interval_excludes_the_claimed_size():
    """An interval of about 0 +- 2 points excludes 10 and does not exclude 1."""
    values = BASE | {"jepa": around(0.50)}
    assert judge(GAIN, values).word == "not reproduced"
    outcome = judge(Check(arm="jepa", size=0.01), values)
    assert outcome.word == "inconclusive" and outcome.smallest == pytest.approx(0.027, abs=0.01)
    assert judge(Check(arm="jepa"), values).word == "inconclusive"


def test_a_claim_of_harm_is_judged_in_its_own_direction():
    """-40 points, claimed -55: the direction is shown, against the control too."""
    check = Check(arm="l2", direction=-1, size=-0.55, controls=("lambda0",))
    outcome = judge(check, BASE | {"l2": around(0.10), "lambda0": against(0.50)})
    assert outcome.word == "reproduced" and outcome.reason.endswith("by less than claimed")
    assert judge(check, BASE | {"l2": around(0.50), "lambda0": against(0.50)}).word == "not reproduced"
    assert judge(check, BASE | {"l2": around(0.10), "lambda0": around(0.10)}).word == "explained by a control"


def test_the_corrected_p_decides_between_arm_and_baseline():
    """The same numbers, shown alone and not shown as one of many."""
    values = BASE | {"jepa": around(0.53)}
    alone = judge(Check(arm="jepa"), values)
    assert alone.word == "reproduced" and alone.p_holm == alone.p_value < 0.05
    assert judge(Check(arm="jepa"), values, p_holm=0.3).word == "inconclusive"


def test_nothing_shown_is_no_equality():
    """An interval of 0 +- 2 points lies within a margin of 5 and not within one of 1."""
    values = BASE | {"lambda0": around(0.50)}
    assert judge(Check("equal", "lambda0", margin=0.05), values).word == "reproduced"
    assert judge(Check("equal", "lambda0", margin=0.01), values).word == "inconclusive"
    assert judge(Check("equal", "lambda0", margin=0.05), BASE | {"lambda0": around(0.70)}).word == "not reproduced"


def test_equal_to_the_bit_is_equal():
    """With the fixed recipe lambda 0 is the baseline itself."""
    assert (
        judge(Check("equal", "lambda0", margin=0.02), {"ntp": around(0.5), "lambda0": around(0.5)}).word == "reproduced"
    )


def test_an_arm_reaches_another_from_above_without_limit():
    """`reaches` has one side: 20 points above is reached, 20 below is not."""
    check = Check("reaches", "stp_16th", margin=0.03, controls=("ntp_16th",))
    assert judge(check, BASE | {"stp_16th": around(0.70), "ntp_16th": around(0.20)}).word == "reproduced"
    assert judge(check, BASE | {"stp_16th": around(0.30), "ntp_16th": around(0.20)}).word == "not reproduced"
    assert judge(check, BASE | {"stp_16th": around(0.50), "ntp_16th": around(0.50)}).word == "explained by a control"
    assert judge(check, BASE | {"stp_16th": around(0.50)}).word == "inconclusive"
    assert judge(check, BASE | {"stp_16th": around(0.50), "ntp_16th": {82: 0.20}}).word == "inconclusive"
    assert judge(check, BASE | {"stp_16th": around(0.50), "ntp_16th": {1: 0.2, 2: 0.2}}).word == "inconclusive"


def test_a_grid_is_flat_only_if_every_pair_of_neighbours_is_equal():
    """One cell 20 points off breaks it; one with a wide interval leaves it open."""
    check = Check("flat", margin=0.05, pairs=(("a", "b"), ("b", "c")))
    level = {"a": around(0.5), "b": against(0.5)}
    assert judge(check, level | {"c": around(0.5)}).word == "reproduced"
    off = judge(check, level | {"c": around(0.7)})
    assert off.word == "not reproduced" and "b and c" in off.reason and off.delta == pytest.approx(-0.2)
    wide = {seed: 0.5 + each for seed, each in zip(SEEDS, (0.1, -0.1, 0.08, -0.08, 0.0), strict=True)}
    assert judge(check, level | {"c": wide}).word == "inconclusive"
    assert judge(check, level).word == "not run"


def test_a_grid_that_rises_along_an_axis_is_not_flat_however_close_its_neighbours_are():
    """Steps of 2 points, each within the margin of 5: the grid has a pattern; without one the same check holds."""
    cells = [f"k{k}.l{weight}" for k in range(3) for weight in range(3)]
    pairs = tuple((f"k{k}.l{w}", f"k{k}.l{w + 1}") for k in range(3) for w in range(2))
    trends = (
        ("k", tuple(tuple(f"k{k}.l{w}" for w in range(3)) for k in range(3))),
        ("lambda", tuple(tuple(f"k{k}.l{w}" for k in range(3)) for w in range(3))),
    )
    check = Check("flat", margin=0.05, pairs=pairs, trends=trends)
    level = {cell: (around, against)[number % 2](0.5) for number, cell in enumerate(cells)}
    assert judge(check, level).word == "reproduced"
    steps = around(0.02, tuple(each / 10 for each in WOBBLE))  # what a seed loses from one lambda to the next
    tilted = {
        cell: {seed: each - steps[seed] * int(cell[-1]) for seed, each in own.items()} for cell, own in level.items()
    }
    outcome = judge(check, tilted)
    assert outcome.word == "not reproduced" and "it falls with lambda (p " in outcome.reason
    assert "with k" not in outcome.reason and "6 of 6 pairs" in outcome.reason


def test_a_value_is_compared_with_what_is_stated():
    """A ratio of 2 within 0.1."""
    check = Check("value", "jepa", expected=2.0, margin=0.1)
    assert judge(check, {"jepa": around(2.01)}).word == "reproduced"
    assert judge(check, {"jepa": around(1.45)}).word == "not reproduced"
    assert judge(check, {"jepa": {82: 2.0}}).word == "inconclusive"


def test_logarithms_compare_ratios():
    """A hundredth of the baseline, where a thousandth was claimed: the direction is what is tested."""
    check = Check(arm="jepa", direction=-1, size=-6.9, logarithm=True)
    outcome = judge(
        check, {"ntp": dict.fromkeys(SEEDS, 100.0), "jepa": {s: 1.0 + 0.1 * i for i, s in enumerate(SEEDS)}}
    )
    assert outcome.word == "reproduced" and outcome.baseline_mean == pytest.approx(100.0)
    assert outcome.delta == pytest.approx(-4.43, abs=0.02)


def test_without_values_nothing_was_run_and_with_one_seed_nothing_is_known():
    """The two ends of too little."""
    assert judge(GAIN, BASE).word == "not run"
    assert judge(GAIN, {"ntp": {82: 0.5}, "jepa": {23: 0.9}}).word == "not run"
    assert judge(GAIN, {"ntp": {82: 0.5}, "jepa": {82: 0.9}}).word == "inconclusive"


def test_at_a_floor_neither_a_difference_nor_its_absence_can_be_seen():
    """Two arms that answer nothing right are not equal, and the claimed size is not excluded by them."""
    floor = {"ntp": dict.fromkeys(SEEDS, 0.0), "jepa": dict.fromkeys(SEEDS, 0.0)}
    grid = Check("flat", margin=0.05, pairs=(("ntp", "jepa"),))
    for check in (Check(arm="jepa", size=0.1), Check("equal", "jepa", margin=0.02), grid):
        outcome = judge(check, floor)
        assert outcome.word == "inconclusive" and "floor" in outcome.reason
    fallen = {"ntp": around(0.5), "jepa": dict.fromkeys(SEEDS, 0.0)}
    assert judge(Check(arm="jepa", direction=-1, size=-0.57), fallen).word == "reproduced"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("reproduced", "reproduced"), "reproduced"),
        (("reproduced", "inconclusive"), "inconclusive"),
        (("inconclusive", "explained by a control"), "explained by a control"),
        (("explained by a control", "not reproduced"), "not reproduced"),
        (("not run", "reproduced"), "not run"),
    ],
)
def test_the_worst_part_of_a_claim_counts(words, expected):
    """A claim that is wrong in one part is wrong."""
    assert combine([Outcome(word, "") for word in words]) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "better", "arm": "jepa"},
        {"kind": "equal", "arm": "jepa"},
        {"kind": "flat", "margin": 0.1},
        {"arm": "jepa", "trends": (("k", (("a",), ("b",))),)},
        {"kind": "value", "arm": "jepa", "margin": 0.1},
        {"arm": ""},
        {"arm": "jepa", "direction": 0},
    ],
)
def test_a_check_that_cannot_be_judged_is_refused(fields):
    """A kind that is not known, or that lacks what it needs."""
    with pytest.raises(ValueError):
        Check(**fields)
