"""The folder of a run and that of an experiment: only this code knows the names of their files.

OUT/experiment.yaml             the settings of an experiment
OUT/results.json, results.csv   its values, intervals and verdicts
OUT/report.html                 the same as a page with figures
OUT/looks.json                  for each time that results were computed, the seeds and the baseline
OUT/data/                       rows that it generated
OUT/<arm>-s<seed>/              one run each; <arm>@<budget> for runs of equal cost
    config.yaml                 the settings, with the seed
    environment.json            versions, machine, commit
    data.json                   what was read: counts, notes, hashes
    metrics.jsonl               every line of the training log
    predictions.jsonl           every answer, with its verdict; predictions_NAME.jsonl for other test sets
    eval.json                   scores on the test rows, cost, alarm
    embeddings.safetensors      both views of some held-out pairs, for the report's geometry
    model/                      a plain transformers folder
    budget.json                 for runs of equal cost: how many steps, and why
    log.txt                     the output of the process of the run
    progress.json               its progress, while it runs
    FAILED                      how it ended, if a sweep gave it up
    DONE                        written last: the run is complete
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from llm_jepa.files import hash_file, read_json_lines, write_json, write_json_lines, write_whole
from llm_jepa.yaml_loading import dump_yaml, load_yaml

EXPERIMENT_FILE = "experiment.yaml"
OWNER_FILE = ".owner.json"
GENERATED = "data"


def run_name(arm: str, seed: object) -> str:
    """Return the name of a run's folder."""
    return f"{arm}-s{seed}"


def arm_at(arm: str, budget: str) -> str:
    """Return the name of an arm whose runs have the baseline's `flops` or `time`."""
    return f"{arm}@{budget}"


def without_budget(arm: str) -> str:
    """Return the arm whose settings the runs with this name have: that before `@`."""
    return arm.partition("@")[0]


def add_scores(report: dict[str, Any], metrics: dict[str, Any], test_set: str | None) -> None:
    """Add the scores of a test set to the content of eval.json: of the main one (None) at the top, else in `tests`."""
    if test_set is None:
        report |= metrics
    else:
        report.setdefault("tests", {})[test_set] = metrics


