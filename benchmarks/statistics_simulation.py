"""How often are the intervals and verdicts of a comparison right? Simulated, for docs/statistics.md.

    python benchmarks/statistics_simulation.py                    # prints the tables of the page: about 2 minutes
    python benchmarks/statistics_simulation.py --out benchmarks/results/statistics.json

The comparisons are those of the product (`correct_for_many`, `verdict`); only the t-tests are done for many experiments
at once, and the first experiments of each kind are compared with `compare_paired`.

The score of a run is the share of N test rows that it answers correctly. Each row has its own probability of a correct
answer; the seed of a run adds an effect to it. Given these, answers are independent. Three spreads are normal, one is
not:

    rows     200 rows, seeds add 0.2 points   chance in the answers has the larger effect
    both     500 rows, seeds add 1.5 points
    seeds    5,000 rows, seeds add 3 points   the seed has the larger effect
    skewed   500 rows, seeds add 1 point; one run in ten of each other arm loses 10 points more

Letters: E experiments, A arms without the baseline, S seeds, N test rows.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from llm_jepa.experiments.seeds_needed import seeds_needed
from llm_jepa.experiments.statistics import ALPHA, PairedComparison, compare_paired, correct_for_many
from llm_jepa.files import write_json

Array = NDArray[np.float64]

SEEDS = (3, 5, 6, 10)
CHANCES = np.array([0.15, 0.3, 0.45, 0.6, 0.75])  # of five kinds of rows, as many of each
SPECIAL = 0.2  # an arm whose effect differs between rows has 20 points more on some of them and 20 less on the others
NUM_CHECKED = 5  # experiments of each kind that `compare_paired` does as well


@dataclass(frozen=True)
class Kind:
    """What makes the runs of a simulated experiment differ; effects are shares."""

    num_rows: int
    seed_std: float
    skewed: bool = False


KINDS = {
    "rows": Kind(200, 0.002),
    "both": Kind(500, 0.015),
    "seeds": Kind(5000, 0.03),
    "skewed": Kind(500, 0.01, skewed=True),
}


def draw(rng: np.random.Generator, kind: Kind, num: int, seeds: int, effects: Sequence[float]) -> Array:
    """Return the differences to the baseline of arms with these true effects, (E, A, S)."""
    seed_effects = rng.normal(0, kind.seed_std, (num, len(effects) + 1, seeds))
    true = np.array([0.0, *effects])[:, None]
    if kind.skewed:
        seed_effects[:, 1:] += 0.01 - 0.1 * (rng.random((num, len(effects), seeds)) < 0.1)
    chances = np.clip(CHANCES + (seed_effects + true)[..., None], 0, 1)  # (E, A + 1, S, 5)
    right = rng.binomial(kind.num_rows // len(CHANCES), chances).sum(axis=-1)
    values = right / kind.num_rows
    return values[:, 1:] - values[:, :1]


def draw_new_rows(rng: np.random.Generator, num: int, seeds: int) -> tuple[Array, Array]:
    """Return the differences of an arm whose effect differs between rows, (E, 1, S), and its true mean, (E,).

    Each experiment draws 500 new rows. Over all such rows, the arm equals the baseline.
    """
    num_rows = 500
    gaining = rng.binomial(num_rows, 0.5, (num, 1))  # rows on which the arm is ahead by SPECIAL
    base = rng.binomial(num_rows, 0.45, (num, seeds))
    arm = rng.binomial(gaining, 0.45 + SPECIAL, (num, seeds))
    arm += rng.binomial(num_rows - gaining, 0.45 - SPECIAL, (num, seeds))
    return ((arm - base) / num_rows)[:, None], SPECIAL * (2 * gaining[:, 0] / num_rows - 1)


def compare(differences: Array, margin: float | None = None) -> list[list[PairedComparison]]:
    """Return the comparisons of each experiment, corrected; differences are (E, A, S)."""
    num, arms, seeds = differences.shape
    spread = np.ptp(differences, axis=-1) > 1e-9
    with np.errstate(all="ignore"):  # equal differences, which `compare_paired` does below
        mean, error = differences.mean(axis=-1), differences.std(axis=-1, ddof=1) / math.sqrt(seeds)
        p_values = 2 * stats.t.sf(np.abs(mean / error), seeds - 1)
        p_margins = np.minimum(1, 2 * stats.t.sf((mean + (margin or 0)) / error, seeds - 1))
    reach = stats.t.ppf(1 - ALPHA / 2, seeds - 1) * error
    experiments = []
    for place in range(num):
        compared = []
        for arm in range(arms):
            if not spread[place, arm] or place < NUM_CHECKED:
                compared.append(_by_compare_paired(differences[place, arm], f"arm{arm}", margin))
            if not spread[place, arm]:
                continue
            fast = PairedComparison(
                f"arm{arm}",
                "base",
                seeds,
                delta=mean[place, arm],
                ci=(mean[place, arm] - reach[place, arm], mean[place, arm] + reach[place, arm]),
                p_value=p_values[place, arm],
                margin=margin,
                p_margin=None if margin is None else p_margins[place, arm],
            )
            if place < NUM_CHECKED:
                _check_same(fast, compared[-1])
            else:
                compared.append(fast)
        experiments.append(correct_for_many(compared))
    return experiments


def _by_compare_paired(differences: Array, arm: str, margin: float | None) -> PairedComparison:
    values = dict(enumerate(0.5 + differences))
    return compare_paired(values, dict.fromkeys(values, 0.5), arm=arm, baseline_arm="base", margin=margin)


def _check_same(fast: PairedComparison, whole: PairedComparison) -> None:
    """Make sure that these t-tests give the same results as those of the product."""
    for key in ("delta", "p_value", "p_margin", "ci"):
        found, expected = getattr(fast, key), getattr(whole, key)
        assert (found is None) == (expected is None), key
        assert found is None or np.allclose(found, expected, rtol=1e-6, atol=1e-9), key


# ---- rates ----


def rates_of(rng: np.random.Generator, kind: Kind, seeds: int, num: int, margin: float = 0.01) -> dict[str, float]:
    """Return coverage and false verdicts for one spread and number of seeds.

    coverage      of the 95% interval, one arm that equals the baseline
    one_arm       better or worse of an arm that equals the baseline
    three_arms    any better or worse of three such arms
    margin        an arm that loses exactly the margin is said not to be worse by more
    family        any false statement about four arms: two equal the baseline, two lose exactly the margin
    """
    (one, three) = (compare(draw(rng, kind, num, seeds, [0.0] * arms)) for arms in (1, 3))
    loses = compare(draw(rng, kind, num, seeds, [-margin]), margin)
    family = compare(draw(rng, kind, num, seeds, [0.0, 0.0, -margin, -margin]), margin)
    return {
        "coverage": _share(_covers(each[0], 0.0) for each in one),
        "one_arm": _share(_differs(each[0]) for each in one),
        "three_arms": _share(any(map(_differs, each)) for each in three),
        "margin": _share(each[0].not_worse_shown for each in loses),
        "family": _share(
            any(map(_differs, each[:2])) or any(arm.not_worse_shown or arm.verdict == "better" for arm in each[2:])
            for each in family
        ),
    }


def new_rows_of(rng: np.random.Generator, seeds: int, num: int) -> dict[str, float]:
    """Return how often the interval holds the arm's mean on the test rows, and that on all rows of their kind (0)."""
    differences, true = draw_new_rows(rng, num, seeds)
    compared = [each[0] for each in compare(differences)]
    return {
        "these_rows": _share(_covers(each, mean) for each, mean in zip(compared, true, strict=True)),
        "all_rows": _share(_covers(each, 0.0) for each in compared),
    }


