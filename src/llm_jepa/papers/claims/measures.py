"""What is read from finished runs: one number per run for each measure that a claim is about.

Most are in a run's own files. The geometry and STP's loss need the model; their values are kept in
EXPERIMENT/measured/, so that they are computed only once.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from llm_jepa.files import hash_file, write_json
from llm_jepa.runs.folder import ExperimentFolder, RunFolder

logger = logging.getLogger(__name__)

SMALLEST_SAMPLE = 30
"""With fewer test rows of its kind, a measure says nothing about other rows of that kind."""

STAGES = 6
SUFFIXES = {"accuracy_dotstar": ".*", "accuracy_dotstar2": ".*.*"}
LAST_SHARE = 0.1
"""The final loss is the mean over this share of the log's lines, at its end."""
TUBE_BATCH = 64

_TRAILING = re.compile(r"(\.\*)+\Z")

Reader = Callable[[RunFolder], float | None]
"""From a run's folder to its value; None if it has no such value."""


class Measure(NamedTuple):
    """A quantity that is measured of a run.

    Its unit is `share` (shown in percent, differences in points), `logarithm` (compared as ratios) or `plain`.
    """

    unit: Literal["share", "logarithm", "plain"]
    about: str
    read: Reader


def read_values(folder: Path, measure: str, arms: Sequence[str]) -> dict[str, dict[int, float]]:
    """Return arm to seed to value of one of `MEASURES`, for the finished runs in an experiment's folder."""
    read = MEASURES[measure].read
    values: dict[str, dict[int, float]] = {}
    for arm in arms:
        for seed, run in finished_runs(folder, arm).items():
            value = read(run)
            if value is not None and math.isfinite(value):
                values.setdefault(arm, {})[seed] = value
    return values


def finished_runs(folder: Path, arm: str) -> dict[int, RunFolder]:
    """Return seed to folder of an arm's finished runs, in order of seed."""
    return {seed: run for seed, run in ExperimentFolder(folder).runs_of(arm).items() if run.is_done}


# ---- a run's own files ----


def _at(load: Callable[[RunFolder], Any], *keys: str) -> Reader:
    """Return a reader of the number at a path of keys; it gives None if there is none."""

    def read(run: RunFolder) -> float | None:
        value = load(run)
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return None if value is None else float(value)

    return read


def _metric(run: RunFolder) -> str:
    """Return the metric of a run: the recipe's if its settings name none."""
    from llm_jepa.evaluation.evaluate import EvaluationConfig

    return str(run.settings().get("metric", EvaluationConfig.metric))


def _accuracy(run: RunFolder) -> float | None:
    return _at(RunFolder.evaluation, _metric(run))(run)


def _suffix_accuracy(suffix: str) -> Reader:
    """Return the accuracy among rows whose gold answer ends with `suffix`."""

    def read(run: RunFolder) -> float | None:
        metric = _metric(run)
        rows = [row for row in run.predictions() if str(row["gold"]).endswith(suffix)]
        return sum(bool(row[metric]) for row in rows) / len(rows) if rows else None

    return read


def count_rows(run: RunFolder, measure: str) -> int | None:
    """Return the number of test rows that a measure uses; None if it uses all of them."""
    suffix = SUFFIXES.get(measure)
    if suffix is None or not run.predictions_file.is_file():
        return None
    return sum(str(row["gold"]).endswith(suffix) for row in run.predictions())


def _suffix_errors(run: RunFolder) -> float | None:
    """Return the share of answers that differ from gold only in their number of trailing `.*`."""
    rows = run.predictions()
    wrong = [row for row in rows if row["output"] != row["gold"]]
    only = [row for row in wrong if _TRAILING.sub("", row["output"]) == _TRAILING.sub("", row["gold"])]
    return len(only) / len(rows) if rows else None


def _stages(run: RunFolder) -> list[float]:
    """Return the accuracy on held-out rows at each evaluation during training."""
    key = f"eval_{_metric(run)}"
    by_step = {line["step"]: line[key] for line in run.metrics() if line.get(key) is not None}
    return [float(by_step[step]) for step in sorted(by_step)]


def _stage(number: int) -> Reader:
    return lambda run: dict(enumerate(_stages(run), start=1)).get(number)


def _mean_stage(run: RunFolder) -> float | None:
    values = _stages(run)
    return math.fsum(values) / len(values) if len(values) == STAGES else None


def _final_loss(run: RunFolder) -> float | None:
    """Return the mean training cross-entropy of the last tenth of the log."""
    losses = [line["ce_loss"] for line in run.metrics() if line.get("ce_loss") is not None]
    last = losses[-max(1, round(LAST_SHARE * len(losses))) :]
    return math.fsum(last) / len(last) if last else None


def _flops_ratio(run: RunFolder) -> float | None:
    """Return the FLOPs of a step over those of a plain one of the same seed; with loss dropout, of the mean step."""
    if run.arm_and_seed is None:
        return None
    plain = ExperimentFolder(run.path.parent).run("ntp", run.arm_and_seed[1])
    if not plain.is_done:
        return None
    cost = run.evaluation()["cost"]
    share = run.settings().get("jepa_loss_dropout", 0.0)
    mean = (1 - share) * cost["flops_per_step"] + share * cost.get("flops_per_dropped_step", 0.0)
    return mean / plain.evaluation()["cost"]["flops_per_step"]


