"""Rows set aside: for validation, or as a test file of their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from llm_jepa.errors import ConfigError, DataError

from .checks import KEY_DTYPE, hash_key, pair_key
from .config import DataConfig
from .example import Example
from .formats import CsvRow, split_ending, write_file
from .lazy_rows import take
from .row_forms import typed_cells
from .rows import read_examples
from .sources import iter_rows, local_path


def split_validation(
    examples: Sequence[Example], size: int, seed: int = 0
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Set `size` rows aside; return `(training rows, validation rows)`, each in the order of the file.

    Rows of one pair, and rows of one `group`, stay together, so no validation pair is ever trained on; fewer rows are
    set aside if they would exceed `size`. Which pairs are chosen depends only on the pairs and `seed`, not on the order
    of the rows. Adding rows to a file moves few others from one side to the other.

    Raises:
        DataError: If no row would be left for training.
    """
    if size == 0:
        return examples, []
    if size >= len(examples):
        raise DataError(
            "too_few_rows",
            f"validation_size={size} leaves no training row: the training file has {len(examples)} rows left. Lower "
            "validation_size (0 sets no row aside), or set validation_file.",
        )
    ranks = _ranks(examples, seed)
    order = np.argsort(ranks, kind="stable")  # rows of one rank stay together
    borders = np.flatnonzero(ranks[order][1:] != ranks[order][:-1]) + 1
    is_chosen = np.zeros(len(examples), bool)
    num_chosen = 0
    for start, stop in pairwise([0, *borders.tolist(), len(examples)]):
        if num_chosen + stop - start <= size:
            is_chosen[order[start:stop]] = True
            num_chosen += stop - start
        if num_chosen == size:
            break
    kept, chosen = (np.flatnonzero(each).tolist() for each in (~is_chosen, is_chosen))
    return take(examples, kept), [examples[place] for place in chosen]


def split_file(
    file: str, num_test: int, out: Path, config: DataConfig, *, seed: int = 0, force: bool = False
) -> dict[str, int]:
    """Write rows as a training file and a test file in `out`, in the same order and format.

    `pairs.csv` becomes `train.csv` and `test.csv`; several files, folders and data sets become `.jsonl`. Lines of JSON
    are written unchanged. Rows of one pair, and of one `group`, stay together.

    `file` is any name that `train_file` takes. The test file has `num_test` rows, or fewer if rows that stay together
    would exceed it. Another `seed` chooses other pairs.

    Returns:
        The number of rows of each of the two files, by its name.

    Raises:
        ConfigError: If a file exists already, and `force` is false, or `out` is a file.
        DataError: If a row cannot be read, or none would be left to train on.
    """
    ending = "".join(split_ending(local_path(file).name)) if local_path(file).is_file() else ".jsonl"
    names = [f"train{ending}", f"test{ending}"]
    if out.exists() and not out.is_dir():
        raise ConfigError("not_a_folder", f"--out {out} is a file. Expected a folder, for {' and '.join(names)}.")
    for name in names:
        if (out / name).exists() and not force:
            text = f"{out / name} exists already. Choose another --out, or overwrite it with --force."
            raise ConfigError("file_exists", text)
    read = read_examples(file, config)
    examples, form = read.examples, read.form
    if num_test >= len(examples):
        text = f"{num_test} test rows leave none to train on: {file} has {len(examples)} rows. Ask for fewer."
        raise DataError("too_few_rows", text)
    parts = dict(zip(names, split_validation(examples, num_test, seed), strict=True))
    if not parts[names[1]]:
        raise DataError(
            "group_too_large",
            f"No rows of {file} fit into {num_test} test rows: rows of one pair or group stay together. Ask for more "
            "test rows, or remove repeated rows.",
        )
    is_table = ending.startswith((".csv", ".tsv"))
    contents = {
        source: typed_cells(row, form) if isinstance(row, CsvRow) and form and not is_table else row
        for source, row in iter_rows(file)
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        write_file(out / name, [contents[row.source] for row in rows])
    return {name: len(rows) for name, rows in parts.items()}


def _ranks(examples: Sequence[Example], seed: int) -> np.ndarray:
    """Return 16 bytes for each row, equal for rows that share a pair or a group, directly or through other rows.

    A hash orders the pairs at random, like a shuffle, but the rank of a pair does not depend on the other rows.
    """
    hashes = bytearray()
    groups: dict[int, str] = {}
    for place, example in enumerate(examples):
        hashes += hash_key((seed, pair_key(example)))
        if example.group is not None:
            groups[place] = example.group
    ranks = np.frombuffer(hashes, KEY_DTYPE)
    if not groups:
        return ranks
    parent: dict[bytes, bytes] = {}

    def root(name: bytes) -> bytes:
        while (above := parent.setdefault(name, name)) != name:
            parent[name] = parent.setdefault(above, above)
            name = above
        return name

    rank_of = {group: hash_key((seed, "group", group)) for group in groups.values()}
    for place, group in groups.items():
        parent[root(ranks[place])] = root(rank_of[group])
    return np.array([root(rank) for rank in ranks.tolist()], KEY_DTYPE)
