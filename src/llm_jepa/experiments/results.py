"""From the values of many runs to results.json, results.csv and tables: the file contract of an experiment.

`build_results` is the only place where runs become conclusions; tables, figures and reports read what it
returned and compute nothing of their own.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from llm_jepa.errors import ConfigError
from llm_jepa.files import write_json, write_whole
from llm_jepa.runs.folder import ExperimentFolder
from llm_jepa.text_tables import text_table

from .statistics import (
    PairedComparison,
    bootstrap_over_examples,
    check_finite,
    compare_paired,
    correct_for_many,
    format_p,
    sentence,
)

logger = logging.getLogger(__name__)

RETRIEVAL_KEYS = ("recall@1", "recall@10", "mrr")
COST_KEYS = ("step_time_ratio", "flops_ratio")
BUDGET_TITLES = {"flops": "At equal FLOPs", "time": "At equal time"}

Results = dict[str, Any]


@dataclass(frozen=True)
class RunResult:
    """What one run contributes: the values of its eval.json, and its collapse alarm.

    Attributes:
        arm: Name of the arm.
        seed: Seed of the run, which pairs it with the other arms' runs.
        metrics: Name to value. The headline metric is a share in [0, 1]. nan means "not measured".
        alarm: `CollapseAlarm.summary()`; None if the run was not watched.
    """

    arm: str
    seed: int
    metrics: Mapping[str, float]
    alarm: Mapping[str, Any] | None = None

    @classmethod
    def from_eval(cls, arm: str, seed: int, record: Mapping[str, Any]) -> RunResult:
        """Build from an eval.json: its numbers are metrics, its `alarm` the alarm.

        Nested numbers are named `outer/inner`. Text, lists and booleans are no metrics and are left out.
        """
        metrics = _flat_numbers({key: value for key, value in record.items() if key != "alarm"})
        return cls(arm, seed, metrics, record.get("alarm"))

    def metric(self, name: str) -> float | None:
        """Return a metric by its name, or of retrieval by the last part of it; None if it was not measured."""
        value = self.metrics.get(name, self.metrics.get(f"retrieval/{name}", math.nan))
        return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class _Experiment:
    """The runs of an experiment by arm and seed, arms in order of first appearance, the baseline first."""

    runs: dict[str, dict[int, RunResult]] = field(default_factory=dict)

    @classmethod
    def of(cls, runs: Sequence[RunResult], baseline: str) -> _Experiment:
        arms: dict[str, dict[int, RunResult]] = {baseline: {}}
        for run in runs:
            if run.seed in arms.setdefault(run.arm, {}):
                raise ValueError(f"Arm {run.arm!r}, seed {run.seed}: two runs; one value a seed is expected.")
            arms[run.arm][run.seed] = run
        if not arms[baseline]:
            found = ", ".join(repr(arm) for arm in arms if arm != baseline) or "no arm"
            raise ConfigError(
                f"The baseline {baseline!r} has no runs; found {found}. Name one of the arms as baseline."
            )
        return cls({arm: dict(sorted(by_seed.items())) for arm, by_seed in arms.items()})

    def values(self, metric: str) -> dict[str, dict[int, float]]:
        """Return arm -> seed -> value of the headline metric; every run must have it."""
        values = _values_of([run for by_seed in self.runs.values() for run in by_seed.values()], metric)
        return {arm: values.get(arm, {}) for arm in self.runs}


def _values_of(runs: Sequence[RunResult], metric: str) -> dict[str, dict[int, float]]:
    """Return arm -> seed -> value of the headline metric; every run must have it."""
    values: dict[str, dict[int, float]] = {}
    for run in runs:
        if metric not in run.metrics:
            known = ", ".join(sorted(run.metrics)) or "nothing"
            raise ValueError(f"Arm {run.arm!r}, seed {run.seed}: no {metric!r} among its values ({known}).")
        values.setdefault(run.arm, {})[run.seed] = float(run.metrics[metric])
    for arm, by_seed in values.items():
        check_finite(by_seed, arm)
        for seed, value in by_seed.items():
            if not 0 <= value <= 1:
                raise ValueError(f"Arm {arm!r}, seed {seed}: {metric} is {value}; expected a share from 0 to 1.")
    return values


def build_results(
    runs: Sequence[RunResult],
    *,
    metric: str = "exact_match",
    baseline: str = "ntp",
    cost: Mapping[str, Mapping[str, float | None]] | None = None,
    settings: Mapping[str, Any] | None = None,
    correct: Mapping[str, Mapping[int, ArrayLike]] | None = None,
    controls: Mapping[str, Sequence[str]] | None = None,
    control_runs: Sequence[RunResult] = (),
    headline: str | None = None,
) -> Results:
    """Compare every arm with the baseline, and put all that was learned in one JSON-ready dict.

    The schema is section 7 of the design (`metric`, `arms`, `comparisons`, `cost`), extended. Each comparison
    has also `n`, `sign_flip_p`, `bootstrap_ci95`, `smallest_detectable`, `differences`, `missing_seeds`,
    `reason` and `sentence`. On top level stand also `controls` (comparisons of an arm with its controls, as `baseline`;
    each is a condition for the claim, so their p-values are not corrected), `baseline`, `retrieval` (arm -> key ->
    mean, std, n, seeds), `views_retrieval` (the same of held-out rows of views_file), `alarms` (arm -> seed -> alarm),
    `settings`, and `runs` (every scalar of every run). What is not known is None, never nan.

    Args:
        runs: All runs, in any order; arms keep their order of first appearance, the baseline comes first.
        metric: The headline metric, a share in [0, 1], higher is better.
        baseline: Name of the arm that all others are compared with.
        cost: Arm to `step_time_ratio` and `flops_ratio`, as multiples of the baseline's.
        settings: Anything that a reader needs to repeat the experiment; JSON values.
        correct: Arm to seed to the examples' scores, (N,), in the same order everywhere; for the bootstrap.
        controls: Arm to the names of its controls (`control_arms`); those without runs are left out.
        control_runs: Runs of controls that are no arms of the comparison, such as cells that were not chosen.
        headline: The arm whose comparison a report opens with.

    Raises:
        ConfigError: If the baseline has no runs.
        ValueError: If a run occurs twice, lacks the metric, or its value is no share; the text names arm and
            seed.
    """
    experiment = _Experiment.of(runs, baseline)
    values = experiment.values(metric)
    comparisons = correct_for_many(
        [
            compare_paired(values[arm], values[baseline], arm=arm, baseline_arm=baseline)
            for arm in values
            if arm != baseline
        ]
    )
    of_controls = values | _values_of(control_runs, metric)
    return {
        "metric": metric,
        "baseline": baseline,
        "headline": headline,
        "arms": {arm: summarise_seeds(by_seed) for arm, by_seed in values.items()},
        "comparisons": [_comparison_record(c, _bootstrap(c, correct or {})) for c in comparisons],
        "controls": [
            _comparison_record(c, _bootstrap(c, correct or {}), p_name="p")
            for arm, names in (controls or {}).items()
            for control in names
            if arm in values and control in of_controls
            for c in [compare_paired(values[arm], of_controls[control], arm=arm, baseline_arm=control)]
        ],
        "cost": {arm: {key: _known((cost or {}).get(arm, {}).get(key)) for key in COST_KEYS} for arm in values},
        "retrieval": _retrieval(experiment),
        "views_retrieval": _retrieval(experiment, "views_retrieval/"),
        "alarms": {
            arm: watched
            for arm, by_seed in experiment.runs.items()
            if (watched := {str(seed): dict(run.alarm) for seed, run in by_seed.items() if run.alarm is not None})
        },
        "settings": dict(settings or {}),
        "runs": [
            {"arm": arm, "seed": seed, "metrics": {key: _known(value) for key, value in run.metrics.items()}}
            for arm, by_seed in experiment.runs.items()
            for seed, run in by_seed.items()
        ],
    }


def write_results(results: Results, out_dir: str | Path) -> tuple[Path, Path]:
    """Write `results.json` and `results.csv`, each beside its name first and then renamed into place.

    The table has one row an arm and seed, with every scalar metric as a column; what was not measured is
    empty.

    Returns:
        The two paths.

    Raises:
        ValueError: If a value is nan or infinite, which JSON cannot hold.
    """
    folder = ExperimentFolder(Path(out_dir))
    folder.path.mkdir(parents=True, exist_ok=True)
    json_path, csv_path = folder.results_file, folder.csv_file
    write_json(json_path, results)
    write_whole(csv_path, _csv_text(results))
    logger.info("Wrote %s and %s", json_path, csv_path)
    return json_path, csv_path


def format_table(results: Results, width: int = 80) -> str:
    """Return the results as text for a terminal: two tables, the alarms, and a sentence for each comparison.

    Values are in percent, differences in points. No line is longer than `width` (at least 80); names of arms
    that are too long are cut in the middle, where that leaves them apart, and stand in full in the sentences.
    """
    width = max(width, 80)
    parts = [
        _table(_outcome_rows(results), width),
        _table(_representation_rows(results), width),
        _filled(_alarm_lines(results), width),
        _filled(_sentences(results), width),
    ]
    for kind, title in BUDGET_TITLES.items():
        if again := results.get(f"equal_{kind}"):
            parts += [title, _table(_outcome_rows(again), width)]
            parts += [_filled([*again["notes"], *(c["sentence"] for c in again["comparisons"])], width)]
    for grid in results.get("grids", {}).values():
        parts += [f"Exploration: the cells of {grid['arm']}", _table(_grid_rows(grid), width)]
    parts += [_filled(results.get("notes", []), width)]
    return "\n\n".join(part for part in parts if part)


def format_markdown(results: Results, escape: Callable[[str], str] | None = None) -> str:
    """Return the results as Markdown: one table of all columns, the alarms, and a sentence for each comparison.

    Args:
        results: What `build_results` returned.
        escape: Applied to every cell and sentence. Default: what would end a cell is escaped, and nothing else.
    """
    outcome, representation = _outcome_rows(results), _representation_rows(results)
    rows = [[*left, *right[1:]] for left, right in zip(outcome, representation, strict=True)]
    text = _markdown(rows, _sentences(results) + _alarm_lines(results), escape)
    for kind, title in BUDGET_TITLES.items():
        if again := results.get(f"equal_{kind}"):
            notes = [*again["notes"], *(c["sentence"] for c in again["comparisons"])]
            text += f"\n{title}:\n\n" + _markdown(_outcome_rows(again), notes, escape)
    for grid in results.get("grids", {}).values():
        name = escape(grid["arm"]) if escape else grid["arm"]
        text += f"\nExploration: the cells of {name}.\n\n" + _markdown(_grid_rows(grid), [], escape)
    notes = [escape(note) if escape else note for note in results.get("notes", [])]
    return text + "".join(f"\n- {note}" for note in notes) + ("\n" if notes else "")


def _markdown(rows: list[list[str]], notes: list[str], escape: Callable[[str], str] | None) -> str:
    in_cell, in_note = escape or (lambda cell: cell.replace("|", r"\|")), escape or str
    lines = ["| " + " | ".join(in_cell(cell) for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines) + "\n" + ("\n" + "\n".join(f"- {in_note(note)}" for note in notes) + "\n" if notes else "")


def _filled(lines: Sequence[str], width: int) -> str:
    return "\n".join(textwrap.fill(line, width, subsequent_indent="  ") for line in lines)


# ---- building ----


def summarise_seeds(by_seed: Mapping[int, float]) -> dict[str, Any]:
    """Return seeds, mean, standard deviation (n - 1; None with one seed) and n of an arm's values."""
    values = list(by_seed.values())
    return {
        "seeds": {str(seed): value for seed, value in by_seed.items()},
        "mean": math.fsum(values) / len(values) if values else None,
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "n": len(values),
    }


