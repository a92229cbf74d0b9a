"""`llm-jepa reproduce`: run only what a claim needs, and judge it.

OUT/<experiment>/      a folder of `llm-jepa compare`, shared by all claims of the experiment: runs for one claim are
                       used for the others too
OUT/base/, OUT/data/   the model that tiny runs start from, and the half of the rows that they read
OUT/results/           one record for each experiment (`records.py`)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from llm_jepa.errors import ConfigError, DataError
from llm_jepa.experiments.compare import open_experiment, run_experiment
from llm_jepa.files import write_whole
from llm_jepa.report.experiment_report import write_experiment_report
from llm_jepa.runs.folder import ExperimentFolder, RunFolder
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import Settings, read_run

from .catalogue import Claim, find
from .measures import finished_runs
from .paper_protocol import why_not
from .plan import Plan, Scale
from .plans import DATA, FULL, data_files, plan_of, read_plans
from .records import Judged, Record, judge_record, make_record, merge_records, read_record, write_record
from .resources_needed import MODELS, datasets_of

logger = logging.getLogger(__name__)

OUT = "runs/claims"

BASE_SEED = 1
"""Not among the papers' seeds, with which the runs are made."""

BASE: Settings = {
    "model": "nano",
    "jepa_lambda": 0.0,
    "max_steps": 400,
    "per_device_train_batch_size": 32,
    "learning_rate": 3.0e-3,
    "validation_size": 0,
    "max_test_rows": 500,
}
"""Settings of the base: 400 steps of 32 rows, about three epochs of the half (our choice)."""


@dataclass(frozen=True)
class Call:
    """What a call asks for.

    Attributes:
        patterns: Ids of claims, shell patterns, or names of experiments (for all claims that they decide).
        out, data, results: Folders of the experiments, of the data files, and of the records (default `OUT/results`).
        source: Folder of an experiment, or the `out` of an earlier call, whose runs are read; nothing is run then.
        seeds: Default: those of the papers.
        workers: Runs at the same time. Default: one at the papers' size, two at tiny size.
        changes: Settings that replace those of the experiment. The record then says so.
    """

    patterns: Sequence[str]
    scale: Scale = "full"
    recipe: str = "as_published"
    out: Path = Path(OUT)
    data: Path = Path(DATA)
    results: Path | None = None
    source: Path | None = None
    seeds: Sequence[int] | None = None
    workers: int | None = None
    changes: Settings = field(default_factory=dict)
    progress: bool = False

    @property
    def results_folder(self) -> Path:
        """Where the records go."""
        return self.results or self.out / "results"


class Selection(NamedTuple):
    """The claims of a call: each experiment with its claims, and why other claims have no experiment at this scale."""

    plans: list[tuple[Plan, list[str]]]
    left_out: dict[str, str]


def select(call: Call) -> Selection:
    """Return the experiments and claims of a call; refuse one of which nothing can be run at its scale."""
    known = {name.removeprefix(FULL): plan for name, plan in read_plans(call.scale).items()}
    named = [list(known[pattern].checks) if pattern in known else [pattern] for pattern in call.patterns]
    claims = find([each for some in named for each in some])
    plans: dict[str, tuple[Plan, list[str]]] = {}
    left_out: dict[str, str] = {}
    for claim in claims:
        plan = plan_of(claim.id, call.scale, call.recipe)
        if plan is None:
            left_out[claim.id] = why_left_out(claim, call.scale)
        else:
            plans.setdefault(plan.name, (plan, []))[1].append(claim.id)
    if not plans:
        claim_id, reason = next(iter(left_out.items()))
        more = f" The same holds for the other {len(left_out) - 1}." if len(left_out) > 1 else ""
        text = f"{claim_id} cannot be run at scale {call.scale}: {reason}.{more}"
        raise ConfigError("claim_not_runnable", text)
    return Selection(list(plans.values()), left_out)


def why_left_out(claim: Claim, scale: Scale) -> str:
    """Return why a claim has no experiment at a scale."""
    if scale == "tiny" and plan_of(claim.id, "full"):
        return "it is about a model or data set that no tiny experiment has; --scale full has it"
    return why_not(claim) or "it is about a curve without numbers"


def prepare(call: Call, plan: Plan) -> None:
    """Make sure that the files that the runs of an experiment read exist; train the base if it is missing."""
    if missing := missing_files(call, plan):
        code = "file_missing" if _missing_data(call, plan) else "not_downloaded"
        raise ConfigError(code, " ".join(missing))
    if plan.base:
        files = data_files(plan.stem, call.data)
        second_half(Path(files["train_file"]), call.out / "data")
        _train_base(files, call.out / "base", call.changes, call.progress)


def planned_files(call: Call, plan: Plan) -> Settings:
    """Return the names of the files that the runs of an experiment read; no file is made."""
    files = data_files(plan.stem, call.data)
    if plan.base:
        files["train_file"] = str(_second_half_of(Path(files["train_file"]), call.out / "data"))
        files["model_name_or_path"] = str(RunFolder(call.out / "base").model)
    return files