def planned_of(rng: np.random.Generator, effect: float, std: float, arms: int, num: int) -> dict[str, float]:
    """Return the seeds that `plan` asks for, and how often they show the effect of the first arm of several.

    The other arms equal the baseline. `margin`: how often an arm that equals the baseline is shown not to be worse by
    more than the effect, with the others losing that much.
    """
    n = seeds_needed(effect, std, num_comparisons=arms)
    assert n is not None
    differences = rng.normal(0, std, (num, arms, n))
    ahead = compare(differences + effect * (np.arange(arms) == 0)[:, None])
    equal = compare(differences - effect * (np.arange(arms) > 0)[:, None], margin=effect)
    return {
        "effect_points": round(100 * effect, 6),
        "std_points": round(100 * std, 6),
        "arms": arms,
        "seeds": n,
        "shown": _share(each[0].verdict == "better" for each in ahead),
        "margin": _share(each[0].not_worse_shown for each in equal),
    }


def _covers(comparison: PairedComparison, true: float) -> bool:
    assert comparison.ci is not None
    return bool(comparison.ci[0] <= true + 1e-12 and comparison.ci[1] >= true - 1e-12)


def _differs(comparison: PairedComparison) -> bool:
    return comparison.verdict in ("better", "worse")


def _share(found: Any) -> float:
    return float(np.mean([bool(each) for each in found]))


# ---- the record and its tables ----


def simulate(num: int, seed: int = 0) -> dict[str, Any]:
    """Return the record: the share of `num` experiments of each kind in which something happened."""
    rng = np.random.default_rng(seed)
    plans = [(0.02, 0.015, 1), (0.02, 0.015, 3), (0.01, 0.015, 3), (0.03, 0.015, 6)]
    return {
        "benchmark": "statistics_simulation",
        "settings": {"experiments": num, "seed": seed, "margin_points": 1.0},
        "rates": {
            name: {str(seeds): rates_of(rng, kind, seeds, num) for seeds in SEEDS} for name, kind in KINDS.items()
        },
        "new_rows": {str(seeds): new_rows_of(rng, seeds, num) for seeds in SEEDS},
        "planned": [planned_of(rng, *each, num) for each in plans],
    }


def tables_of(record: dict[str, Any]) -> dict[str, str]:
    """Return the tables of docs/statistics.md as Markdown, in percent."""
    headings = ("coverage", "one_arm", "three_arms", "margin", "family")
    rates = [
        [kind, seeds, *(_percent(found[key]) for key in headings)]
        for kind, by_seeds in record["rates"].items()
        for seeds, found in by_seeds.items()
    ]
    new_rows = [[seeds, *map(_percent, found.values())] for seeds, found in record["new_rows"].items()]
    plain = ("effect_points", "std_points", "arms", "seeds")
    planned = [
        [*(f"{found[key]:g}" for key in plain), *(_percent(found[key]) for key in ("shown", "margin"))]
        for found in record["planned"]
    ]
    return {
        "rates": _table(["spread", "seeds", "coverage", "1 equal", "3 equal", "1 at the margin", "2 and 2"], rates),
        "new_rows": _table(["seeds", "mean on these rows", "mean on all such rows"], new_rows),
        "planned": _table(["effect", "sd", "arms", "seeds planned", "effect shown", "margin shown"], planned),
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage and false verdicts of a comparison, simulated.")
    parser.add_argument("--experiments", type=int, default=10_000, help="of each kind (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the record to this JSON file")
    args = parser.parse_args()
    record = simulate(args.experiments, args.seed)
    for table in tables_of(record).values():
        print(f"{table}\n")
    if args.out:
        write_json(args.out, record)


if __name__ == "__main__":
    main()
