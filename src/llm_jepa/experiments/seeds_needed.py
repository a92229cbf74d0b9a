"""How many seeds and test rows does an effect need? Computed for the t-test of `statistics`, before any run.

A pilot is a folder with finished runs. The difference of seed s on test row i is modelled as

    d_si = mean + seed_s + row_i + noise_si      (two-way model without replicates)

so the standard deviation of the differences of seeds on N rows is sqrt(var(seed) + var(noise) / N). More test rows
reduce only the second part. The spread over seeds does not contain var(row) / N, because all seeds answer the same
rows.

Letters: S seeds, N test rows. Values and effects are shares.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from llm_jepa.errors import ConfigError
from llm_jepa.files import reading_run
from llm_jepa.runs.folder import ExperimentFolder

from .statistics import ALPHA, POWER, power_of_t_test

logger = logging.getLogger(__name__)

MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Spread:
    """The spread of an arm's paired differences in a pilot, as standard deviations."""

    arm: str
    n: int  # seeds of the pilot that arm and baseline both have
    std: float  # of the differences
    num_rows: int  # test rows of the pilot
    noise_std: float | None = None  # of the noise of one row (see above); None if it is unknown
    row_std: float | None = None  # of a row's effect, which is the same in all seeds

    def std_at(self, num_rows: int) -> float | None:
        """Return the standard deviation with other test rows, including at least their noise; None if it is unknown."""
        if self.noise_std is None:
            return self.std if num_rows == self.num_rows else None
        noise = self.noise_std**2
        seeds = max(0.0, self.std**2 - noise / self.num_rows)
        return math.sqrt(seeds + noise / num_rows)

    @property
    def ci(self) -> tuple[float, float]:
        """95% interval of `std`, for normal differences."""
        few, many = stats.chi2.ppf((0.025, 0.975), self.n - 1)
        low, high = (self.std * math.sqrt((self.n - 1) / each) for each in (many, few))
        return low, high


def seeds_needed(effect: float, std: float, *, num_comparisons: int = 1, power: float = POWER) -> int | None:
    """Return the fewest seeds with which a true difference is shown with a chance of at least `power`.

    It is at least 2; None if it is above `MOST_SEEDS`. The plan is for the first and hardest step of Holm's correction:
    p below 0.05 / num_comparisons. So the chance is at least `power`, whatever the other arms show. The same number of
    seeds shows that an arm that equals the baseline is not worse by more than `effect`.
    """

    def enough(n: int) -> bool:
        return power_of_t_test(n, std, effect, ALPHA / num_comparisons) >= power

    high = 2
    while not enough(high):
        high *= 2
        if high > 2 * MOST_SEEDS:
            return None
    found = bisect_left(range(high), True, lo=high // 2 + 1, key=enough)
    return found if found <= MOST_SEEDS else None


def spreads_of(pilot: Path, arms: Sequence[str], baseline: str, metric: str) -> list[Spread]:
    """Return the spread of each arm that shares two or more finished seeds with the baseline, in a pilot's folder.

    Raises:
        ConfigError: If there is no such arm, test rows differ, or all differences are equal.
    """
    folder = ExperimentFolder(pilot)
    base = _answers_of(folder, baseline, metric)
    if not base:
        raise ConfigError(
            "run_not_finished",
            f"--pilot {pilot} has no finished run of the baseline {baseline}. Name the folder of a `compare` that has.",
        )
    spreads = []
    for arm in arms:
        own = _answers_of(folder, arm, metric)
        if arm != baseline and len(own.keys() & base.keys()) > 1:
            spreads.append(_spread(arm, [(own[seed], base[seed]) for seed in sorted(own.keys() & base.keys())]))
    varied = [each for each in spreads if each.std_at(each.num_rows)]
    if spreads and not varied:
        raise ConfigError(
            "no_spread",
            f"In the pilot, the difference between {spreads[0].arm} and its baseline is the same in every seed, so "
            "there is no spread to plan with. Set one: --std 1.5.",
        )
    if lost := ", ".join(each.arm for each in spreads if each not in varied):
        logger.warning("Left out: %s. The difference to %s is the same in every seed.", lost, baseline)
    if not spreads:
        raise ConfigError(
            "too_few_seeds",
            f"--pilot {pilot}: no arm of the config shares two finished seeds with the baseline {baseline}. A spread "
            "needs at least two. Run more seeds, or set the spread: --std 1.5.",
        )
    return varied


def decompose(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Return `noise_std` and `row_std` from the differences of each seed on each row, (S, N), S and N at least 2.

    They follow from the mean squares of a two-way analysis of variance. A variance that comes out negative is set to 0.
    """
    num_seeds, num_rows = differences.shape
    of_seeds, of_rows = differences.mean(axis=1, keepdims=True), differences.mean(axis=0)  # (S, 1), (N,)
    rest = differences - of_seeds - of_rows + differences.mean()  # (S, N)
    noise = float((rest**2).sum()) / ((num_seeds - 1) * (num_rows - 1))
    rows = float(of_rows.var(ddof=1)) - noise / num_seeds
    return math.sqrt(noise), math.sqrt(max(0.0, rows))


@dataclass(frozen=True)
class _Answers:
    """What a finished run answered: metric and number of rows; rows and right answers, if there are predictions."""

    value: float
    num_rows: int
    rows: list[tuple[str, str]]
    right: list[bool]


def _answers_of(folder: ExperimentFolder, arm: str, metric: str) -> dict[int, _Answers]:
    """Return the answers of the finished runs of an arm, by seed."""
    found = {}
    for seed, run in folder.runs_of(arm).items():
        if run.is_done:
            with reading_run(run.path):
                record = run.evaluation()
                answers = run.predictions() if run.predictions_file.is_file() else []
                rows = [(each["text"], each["gold"]) for each in answers]
                right = [bool(each[metric]) for each in answers]
                found[seed] = _Answers(float(record[metric]), int(record["num_rows"]), rows, right)
    return found


def _spread(arm: str, pairs: Sequence[tuple[_Answers, _Answers]]) -> Spread:
    runs = [run for pair in pairs for run in pair]
    if len(counts := sorted({run.num_rows for run in runs})) > 1:
        raise ConfigError(
            "row_counts_differ",
            f"The pilot's runs of {arm} and its baseline answered {counts[0]:,} and {counts[-1]:,} test rows, so they "
            "cannot be compared. Name the folder of one experiment.",
        )
    std = float(np.std([mine.value - base.value for mine, base in pairs], ddof=1))
    known = Spread(arm, len(pairs), std, counts[0])
    if all(len(run.rows) == counts[0] > 1 and run.rows == runs[0].rows for run in runs):
        by_row = np.array([np.subtract(mine.right, base.right, dtype=float) for mine, base in pairs])  # (S, N)
        noise_std, row_std = decompose(by_row)
        known = replace(known, noise_std=noise_std, row_std=row_std)
    return known
