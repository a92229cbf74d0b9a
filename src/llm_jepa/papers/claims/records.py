"""The record of an experiment: a small JSON file with every value that its claims are judged by.

    benchmarks/results/claims/EXPERIMENT.json      the records behind docs/claims.md
    OUT/results/EXPERIMENT.json                    the records of a call

It holds values, not verdicts: `verdicts.py` computes these whenever the record is read. It has no host name and no
path. A record grows: a call adds its runs to those of earlier calls.
"""

from __future__ import annotations

import copy
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_jepa.data.config import SHUFFLE_RULE
from llm_jepa.errors import ConfigError
from llm_jepa.experiments.comparability import check_data, short_commit
from llm_jepa.experiments.experiment import read_experiment
from llm_jepa.experiments.statistics import holm
from llm_jepa.files import write_json
from llm_jepa.runs.claim import differences
from llm_jepa.runs.folder import RunFolder
from llm_jepa.runs.settings import Settings

from .catalogue import Claim, read_catalogue
from .measures import MEASURES, SMALLEST_SAMPLE, count_rows, finished_runs, read_values
from .plan import SEEDS, Plan
from .plans import FULL, plan_of, read_plans
from .verdicts import Check, Outcome, Word, combine, compare, judge

Record = dict[str, Any]

SCHEMA = 1
ALWAYS = ("accuracy", "exact_match", "starts_with", "recall")
"""Measures that are kept for every arm, even without a claim about it: they are in the runs' own files."""
KEPT_WITH = {"lstsq": ["map_error"]}
"""What is kept with a misleading measure: the residual of a map is small if the views are small."""

SAME = 1e-6
"""Largest relative difference from the same run in an earlier record: geometry may add numbers in another order."""

FILES = ("train_file", "test_file", "model_name_or_path", "databases")
"""Settings that name places on one machine."""
_ENVIRONMENT = ("python", "cpu", "device", "commit")
_PACKAGES = ("llm-jepa", "torch", "transformers")


def make_record(plan: Plan, folder: Path, claims: Sequence[str], *, changes: Settings | None = None) -> Record:
    """Return the record of an experiment's finished runs, in a folder that `reproduce` or `compare` made.

    Reading the values of `claims` that need the model is slow. `changes` are settings that were changed by hand.

    Raises:
        ConfigError: If no run is finished, or one has other settings than the plan's.
    """
    done = {arm: runs for arm in plan.arms if (runs := finished_runs(folder, arm))}
    if not done:
        text = f"{folder} has no finished run of {plan.name}, whose arms are {', '.join(plan.arms)}."
        raise ConfigError("run_not_finished", text)
    for arm, runs in done.items():
        for run in runs.values():
            _check_run(plan, arm, run, changes or {})
    every = [run for runs in done.values() for run in runs.values()]
    check_data(every)
    values = {measure: read_values(folder, measure, list(done)) for measure in ALWAYS}
    for wanted, arms in plan.measures_of(claims).items():
        for measure in [wanted, *KEPT_WITH.get(wanted, [])]:
            values[measure] = values.get(measure, {}) | read_values(folder, measure, arms)
    first = every[0]
    commits = dict.fromkeys(short_commit(str(run.environment().get("commit"))) for run in every)
    seeds = sorted({seed for runs in done.values() for seed in runs})
    return {
        "schema": SCHEMA,
        "experiment": plan.name,
        "scale": plan.scale,
        "recipe": plan.recipe,
        "command": command_of(plan, claims, seeds),
        "changed": _changed(plan, changes or {}),
        "environment": _environment(first) | {"commit": ", ".join(commits)},
        "data_sha256": {Path(name).name: digest for name, digest in first.data().get("sha256", {}).items()},
        "settings": plan.settings,
        "shuffle_rule": SHUFFLE_RULE,
        "claims": list(claims),
        "num_rows": {measure: count for measure in values if (count := count_rows(first, measure)) is not None},
        "training_time_s": {  # by the clock; the machine may have been busy
            arm: round(sum(run.evaluation()["training_time_s"] for run in runs.values()) / len(runs), 1)
            for arm, runs in done.items()
        },
        "values": {
            measure: {arm: {str(seed): value for seed, value in of_arm.items()} for arm, of_arm in arms.items()}
            for measure, arms in values.items()
            if arms
        },
    }


