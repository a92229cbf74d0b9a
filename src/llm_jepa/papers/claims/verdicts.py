"""From paired values to a verdict on a claim: pure functions, one rule for each kind of claim.

`gain`      arm - baseline is shown in the claimed direction, and so is arm - control for every control.
`equal`     arm and baseline do not differ: the interval lies within a stated margin.
`reaches`   the arm is not below the baseline: the interval's lower end is above minus the margin.
`flat`      every pair of arms is `equal`, and nothing rises or falls along an axis of the grid: a trend is shown by the
            same test over the seeds' slopes, after Holm's correction over the axes.
`value`     the arm's value is the one stated: the interval of its mean lies within the margin around it.

docs/claims.md has the whole rule, and says what "shown" is. The correction over a table's claims is in `records.py`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from llm_jepa.experiments.sentences import format_p
from llm_jepa.experiments.statistics import PairedComparison, compare_paired, holm, verdict

Kind = Literal["gain", "equal", "reaches", "flat", "value"]
Word = Literal["not reproduced", "not run", "explained by a control", "inconclusive", "reproduced"]
WORDS: tuple[Word, ...] = get_args(Word)
"""If a claim has several parts, its verdict is the first of these that a part has: one wrong part makes it wrong."""

Values = Mapping[str, Mapping[int, float]]
"""Arm to seed to value."""

MOST = 0.5
"""A control with a larger share of a difference than this explains it, even if the arm is shown to add something."""
STUCK = "every run has the same value, as at a floor or a ceiling"
ONE_SEED = "one seed says nothing about the spread between seeds"
BY_PLACE: dict[str, tuple[Word, str]] = {
    "within": ("reproduced", "the interval lies within the margin"),
    "beyond": ("not reproduced", "the interval lies beyond the margin"),
    "across": ("inconclusive", "the interval is wider than the margin allows"),
}
"""Verdict and reason by the place of an interval in relation to the margin."""


@dataclass(frozen=True)
class Check:
    """One thing that a claim says of an experiment, and how it is judged.

    Attributes:
        controls: Arms that lack what the claim credits.
        measure: A name of `measures.MEASURES`.
        own: Whether the figures that the claim states are about this comparison. If False, it only follows from them.
        direction: 1 or -1: whether the arm is claimed to be above or below.
        size: The claimed difference, in the measure's unit, with its sign; None where none is stated.
        margin: In the measure's unit; every kind but `gain` has one.
        expected: Of `value`.
        pairs: Of `flat`: pairs of arms, such as neighbours in a grid.
        trends: Of `flat`: axes of the grid, by name, each the arms at its levels, in order.
        logarithm: Compare logarithms: the difference is then that of a ratio.
    """

    kind: Kind = "gain"
    arm: str = ""
    baseline: str = "ntp"
    controls: tuple[str, ...] = ()
    measure: str = "accuracy"
    own: bool = True
    direction: int = 1
    size: float | None = None
    margin: float | None = None
    expected: float | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    trends: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = ()
    logarithm: bool = False

    def __post_init__(self) -> None:
        needs = {
            "one of the known kinds": self.kind in get_args(Kind),
            "direction 1 or -1": self.direction in (1, -1),
            "a margin above 0": self.kind == "gain" or (self.margin or 0) > 0,
            "pairs for flat, and only there": (self.kind == "flat") == bool(self.pairs),
            "trends only for flat": self.kind == "flat" or not self.trends,
            "an expected value for value, and only there": (self.kind == "value") == (self.expected is not None),
            "an arm": self.kind == "flat" or bool(self.arm),
        }
        if lacking := [need for need, is_met in needs.items() if not is_met]:
            raise ValueError(f"kind={self.kind} needs {lacking[0]}: {self}")

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm that has to be run, each once."""
        if self.kind == "flat":
            in_levels = (arm for _, levels in self.trends for level in levels for arm in level)
            return tuple(dict.fromkeys([*(arm for pair in self.pairs for arm in pair), *in_levels]))
        baseline = () if self.kind == "value" else (self.baseline,)
        return tuple(dict.fromkeys((*baseline, *self.controls, self.arm)))


@dataclass(frozen=True)
class Outcome:
    """The result of a check.

    Attributes:
        reason: A part of a sentence.
        n: Seeds that both arms have.
        arm_mean, baseline_mean: Means over them, in the measure's unit; of logarithms, the geometric means.
        delta: Mean difference (of logarithms, if these are compared); for `value`, the mean minus the expected value.
        ci: Its 95% interval.
        p_value: Two-sided p of arm - baseline, uncorrected; the verdict uses `p_holm`, the corrected one.
        smallest: Smallest true difference that would be shown four times in five, before correction.
        controls: Control to (mean of arm - control, its interval).
        falls_short: Whether the whole interval of the difference shown is below the claimed size.
    """

    word: Word
    reason: str
    n: int = 0
    arm_mean: float | None = None
    baseline_mean: float | None = None
    delta: float | None = None
    ci: tuple[float, float] | None = None
    p_value: float | None = None
    p_holm: float | None = None
    smallest: float | None = None
    controls: dict[str, tuple[float, tuple[float, float] | None]] = field(default_factory=dict)
    falls_short: bool = False


