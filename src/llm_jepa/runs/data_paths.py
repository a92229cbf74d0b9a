"""Finds the files that settings name: next to the config, in the current folder, or with a run that was moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_jepa.data.digest import data_fingerprint
from llm_jepa.data.sources import local_files, local_path, looks_local, split_name
from llm_jepa.errors import DataError
from llm_jepa.files import expanded, nearest_file

from .folder import RunFolder
from .settings import Settings, read_yaml

_DATA_KEYS = ("train_file", "validation_file", "test_file", "test_files", "views_file", "pseudo_label_gold_file")
_PATH_KEYS = (*_DATA_KEYS, "databases", "model_name_or_path", "tokenizer_name_or_path", "plugins")


def read_config(path: str | Path, changes: Settings) -> Settings:
    """Return the settings of a CONFIG.yaml with `changes` over them.

    A relative path in the file is searched next to the file, then in the current folder; it is a DataError if a data
    file is in neither. `changes` come from the command line, so their paths are relative to the current folder only. If
    `arms` is a list of names in them, these arms of the file are used.
    """
    folder = expanded(path).parent
    settings = read_yaml(path)
    if isinstance(settings.get("arms"), dict) and isinstance(changes.get("arms"), list):
        settings["arms"] = {arm: settings["arms"].get(arm, {}) for arm in map(str, changes["arms"])}
        changes = {key: value for key, value in changes.items() if key != "arms"}
    own = {key: value if key in changes else _placed(key, value, folder) for key, value in settings.items()}
    return own | changes


def _placed(key: str, value: Any, folder: Path) -> Any:
    """Return a value of the config with all paths in it, at any depth, relative to the current folder."""
    if isinstance(value, dict):
        return {name: _placed(key if key == "test_files" else name, each, folder) for name, each in value.items()}
    if isinstance(value, list):
        return [_placed(key, each, folder) for each in value]
    if key in _PATH_KEYS and isinstance(value, str) and value and not value.startswith("~"):
        return _beside(key, value, folder)
    return value


def _beside(key: str, name: str, folder: Path) -> str:
    beside = folder / name
    if _is_here(str(beside)):
        return str(beside)
    is_elsewhere = beside.resolve() != Path(name).resolve()  # else the reader reports that it is missing
    if is_elsewhere and key in _DATA_KEYS and looks_local(split_name(name)[0]) and not _is_here(name):
        hint = nearest_file(beside) if beside.parent.is_dir() else ""
        raise DataError(
            "file_missing",
            f"{key}: {name}: no such file. Neither {beside}, next to the config, nor {Path.cwd() / name}, in the "
            f"current folder, exists.{hint}",
        )
    return name


def _is_here(name: str) -> bool:
    return local_path(name).exists() or bool(local_files(name))


def find_file(run: RunFolder, name: str) -> str:
    """Return where a data file of a finished run is now; DataError if it is not found.

    If the run was moved together with its data, the file is in the same place relative to the run. It is accepted only
    if its sha256 is the one that the run recorded.
    """
    known = run.data()["sha256"].get(name)
    if known is None or _is_here(name):  # a data set on the hub has no hash
        return name
    base, parts = split_name(name)
    steps = expanded(base).parts
    for above in (run.path.resolve(), *run.path.resolve().parents):
        for start in range(int(expanded(base).is_absolute()), len(steps)):
            moved = ":".join([str(above.joinpath(*steps[start:])), *parts])
            if _is_here(moved) and data_fingerprint([moved])[moved] == known:
                return moved
    raise DataError(
        "file_missing",
        f"{name}: no such file. The run {run} read it (sha256 {known[:12]}), and it was not moved with the run. Name a "
        "file with --data.",
    )