def _comparison_record(
    comparison: PairedComparison, bootstrap: tuple[float, float] | None, p_name: str = "Holm p"
) -> dict[str, Any]:
    c = comparison
    return {
        "arm": c.arm,
        "baseline": c.baseline,
        "delta": c.delta,
        "ci95": list(c.ci) if c.ci is not None else None,
        "p_value": c.p_value,
        "p_holm": c.p_holm,
        "verdict": c.verdict,
        "n": c.n,
        "sign_flip_p": c.sign_flip_p,
        "bootstrap_ci95": list(bootstrap) if bootstrap is not None else None,
        "smallest_detectable": c.smallest_detectable,
        "differences": {str(seed): difference for seed, difference in c.differences.items()},
        "missing_seeds": c.missing,
        "reason": c.reason or None,
        "sentence": sentence(c, p_name),
    }


def _bootstrap(
    comparison: PairedComparison, correct: Mapping[str, Mapping[int, ArrayLike]]
) -> tuple[float, float] | None:
    """Return the bootstrap interval over the comparison's seeds; None unless every one has its examples' scores."""
    arm, baseline = correct.get(comparison.arm, {}), correct.get(comparison.baseline, {})
    seeds = list(comparison.differences)
    if not seeds or not all(seed in arm and seed in baseline for seed in seeds):
        return None
    scores = {seed: (np.asarray(arm[seed], dtype=float), np.asarray(baseline[seed], dtype=float)) for seed in seeds}
    lengths = {seed: tuple(len(side) for side in sides) for seed, sides in scores.items()}
    if len({length for pair in lengths.values() for length in pair}) > 1:
        raise ValueError(
            f"{comparison.arm!r} and {comparison.baseline!r} were not scored on the same examples: "
            f"(arm, baseline) counts by seed are {lengths}."
        )
    ours, theirs = zip(*scores.values(), strict=True)
    return bootstrap_over_examples(np.stack(ours), np.stack(theirs))


