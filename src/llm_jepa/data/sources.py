"""From the name of a file, a folder or a data set to its rows: which part is read, and nothing guessed on the way.

A folder of JSONL, CSV or Parquet files is read by us, file by file; the `datasets` library only says which file belongs
to which split. Its readers guess types, and `00501` would come back as a number, `2020-01-01` as a date.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import logging
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llm_jepa.errors import DataError, first_line
from llm_jepa.files import expanded

from .json_lines import MAX_LINE_BYTES, RowError, describe_content, iter_lines, open_bytes, parse_array

logger = logging.getLogger(__name__)

Content = bytes | dict[str, Any] | RowError | None

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""What a split is called that holds the rows to train on, to validate and to test; the first that is there is read."""

_LOCAL_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt", ".gz", ".zst", ".arrow")
_JSON_LINES, _TABLES = (".jsonl", ".ndjson"), (".csv", ".tsv")
_READ_HERE = (*_JSON_LINES, *_TABLES, ".json", ".parquet")
_DRIVE = re.compile(r"[A-Za-z]:(?=[\\/])")  # of a Windows path; its colon names no split
_ALWAYS_SET = {"name", "version", "data_dir", "data_files", "description", "sep", "delimiter"}


class CsvRow(dict[str, Any]):
    """A row of a CSV file: every value is text, and an empty one may mean null."""


def split_name(name: str) -> tuple[str, list[str]]:
    """Return the file, folder or hub name, and what is named of it.

    >>> split_name("owner/name:config:test"), split_name("C:/data/rows.jsonl")
    (('owner/name', ['config', 'test']), ('C:/data/rows.jsonl', []))
    """
    if expanded(name).exists():
        return name, []
    drive = match.group() if (match := _DRIVE.match(name)) else ""
    base, *parts = name[len(drive) :].split(":")
    return drive + base, parts


def local_path(name: str) -> Path:
    """Return the file or folder that a name is on this disk, without the split that it may name."""
    return expanded(split_name(name)[0])


def iter_rows(name: str, part: str = "train") -> Iterator[tuple[str, Content]]:
    """Yield `(source, row)` of a file, a folder or a data set of the hub.

    A row of JSON lines is still bytes, and a faulty row may be a `RowError`: its faults are the caller's.

    Args:
        name: A path or `owner/name`, perhaps with `:split` or `:config:split`.
        part: `train`, `validation` or `test`: which split is read where none is named.

    Raises:
        DataError: If there is no such file or split, or it is not clear which one is meant.
    """
    base, parts = split_name(name)
    path = expanded(base)
    if base and path.is_file():
        if parts:
            raise DataError(f"{name}: {base} is a file, which has no splits. Leave :{':'.join(parts)} out.")
        if not path.name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
            raise DataError(
                f"{name}: files that end in {path.suffix or 'nothing'} are not read. Expected .jsonl "
                "(one JSON object per line; rename the file if it is that) or .parquet."
            )
        yield from _iter_file(path, base)
    elif not base or (not path.is_dir() and looks_local(base)):
        raise DataError(f"{name}: no such file.{_nearest_name(path)}")
    else:
        yield from _iter_dataset(name, base, parts, part)


def _iter_file(path: Path, label: str, separator: str = ",", suffix: str | None = None) -> Iterator[tuple[str, Any]]:
    suffix = suffix or _suffix(path.name)
    try:
        if suffix == ".parquet":
            yield from _iter_parquet(path, label)
        elif suffix in _TABLES:
            yield from _iter_table(path, label, separator)
        elif suffix == ".json" and _is_array(path):
            with open_bytes(path) as file:
                for number, row in enumerate(parse_array(file.read(), label), start=1):
                    yield f"{label}:{number}", row
        else:
            for number, raw in iter_lines(path):
                yield f"{label}:{number}", raw
    except (OSError, EOFError, zlib.error) as err:  # the last two: a compressed file that is cut or damaged
        raise DataError(f"{label}: cannot be read: {getattr(err, 'strerror', None) or err}.") from err


def _suffix(name: str) -> str:
    return Path(name.removesuffix(".gz")).suffix


def _is_array(path: Path) -> bool:
    first = next(iter_lines(path), (0, b""))[1]
    return first is None or first.lstrip().startswith(b"[")  # a whole array may be one long line


