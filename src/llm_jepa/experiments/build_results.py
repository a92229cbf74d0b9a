"""Makes `Results` from the values of many runs, and writes results.json and results.csv.

Conclusions are drawn only here; tables, figures and reports show what this module returned.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path

from llm_jepa.data.config import MAIN_TEST
from llm_jepa.errors import ConfigError
from llm_jepa.files import write_json, write_whole
from llm_jepa.runs.folder import ExperimentFolder

from .results import RETRIEVAL_KEYS, ArmResult, Cost, Results, RunResult, SeedValues, SetResults, known
from .sentences import sentence
from .statistics import PairedComparison, check_finite, compare_paired, correct_for_many

logger = logging.getLogger(__name__)


def build_results(
    runs: Sequence[RunResult],
    *,
    metric: str = "exact_match",
    baseline: str = "ntp",
    cost: Mapping[str, Cost] | None = None,
    controls: Mapping[str, Sequence[str]] | None = None,
    control_runs: Sequence[RunResult] = (),
    headline: str | None = None,
    tests: Sequence[str] = (MAIN_TEST,),
    margin: float | None = None,
) -> Results:
    """Compare every arm with the baseline.

    Args:
        runs: All runs, in any order; arms keep their order of first appearance, the baseline comes first.
        metric: What arms are compared on, a share in [0, 1], higher is better.
        baseline: The arm that all others are compared with.
        cost: By arm.
        controls: Arm to the names of its controls (`control_arms`); no arm is shown to be ahead of one without runs.
        control_runs: Runs of controls that are not arms of the comparison, such as cells that were not chosen.
        headline: As in `Results`.
        tests: The test sets, the main one first. The values of the others are named `tests/NAME/...`. Holm's correction
            counts the comparisons on all test sets.
        margin: Largest loss against the baseline that does not matter, a share in (0, 1).

    Raises:
        ConfigError: If the baseline has no runs, or a run occurs twice, lacks the metric, or its value is not a share.
            The text names arm and seed.
    """
    by_arm = _by_arm(runs, baseline)
    found = {}
    for place, name in enumerate(tests):
        prefix = f"tests/{name}/" if place else ""
        found[name] = _set_results(by_arm, prefix, metric, baseline, cost or {}, controls or {}, control_runs, margin)
    corrected = iter(correct_for_many([each for one in found.values() for each in one.comparisons]))
    found = {
        name: replace(one, comparisons=tuple(_described(next(corrected)) for _ in one.comparisons))
        for name, one in found.items()
    }
    return Results(
        metric=metric,
        baseline=baseline,
        headline=headline,
        tests=found,
        runs=tuple(
            RunResult(run.arm, run.seed, {key: known(value) for key, value in run.metrics.items()})
            for by_seed in by_arm.values()
            for run in by_seed.values()
        ),
    )


def write_results(results: Results, out_dir: str | Path) -> tuple[Path, Path]:
    """Write `results.json` and `results.csv`, each under a temporary name first; return the two paths.

    The table has one row for each run, with every scalar metric as a column. A cell is empty if its metric was not
    measured. A setting that is nan or infinite is a ValueError: JSON cannot hold it.
    """
    folder = ExperimentFolder(Path(out_dir))
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(folder.results_file, results.to_json())
    write_whole(folder.csv_file, _csv_text(results))
    logger.info("Wrote %s and %s", folder.results_file, folder.csv_file)
    return folder.results_file, folder.csv_file


def _by_arm(runs: Sequence[RunResult], baseline: str) -> dict[str, dict[int, RunResult]]:
    """Return the runs by arm and seed, arms in order of first appearance, the baseline first; seeds in order."""
    arms: dict[str, dict[int, RunResult]] = {baseline: {}}
    for run in runs:
        if run.seed in arms.setdefault(run.arm, {}):
            text = f"Arm {run.arm!r}, seed {run.seed}: there are two runs. Expected one run for each seed."
            raise ConfigError("run_repeated", text)
        arms[run.arm][run.seed] = run
    if not arms[baseline]:
        found = ", ".join(repr(arm) for arm in arms if arm != baseline)
        if not found:
            raise ConfigError("run_missing", "There are no runs to compare. Give at least one run of each arm.")
        text = f"The baseline {baseline!r} has no runs; the arms are {found}. Name one of them as the baseline."
        raise ConfigError("run_missing", text)
    return {arm: dict(sorted(by_seed.items())) for arm, by_seed in arms.items()}


def _values_of(runs: Sequence[RunResult], metric: str) -> dict[str, dict[int, float]]:
    """Return arm -> seed -> value of the metric; every run must have it."""
    values: dict[str, dict[int, float]] = {}
    for run in runs:
        value = run.metrics.get(metric)
        if value is None:
            names = ", ".join(sorted(run.metrics)) or "nothing"
            text = f"Arm {run.arm!r}, seed {run.seed}: the metric {metric!r} is missing. Its values are: {names}."
            raise ConfigError("metric_missing", text)
        values.setdefault(run.arm, {})[run.seed] = float(value)
    for arm, by_seed in values.items():
        check_finite(by_seed, arm)
        for seed, value in by_seed.items():
            if not 0 <= value <= 1:
                text = f"Arm {arm!r}, seed {seed}: {metric} is {value}; expected a share from 0 to 1."
                raise ConfigError("value_out_of_range", text)
    return values


def _set_results(
    by_arm: Mapping[str, Mapping[int, RunResult]],
    prefix: str,
    metric: str,
    baseline: str,
    cost: Mapping[str, Cost],
    controls: Mapping[str, Sequence[str]],
    control_runs: Sequence[RunResult],
    margin: float | None,
) -> SetResults:
    """Compare on one test set, whose values are named with `prefix`; p is not corrected yet, sentences are missing."""
    found = _values_of([run for by_seed in by_arm.values() for run in by_seed.values()], prefix + metric)
    values = {arm: found.get(arm, {}) for arm in by_arm}
    of_controls = values | _values_of(control_runs, prefix + metric)
    compared = [
        compare_paired(values[arm], values[baseline], arm=arm, baseline_arm=baseline, margin=margin)
        for arm in values
        if arm != baseline
    ]
    against_controls = [
        compare_paired(values[arm], of_controls.get(control, {}), arm=arm, baseline_arm=control)
        for arm, names in controls.items()
        for control in names
        if arm in values
    ]
    arms = {
        arm: ArmResult(
            arm,
            SeedValues(values[arm]),
            _retrieval(runs, prefix and f"{prefix}retrieval/"),
            _retrieval(runs, "views_retrieval/"),
            Cost(*map(known, astuple(cost.get(arm, Cost())))),
            {seed: run.alarm for seed, run in runs.items() if run.alarm is not None},
        )
        for arm, runs in by_arm.items()
    }
    return SetResults(arms, tuple(compared), tuple(_described(each, p_name="p") for each in against_controls))


def _retrieval(runs: Mapping[int, RunResult], prefix: str) -> dict[str, SeedValues]:
    retrieval = {}
    for key in RETRIEVAL_KEYS:
        measured = {seed: value for seed, run in runs.items() if (value := run.metric(prefix + key)) is not None}
        if measured:
            retrieval[key] = SeedValues(measured)
    return retrieval


def _described(comparison: PairedComparison, p_name: str = "Holm p") -> PairedComparison:
    return replace(comparison, sentence=sentence(comparison, p_name))


def _csv_text(results: Results) -> str:
    metrics = {key for run in results.runs for key in run.metrics} | {results.metric}
    columns = sorted(metrics, key=lambda key: (key != results.metric, key))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["arm", "seed", *columns, "collapse_alarm"])
    for run in results.runs:
        alarm = results.arms[run.arm].alarms.get(run.seed)
        cells = map(run.metrics.get, columns)
        writer.writerow([run.arm, run.seed, *cells, None if alarm is None else int(alarm.alarmed)])
    return out.getvalue()
