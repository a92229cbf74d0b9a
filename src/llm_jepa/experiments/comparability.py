"""Checks what runs must have in common, so that a difference between them means something.

All arms answer the same test rows and have the same metric. The cells of a grid are chosen on the same validation
rows. All runs read the same data. Versions may differ; then this is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from llm_jepa.data.digest import data_fingerprint
from llm_jepa.errors import ConfigError
from llm_jepa.files import reading_run
from llm_jepa.runs.folder import RunFolder
from llm_jepa.runs.settings import RunConfig

from .grids import Grid
from .jobs import Job

# Fields that set the test rows of an arm, and how its answers are scored.
ANSWERED = ("test_file", "test_files", "max_test_rows", "max_new_tokens", "metric", "databases")
# Fields that set the validation rows on which the cells of a grid are chosen. Without a validation_file, they are taken
# from the training rows.
CHOSEN_ON = ("validation_file", "validation_generations")
SET_ASIDE_FROM = ("train_file", "max_train_rows", "validation_size")
# Fields that say over which tokens a loss is the mean; a loss over other tokens has another unit.
LOSS_OVER = ("loss_on", "train_end_token", "vocab_size", "tokenizer_name_or_path", "model_name_or_path", "max_length")
_VERSIONS = ("llm-jepa", "torch", "transformers")


def check_arms(runs: Mapping[str, RunConfig], grids: Mapping[str, Grid], choose_by: str) -> None:
    """Make sure that all arms have the same test rows, and all cells of a grid the same validation rows.

    If `choose_by` is the loss, all cells of a grid must also have a loss over the same tokens.
    """
    for field in ANSWERED:
        _check_equal(field, runs, runs, "all arms must have the same test rows and the same metric")
    for arm, grid in grids.items():
        from_file = runs[next(iter(grid.cells))].data.validation_file is not None
        for field in CHOSEN_ON + (() if from_file else SET_ASIDE_FROM):
            _check_equal(field, runs, grid.cells, f"the cells of {arm} must be chosen on the same validation rows")
        for field in LOSS_OVER if choose_by == "ce_loss" else ():
            _check_equal(field, runs, grid.cells, f"choose_by=ce_loss compares the losses of the cells of {arm}")


def check_data(folders: Iterable[RunFolder], *, files_too: bool = False) -> None:
    """Make sure that finished runs read the same data, by the hashes that each run recorded.

    With `files_too`, they are also compared with the files as they are now, because later runs will read them. A file
    that no longer exists is left out.

    Raises:
        ConfigError: If two runs read different contents of a file, or the contents have changed since.
    """
    seen: dict[str, tuple[str, str]] = {}  # file to its hash, and the run that recorded it
    for folder in folders:
        with reading_run(folder.path):
            digests = folder.data().get("sha256") or {}
        for file, digest in digests.items():
            before, run = seen.setdefault(file, (digest, folder.name))
            if before != digest:
                raise ConfigError(
                    "data_differs",
                    f"{file} changed between the runs {run} (sha256 {before[:12]}) and {folder.name} "
                    f"({digest[:12]}), so they cannot be compared. Remove the runs of one of the two versions, and "
                    "give the same command again.",
                )
    now = data_fingerprint(seen) if files_too else {}
    for file, digest in now.items():
        before, run = seen[file]
        if before != digest:
            raise ConfigError(
                "file_changed",
                f"{file} has changed since {run} read it (sha256 {before[:12]} then, {digest[:12]} now). New runs "
                "could not be compared with that run. Put the old file back, or choose another --out.",
            )


def check_teachers(records: Mapping[Job, Mapping[str, Any]]) -> None:
    """Make sure that each finished run, with its eval.json, was taught by its teacher as it is now."""
    taught = [(job.folder, job.after.folder, each) for job, each in records.items() if job.after is not None]
    if old := [f"{pupil.name} ({teacher.name})" for pupil, teacher, each in taught if _is_old(pupil, teacher, each)]:
        text = f"The teacher of these runs was trained again after it had taught them: {', '.join(old)}. Remove their "
        raise ConfigError("teacher_changed", f"{text}folders, and give the same command again.")


def _is_old(pupil: RunFolder, teacher: RunFolder, record: Mapping[str, Any]) -> bool:
    """Whether the weights of a finished teacher are no longer those that answered for the pupil."""
    time_s = record["cost"].get("teacher", {}).get("training_time_s")  # no two trainings take the same time
    if time_s is None or not teacher.is_done:
        return False
    with reading_run(teacher.path):
        is_same = teacher.evaluation()["training_time_s"] == time_s
    with reading_run(pupil.path):
        answers = [] if is_same or not pupil.pseudo_labels_file.is_file() else pupil.pseudo_labels()
        return not is_same and {each.get("teacher_sha256") for each in answers} != {teacher.weights_sha256()}


def about_exchanges(jobs: Iterable[tuple[str, RunFolder]]) -> list[str]:
    """Name the arms with the faulty shuffled control of an earlier version: its settings have no `shuffle_rule`."""
    made = [(arm, folder.settings()) for arm, folder in jobs if folder.has_settings]
    faulty = [arm for arm, settings in made if settings.get("shuffle_views") and "shuffle_rule" not in settings]
    return [
        f"{arm} is a faulty control. An earlier version exchanged its codes in sorted order: codes with the same "
        "beginning were exchanged for each other, so part of the match stayed. Run it again in a new folder."
        for arm in dict.fromkeys(faulty)
    ]


def about_versions(folders: Iterable[RunFolder]) -> list[str]:
    """Return a sentence if runs were made by different versions or on different machines."""
    made = Counter(map(_made, folders))
    if len(made) < 2:
        return []
    counts = "; ".join(f"{count} by {what}" for what, count in made.most_common())
    return [f"The runs were not all made alike: {counts}. A difference between arms may be due to that."]


def short_commit(commit: str) -> str:
    """Return the beginning of a commit's hash; the mark of uncommitted changes stays.

    >>> short_commit("0123456789abcdef0123+changes")
    '0123456789ab+changes'
    """
    return commit[:12] + ("+changes" if commit.endswith("+changes") else "")


def _made(folder: RunFolder) -> str:
    with reading_run(folder.path):
        environment = folder.environment()
    packages = environment.get("packages", {})
    versions = [f"{name} {packages[name]}" for name in _VERSIONS if packages.get(name)]
    commit = environment.get("commit")
    versions += [f"commit {short_commit(commit)}"] if commit else []
    device = environment.get("device")
    return ", ".join([*versions, str(environment.get("cpu") if device == "cpu" else device)])


def _check_equal(field: str, runs: Mapping[str, RunConfig], arms: Iterable[str], why: str) -> None:
    values = {}
    for arm in arms:
        parts = (runs[arm].evaluation, runs[arm].data, runs[arm].jepa, runs[arm].model)
        values[arm] = next(getattr(part, field) for part in parts if hasattr(part, field))
    first = next(iter(values))
    for other, value in values.items():
        if value != values[first]:
            raise ConfigError(
                "settings_conflict",
                f"{field} is {values[first]!r} in {first} and {value!r} in {other}, but {why}. Set {field} "
                "once, outside of arms and grids.",
            )