def command_of(plan: Plan, claims: Sequence[str], seeds: Sequence[int]) -> str:
    """Return the call that makes a record of these claims and seeds, in an empty folder.

    A family of claims is named by its pattern if `claims` has all of its claims that can be decided at this size.
    """
    known, rest = set(claims), dict.fromkeys(claims)
    name = plan.name.removeprefix(FULL).removesuffix(f".{plan.recipe}")
    patterns = [name] if known >= plan.checks.keys() else []
    for family in dict.fromkeys(read_catalogue()[claim].family for claim in ([] if patterns else claims)):
        members = [claim.id for claim in read_catalogue().values() if claim.family == family]
        decidable = {claim for claim in members if plan_of(claim, plan.scale, plan.recipe)}
        if len(decidable) > 1 and decidable <= known:
            patterns.append(f"{family}.*")
            rest = {claim: None for claim in rest if claim not in decidable}
    words = ["llm-jepa", "reproduce", *(patterns if patterns == [name] else [*patterns, *rest]), "--scale", plan.scale]
    words += [] if plan.recipe == "as_published" else ["--recipe", plan.recipe]
    words += [] if set(seeds) == set(SEEDS) else ["--seeds", ",".join(map(str, seeds))]
    return shlex.join(words)


def _check_run(plan: Plan, arm: str, run: RunFolder, changes: Settings) -> None:
    """Refuse a run with other settings than the plan's; its files may be in other folders."""
    found = run.settings()
    for part in ("train", "test"):
        file = Path(str(found.get(f"{part}_file", f"{plan.stem}_{part}"))).name
        if not file.startswith(f"{plan.stem}_{part}"):
            raise ConfigError(
                "data_differs",
                f"{run} is not a run of {plan.name}: its {part}_file is {file}, but the claims are about "
                f"{plan.stem}. Name the folder of that experiment.",
            )
    settings = plan.experiment([arm], {key: found[key] for key in FILES if key in found}) | changes
    expected = read_experiment(settings, trains=False)[1][arm].settings
    ignored = {*FILES, "seed"}
    left, right = ({key: each[key] for key in each if key not in ignored} for each in (found, expected))
    if differing := differences(left, right):
        raise ConfigError(
            "settings_changed",
            f"{run} is not a run of {plan.name}: {'; '.join(differing)}. Name the folder of that experiment, "
            "or another --out.",
        )


def merge_records(record: Record, earlier: Record) -> Record:
    """Return a record with the values that an earlier one has of other runs, whose folders may be gone.

    Values that both have were computed twice, on purpose: they must agree, or the runs cannot be compared. A record
    that has all values of the earlier one replaces it.

    Raises:
        ConfigError: If their settings or data differ, or they have different values for one run; the text names it.
    """
    ours, theirs = _cells(record), _cells(earlier)
    missing = theirs.keys() - ours.keys()
    if not missing:
        return record
    advice = "Name another folder of records (--results), or run all that the record has."
    for key in ("settings", "recipe", "changed", "data_sha256"):
        if record[key] != earlier[key]:
            what = "; ".join(differences(earlier[key], record[key])) if isinstance(record[key], dict) else record[key]
            code = "data_differs" if key == "data_sha256" else "settings_changed"
            raise ConfigError(code, f"The record of {record['experiment']} has other {key}: {what}. {advice}")
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise ConfigError(
            "no_common_run",
            f"The record of {record['experiment']} and these runs have no run in common, so nothing shows that their "
            f"values can be compared. {advice}",
        )
    for cell in shared:
        if not math.isclose(ours[cell], theirs[cell], rel_tol=SAME, abs_tol=SAME):
            measure, arm, seed = cell
            raise ConfigError(
                "values_differ",
                f"The record of {record['experiment']} has {theirs[cell]!r} as {measure} of {arm}, seed {seed}, but "
                f"this run has {ours[cell]!r}. They come from different machines or versions, and cannot be compared. "
                f"{advice}",
            )
    values = copy.deepcopy(record["values"])
    for measure, arm, seed in sorted(missing):
        values.setdefault(measure, {}).setdefault(arm, {})[seed] = theirs[measure, arm, seed]
    plan = plan_of_record(record)
    known = {*record["claims"], *earlier["claims"]}
    claims = [claim for claim in plan.checks if claim in known]
    seeds = sorted({int(seed) for arms in values.values() for each in arms.values() for seed in each})
    commits = dict.fromkeys(f"{earlier['environment']['commit']}, {record['environment']['commit']}".split(", "))
    return record | {
        "command": command_of(plan, claims, seeds),
        "environment": record["environment"] | {"commit": ", ".join(commits)},
        "claims": claims,
        "num_rows": earlier["num_rows"] | record["num_rows"],
        "training_time_s": earlier["training_time_s"] | record["training_time_s"],
        "values": values,
    }