def missing_files(call: Call, plan: Plan) -> list[str]:
    """Return a sentence on the data and one on the weights that an experiment needs, where these are missing."""
    return [each for each in (_missing_data(call, plan), _missing_weights(call, plan)) if each]


def _missing_data(call: Call, plan: Plan) -> str:
    absent = [name for name in data_files(plan.stem, call.data).values() if not Path(name).exists()]
    if not absent:
        return ""
    source = next((each.source for claim in find(list(plan.checks)) for each in datasets_of(claim)), "the papers")
    return (
        f"{plan.name} needs data that is missing: {', '.join(absent)}. The rows are from {source}, as JSON lines "
        "(docs/data.md); name their folder with --data."
    )


def _missing_weights(call: Call, plan: Plan) -> str:
    name = (planned_files(call, plan) | plan.settings | call.changes).get("model_name_or_path")
    if not name or plan.base or Path(str(name)).expanduser().exists() or _is_cached(str(name)):
        return ""
    model = next((each for each in MODELS.values() if each.hub == name), None)
    how = "accept its licence on the hub, log in, and download it" if model and model.gated else "download it"
    extra = f" It also needs {model.note}." if model and model.note else ""
    return (
        f"{plan.name} needs the weights of {name}, which are not on this machine: {how} (`hf download {name}`), or "
        f"name a folder with --set model_name_or_path=FOLDER.{extra}"
    )


def settings_of(call: Call, plan: Plan, claims: Sequence[str]) -> Settings:
    """Return the settings of `compare` for the arms of the claims, and for those that are already in the folder."""
    folder = call.out / plan.name
    needed = set(plan.arms_of(claims))
    there = {arm for arm in plan.arms if finished_runs(folder, arm)} if ExperimentFolder(folder).has_settings else set()
    arms = [arm for arm in plan.arms if arm in needed | there]
    settings = plan.experiment(arms, planned_files(call, plan), call.seeds)
    return settings | {"workers": call.workers or plan.workers} | call.changes


def reproduce(call: Call) -> list[tuple[Record, dict[str, Judged]]]:
    """Do the runs that the claims of a call need and that are missing; record and judge each experiment.

    Raises:
        ConfigError: If a claim is unknown, data or weights are missing, or a folder holds something else.
        LLMJEPAError: If a run failed; the same call then continues with the other runs.
    """
    done = []
    for plan, claims in select(call).plans:
        if call.source is None:
            prepare(call, plan)
            settings = settings_of(call, plan, claims)
            experiment = open_experiment(settings, call.out / plan.name)
            run_experiment(experiment, progress=call.progress, render=write_experiment_report)
        done.append(_judged(call, plan, claims))
    return done


def _judged(call: Call, plan: Plan, claims: Sequence[str]) -> tuple[Record, dict[str, Judged]]:
    file = call.results_folder / f"{plan.name}.json"
    earlier = read_record(file) if file.is_file() else None
    known = {*claims, *(earlier["claims"] if earlier else ())}
    folder = (call.source or call.out) / plan.name
    if call.source and not folder.is_dir():  # it is the folder of one experiment
        folder = call.source
    record = make_record(plan, folder, [claim for claim in plan.checks if claim in known], changes=call.changes)
    if earlier:
        record = merge_records(record, earlier)
    write_record(record, call.results_folder)
    judged = judge_record(record)
    return record, {claim: judged[claim] for claim in claims}


def _is_cached(name: str) -> bool:
    """Return whether this machine's cache of the hub has a model; the hub is not asked."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


# ---- what runs at tiny scale start from ----
#
# The papers fine-tune a pretrained model. Here the base replaces it: it is trained once, by plain next-token prediction
# on the first half of the rows, with its own seed. Every run then reads the second half.


def second_half(train_file: Path, folder: Path) -> Path:
    """Write the second half of a file's rows into a folder, once, and return its name."""
    rows = _rows(train_file)
    if len(rows) < 2:
        raise DataError("too_few_rows", f"{train_file} has {len(rows)} rows; expected at least two, one for each half.")
    out = _second_half_of(train_file, folder)
    content = b"".join(row + b"\n" for row in rows[len(rows) // 2 :])
    if not out.is_file() or out.read_bytes() != content:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(out, content.decode("utf-8"))
    return out


def _second_half_of(train_file: Path, folder: Path) -> Path:
    return folder / f"{train_file.stem}.second_half.jsonl"


def _train_base(files: Settings, folder: Path, changes: Settings, progress: bool) -> None:
    """Train the base on the first half of `train_file`, if it is missing."""
    settings = BASE | files | {"max_train_rows": len(_rows(Path(files["train_file"]))) // 2}
    # Only the changes that concern every run of a call: its length and its device.
    shared = ("max_steps", "max_test_rows", "max_new_tokens", "use_cpu")
    settings |= {key: changes[key] for key in shared if key in changes}
    if not (folder / "DONE").is_file():
        logger.info("base   the model that runs start from, trained on the first half of the rows")
    train_run(read_run(settings), BASE_SEED, folder, progress=progress)


def _rows(file: Path) -> list[bytes]:
    """Return the lines of a file without blank ones; U+2028 within a text does not end a line."""
    return [line for line in file.read_bytes().split(b"\n") if line.strip()]