def judge(check: Check, values: Values, p_holm: float | None = None) -> Outcome:
    """Return the verdict on a check, from finite values of its measure; arms that were not run are left out.

    `p_holm` is the corrected p of a `gain`. Default: the uncorrected one.
    """
    if check.kind == "flat":
        return _judge_flat(check, values)
    if check.kind == "value":
        return _judge_value(check, values)
    found = compare(check, values, check.arm, check.baseline)
    if not found.n:
        lacking = [arm for arm in (check.arm, check.baseline) if not values.get(arm)]
        return Outcome("not run", f"no values of {' and '.join(lacking)}" if lacking else "no seed has both arms")
    is_gain = check.kind == "gain"
    p_holm = found.p_value if p_holm is None else p_holm
    controls = {each: compare(check, values, check.arm, each) for each in check.controls}
    word: Word
    if found.n < 2:
        word, reason = "inconclusive", ONE_SEED
    elif _is_stuck(values, (check.arm, check.baseline)):
        word, reason = "inconclusive", STUCK
    elif is_gain:
        word, reason = _judge_gain(check, values, found, p_holm, controls)
    else:
        word, reason = _judge_margin(check, values, found)
    # If a gain over the baseline is shown, `smallest` is that of the controls over which no gain is shown.
    behind = [each.smallest_detectable for each in controls.values() if not _shown(each, check.direction)]
    smallest = None
    if is_gain and _shown(found, check.direction, p_holm):
        smallest = max((each for each in behind if each), default=None)
    return Outcome(
        word,
        reason,
        found.n,
        arm_mean=_unscaled(check, found.mean),
        baseline_mean=_unscaled(check, found.baseline_mean),
        delta=found.delta,
        ci=found.ci,
        p_value=found.p_value,
        p_holm=p_holm if is_gain else None,
        smallest=found.smallest_detectable if smallest is None else smallest,
        controls={name: (each.delta, each.ci) for name, each in controls.items() if each.delta is not None},
        falls_short=is_gain and word == "reproduced" and _falls_short(check, found),
    )


def combine(outcomes: Sequence[Outcome]) -> Word:
    """Return the verdict on a claim of several parts.

    >>> combine([Outcome("reproduced", ""), Outcome("inconclusive", "")])
    'inconclusive'
    """
    return min((outcome.word for outcome in outcomes), key=WORDS.index)


# ---- kinds ----


def _judge_gain(
    check: Check,
    values: Values,
    found: PairedComparison,
    p_holm: float | None,
    controls: Mapping[str, PairedComparison],
) -> tuple[Word, str]:
    if _shown(found, check.direction, p_holm):
        word, reason = _against_controls(check, values, found, controls)
        return word, f"{reason}; by less than claimed" if _falls_short(check, found) else reason
    if _shown(found, -check.direction, p_holm):
        return "not reproduced", "the opposite is shown"
    if _falls_short(check, found):
        return "not reproduced", "no difference shown, and the interval excludes the claimed size"
    return "inconclusive", f"no difference to {check.baseline} shown"


def _against_controls(
    check: Check, values: Values, found: PairedComparison, controls: Mapping[str, PairedComparison]
) -> tuple[Word, str]:
    """Return the verdict if a difference to the baseline is shown: do controls have most of that difference too?"""
    behind = [name for name, each in controls.items() if not _shown(each, check.direction)]
    as_well = []
    for name in controls:
        its_own = compare(check, values, name, check.baseline)
        share = (its_own.delta or 0.0) / (found.delta or math.inf)
        if _shown(its_own, check.direction) and (name in behind or share > MOST):
            as_well.append(f"{name} did it as well ({share:.0%} of the difference)")
    if as_well:
        return "explained by a control", " and ".join(as_well)
    if not behind:
        against = f", and against {' and '.join(controls)}" if controls else ""
        return "reproduced", f"shown against {check.baseline}{against}"
    if missing := [name for name in behind if not controls[name].n]:
        return "inconclusive", f"shown against {check.baseline}, but the control {' and '.join(missing)} was not run"
    return "inconclusive", f"shown against {check.baseline}, but not against {' and '.join(behind)}"


def _judge_margin(check: Check, values: Values, found: PairedComparison) -> tuple[Word, str]:
    """Judge `equal` and `reaches`: where does the interval lie in relation to the margin?"""
    place = _place(check, found.ci)
    if place != "within":
        return BY_PLACE[place]
    compared = {name: compare(check, values, name, check.baseline) for name in check.controls}
    if as_well := [name for name, each in compared.items() if _place(check, each.ci) == "within"]:
        return "explained by a control", f"{' and '.join(as_well)} did it as well"
    if missing := [name for name, each in compared.items() if each.ci is None]:
        return "inconclusive", f"within the margin, but the control {' and '.join(missing)} was not run at two seeds"
    return BY_PLACE[place]