def _retrieval(experiment: _Experiment, prefix: str = "") -> dict[str, Any]:
    retrieval: dict[str, Any] = {}
    for arm, by_seed in experiment.runs.items():
        for key in RETRIEVAL_KEYS:
            measured = {seed: value for seed, run in by_seed.items() if (value := run.metric(prefix + key)) is not None}
            if measured:
                retrieval.setdefault(arm, {})[key] = summarise_seeds(measured)
    return retrieval


def _flat_numbers(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    numbers: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            numbers |= _flat_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}{key}"] = float(value)
    return numbers


def _known(value: float | None) -> float | None:
    """Return a finite number as it is and anything else as None: JSON has no nan, and a nan is not a value."""
    return float(value) if value is not None and math.isfinite(value) else None


# ---- writing ----


def _csv_text(results: Results) -> str:
    first = [results["metric"]]
    rest = sorted({key for run in results["runs"] for key in run["metrics"]} - set(first))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["arm", "seed", *first, *rest, "collapse_alarm"])
    for run in results["runs"]:
        alarm = results["alarms"].get(run["arm"], {}).get(str(run["seed"]))
        cells = [run["metrics"].get(key) for key in [*first, *rest]]
        writer.writerow([run["arm"], run["seed"], *cells, None if alarm is None else int(alarm["alarmed"])])
    return out.getvalue()


