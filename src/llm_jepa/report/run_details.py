"""What a report takes from the run folders of an experiment: curves, answers that differ, and the environment."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from llm_jepa.experiments.results import Results
from llm_jepa.files import reading_run
from llm_jepa.runs.folder import ExperimentFolder, RunFolder

from .formatting import as_text, shortened

NUM_EXAMPLES = 20


def curves_of(results: Results, folder: Path) -> dict[str, dict[int, list[dict[str, Any]]]]:
    """Return the rows of metrics.jsonl of each arm's runs, by seed; arms are in the order of the results."""
    curves: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for arm, result in results.arms.items():
        for seed in result.values.seeds:
            run = ExperimentFolder(folder).run(arm, seed)
            with reading_run(run.path):
                curves.setdefault(arm, {})[seed] = [dict(line) for line in run.metrics()]
    return curves


def examples_of(results: Results, folder: Path) -> dict[str, Any] | None:
    """Return test rows that only one arm answered correctly, for the first seed that most arms have.

    Arms give examples in turn, so that no arm is shown only at its best. None if the arms cannot be compared: fewer
    than two have answers, or they answered different rows.
    """
    metric, answered = results.metric, {each: _answered(results, folder, each) for each in seeds_of(results)}
    seed = max(answered, key=lambda each: len(answered[each]))  # the first of equals
    answers = {arm: _answers(run, metric) for arm, run in answered[seed].items()}
    texts = {tuple(row["text"] for row in rows) for rows in answers.values()}
    if len(answers) < 2 or len(texts) > 1:
        return None
    num_rows = len(next(iter(answers.values())))
    right = [[arm for arm, rows in answers.items() if rows[place][metric]] for place in range(num_rows)]
    only = {arm: [(arm, place) for place, arms in enumerate(right) if arms == [arm]] for arm in answers}
    in_turn = filter(None, chain.from_iterable(zip_longest(*only.values())))
    return {
        "seed": seed,
        "num_rows": num_rows,
        "counts": {arm: len(places) for arm, places in only.items()},
        "total": sum(map(len, only.values())),
        "shown": [_example(answers, arm, place) for arm, place in islice(in_turn, NUM_EXAMPLES)],
    }


def seeds_of(results: Results) -> list[int]:
    """Return the seeds of an experiment, in its order; those of the baseline if the settings name none."""
    return results.settings.get("seeds") or list(results.arms[results.baseline].values.seeds)


def _example(answers: Mapping[str, list[dict[str, Any]]], right: str, place: int) -> dict[str, Any]:
    """Return one row with every arm's answer; the gold answer only if it differs from the correct answer."""
    row = answers[right][place]
    outputs = {arm: shortened(rows[place]["output"]) for arm, rows in answers.items()}
    return {
        "text": shortened(row["text"]),
        "gold": None if row["gold"].strip() == row["output"].strip() else shortened(row["gold"]),
        "right": right,
        "output": outputs.pop(right),
        "others": outputs,
    }


def _answers(run: RunFolder, metric: str) -> list[dict[str, Any]]:
    """Return the answers of a run; a damaged file is an error that names the run."""
    with reading_run(run.path):
        rows = run.predictions()
        for row in rows:
            _ = row["text"], row["gold"], row["output"], row[metric]
    return rows


def _answered(results: Results, folder: Path, seed: object) -> dict[str, RunFolder]:
    runs = {arm: ExperimentFolder(folder).run(arm, seed) for arm in results.arms}
    return {arm: run for arm, run in runs.items() if run.predictions_file.is_file()}


def environment_of(results: Results, folder: Path) -> dict[str, Any]:
    """Return the environment of the first run, and the names of its values that differ between runs."""
    runs = [ExperimentFolder(folder).run(each.arm, each.seed) for each in results.runs]
    found = [environment for run in runs if (environment := run.environment())]
    if not found:
        return {"values": {}, "differing": []}
    values = {key: value for key, value in found[0].items() if key != "command"}
    differing = [key for key, value in values.items() if any(each.get(key) != value for each in found)]
    return {"values": {key: as_text(value) for key, value in values.items()}, "differing": differing}