# ---- what loads the model ----


def _kept(name: str, measure: Callable[[RunFolder], dict[str, Any]]) -> Callable[[RunFolder], dict[str, Any]]:
    """Return `measure` with a cache: a file for each run in EXPERIMENT/measured/, until the run is trained again."""

    def read(run: RunFolder) -> dict[str, Any]:
        file = run.path.parent / "measured" / f"{run.name}.{name}.json"
        of = hash_file(run.evaluation_file)  # two runs differ at least in its times
        kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if kept.get("of") != of:
            logger.info("%s of %s", name, run.name)
            file.parent.mkdir(exist_ok=True)
            kept = {"of": of, "found": measure(run)}
            write_json(file, kept)
        return dict(kept["found"])

    return read


def _geometry(reading: str) -> Callable[[RunFolder], dict[str, Any]]:
    def measure(run: RunFolder) -> dict[str, Any]:
        from llm_jepa.geometry.runs_geometry import AnalysisConfig, analyze_runs

        sides = analyze_runs([run.path], AnalysisConfig(reading=reading))["runs"][run.name]["sides"]
        for side in sides.values():
            side.pop("embedding_map")
            for spectrum in side["spectra"].values():
                spectrum.pop("top")
                spectrum.pop("shuffled_top")
        return {"reading": reading, "sides": sides}

    return measure


def _tube(run: RunFolder) -> dict[str, Any]:
    """Return the mean loss of Semantic Tube Prediction over the test pairs; the model may be trained without it."""
    import torch

    from llm_jepa.data.prepare import load_rows
    from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig
    from llm_jepa.runs.trained_run import load_run

    trained = load_run(run.path)
    if not trained.data.tests:
        return {"stp_loss": None}
    pairs = load_rows(trained.test_file(), trained.encoder, limit=trained.data.max_test_rows).pairs
    config = JEPAConfig(jepa_term="stp", jepa_lambda=1.0)
    jepa = LLMJEPA(trained.jepa.model, config, seed=0).eval()  # every process draws the same places of a row
    device = jepa.predictor.embedding.device
    collate = FusedCollator(config, pad_token_id=trained.encoder.pad_id)
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(pairs), TUBE_BATCH):
            batch = collate(list(pairs[start : start + TUBE_BATCH])).to(device)
            total += float(jepa(batch).jepa_loss) * batch.num_pairs  # only pairs that are long enough for the term
            count += batch.num_pairs
    return {"stp_loss": total / count if count else None}


_published = _kept("published", _geometry("published"))
_training = _kept("training", _geometry("training"))


def _enc(*keys: str) -> Reader:
    """Return a reader of a number about Enc(Text) and Enc(Code), read as in the published code."""
    return _at(_published, "sides", "enc", *keys)


def _view_distance(run: RunFolder) -> float | None:
    """Return 1 - cosine of a pair's views, as trained: of the prediction and its target if there is a [PRED]."""
    sides = _training(run)["sides"]
    return 1.0 - float(sides.get("pred", sides["enc"])["monitors"]["matched_cosine"])


MEASURES: dict[str, Measure] = {
    "accuracy": Measure("share", "answers that are right, by the recipe's metric", _accuracy),
    "accuracy_dotstar": Measure("share", 'accuracy where the regex ends in ".*"', _suffix_accuracy(".*")),
    "accuracy_dotstar2": Measure("share", 'accuracy where it ends in ".*.*"', _suffix_accuracy(".*.*")),
    "exact_match": Measure("share", "answers equal to the gold one", _at(RunFolder.evaluation, "exact_match")),
    "starts_with": Measure("share", "answers that begin with the gold one", _at(RunFolder.evaluation, "starts_with")),
    "recall": Measure("share", "retrieval@1 among the test codes", _at(RunFolder.evaluation, "retrieval", "recall@1")),
    "suffix_errors": Measure("share", 'answers that are wrong only by a trailing ".*"', _suffix_errors),
    "accuracy_stages": Measure("share", "mean accuracy over the stages of equal compute", _mean_stage),
    "ce_loss": Measure("plain", "cross-entropy at the end of training, nats a token", _final_loss),
    "flops_ratio": Measure("plain", "counted FLOPs of a step over those of a plain one", _flops_ratio),
    "lstsq": Measure("logarithm", "residual of the least-squares map over test pairs", _enc("linear_map", "residual")),
    "map_error": Measure(
        "plain", "its error on held-out pairs over the error of a constant", _enc("linear_map", "centred_error")
    ),
    "sv100": Measure(
        "logarithm", "mean of the top 100 singular values of Enc(Text) - Enc(Code)", _enc("spectra", "raw", "mean_top")
    ),
    "sv100_unit": Measure("logarithm", "the same, of views of length 1", _enc("spectra", "unit", "mean_top")),
    "published_recall": Measure("share", "retrieval@1, views read as published", _enc("retrieval", "recall@1")),
    "view_distance": Measure("plain", "1 - cosine of a pair's views, held out", _view_distance),
    "stp_loss": Measure("plain", "STP's loss on held-out pairs", _at(_kept("stp_loss", _tube), "stp_loss")),
} | {
    f"accuracy@{stage}": Measure("share", f"accuracy at stage {stage} of equal compute", _stage(stage))
    for stage in range(1, STAGES + 1)
}
"""Every measure by name. All are measured on held-out rows, except ce_loss and flops_ratio."""