# ---- tables ----


def _outcome_rows(results: Results) -> list[list[str]]:
    by_arm = {c["arm"]: c for c in results["comparisons"]}
    rows = [["arm", "n", f"{results['metric'].replace('_', ' ')} %", "difference, 95% CI", "p Holm", "verdict"]]
    for arm, summary in results["arms"].items():
        comparison = by_arm.get(arm)
        row = [arm, str(summary["n"]), _mean_and_std(summary)]
        if comparison is None:
            rows.append([*row, "", "", "baseline"])
        else:
            rows.append([*row, format_difference(comparison), format_p(comparison["p_holm"]), comparison["verdict"]])
    return rows


def _representation_rows(results: Results) -> list[list[str]]:
    columns = {"retrieval@1 %": results["retrieval"]}
    if results.get("views_retrieval"):
        columns["of views %"] = results["views_retrieval"]
    rows = [["arm", *columns, "step time", "FLOPs", "collapse alarm"]]
    for arm in results["arms"]:
        recalls = [by_arm.get(arm, {}).get("recall@1") for by_arm in columns.values()]
        cost = results["cost"].get(arm, {})
        ratios = [_ratio(cost.get(key)) for key in COST_KEYS]
        shares = [_mean_and_std(recall) if recall else "-" for recall in recalls]
        rows.append([arm, *shares, *ratios, _alarm_cell(results, arm)])
    return rows


