"""What runs at tiny scale start from: halves of the training rows, and a model trained on the first.

The papers fine-tune a pretrained model. None is needed here: the base learns the task's rows by plain next-token
prediction on the first half, once, with a seed of its own; every run then reads the second half.
"""

from __future__ import annotations

import logging
from pathlib import Path

from llm_jepa.errors import DataError
from llm_jepa.files import write_whole
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import Settings, read_run

logger = logging.getLogger(__name__)

BASE_SEED = 1
"""Not among the papers' seeds, with which the runs are made."""

BASE: Settings = {
    "model": "nano",
    "jepa_lambda": 0.0,
    "max_steps": 400,
    "per_device_train_batch_size": 32,
    "learning_rate": 3.0e-3,
    "validation_size": 0,
    "max_test_rows": 500,
}
"""Of the base: 400 steps of 32, about three epochs of the half (our choice)."""


def second_half(train_file: Path, folder: Path) -> Path:
    """Write the second half of a file's rows into a folder, once, and return its name.

    Raises:
        DataError: If the file has fewer than two rows.
    """
    rows = _rows(train_file)
    if len(rows) < 2:
        raise DataError(f"{train_file} has {len(rows)} rows; expected at least two, to be divided into halves.")
    out = folder / f"{train_file.stem}.second_half.jsonl"
    content = b"".join(row + b"\n" for row in rows[half_of(len(rows)) :])
    if not out.is_file() or out.read_bytes() != content:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(out, content.decode("utf-8"))
    return out


def half_of(num_rows: int) -> int:
    """Return how many rows are the first half."""
    return num_rows // 2


def train_base(files: Settings, folder: Path, changes: Settings | None = None, *, progress: bool = False) -> Path:
    """Train the base on the first half of `train_file`, where it is missing; return the folder of its model.

    Args:
        files: train_file and test_file, whole.
        folder: The base's run.
        changes: Settings over those of `BASE`.
        progress: Show progress bars.
    """
    settings = BASE | files | {"max_train_rows": half_of(len(_rows(Path(files["train_file"]))))} | (changes or {})
    if not (folder / "DONE").is_file():
        logger.info("base   the model that runs start from, trained on the first half of the rows")
    train_run(read_run(settings), BASE_SEED, folder, progress=progress)
    return folder / "model"


def _rows(file: Path) -> list[bytes]:
    """Return the lines of a file that are rows; a blank one is none, and U+2028 within a text ends none."""
    return [line for line in file.read_bytes().split(b"\n") if line.strip()]
