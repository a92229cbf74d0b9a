"""One file of rows as two: what is trained on, and what is tested on."""

from __future__ import annotations

from pathlib import Path

from llm_jepa.errors import ConfigError, DataError
from llm_jepa.files import expanded, write_whole

from .config import DataConfig
from .json_lines import iter_lines
from .rows import read_examples
from .splits import split_validation

TRAIN, TEST = "train.jsonl", "test.jsonl"


def split_file(
    file: Path, num_test: int, out: Path, config: DataConfig, *, seed: int = 0, force: bool = False
) -> dict[str, int]:
    """Write the rows of a JSONL file as `OUT/train.jsonl` and `OUT/test.jsonl`, as they stand, in their order.

    Rows of one pair, and of one `group`, stay together: no test pair is in the training file.

    Args:
        file: The rows, in any form that training takes.
        num_test: Rows of the test file; fewer where rows that stay together would go over it.
        out: The folder.
        config: Column names, and what becomes of broken rows.
        seed: Another seed chooses others.
        force: Write over files that are there.

    Returns:
        The number of rows of each of the two files.

    Raises:
        ConfigError: If the file is no JSONL, or a file is there already.
        DataError: If a row cannot be read, or none would be left to train on, or to test on.
    """
    file = expanded(file)
    if file.suffix != ".jsonl":
        raise ConfigError(f"{file} is split by its lines. Expected a .jsonl file.")
    for name in (TRAIN, TEST):
        if (out / name).exists() and not force:
            raise ConfigError(f"{out / name} is there already. Choose another --out, or write over it with --force.")
    examples = read_examples(str(file), config).examples
    if num_test >= len(examples):
        raise DataError(f"{num_test} test rows leave none to train on: {file} has {len(examples)}. Ask for fewer.")
    parts = dict(zip((TRAIN, TEST), split_validation(examples, num_test, seed), strict=True))
    if not parts[TEST]:
        raise DataError(
            f"No rows of {file} fit into {num_test} test rows: rows with one pair, or one group, stay together. Ask "
            "for more, or remove repeated rows."
        )
    lines = {number: raw for number, raw in iter_lines(file) if raw is not None}
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        chosen = (lines[int(row.source.rpartition(":")[2])] for row in rows)
        write_whole(out / name, "".join(raw.decode("utf-8") + "\n" for raw in chosen))
    return {name: len(rows) for name, rows in parts.items()}