def _sentences(results: Results) -> list[str]:
    """Return a sentence for each comparison with the baseline, then one for each with a control."""
    beyond = [f"Beyond its control, {each['sentence']}" for each in results.get("controls", [])]
    return [each["sentence"] for each in results["comparisons"]] + beyond


def about_undecided(results: Results) -> list[str]:
    """Return a sentence where a score could not be told of some rows, by arm: its share is a lower bound then."""
    metric, counts = results["metric"], dict.fromkeys(results["arms"], 0)
    for run in results["runs"]:
        for kind in ("num_unknown", "num_gold_errors"):
            counts[run["arm"]] = counts.get(run["arm"], 0) + round(run["metrics"].get(f"{kind}/{metric}") or 0)
    if not any(counts.values()):
        return []
    told = ", ".join(f"{arm} {count:,}" for arm, count in counts.items())
    return [f"Answers of which {metric} could not say whether they are right, all seeds, counted as not right: {told}."]


def budget_lines(results: Results) -> list[str]:
    """Return a sentence for each arm whose steps were scaled: how many it took, and why."""
    unit = {"flops": "counted FLOPs", "time": "median time by the clock"}
    return [
        f"{name} takes {each['max_steps']:,} steps where {each['baseline']} takes {each['baseline_steps']:,}: "
        f"a step costs {each['ratio']:.3g} times as much, in {unit[each['kind']]}."
        for name, each in results["budgets"].items()
    ]


def _grid_rows(grid: Mapping[str, Any]) -> list[list[str]]:
    """Return the cells of a grid as a table; shares in percent, other values as they are."""
    share = grid["choose_by"] in (grid["metric"], "retrieval@1")
    rows = [["cell", "n", f"validation {grid['choose_by']}{' %' if share else ''}", f"test {grid['metric']} %", ""]]
    for cell in grid["cells"]:
        by, failed = cell["validation"], len(cell["failed"])
        value = _mean_and_std(by) if share or by["mean"] is None else f"{by['mean']:.4g}"
        note = "chosen" if cell["chosen"] else f"{failed} failed" if failed else ""
        rows.append([cell["arm"], str(by["n"]), value, _mean_and_std(cell["test"]), note])
    return rows


def _alarm_cell(results: Results, arm: str) -> str:
    alarms = results["alarms"].get(arm, {})
    if not alarms:
        return "not watched"
    return f"{sum(bool(alarm['alarmed']) for alarm in alarms.values())} of {len(alarms)} runs"


def _alarm_lines(results: Results) -> list[str]:
    """Return a line for each arm with an alarm: how many runs, which seeds, and what was seen in the first of them."""
    lines = []
    for arm, alarms in results["alarms"].items():
        raised = {seed: alarm for seed, alarm in alarms.items() if alarm["alarmed"]}
        if raised:
            first, alarm = next(iter(raised.items()))
            seeds = f"seed{'s' if len(raised) > 1 else ''} {', '.join(raised)}"
            recovered = sum(bool(alarm.get("recovered")) for alarm in raised.values())
            end = f"{recovered or 'None'} of {len(raised)} had recovered at the last check."
            seen = alarm["reason"] if len(raised) == 1 else f"Seed {first}: {alarm['reason']}"
            lines.append(f"Collapse alarm in {arm}, {seeds} ({_alarm_cell(results, arm)}). {end} {seen}")
    return lines


def _table(rows: list[list[str]], width: int) -> str:
    return text_table(rows, width, left=(0, len(rows[0]) - 1))


def _mean_and_std(summary: Mapping[str, Any]) -> str:
    if summary["mean"] is None:
        return "-"
    spread = "" if summary["std"] is None else f" ± {100 * summary['std']:.1f}"
    return f"{100 * summary['mean']:.1f}{spread}"


def format_difference(comparison: Mapping[str, Any]) -> str:
    """Return a difference and its 95% interval in points; `-` where there is none."""
    if comparison["delta"] is None:
        return "-"
    interval = ""
    if comparison["ci95"] is not None:
        interval = " [{:+.1f}, {:+.1f}]".format(*(100 * bound for bound in comparison["ci95"]))
    return f"{100 * comparison['delta']:+.1f}{interval}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"