class _Inside:
    """The path of a file or folder in a folder, by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: RunFolder | ExperimentFolder, kind: type) -> Path:
        return folder.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, which need not exist yet."""

    path: Path

    config_file = _Inside("config.yaml")
    data_file = _Inside("data.json")
    metrics_file = _Inside("metrics.jsonl")
    predictions_file = _Inside("predictions.jsonl")
    evaluation_file = _Inside("eval.json")
    embeddings_file = _Inside("embeddings.safetensors")
    pseudo_labels_file = _Inside("pseudo_labels.jsonl")
    log_file = _Inside("log.txt")
    progress_file = _Inside("progress.json")
    model = _Inside("model")
    generated = _Inside(GENERATED)
    _environment_file = _Inside("environment.json")
    _budget_file = _Inside("budget.json")
    _failed_file = _Inside("FAILED")
    _done_file = _Inside("DONE")

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def arm_and_seed(self) -> tuple[str, int] | None:
        """Arm and seed from the folder's name; None if the name has another form."""
        arm, _, seed = self.name.rpartition("-s")
        return (arm, int(seed)) if arm and seed.isdecimal() else None

    @property
    def has_settings(self) -> bool:
        """Whether the folder belongs to a run."""
        return self.config_file.is_file()

    @property
    def has_begun(self) -> bool:
        """Whether the run has started to train. Before that, its settings may still be corrected."""
        return self.metrics_file.is_file() or self.is_done

    @property
    def is_done(self) -> bool:
        return self._done_file.is_file()

    @property
    def has_failed(self) -> bool:
        """Whether the last sweep gave the run up."""
        return not self.is_done and self._failed_file.is_file()

    @property
    def missing(self) -> list[str]:
        """Names of the files of a finished run that are missing."""
        files = (self._done_file, self.evaluation_file, self.data_file)
        return [file.name for file in files if not file.is_file()]

    # ---- reading ----

    def settings(self) -> dict[str, Any]:
        """Return the flat settings of the run, including the seed."""
        return load_yaml(self.config_file.read_text(encoding="utf-8")) or {}

    def environment(self) -> dict[str, Any]:
        """Return versions, machine and commit; empty if the run did not write them."""
        return _read_if_there(self._environment_file) or {}

    def data(self) -> dict[str, Any]:
        """Return what the run read: counts, notes, hashes; empty if it did not write them."""
        return _read_if_there(self.data_file) or {}

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of the training log."""
        return read_json_lines(self.metrics_file)

    def predictions(self, test_set: str | None = None) -> list[dict[str, Any]]:
        """Return every answer, with its verdict; None names the main test set."""
        return read_json_lines(self._predictions_of(test_set))

    def evaluation(self) -> dict[str, Any]:
        """Return scores, cost and alarm."""
        return _read(self.evaluation_file)

    def weights_sha256(self) -> str:
        """Return the sha256 of the weights of the run's model, to find out later whether it was trained again."""
        each = [hash_file(path) for path in sorted(self.model.glob("*.safetensors"))]
        return hashlib.sha256("".join(each).encode()).hexdigest()

    def pseudo_labels(self) -> list[dict[str, Any]]:
        """Return every answer of the run's teacher, with its likelihood."""
        return read_json_lines(self.pseudo_labels_file)

    def budget(self) -> dict[str, Any] | None:
        """Return how many steps a run of equal cost has, and why; None for other runs."""
        return _read_if_there(self._budget_file)

    def failure(self) -> dict[str, Any] | None:
        """Return how a run that was given up ended; None for other runs."""
        return _read_if_there(self._failed_file) if self.has_failed else None

    def log_tail(self, num_lines: int) -> str:
        """Return the last lines of the output of the process of the run."""
        text = self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.is_file() else ""
        return "\n".join(text.strip().splitlines()[-num_lines:])

    # ---- writing ----

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        ordered = dict(sorted(settings.items()))  # top-level keys only, because the first of test_files is the main one
        write_whole(self.config_file, dump_yaml(ordered, sort_keys=False, allow_unicode=True))

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        write_json(self._environment_file, environment)

    def write_data(self, data: Mapping[str, Any]) -> None:
        write_json(self.data_file, data)

    def write_metrics(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Start the training log with these lines."""
        write_json_lines(self.metrics_file, map(_json_safe, lines))

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """Append one line to the training log."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_json_safe(line), ensure_ascii=False) + "\n")

    def write_predictions(self, records: Iterable[Mapping[str, Any]], test_set: str | None = None) -> None:
        write_json_lines(self._predictions_of(test_set), records)

    def _predictions_of(self, test_set: str | None) -> Path:
        return self.predictions_file if test_set is None else self.path / f"predictions_{test_set}.jsonl"

    def write_pseudo_labels(self, records: Iterable[Mapping[str, Any]]) -> None:
        write_json_lines(self.pseudo_labels_file, records)

    def write_evaluation(self, report: Mapping[str, Any]) -> None:
        write_json(self.evaluation_file, _json_safe(report))

    def write_budget(self, budget: Mapping[str, Any]) -> None:
        write_json(self._budget_file, budget)

    def mark_done(self) -> None:
        write_whole(self._done_file, "")

    def mark_failed(self, failure: Mapping[str, Any]) -> None:
        write_json(self._failed_file, failure)

    def unmark_failed(self) -> None:
        self._failed_file.unlink(missing_ok=True)


class Look(TypedDict):
    """What results were computed of: the seeds with a comparison, and the baseline."""

    seeds: list[int]
    baseline: NotRequired[str]  # folders of early versions do not have it


@dataclass(frozen=True)
class ExperimentFolder:
    """The folder of an experiment, which need not exist yet."""

    path: Path

    settings_file = _Inside(EXPERIMENT_FILE)
    results_file = _Inside("results.json")
    csv_file = _Inside("results.csv")
    generated = _Inside(GENERATED)
    _looks_file = _Inside("looks.json")

    def __str__(self) -> str:
        return str(self.path)

    def run(self, arm: str, seed: object) -> RunFolder:
        """Return the folder of a run, whether it exists or not."""
        return RunFolder(self.path / run_name(arm, seed))

    def runs(self) -> list[RunFolder]:
        """Return the folders that belong to runs."""
        return [run for run in map(RunFolder, sorted(self.path.iterdir())) if run.has_settings]

    def runs_of(self, arm: str) -> dict[int, RunFolder]:
        """Return the folders of the runs of an arm by seed, in order of seed, including runs that are not done."""
        if not self.path.is_dir():
            return {}
        found = ((run.arm_and_seed, run) for run in map(RunFolder, self.path.iterdir()))
        return dict(sorted((name[1], run) for name, run in found if name is not None and name[0] == arm))

    @property
    def has_settings(self) -> bool:
        return self.settings_file.is_file()

    @property
    def holds_nothing_else(self) -> bool:
        """Whether the folder has only files that may exist before an experiment has started."""
        return self.path.is_dir() and all(each.name in (GENERATED, OWNER_FILE) for each in self.path.iterdir())

    def results(self) -> dict[str, Any] | None:
        """Return the content of results.json; None if there is none."""
        return _read_if_there(self.results_file)

    def looks(self) -> list[Look]:
        """Return, for each time that results were computed, what they were of."""
        looks = json.loads(self._looks_file.read_text(encoding="utf-8")) if self._looks_file.is_file() else []
        return [{"seeds": look} if isinstance(look, list) else look for look in looks]

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        write_whole(self.settings_file, dump_yaml(settings, sort_keys=False))

    def write_looks(self, looks: Sequence[Look]) -> None:
        write_json(self._looks_file, looks)


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _read_if_there(file: Path) -> dict[str, Any] | None:
    return _read(file) if file.is_file() else None


def _json_safe(value: Any) -> Any:
    """Return plain JSON values: tensors and numpy numbers as numbers, nan and infinity as None."""
    if isinstance(value, Mapping):
        return {key: _json_safe(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(each) for each in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
