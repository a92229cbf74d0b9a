"""An experiment: arms x seeds from one YAML, to a table that says which is better and how sure that is.

    OUT/experiment.yaml   settings         OUT/results.json, results.csv   values, intervals, verdicts
    OUT/<arm>-s<seed>/    one run each     OUT/figures/                    curves and comparison, SVG and PNG
    OUT/report.html       all of it, to read, print or send

Everything after the runs is rebuilt from the run folders alone.
"""

from __future__ import annotations

import json
import logging
import shlex
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from llm_jepa.data.generated import with_files
from llm_jepa.data.loading import load_data
from llm_jepa.errors import ConfigError, LLMJEPAError
from llm_jepa.files import read_json_lines, write_whole
from llm_jepa.report.figures import plot_comparison, plot_curves
from llm_jepa.report.html import write_report

from .executor import Failure, Job, run_jobs
from .results import Results, RunResult, build_results, write_results
from .run import check_folder, claim_folder, differences, has_begun, pretrained_tokenizer
from .settings import ExperimentConfig, RunConfig, Settings, read_experiment

logger = logging.getLogger(__name__)

EXPERIMENT_FILE = "experiment.yaml"
# What may differ when an experiment goes on in its folder: more seeds, more arms, another number of workers.
EXTENSIBLE = ("workers", "seeds", "arms", "baseline")


@dataclass(frozen=True)
class Experiment:
    """An experiment whose settings are checked and whose folder is its own.

    Attributes:
        config: Arms, seeds, baseline.
        runs: Checked settings of each arm, with the data files named.
        folder: Where everything goes.
        notes: What was found in the data: a line of counts, then sentences.
    """

    config: ExperimentConfig
    runs: dict[str, RunConfig]
    folder: Path
    notes: list[str]

    @property
    def jobs(self) -> list[Job]:
        """All runs, seed by seed, so that whole pairs are done first."""
        return [
            Job(arm, seed, self.folder / f"{arm}-s{seed}") for seed in self.config.seeds for arm in self.config.arms
        ]


def open_experiment(settings: Settings, folder: Path, *, dry_run: bool = False) -> Experiment:
    """Check settings and data, and make the folder this experiment's.

    Args:
        settings: Flat settings, overrides included.
        folder: The output folder.
        dry_run: Check only; write nothing but generated data.

    Raises:
        ConfigError: If a setting is wrong, or the folder holds another experiment.
        DataError: If a row is wrong.
    """
    config, runs = read_experiment(settings)
    _check_folder(folder, settings)
    runs = {arm: _with_data_files(run, folder) for arm, run in runs.items()}
    notes = _check_data(runs)
    experiment = Experiment(config, runs, folder, notes)
    if not dry_run:
        own = {job: runs[job.arm].settings | {"seed": job.seed} for job in experiment.jobs}
        for job in experiment.jobs:
            check_folder(job.folder, own[job])  # all of them, before anything is written
        folder.mkdir(parents=True, exist_ok=True)
        # First of all: a folder that holds runs and no experiment would not be taken up again.
        write_whole(folder / EXPERIMENT_FILE, yaml.safe_dump(settings | {"arms": config.arms}, sort_keys=False))
        for job in experiment.jobs:
            claim_folder(job.folder, own[job])
    return experiment


def run_experiment(experiment: Experiment, *, progress: bool = False) -> Results:
    """Do the runs that are not done yet, then compare; return what results.json holds.

    Raises:
        LLMJEPAError: If a run failed; those that are done stay, and the next call goes on with the rest.
    """
    logger.info("data   %s", experiment.notes[0])
    failures = run_jobs(experiment.jobs, experiment.config.workers, progress=progress)
    if failures:
        raise _failed(failures, len(experiment.jobs))
    return summarise(experiment.folder)


def summarise(folder: Path) -> Results:
    """Compare the runs in an experiment's folder; write results.json, results.csv, the figures and report.html.

    Raises:
        ConfigError: If the folder holds no experiment, or no run of it is done.
    """
    file = folder / EXPERIMENT_FILE
    if not file.is_file():
        raise ConfigError(f"{folder} holds no {EXPERIMENT_FILE}. Expected the --out folder of a `compare`.")
    settings = yaml.safe_load(file.read_text())
    config, runs = read_experiment(settings)
    metric = runs[config.baseline].evaluation.metric
    jobs = Experiment(config, runs, folder, []).jobs
    done = [job for job in jobs if job.is_done]
    if not any(job.arm == config.baseline for job in done):
        raise ConfigError(f"{folder} has no finished run of the baseline {config.baseline}. Run `compare` first.")
    records = {job: json.loads((job.folder / "eval.json").read_text()) for job in done}
    results = build_results(
        [RunResult.from_eval(job.arm, job.seed, record) for job, record in records.items()],
        metric=metric,
        baseline=config.baseline,
        cost=_cost(records, config.baseline),
        settings={**settings, **asdict(config), "data": _data_summary(done[0])},
        correct=_correct(done, metric),
    )
    write_results(results, folder)
    figures = folder / "figures"
    pictures = [*plot_comparison(results, figures), *plot_curves(_curves(done), None, figures)]
    command = f"llm-jepa compare {shlex.quote(str(file))} --out NEW_FOLDER"
    write_report(results, folder, pictures, command)
    return results


