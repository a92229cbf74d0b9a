"""From the name of a file, a folder or a data set to its rows, and which part of them is read. Nothing is guessed.

A folder of JSONL, CSV or Parquet files is read by our own code, file by file. The library `datasets` only says which
file belongs to which split: its readers guess types, and would return `00501` as a number and `2020-01-01` as a date.
"""

from __future__ import annotations

import dataclasses
import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llm_jepa.errors import DataError, first_line
from llm_jepa.files import expanded, nearest_file

from .formats import FORMATS, PACKINGS, Content, read_file, split_ending
from .hub import not_downloaded, why_offline

logger = logging.getLogger(__name__)

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Names of the splits with rows to train on, to validate and to test. The first one that exists is read."""

_LOCAL_SUFFIXES = (*FORMATS, *PACKINGS, ".txt", ".arrow")
_DRIVE = re.compile(r"[A-Za-z]:(?=[\\/])")  # the drive of a Windows path; its colon does not start the name of a split
_ALWAYS_SET = {"name", "version", "data_dir", "data_files", "description", "sep", "delimiter"}


def split_name(name: str) -> tuple[str, list[str]]:
    """Return the file, folder or hub name, and the config and split that the name has after it.

    >>> split_name("owner/name:config:test"), split_name("C:/data/rows.jsonl")
    (('owner/name', ['config', 'test']), ('C:/data/rows.jsonl', []))
    """
    if expanded(name).exists():
        return name, []
    drive = match.group() if (match := _DRIVE.match(name)) else ""
    base, *parts = name[len(drive) :].split(":")
    return drive + base, parts


def local_path(name: str) -> Path:
    """Return the path of the file or folder that a name stands for, without the split that it may name."""
    return expanded(split_name(name)[0])


def local_files(name: str) -> list[Path]:
    """Return the files that a name stands for on this disk: one, all below a folder, or those of a pattern."""
    path = local_path(name)
    if path.is_dir():
        return sorted(each for each in path.rglob("*") if each.is_file())
    return [path] if path.is_file() else _matching(path)


def root_of(path: Path) -> Path:
    """Return a folder itself; of a pattern, the folder that it starts from."""
    return path if path.is_dir() else next(each for each in path.parents if not glob.has_magic(str(each)))


def _matching(pattern: Path) -> list[Path]:
    if not glob.has_magic(str(pattern)):
        return []
    return [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True)) if Path(name).is_file()]


def iter_rows(name: str, part: str = "train") -> Iterator[tuple[str, Content]]:
    """Yield `(source, row)` of a file, a folder or a data set of the hub.

    A row of a JSON Lines file is still bytes, and a faulty row may be a `RowError`: the caller handles it.

    Args:
        name: A path, a pattern of paths, or `owner/name`, perhaps with `:split` or `:config:split`.
        part: `train`, `validation` or `test`: the split that is read if the name has none.

    Raises:
        DataError: If there is no such file or split, or it is not clear which one is meant.
    """
    base, parts = split_name(name)
    path = expanded(base)
    if base and path.is_file():
        if parts:
            text = f"{name}: {base} is a file, which has no splits. Remove :{':'.join(parts)}."
            raise DataError("no_splits", text)
        yield from read_file(path, base)
    elif files := _matching(path):
        for file in files:
            yield from read_file(file, str(file))
    elif glob.has_magic(base):
        text = f"{name}: no file fits this pattern. Check it; it starts from {root_of(path)}."
        raise DataError("no_file_matches", text)
    elif not base or (not path.is_dir() and looks_local(base)):
        raise DataError("file_missing", f"{name}: no such file.{_nearest_name(path)}")
    else:
        yield from _iter_dataset(name, base, parts, part)


def _iter_dataset(name: str, base: str, parts: list[str], part: str) -> Iterator[tuple[str, Any]]:
    try:
        rows = _find_rows(name, base, parts, part)
    except DataError:
        raise
    except Exception as err:  # the library raises many kinds of errors (network, format, cache); all mean the same here
        if not expanded(base).is_dir() and (missing := not_downloaded(name, "file or folder")):
            raise DataError("not_downloaded", missing) from err
        kind = "folder" if expanded(base).is_dir() else "local file or data set on the hub"
        raise DataError(
            "dataset_not_loadable",
            f"{name}: not a readable {kind}: {first_line(err).rstrip('.')}. Expected a file such as rows.jsonl, a "
            "folder of the datasets library, or owner/name on the hub (owner/name:split for one of its splits).",
        ) from err
    yield from rows


def _numbered(label: str, rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{label}:{number}", dict(row)) for number, row in enumerate(rows, start=1))


def _find_rows(name: str, base: str, parts: list[str], part: str) -> Iterator[tuple[str, Any]]:
    """Return source and content of each row of a data set."""
    import datasets

    folder = expanded(base)
    if (folder / "state.json").exists():
        if parts:
            text = f"{name}: {base} is one saved data set without splits. Remove :{':'.join(parts)}."
            raise DataError("no_splits", text)
        return _numbered(base, datasets.load_from_disk(str(folder)))
    if (folder / "dataset_dict.json").exists():
        saved = datasets.load_from_disk(str(folder))
        split = _choose_split(name, base, list(saved), parts, part)
        return _numbered(f"{base}:{split}", saved[split])
    if not folder.is_dir():
        why_offline()
    # An absolute path: the library would take a folder named csv or json for one of its own readers.
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
        _warn_of_others(name, where, {file for of in files.values() for file in of})
    # Parquet files on the hub have types, and the library caches them for use without a network.
    kinds = tuple(kind for kind in FORMATS if folder.is_dir() or kind != ".parquet")
    if not _is_read_here(builder.config, files.get(split, []), kinds):
        return _numbered(f"{named}:{split}", datasets.load_dataset(where, config, split=split))
    separator = getattr(builder.config, "delimiter", None) or getattr(builder.config, "sep", None)
    return _iter_files(files[split], base, where, separator)


def _check_split_names(name: str, base: str, files: list[str], splits: list[str]) -> None:
    """Refuse a folder whose only split has a file with the name of another split, such as `TEST.jsonl`.

    The library recognises names in lower case only. If it recognises none, it reads all files as one split.
    """
    held_out = {*SPLIT_NAMES["validation"], *SPLIT_NAMES["test"]}
    for file in files if splits == ["train"] else ():
        words = set(re.findall("[a-z]+", file.lower()))
        if words & held_out and not words & {*SPLIT_NAMES["train"]}:
            raise DataError(
                "ambiguous_splits",
                f"{name}: {file} seems to hold rows of another split, but the library does not recognise its name, "
                f"and would read all files of {base} as one. Rename them (train.jsonl, test.jsonl), or name one file.",
            )


def _warn_of_others(name: str, where: str, files: set[str]) -> None:
    """Warn about files in a folder that seem to hold rows but belong to no split."""
    unread = [path for path in Path(where).rglob("*") if path.is_file() and str(path) not in files]
    with_rows = [path for path in unread if path.suffix != ".json" and split_ending(path.name)[0] in FORMATS]
    if others := sorted(_below(where, str(path)) for path in with_rows):
        logger.warning("%s: files in no split, which are not read: %s", name, ", ".join(others))


def _iter_files(files: list[str], base: str, where: str, separator: str | None) -> Iterator[tuple[str, Any]]:
    import datasets

    paths = files if Path(where).is_dir() else datasets.DownloadManager().download(files)
    for file, path in zip(files, paths, strict=True):
        of_table = separator if split_ending(file)[0] in (".csv", ".tsv") else None
        yield from read_file(Path(path), f"{base.rstrip('/')}/{_below(where, file)}", name=file, separator=of_table)


def _below(where: str, file: str) -> str:
    """Return a file's path below its folder, or its data set (`hf://datasets/owner/name@commit/...`)."""
    if Path(where).is_dir():
        return Path(os.path.relpath(file, where)).as_posix()
    return file.partition("@")[2].partition("/")[2] or file


