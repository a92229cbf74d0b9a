"""What runs must have in common before a difference between them means anything.

Arms answer the same test rows and are scored alike; cells of a grid are chosen on the same validation rows; every run
read the data that the others read. What may differ and must be known, the versions, is told.
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

ANSWERED = ("test_file", "test_files", "max_test_rows", "metric")
"""Fields that say what every arm is asked, and what counts as right."""
CHOSEN_ON = ("validation_file", "validation_generations")
"""Fields that say which validation rows a grid's cells are chosen on ..."""
SET_ASIDE_FROM = ("train_file", "max_train_rows", "validation_size")
"""... and, without a validation_file, which training rows these are."""
_VERSIONS = ("llm-jepa", "torch", "transformers")


def check_arms(runs: Mapping[str, RunConfig], grids: Mapping[str, Grid]) -> None:
    """Make sure that arms are asked the same questions, and that the cells of a grid are chosen on the same rows.

    Args:
        runs: The settings of each arm, or cell of one, with the data files named.
        grids: The arms that are grids.

    Raises:
        ConfigError: If an arm or cell has other test rows, another metric, or, within a grid, other validation rows.
    """
    for field in ANSWERED:
        _check_equal(field, runs, runs, "all arms answer the same test rows and are scored alike")
    for arm, grid in grids.items():
        from_file = runs[next(iter(grid.cells))].data.validation_file is not None
        for field in CHOSEN_ON + (() if from_file else SET_ASIDE_FROM):
            _check_equal(field, runs, grid.cells, f"the cells of {arm} are chosen on the same validation rows")


def check_data(folders: Iterable[RunFolder], *, files_too: bool = False) -> None:
    """Make sure that runs which are done read the same data, by the hashes that each wrote down.

    Args:
        folders: Of the runs; those without a `data.json` are left out.
        files_too: Also compare with the files as they are now, which the runs to come will read. One that is gone is
            left out.

    Raises:
        ConfigError: If a file had other contents for one run than for another, or has others now.
    """
    seen: dict[str, tuple[str, str]] = {}  # file to its hash, and the run that says so
    for folder in folders:
        with reading_run(folder.path):
            digests = folder.data().get("sha256") or {}
        for file, digest in digests.items():
            before, run = seen.setdefault(file, (digest, folder.name))
            if before != digest:
                raise ConfigError(
                    f"{file} changed between the runs {run} (sha256 {before[:12]}) and {folder.name} "
                    f"({digest[:12]}): they cannot be compared. Remove the runs of one of the two, and give the "
                    "same command again."
                )
    now = data_fingerprint(seen) if files_too else {}
    for file, digest in now.items():
        before, run = seen[file]
        if before != digest:
            raise ConfigError(
                f"{file} is not what {run} read (sha256 {before[:12]} then, {digest[:12]} now): runs to come could not "
                "be compared with it. Put the file back, or choose another --out."
            )


def about_exchanges(runs: Iterable[tuple[str, RunFolder]]) -> list[str]:
    """Say which arms are shuffled controls of the faulty exchange, which wrote no `shuffle_rule` into their settings.

    Args:
        runs: Arm and folder of each run.
    """
    arms = dict.fromkeys(
        arm
        for arm, folder in runs
        if folder.has_settings
        and (settings := folder.settings()).get("shuffle_views")
        and "shuffle_rule" not in settings
    )
    return [
        f"{arm} is a faulty control: an earlier version exchanged its codes in sorted order, so that codes that begin "
        "alike were exchanged for each other and part of the match stayed. Run it again in a new folder."
        for arm in arms
    ]


def about_versions(folders: Iterable[RunFolder]) -> list[str]:
    """Return a sentence about runs that were made by different versions or on different machines, if some were."""
    made = Counter(map(_made, folders))
    if len(made) < 2:
        return []
    told = "; ".join(f"{count} by {what}" for what, count in made.most_common())
    return [f"The runs were not all made alike: {told}. A difference between arms may be owed to that."]


def short_commit(commit: str) -> str:
    """Return the beginning of a commit's name; that files were changed since stays with it.

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


def _field(run: RunConfig, name: str) -> Any:
    part = run.evaluation if hasattr(run.evaluation, name) else run.data
    return getattr(part, name)


def _check_equal(field: str, runs: Mapping[str, RunConfig], arms: Iterable[str], why: str) -> None:
    values = {arm: _field(runs[arm], field) for arm in arms}
    first = next(iter(values))
    for other, value in values.items():
        if value != values[first]:
            raise ConfigError(
                f"{field} is {values[first]!r} in {first} and {value!r} in {other}, but {why}. Set {field} "
                "once, outside of arms and grids."
            )
