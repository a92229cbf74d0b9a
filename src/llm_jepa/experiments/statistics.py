"""Is an arm better than its baseline? Paired comparisons over seeds, and their verdict.

Two arms with the same seed start from the same weights and see the same rows in the same order. So their values are
compared seed by seed, and an effect of the seed on both cancels. Values are shares in [0, 1], higher is better; a
point is a hundredth. Nothing here reads a file. docs/statistics.md explains the tests.

Letters: S seeds, N examples, R resamples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from llm_jepa.errors import ConfigError

Name = TypeVar("Name", bound=Hashable)

ALPHA = 0.05
CONFIDENCE = 0.95  # of all intervals
POWER = 0.8  # what `smallest_detectable` assumes, as is usual
MAX_EXACT_SEEDS = 14  # up to here all 2^n sign flips are counted (16,384, in half a second)
NUM_FLIPS = 100_000  # random ones, above that

# Differences of decimal fractions that are mathematically equal can differ by about 1e-17 in binary. Two shares of the
# same test file differ by at least 1/N, or are equal, so no real difference is this small.
SAME = 1e-12
EQUAL_SUMS = 1e-9


@dataclass(frozen=True)
class PairedComparison:
    """One arm against its baseline, over the seeds that both have.

    Attributes:
        n: Number of seeds that both have. Without any, means and `delta` are None; below two, `std`, `ci` and p too.
        delta: Mean difference, arm minus baseline.
        std: Standard deviation of the differences (n - 1).
        ci: Paired 95% t interval of the difference; both ends are equal if all differences are.
        p_value: Two-sided p of the paired t-test; with equal differences the sign-flip p.
        p_holm: `p_value` corrected for the number of comparisons (`correct_for_many`). Before that, equal to `p_value`.
        sign_flip_p: Two-sided p of the sign-flip test, which does not assume a normal distribution. At least
            2 / 2^n, so five seeds cannot go below 0.0625.
        smallest_detectable: See the function; None if std is unknown or 0.
        differences: Arm minus baseline by seed, in order of seed.
        missing: Seeds that the arm lacks, and that the baseline lacks.
        reason: Why a value above is None, or what is unusual; otherwise empty.
        sentence: The result in words (`sentences.sentence`), if it was added.
        margin: Largest loss that does not matter, a share, set before the results are known; None if it was not set.
        p_margin: p of the paired t-test of the differences against -margin: twice the one-sided p, at most 1. With
            equal differences that of the sign-flip test.
        p_margin_holm: `p_margin`, corrected together with the p-values (`correct_for_many`).
    """

    arm: str
    baseline: str
    n: int
    mean: float | None = None
    baseline_mean: float | None = None
    delta: float | None = None
    std: float | None = None
    ci: tuple[float, float] | None = None
    p_value: float | None = None
    p_holm: float | None = None
    sign_flip_p: float | None = None
    smallest_detectable: float | None = None
    differences: dict[int, float] = field(default_factory=dict)
    missing: dict[str, list[int]] = field(default_factory=dict)
    reason: str = ""
    sentence: str = ""
    margin: float | None = None
    p_margin: float | None = None
    p_margin_holm: float | None = None

    @property
    def not_worse_shown(self) -> bool:
        """Whether it is shown that the arm is not worse by more than the margin. This holds for every better arm."""
        if self.margin is None or self.p_margin_holm is None or self.p_margin_holm >= ALPHA:
            return False
        return self.ci is None or self.ci[0] > -self.margin

    @property
    def margin_points(self) -> float | None:
        """The margin in points."""
        return None if self.margin is None else round(100 * self.margin, 10)

    @property
    def margin_in_words(self) -> str:
        """The margin, such as `1.0 point`; "" without one."""
        return "" if self.margin_points is None else points_in_words(self.margin_points)

    @property
    def verdict(self) -> str:
        """What `verdict` returns, or `not worse by more than 1.0 point, shown`, if only that is shown."""
        shown = verdict(self.delta, self.p_holm, self.ci)
        if shown == "no difference shown" and self.not_worse_shown:
            return f"not worse by more than {self.margin_in_words}, shown"
        return shown


def compare_paired(
    values: Mapping[int, float],
    baseline: Mapping[int, float],
    *,
    arm: str = "arm",
    baseline_arm: str = "baseline",
    margin: float | None = None,
) -> PairedComparison:
    """Compare an arm with its baseline over the seeds that both have.

    If all differences are equal, the t-test would divide by zero, and call two seeds that happen to agree a certainty.
    The sign-flip p, which needs no spread, then replaces it, and both ends of the interval are equal. Six or more seeds
    with the same difference still show a difference; if all differences are 0, p is 1. If every value is 0, or every
    value is 1, interval and p are None, because such values cannot show a difference.

    `values` and `baseline` map seeds to shares; the names are for sentences and errors; `margin` is in (0, 1).

    Raises:
        ConfigError: If a value is not finite (the text names arm and seed).
    """
    check_finite(values, arm)
    check_finite(baseline, baseline_arm)
    seeds = sorted(set(values) & set(baseline))
    missing = {arm: sorted(set(baseline) - set(values)), baseline_arm: sorted(set(values) - set(baseline))}
    ours, theirs = ([float(each[seed]) for seed in seeds] for each in (values, baseline))
    differences = [float(values[seed] - baseline[seed]) for seed in seeds]
    known = PairedComparison(
        arm,
        baseline_arm,
        n=len(seeds),
        differences=dict(zip(seeds, differences, strict=True)),
        missing={name: lacking for name, lacking in missing.items() if lacking},
        margin=margin,
    )
    if not seeds:
        return replace(known, reason="no seed has both arms")
    known = replace(known, mean=fmean(ours), baseline_mean=fmean(theirs), delta=fmean(differences))
    if known.n < 2:
        return replace(known, reason="one seed says nothing of the spread between seeds")
    if len(seen := {*ours, *theirs}) == 1 and seen <= {0.0, 1.0}:
        return replace(known, reason=f"every run of both is at {seen.pop():.0%}, where no difference can be seen")
    return _with_tests(known, scale=max(map(abs, ours + theirs)))


def _with_tests(known: PairedComparison, scale: float) -> PairedComparison:
    """Add spread, interval and p-values to a comparison of at least two seeds; values are about `scale` large."""
    differences = np.array(list(known.differences.values()))
    flip_p = sign_flip_p(differences, scale)
    if known.margin is not None:
        p_margin = _margin_p(differences, known.margin, scale)
        known = replace(known, p_margin=p_margin, p_margin_holm=p_margin)
    if np.ptp(differences) <= SAME * scale:
        text = (
            "the difference is the same in every seed, so p is that of the sign-flip test, and the interval is a point"
        )
        ends = (float(known.delta or 0.0),) * 2
        return replace(known, std=0.0, ci=ends, p_value=flip_p, p_holm=flip_p, sign_flip_p=flip_p, reason=text)
    test = stats.ttest_1samp(differences, 0.0)
    low, high = map(float, test.confidence_interval(CONFIDENCE))
    p, std = float(test.pvalue), float(differences.std(ddof=1))
    known = replace(known, std=std, ci=(low, high), p_value=p, p_holm=p, sign_flip_p=flip_p)
    return replace(known, smallest_detectable=smallest_detectable(known.n, std))


def _margin_p(differences: NDArray[np.float64], margin: float, scale: float) -> float:
    """Return `p_margin`: small where the differences lie above -margin."""
    above = differences + margin
    if above.mean() <= SAME * scale:
        return 1.0
    if np.ptp(above) <= SAME * scale:
        return sign_flip_p(above, scale)
    return float(stats.ttest_1samp(above, 0.0).pvalue)


def sign_flip_p(differences: ArrayLike, scale: float = 1.0) -> float:
    """Return the two-sided p of the sign-flip test on paired differences, (n,) with n of at least 2.

    If the arms were the same, each difference could equally well have the other sign. p is the share of all 2^n choices
    of signs whose sum is at least as far from 0 as the observed sum. With more than 14 seeds, it is the share among
    100,000 random choices (fixed seed) and the observed one.

    Values are about `scale` large; sums that are equal to 9 digits of it count as equal.
    """

    def distance_from_0(flipped: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.round(np.abs(flipped.sum(axis=axis)) / (EQUAL_SUMS * (scale or 1.0)))

    diffs = np.asarray(differences, dtype=float)
    test = stats.permutation_test(
        (diffs,),
        distance_from_0,
        permutation_type="samples",
        n_resamples=2**MAX_EXACT_SEEDS if len(diffs) <= MAX_EXACT_SEEDS else NUM_FLIPS,
        batch=NUM_FLIPS // 10,
        alternative="greater",
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def smallest_detectable(n: int, std: float) -> float | None:
    """Return the smallest true difference that a two-sided paired t-test at 0.05 shows with a chance of 80%.

    It is in the unit of `std`; None with n < 2 or std 0. The observed `std` is uncertain itself, so with few seeds the
    result is only an order of magnitude.
    """
    if n < 2 or std <= 0:
        return None
    critical = stats.t.ppf(1 - ALPHA / 2, n - 1)
    # With one degree of freedom the root is near 1.3 times the critical value, with many below critical + 1.
    root = optimize.brentq(lambda d: stats.nct.sf(critical, n - 1, d) - POWER, 0.0, 2 * critical + 2)
    return float(root * std / math.sqrt(n))


def power_of_t_test(n: int, std: float, effect: float, alpha: float = ALPHA) -> float:
    """Return the chance that a two-sided paired t-test shows a true difference `effect` > 0, and with its sign.

    The statistic then follows a noncentral t distribution with n - 1 degrees of freedom and noncentrality
    effect * sqrt(n) / std. A difference that is shown with the wrong sign is not counted; that hardly ever happens. The
    same number is the chance that an arm that equals its baseline is shown to be not worse by more than `effect`.

    `n` is at least 2; `std` is that of the paired differences, above 0; p must be below `alpha`.
    """
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    return float(stats.nct.sf(critical, n - 1, effect * math.sqrt(n) / std))


def holm(
    p_values: Mapping[Name, float | None], arm_of: Callable[[Name], Hashable] = lambda name: name
) -> dict[Name, float | None]:
    """Correct p-values for their number by Holm's step-down method; None stays None and is not counted.

    The chance that any true null is called a difference at 0.05 is then at most 0.05, however the tests
    depend on each other.

    `arm_of` returns the arm that a test is about. At most one null hypothesis of an arm may be true. So each step
    multiplies by the number of arms that have a test left, not by the number of tests left (Shaffer 1986, JASA 81,
    826-831). By default each test has an arm of its own, which is Holm's method.
    """
    known = {name: p for name, p in p_values.items() if p is not None}
    assert all(0 <= p <= 1 for p in known.values()), p_values  # nan would corrupt the others in silence
    corrected: dict[Name, float | None] = dict.fromkeys(p_values)
    left = Counter(map(arm_of, known))
    largest = 0.0
    for name, p in sorted(known.items(), key=lambda item: item[1]):
        largest = max(largest, min(1.0, len(+left) * p))
        left[arm_of(name)] -= 1
        corrected[name] = largest
    return corrected


def correct_for_many(comparisons: Sequence[PairedComparison]) -> list[PairedComparison]:
    """Return the comparisons with `p_holm` and `p_margin_holm` corrected for the number of comparisons.

    The comparisons are those of all arms on all test sets. The two null hypotheses of one comparison, "no difference"
    and "worse by the margin or more", exclude each other (see `holm`).
    """
    tests = {
        (place, test): p
        for place, c in enumerate(comparisons)
        for test, p in (("p", c.p_value), ("margin", c.p_margin))
    }
    corrected = holm(tests, arm_of=lambda test: test[0])
    return [
        replace(c, p_holm=corrected[place, "p"], p_margin_holm=corrected[place, "margin"])
        for place, c in enumerate(comparisons)
    ]


def verdict(delta: float | None, p_holm: float | None, ci: tuple[float, float] | None) -> str:
    """Return `better` or `worse` if the Holm p is below 0.05 and the interval, if any, does not hold 0."""
    if delta is None or p_holm is None or p_holm >= ALPHA or delta == 0:
        return "no difference shown"
    if ci is not None and ci[0] <= 0 <= ci[1]:
        return "no difference shown"
    return "better" if delta > 0 else "worse"


def points_in_words(points: float) -> str:
    """Return a number of points with all its decimals, at least one.

    >>> points_in_words(1), points_in_words(0.25)
    ('1.0 point', '0.25 points')
    """
    text = np.format_float_positional(points, precision=10, trim="0")
    return f"{text} point" if text == "1.0" else f"{text} points"


def check_finite(values: Mapping[int, float], arm: str) -> None:
    """Raise ConfigError, with arm and seed, if a value is not finite."""
    for seed, value in values.items():
        if not math.isfinite(value):
            text = f"Arm {arm!r}, seed {seed}: the value is {value}. Leave failed runs out."
            raise ConfigError("value_not_finite", text)