def _judge_flat(check: Check, values: Values) -> Outcome:
    comparisons = {pair: compare(check, values, *pair) for pair in check.pairs}
    if missing := sorted({arm for arm in check.arms if not values.get(arm)}):
        return Outcome("not run", f"no values of {' and '.join(missing)}")
    n = min(each.n for each in comparisons.values())
    if n < 2:
        return Outcome("inconclusive", ONE_SEED, n)
    if _is_stuck(values, check.arms):
        return Outcome("inconclusive", STUCK, n)
    places = {pair: _place(check, each.ci) for pair, each in comparisons.items()}
    within = list(places.values()).count("within")
    beyond = [f"{one} and {other}" for (one, other), place in places.items() if place == "beyond"]
    trends = _trends(check, values)
    reasons = [f"{within} of {len(comparisons)} pairs of neighbours lie within the margin", *trends]
    word: Word = "reproduced" if within == len(comparisons) else "inconclusive"
    if beyond:
        reasons.append(f"beyond it: {', '.join(beyond)}")
    if beyond or trends:
        word = "not reproduced"
    widest = max(comparisons.values(), key=lambda each: abs(each.delta or 0.0))
    known = [each.smallest_detectable for each in comparisons.values() if each.smallest_detectable]
    return Outcome(word, "; ".join(reasons), n, delta=widest.delta, ci=widest.ci, smallest=max(known, default=None))


def _trends(check: Check, values: Values) -> list[str]:
    """Return a sentence part for each axis of a grid along which the arms are shown to rise or to fall."""
    seeds = set.intersection(*(set(values[arm]) for arm in check.arms))
    slopes: dict[str, PairedComparison] = {}
    for name, levels in check.trends:
        of_seeds = {}
        for seed in sorted(seeds):
            means = [statistics.fmean(_scaled(check, values[arm][seed]) for arm in level) for level in levels]
            of_seeds[seed] = statistics.linear_regression(range(len(means)), means).slope
        slopes[name] = compare_paired(of_seeds, dict.fromkeys(of_seeds, 0.0))
    corrected = holm({name: each.p_value for name, each in slopes.items()})
    return [
        f"it {'rises' if (each.delta or 0) > 0 else 'falls'} with {name} (p {format_p(corrected[name])})"
        for name, each in slopes.items()
        if verdict(each.delta, corrected[name], each.ci) != "no difference shown"
    ]


def _judge_value(check: Check, values: Values) -> Outcome:
    assert check.expected is not None
    stated = {"as stated": dict.fromkeys(values.get(check.arm, {}), check.expected)}
    found = compare(check, {**values, **stated}, check.arm, "as stated")
    if not found.n:
        return Outcome("not run", f"no values of {check.arm}")
    word, reason = BY_PLACE[_place(check, found.ci)]
    return Outcome(word, reason, found.n, _unscaled(check, found.mean), check.expected, found.delta, found.ci)


# ---- pieces ----


def compare(check: Check, values: Values, arm: str, baseline: str) -> PairedComparison:
    """Compare two arms over their common seeds; of `logarithm`, their logarithms."""
    ours, theirs = (
        {seed: _scaled(check, value) for seed, value in values.get(name, {}).items()} for name in (arm, baseline)
    )
    return compare_paired(ours, theirs, arm=arm, baseline_arm=baseline)


def _shown(found: PairedComparison, direction: int, p: float | None = None) -> bool:
    """Return whether a difference in that direction is shown; by the uncorrected p if none is given."""
    return verdict(found.delta, found.p_value if p is None else p, found.ci) == ("better" if direction > 0 else "worse")


def _falls_short(check: Check, found: PairedComparison) -> bool:
    """Return whether the whole interval is below the claimed size (above it, if a decrease is claimed)."""
    if check.size is None or found.ci is None:
        return False
    return found.ci[1] < check.size if check.direction > 0 else found.ci[0] > check.size


def _is_stuck(values: Values, arms: Sequence[str]) -> bool:
    """Return whether all runs of the arms have one value, such as 0%, which shows no difference and no equality."""
    return len({value for arm in arms for value in values[arm].values()}) == 1


def _place(check: Check, ci: tuple[float, float] | None) -> Literal["within", "beyond", "across"]:
    """Return where an interval lies in relation to the margin around 0; `reaches` has no limit above."""
    assert check.margin is not None
    if ci is None:
        return "across"
    low, high = ci if check.direction > 0 else (-ci[1], -ci[0])
    is_two_sided = check.kind != "reaches"
    if -check.margin < low and not (is_two_sided and high >= check.margin):
        return "within"
    return "beyond" if high < -check.margin or (is_two_sided and low > check.margin) else "across"


def _scaled(check: Check, value: float) -> float:
    return math.log(value) if check.logarithm else value


def _unscaled(check: Check, value: float | None) -> float | None:
    return math.exp(value) if check.logarithm and value is not None else value