def _iter_parquet(path: Path, label: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow  # comes with datasets; read directly, which leaves no copy of the file in a cache
    import pyarrow.parquet

    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{label}:{number}", row
    except pyarrow.ArrowException as err:
        with path.open("rb") as file:
            hint = describe_content(file.read(64))
        raise DataError(f"{label}: not a readable parquet file: {hint.strip() or f'{err}.'}") from err


def _iter_table(path: Path, label: str, separator: str) -> Iterator[tuple[str, CsvRow | RowError]]:
    """Yield the rows of a CSV file; each is known by its first line."""
    csv.field_size_limit(MAX_LINE_BYTES)
    with io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=separator)
        done = 1
        try:
            if len(set(reader.fieldnames or ())) < len(reader.fieldnames or ()):
                raise DataError(f"{label}:1: two columns have one name. Expected a name of its own for each column.")
            done = reader.line_num
            for row in reader:
                source, done = f"{label}:{done + 1}", reader.line_num
                if None in row or None in row.values():
                    yield source, RowError("fields", f"expected {len(reader.fieldnames or ())} values in the row.")
                else:
                    yield source, CsvRow(row)
        except (csv.Error, UnicodeDecodeError) as err:
            raise DataError(f"{label}:{done + 1}: not readable as CSV in UTF-8: {err}.") from err


def _iter_dataset(name: str, base: str, parts: list[str], part: str) -> Iterator[tuple[str, Any]]:
    try:
        label, rows = _find_rows(name, base, parts, part)
    except DataError:
        raise
    except Exception as err:  # the library raises many kinds: network, format, cache; all mean the same here
        kind = "folder" if expanded(base).is_dir() else "local file, nor a data set that the hub could give now"
        raise DataError(
            f"{name}: not a readable {kind}: {first_line(err).rstrip('.')}. Expected a .jsonl or .parquet file, a "
            "folder of the datasets library, or owner/name on the hub (owner/name:split for one of its splits), which "
            "needs a network."
        ) from err
    if label is None:
        yield from rows
        return
    for number, row in enumerate(rows, start=1):
        yield f"{label}:{number}", dict(row)


def _find_rows(name: str, base: str, parts: list[str], part: str) -> tuple[str | None, Iterable[Any]]:
    """Return the rows of a data set, and a name for them, or None where each row comes with its own."""
    import datasets

    folder = expanded(base)
    if (folder / "state.json").exists():
        if parts:
            raise DataError(f"{name}: {base} is one saved data set without splits. Leave :{':'.join(parts)} out.")
        return base, datasets.load_from_disk(str(folder))
    if (folder / "dataset_dict.json").exists():
        saved = datasets.load_from_disk(str(folder))
        split = _choose_split(name, base, list(saved), parts, part)
        return f"{base}:{split}", saved[split]
    # A whole path: a folder named csv or json would be taken for one of the library's own readers.
    where = str(folder.resolve()) if folder.is_dir() else base
    config, wanted = _choose_config(name, base, where, parts)
    builder = datasets.load_dataset_builder(where, config)
    files = {str(split): list(map(str, of)) for split, of in (builder.config.data_files or {}).items()}
    named = f"{base}:{config}" if config else base
    is_unnamed = list(files) == ["train"] and not any("train" in _below(where, file).lower() for file in files["train"])
    splits = list(map(str, files or builder.info.splits or ()))
    split = _choose_split(name, named, splits, wanted, part, is_unnamed=is_unnamed)
    logger.info("%s: the split %s is read; it has %s", name, split, ", ".join(splits))
    if folder.is_dir() and not config:
        _check_split_names(name, base, [_below(where, file) for file in files.get("train", [])], list(files))
        _tell_of_others(name, where, {file for of in files.values() for file in of})
    # What the hub has as Parquet has its types, and the library keeps it for a time without a network.
    kinds = _READ_HERE if folder.is_dir() else tuple(kind for kind in _READ_HERE if kind != ".parquet")
    if not _is_read_here(builder.config, files.get(split, []), kinds):
        return f"{named}:{split}", datasets.load_dataset(where, config, split=split)
    separator = getattr(builder.config, "delimiter", None) or getattr(builder.config, "sep", None) or ","
    return None, _iter_files(files[split], base, where, separator)


def _check_split_names(name: str, base: str, files: list[str], splits: list[str]) -> None:
    """Refuse a folder whose only split holds a file that says it is another one, `TEST.jsonl` say.

    The library knows names in lower case alone, and puts all files together where it knows none of them.
    """
    held_out = {*SPLIT_NAMES["validation"], *SPLIT_NAMES["test"]}
    for file in files if splits == ["train"] else ():
        words = set(re.findall("[a-z]+", file.lower()))
        if words & held_out and not words & {*SPLIT_NAMES["train"]}:
            raise DataError(
                f"{name}: {file} seems to hold rows of another split, but the names do not say so, and all files of "
                f"{base} would be read as one. Rename them, such as train.jsonl and test.jsonl, or name one file."
            )