def _is_read_here(config: Any, files: list[str], kinds: Sequence[str]) -> bool:
    """Whether all files of a split are of one of these kinds, and no other setting says how to read them."""
    changed = {
        each.name
        for each in dataclasses.fields(config)
        if each.name not in _ALWAYS_SET and getattr(config, each.name) != each.default
    }
    return bool(files) and not changed and all(split_ending(file)[0] in kinds for file in files)


def _choose_config(name: str, base: str, where: str, parts: list[str]) -> tuple[str | None, list[str]]:
    """Return the config that the name means (None: the only or default one), and the rest of the name."""
    import datasets

    configs = datasets.get_dataset_config_names(where)
    if parts and (len(parts) > 1 or parts[0] in configs):
        if parts[0] not in configs or len(parts) > 2:
            raise DataError(
                "unknown_config",
                f"{name}: expected {base}:config:split. {base} has the configs: {', '.join(configs) or 'none'}.",
            )
        return parts[0], parts[1:]
    if len(configs) > 1 and datasets.get_dataset_default_config_name(where) is None:
        text = f"{name}: it has several configs: {', '.join(configs)}. Name one, such as {base}:{configs[0]}."
        raise DataError("ambiguous_config", text)
    return None, parts


def _choose_split(
    name: str, base: str, splits: list[str], wanted: list[str], part: str, *, is_unnamed: bool = False
) -> str:
    """Return the split that is named, or else the one for `part`; never another one instead.

    `is_unnamed`: the name of the only split comes from the library, not from a file's name.
    """
    listed = ", ".join(splits) or "none"
    if wanted:
        if len(wanted) == 1 and wanted[0] in splits:
            return wanted[0]
        text = f"{name}: there is no split {':'.join(wanted)!r}. The splits of {base}: {listed}."
        raise DataError("unknown_split", text)
    for split in SPLIT_NAMES[part]:
        if split in splits:
            return split
    if len(splits) == 1 and (is_unnamed or not any(splits[0] in names for names in SPLIT_NAMES.values())):
        return splits[0]
    example = f"{base}:{splits[0] if splits else part}"
    text = f"{name}: it has no {part} split. Its splits: {listed}. Name the one to read, such as {example}."
    raise DataError("split_missing", text)


def looks_local(base: str) -> bool:
    """Whether a name can only be a path: a mistyped path must not become a request to the network."""
    is_hub_name = base.count("/") == 1 and "\\" not in base and not _DRIVE.match(base)
    return base.startswith((".", "/", "~")) or base.endswith(_LOCAL_SUFFIXES) or not is_hub_name or glob.has_magic(base)


def _nearest_name(path: Path) -> str:
    turned = Path(str(path).replace("\\", "/"))
    if turned != path and turned.exists():
        return f" Did you mean {turned}? Paths are written with / here."
    return nearest_file(path) or " Check the path; it starts from the current folder."