def read_record(file: Path) -> Record:
    """Return a record; refuse what is none, or has another schema or rule of shuffling, or an unknown measure."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # of UTF-8 too
        record = None
    if (
        not isinstance(record, dict)
        or record.get("schema") != SCHEMA
        or record.get("shuffle_rule") != SHUFFLE_RULE
        or not set(record.get("values", {})) <= MEASURES.keys()
    ):
        raise ConfigError(
            "not_a_record",
            f"{file} is not a record of this version (schema {SCHEMA}). Make it again with `llm-jepa reproduce`.",
        )
    return record


def read_records(folder: Path) -> list[Record]:
    """Return the records of a folder, by name."""
    return [read_record(file) for file in sorted(folder.glob("*.json"))]


def write_record(record: Record, folder: Path) -> None:
    """Write a record into a folder, in place of an earlier one of the same experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{record['experiment']}.json", record)


def values_of(record: Record, measure: str) -> dict[str, dict[int, float]]:
    """Return arm to seed to value of a measure."""
    return {
        arm: {int(seed): value for seed, value in seeds.items()}
        for arm, seeds in record["values"].get(measure, {}).items()
    }


@dataclass(frozen=True)
class Judged:
    """A claim, its parts, and the outcome of each part."""

    claim: Claim
    checks: tuple[Check, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def word(self) -> Word:
        """The verdict."""
        return combine(self.outcomes)

    @property
    def deciding_part(self) -> tuple[Check, Outcome]:
        """The part that gives the verdict."""
        parts = zip(self.checks, self.outcomes, strict=True)
        return next((check, outcome) for check, outcome in parts if outcome.word == self.word)


def judge_record(record: Record) -> dict[str, Judged]:
    """Return the result for each claim of a record, in the order of the catalogue.

    The p of each `gain` is corrected by Holm's method for the number of gains of the same table in the record.
    """
    plan = plan_of_record(record)
    wanted = set(record["claims"])
    checks = {claim: plan.checks[claim] for claim in read_catalogue() if claim in wanted}
    families: dict[str, dict[str, float | None]] = {}
    for claim, parts in checks.items():
        for place, part in enumerate(parts):
            if part.kind != "gain":
                continue
            found = compare(part, values_of(record, part.measure), part.arm, part.baseline)
            if found.n:
                families.setdefault(read_catalogue()[claim].family, {})[f"{claim} {place}"] = found.p_value
    corrected = {key: p for family in families.values() for key, p in holm(family).items()}
    return {
        claim: Judged(
            read_catalogue()[claim],
            parts,
            tuple(_judge_part(record, part, corrected.get(f"{claim} {place}")) for place, part in enumerate(parts)),
        )
        for claim, parts in checks.items()
    }


def _judge_part(record: Record, part: Check, p_holm: float | None) -> Outcome:
    """Judge a part of a claim; very few test rows decide nothing, because all seeds have the same rows."""
    outcome = judge(part, values_of(record, part.measure), p_holm)
    count = record.get("num_rows", {}).get(part.measure)
    if count is None or count >= SMALLEST_SAMPLE or outcome.word == "not run":
        return outcome
    reason = f"only {count} test rows are of this kind"
    return replace(outcome, word="inconclusive", reason=reason, smallest=None, falls_short=False)


def plan_of_record(record: Record) -> Plan:
    """Return the experiment of a record."""
    return read_plans(record["scale"], record["recipe"])[record["experiment"]]


def _cells(record: Record) -> dict[tuple[str, str, str], float]:
    return {  # (measure, arm, seed) to value
        (measure, arm, seed): value
        for measure, arms in record["values"].items()
        for arm, seeds in arms.items()
        for seed, value in seeds.items()
    }


def _changed(plan: Plan, changes: Settings) -> Settings:
    """Return the changes that make a record another than the protocol's; other places of files do not."""
    own = plan.settings | {"recipe": plan.recipe}
    return {key: value for key, value in changes.items() if key not in FILES and own.get(key, ...) != value}


def _environment(run: RunFolder) -> dict[str, Any]:
    seen = run.environment()
    packages = seen.get("packages", {})
    return {key: seen.get(key) for key in _ENVIRONMENT} | {name: packages.get(name) for name in _PACKAGES}
