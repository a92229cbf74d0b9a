"""Files and folders that are always complete for readers, and after a crash: the old one or the new one."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from llm_jepa.errors import DataError, first_line


def expanded(name: str | Path) -> Path:
    """Return a path with `~` replaced by the home folder; that of an unknown user stays as it is."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def nearest_file(path: Path) -> str:
    """Return what an error adds about a missing path: " Did you mean ...?", or that its folder is missing, or ""."""
    folder = path.parent
    if not folder.is_dir():
        return f" Its folder {folder} does not exist."
    close = difflib.get_close_matches(path.name, [entry.name for entry in folder.iterdir()], n=1)
    return f" Did you mean {close[0]}?" if close else ""


def is_path(name: str) -> bool:
    """Whether a name can only be a path, and not a name on the hub (`owner/name`).

    >>> [is_path(name) for name in ("~/model", "./model", "C:\\\\model", "models\\\\mine", "owner/name")]
    [True, True, True, True, False]
    """
    return name.startswith((".", "/", "~")) or "\\" in name or name[1:3] == ":/"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file next to `path`. At the end it is flushed to disk and renamed to `path`; after an error, removed."""
    beside = name_beside(path, "tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: str | Path, text: str) -> None:
    """Write `text` to a file, either completely or not at all."""
    with whole_file(Path(path)) as file:
        file.write(text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, as `write_whole` does; nan and infinity are refused."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, as `write_whole` does."""
    write_whole(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """Return the complete lines of a JSONL file; a last line that a crash cut off is left out."""
    lines = Path(path).read_bytes().split(b"\n")[:-1]  # after the last line break, there is no complete line
    return [json.loads(line) for line in lines if line.strip()]


@contextmanager
def reading_run(folder: Path) -> Iterator[None]:
    """Within the context, turn the errors of a damaged or incomplete file of a finished run into one DataError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error).rstrip(".")
        raise DataError(
            "run_damaged",
            f"A file of the run {folder} is damaged or missing: {problem}. Remove that folder; the same command then "
            "trains the run again.",
        ) from error


def name_beside(path: Path, ending: str) -> Path:
    """Return a hidden name next to `path` that only this process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.{ending}")


@contextmanager
def staged_beside(out: Path) -> Iterator[Path]:
    """Yield a name next to `out` for a file or a folder; if it still exists at the end, it is removed."""
    beside = name_beside(out, "new")
    try:
        yield beside
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        beside.unlink(missing_ok=True)


def put_in_place(beside: Path, out: Path) -> None:
    """Rename what was staged to `out`, and then remove the folder that was there before."""
    if not out.is_dir():
        beside.replace(out)
        return
    old = name_beside(out, "old")  # a folder cannot be renamed onto another that is not empty
    out.rename(old)
    try:
        beside.rename(out)
    finally:
        if not out.exists():
            old.rename(out)
    shutil.rmtree(old)
