"""Checkpoints that stay whole after a crash: staged, hashed, and renamed into place.

    OUT/.staging/checkpoint-N/     being written; never read
    OUT/checkpoint-N/              whole: its manifest.json, written last, names every file with size and sha256

A folder gets its name in one step, after all its files have reached the disk. So a process that is killed at any
moment leaves the earlier checkpoints as they were. The hashes show if a file was damaged later.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from llm_jepa.errors import DataError, LLMJEPAError
from llm_jepa.files import hash_file, write_json

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STAGING = ".staging"
FORMAT = 1

_NAME = re.compile(r"checkpoint-(\d+)")


@contextmanager
def staged(output_dir: str | Path, *, owner: bool = True) -> Iterator[Path]:
    """Give a folder to write checkpoints in; at the end, its owner removes what was not published from it.

    Raises:
        LLMJEPAError: If the checkpoint cannot be written (a full disk); the earlier checkpoints are as they were.
    """
    staging = Path(output_dir) / STAGING
    try:
        yield staging
    except (OSError, SafetensorError, RuntimeError) as error:
        is_about_writing = any(word in str(error) for word in ("PytorchStreamWriter", "unexpected pos", "write"))
        if isinstance(error, RuntimeError) and not is_about_writing:  # torch.save raises it when the disk is full
            raise
        raise _cannot_write(error, staging) from error
    finally:
        if owner:
            shutil.rmtree(staging, ignore_errors=True)


def publish(staging: Path, output_dir: str | Path, step: int, facts: dict[str, Any], times: dict[str, Any]) -> None:
    """Make the checkpoint of `step` in `staging` one of `output_dir`: hash it, flush it, rename it.

    An earlier checkpoint of the same step is replaced.

    Args:
        facts: What a resumed run must have in common with this one (see `resume.py`).
        times: How long the run has taken so far; a resumed run adds to it.
    """
    source, target = staging / f"checkpoint-{step}", Path(output_dir) / f"checkpoint-{step}"
    files = {
        str(path.relative_to(source)): {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        for path in sorted(source.rglob("*"))
        if path.is_file()
    }
    manifest = {"format": FORMAT, "step": step, "files": files, "facts": facts, "times": times}
    write_json(source / MANIFEST, manifest)
    for path in (*source.rglob("*"), source):
        _flush(path)
    if target.exists():  # left by a run that went back to an earlier step; moved away, so that the name is free
        target.rename(staging / "replaced")
    source.rename(target)
    _flush(target.parent)


def find_problem(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, and in which file; None if it is whole."""
    try:
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in read_manifest(checkpoint)["files"].items()}
    except FileNotFoundError:
        return f"it has no {MANIFEST}, so it was never finished"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is damaged ({error})"
    for name, (size, sha256) in files.items():
        path = checkpoint / name
        if not path.resolve().is_relative_to(checkpoint.resolve()):
            return f"{MANIFEST} names {name}, outside of the checkpoint"
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            return f"{name} is missing" if found is None else f"{name} has {found:,} bytes, {size:,} were written"
        if hash_file(path) != sha256:
            return f"{name} is not what was written (its sha256 differs)"
    return None


def find_newest(output_dir: str | Path) -> Path | None:
    """Return the newest whole checkpoint of a run's folder; damaged ones are skipped with a warning.

    It is a DataError if there are checkpoints and none of them is whole.
    """
    problems: list[str] = []
    for checkpoint in reversed(_checkpoints(output_dir)):
        problem = find_problem(checkpoint)
        if problem is None:
            if problems:
                logger.warning("resume %s; continuing from %s", "; ".join(problems), checkpoint.name)
            return checkpoint
        problems.append(f"{checkpoint.name} cannot be used: {problem}")
    if problems:
        text = f"{output_dir} has no whole checkpoint: {'; '.join(problems)}. Remove these folders to start again."
        raise DataError("checkpoint_damaged", text)
    return None


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Return what `publish` wrote about a checkpoint, such as its `facts` and `times`."""
    return json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))


def rotate(output_dir: str | Path, limit: int | None, keep: str | None = None) -> None:
    """Remove the oldest checkpoints, by step number, beyond `limit`; keep the newest whole one and `keep`.

    A folder is renamed before it is emptied, so that a half-removed one does not look like a checkpoint.
    """
    if not limit or limit < 1:
        return
    found = _checkpoints(output_dir)
    kept = {Path(keep).name} if keep else set()
    newest_whole = next((each for each in reversed(found) if find_problem(each) is None), None)
    if newest_whole is not None:
        kept.add(newest_whole.name)
    removable = [each for each in found if each.name not in kept]
    for checkpoint in removable[: max(len(found) - limit, 0)]:
        trash = checkpoint.with_name(f"{STAGING}-removed-{checkpoint.name}")
        checkpoint.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def remove_leftovers(output_dir: str | Path) -> None:
    """Remove what a killed process was writing or removing."""
    for path in Path(output_dir).glob(f"{STAGING}*"):
        shutil.rmtree(path, ignore_errors=True)


def check_room(output_dir: str | Path, checkpoint_bytes: int, limit: int | None) -> None:
    """Raise LLMJEPAError if the disk has no room for `limit` checkpoints and one more, which exists while it is staged.

    Without a limit, there must be room for two. The folder need not exist yet.
    """
    path = Path(output_dir).absolute()
    folder = next(each for each in (path, *path.parents) if each.exists())
    number = (limit or 1) + 1
    needed = number * checkpoint_bytes
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise LLMJEPAError(
            "disk_full",
            f"{output_dir}: {number} checkpoints of {checkpoint_bytes / 2**20:,.0f} MiB need "
            f"{needed / 2**20:,.0f} MiB, but only {free / 2**20:,.0f} MiB are free. Make room, lower "
            "save_total_limit, or choose another folder.",
        )


def _checkpoints(output_dir: str | Path) -> list[Path]:
    """Return the folders named checkpoint-N, by N."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if path.is_dir() and not path.is_symlink()]
    numbered = [(int(match[1]), path) for path in folders if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered)]


def _flush(path: Path) -> None:
    """Write the content of a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(error: Exception, staging: Path) -> LLMJEPAError:
    written = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    folder = staging.parent
    free = shutil.disk_usage(folder).free
    return LLMJEPAError(
        "checkpoint_not_written",
        f"{folder}: the checkpoint could not be written ({error}). {written / 2**20:,.1f} MiB of it were written, and "
        f"{free / 2**20:,.1f} MiB are free. Earlier checkpoints are whole: make room, and the same command continues "
        "from the newest.",
    )