def _check_folder(folder: Path, settings: Settings) -> None:
    file = folder / EXPERIMENT_FILE
    if file.is_file():
        old = {key: value for key, value in yaml.safe_load(file.read_text()).items() if key not in EXTENSIBLE}
        new = {key: value for key, value in settings.items() if key not in EXTENSIBLE}
        differing = differences(old, new)
        runs = [config.parent for config in folder.glob("*/config.yaml")]
        never_began = bool(runs) and not any(has_begun(run) for run in runs)  # refused before, now corrected
        if differing and not never_began:
            raise ConfigError(
                f"{folder} holds another experiment: {'; '.join(differing)}. Choose another --out, "
                "or remove that folder."
            )
    elif folder.exists() and (not folder.is_dir() or any(each.name != "data" for each in folder.iterdir())):
        raise ConfigError(f"{folder} is there already and holds no experiment of llm-jepa. Choose another --out.")


def _with_data_files(run: RunConfig, folder: Path) -> RunConfig:
    """Return the run with the names of generated files in the place of what generates them."""
    data = with_files(run.data, folder / "data")
    if data is run.data:
        return run
    settings = {key: value for key, value in run.settings.items() if not key.startswith("generate_")}
    settings |= {"train_file": data.train_file, "test_file": data.test_file}
    settings |= {} if data.views_file is None else {"views_file": data.views_file}
    return replace(run, data=data, settings=settings)


def _check_data(runs: dict[str, RunConfig]) -> list[str]:
    """Read the data as the first arm will, so that a broken row is told before any run starts."""
    run = next(iter(runs.values()))
    if run.data.test_file is None:
        raise ConfigError("test_file is not set. A comparison needs rows that no arm has seen.")
    data = load_data(run.data, run.jepa, pretrained_tokenizer(run))
    counts = {name: f"{data.summary[name]['kept']:,}" for name in ("train", "validation", "test")}
    return [" | ".join(f"{name} {count}" for name, count in counts.items()), *data.notes]


def _failed(failures: list[Failure], num_jobs: int) -> LLMJEPAError:
    """Return an error with the reason of the first failure, of the kind that its exit code says."""
    first = failures[0]
    names = ", ".join(failure.job.name for failure in failures)
    kind = ConfigError if first.exit_code == ConfigError.exit_code else LLMJEPAError
    return kind(
        f"{len(failures)} of {num_jobs} runs failed: {names}. The others are kept, and the same command goes on with "
        f"the rest. The log of {first.job.name} ends with:\n{first.log_tail}"
    )


def _cost(records: dict[Job, dict[str, Any]], baseline: str) -> dict[str, dict[str, float | None]]:
    """Return each arm's cost over the baseline's: medians over the seeds that both have."""
    values: dict[str, dict[int, dict[str, float]]] = {}
    for job, record in records.items():
        values.setdefault(job.arm, {})[job.seed] = record["cost"]

    def ratio(arm: str, key: str) -> float | None:
        pairs = [
            (mine[key], values[baseline][seed][key]) for seed, mine in values[arm].items() if seed in values[baseline]
        ]
        ratios = [mine / base for mine, base in pairs if mine and base]
        return statistics.median(ratios) if ratios else None

    return {
        arm: {"step_time_ratio": ratio(arm, "step_time_s"), "flops_ratio": ratio(arm, "flops_per_step")}
        for arm in values
    }


def _correct(jobs: list[Job], metric: str) -> dict[str, dict[int, list[bool]]]:
    correct: dict[str, dict[int, list[bool]]] = {}
    for job in jobs:
        rows = read_json_lines(job.folder / "predictions.jsonl")
        correct.setdefault(job.arm, {})[job.seed] = [row[metric] for row in rows]
    return correct


def _curves(jobs: list[Job]) -> dict[str, dict[int, list[dict[str, Any]]]]:
    curves: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for job in jobs:
        curves.setdefault(job.arm, {})[job.seed] = read_json_lines(job.folder / "metrics.jsonl")
    return curves


def _data_summary(job: Job) -> dict[str, Any]:
    return json.loads((job.folder / "data.json").read_text())
