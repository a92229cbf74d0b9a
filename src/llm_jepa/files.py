"""Files and folders that a reader, or a crash, finds whole: the old one or the new one, never a part."""

from __future__ import annotations

import difflib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from llm_jepa.errors import DataError


def expanded(name: str | Path) -> Path:
    """Return a path with `~` as the home folder; one of a user whom this system does not know stays as it is."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def nearest_file(path: Path) -> str:
    """Return the end of an error's sentence for a path that is not there: " Did you mean ...?", or nothing."""
    folder = path.parent
    if not folder.is_dir():
        return f" Its folder {folder} does not exist."
    close = difflib.get_close_matches(path.name, [entry.name for entry in folder.iterdir()], n=1)
    return f" Did you mean {close[0]}?" if close else ""


def is_path(name: str) -> bool:
    """Whether a name that could be one on the hub (`owner/name`) can only be meant as a path.

    >>> [is_path(name) for name in ("~/model", "./model", "C:\\\\model", "models\\\\mine", "owner/name")]
    [True, True, True, True, False]
    """
    return name.startswith((".", "/", "~")) or "\\" in name or name[1:3] == ":/"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file beside `path`; where all went well it is flushed to disk and renamed into place, else removed."""
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
    """Write `text` to a file that appears whole, or not at all."""
    with whole_file(Path(path)) as file:
        file.write(text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, as `write_whole` does; nan and infinity are refused."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, as `write_whole` does."""
    write_whole(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """Return the whole lines of a JSONL file; a last line that a crash cut short is left out."""
    lines = Path(path).read_bytes().split(b"\n")[:-1]  # what follows the last line break is not a whole line
    return [json.loads(line) for line in lines if line.strip()]


@contextmanager
def reading_run(folder: Path) -> Iterator[None]:
    """Within the context, a file of a finished run that is damaged, or that lacks what it should hold, is named so.

    Raises:
        DataError: In the place of whatever a damaged file makes of itself.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"it lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise DataError(
            f"A file of the run {folder} is damaged or missing: {problem}. Remove that folder; the same command trains "
            "the run again."
        ) from error


def name_beside(path: Path, ending: str) -> Path:
    """Return a hidden name beside `path`, of this process alone."""
    return path.with_name(f".{path.name}.{os.getpid()}.{ending}")


@contextmanager
def staged_beside(out: Path) -> Iterator[Path]:
    """Yield a name beside `out` for a file or a folder; what stands there in the end is removed."""
    beside = name_beside(out, "new")
    try:
        yield beside
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        beside.unlink(missing_ok=True)


def put_in_place(beside: Path, out: Path) -> None:
    """Rename what was staged to `out`; a folder there before is removed after it."""
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