def _tell_of_others(name: str, where: str, files: set[str]) -> None:
    """Warn of files in a folder that look like rows and belong to no split."""
    others = sorted(
        _below(where, str(path))
        for path in Path(where).rglob("*")
        if path.is_file() and _suffix(path.name) in (*_JSON_LINES, *_TABLES, ".parquet") and str(path) not in files
    )
    if others:
        logger.warning("%s: files in no split, which are not read: %s", name, ", ".join(others))


def _iter_files(files: list[str], base: str, where: str, separator: str) -> Iterator[tuple[str, Any]]:
    import datasets

    paths = files if Path(where).is_dir() else datasets.DownloadManager().download_and_extract(files)
    for file, path in zip(files, paths, strict=True):
        yield from _iter_file(Path(path), f"{base.rstrip('/')}/{_below(where, file)}", separator, _suffix(file))


def _below(where: str, file: str) -> str:
    """Return a file's name below its folder, or below the hub's data set (`hf://datasets/owner/name@commit/...`)."""
    if Path(where).is_dir():
        return Path(os.path.relpath(file, where)).as_posix()
    return file.partition("@")[2].partition("/")[2] or file


def _is_read_here(config: Any, files: list[str], kinds: Sequence[str]) -> bool:
    """Whether all files of a split are of one of these kinds, and nothing else is set about how to read them."""
    changed = {
        each.name
        for each in dataclasses.fields(config)
        if each.name not in _ALWAYS_SET and getattr(config, each.name) != each.default
    }
    return bool(files) and not changed and all(_suffix(file) in kinds for file in files)


def _choose_config(name: str, base: str, where: str, parts: list[str]) -> tuple[str | None, list[str]]:
    """Return the configuration of a data set that is meant, if it has several, and what is left of the name."""
    import datasets

    configs = datasets.get_dataset_config_names(where)
    if parts and (len(parts) > 1 or parts[0] in configs):
        if parts[0] not in configs or len(parts) > 2:
            raise DataError(
                f"{name}: expected {base}:config:split. {base} has the configs: {', '.join(configs) or 'none'}."
            )
        return parts[0], parts[1:]
    if len(configs) > 1 and datasets.get_dataset_default_config_name(where) is None:
        raise DataError(f"{name}: it has several configs: {', '.join(configs)}. Name one, such as {base}:{configs[0]}.")
    return None, parts


def _choose_split(
    name: str, base: str, splits: list[str], wanted: list[str], part: str, *, is_unnamed: bool = False
) -> str:
    """Return the split that is named, or else the one for `part`; another one is never taken instead.

    `base` is the name without a split. `is_unnamed`: the only split got its name from the library, not from a file's
    name.
    """
    listed = ", ".join(splits) or "none"
    if wanted:
        if len(wanted) == 1 and wanted[0] in splits:
            return wanted[0]
        raise DataError(f"{name}: there is no split {':'.join(wanted)!r}. The splits of {base}: {listed}.")
    found = next((split for split in SPLIT_NAMES[part] if split in splits), None)
    others = {split for names in SPLIT_NAMES.values() for split in names}
    if found is None and len(splits) == 1 and (is_unnamed or splits[0] not in others):
        found = splits[0]
    if found is None:
        raise DataError(
            f"{name}: it has no {part} split. Its splits: {listed}. Name the one to read, such as "
            f"{base}:{splits[0] if splits else part}."
        )
    return found


def looks_local(base: str) -> bool:
    """Whether a name is plainly a path: a typing error must not become a question to the network."""
    is_hub_name = base.count("/") == 1 and "\\" not in base and not _DRIVE.match(base)
    return base.startswith((".", "/", "~")) or base.endswith(_LOCAL_SUFFIXES) or not is_hub_name


def _nearest_name(path: Path) -> str:
    turned = Path(str(path).replace("\\", "/"))
    if turned != path and turned.exists():
        return f" Did you mean {turned}? Paths are written with / here."
    folder = path.parent
    if not folder.is_dir():
        return f" Its folder {folder} does not exist."
    close = difflib.get_close_matches(path.name, [entry.name for entry in folder.iterdir()], n=1)
    return f" Did you mean {close[0]}?" if close else " Check the path; it starts from the current folder."
