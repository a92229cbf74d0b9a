"""Generated pairs as files, for an experiment that names no training file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from .config import DataConfig
from .nlrx import generate_splits, write_jsonl


def with_files(config: DataConfig, folder: Path) -> DataConfig:
    """Return settings that name files: as given, or, with `generate_train`, files generated into `folder`.

    The files are a function of the three `generate_*` settings, so they are written once and found again.
    """
    if config.train_file is not None or config.generate_train is None:
        return config
    stem = f"nlrx-{config.generate_train}-{config.generate_test}-{config.generate_seed}"
    train_file, test_file = folder / f"{stem}-train.jsonl", folder / f"{stem}-test.jsonl"
    if not (train_file.is_file() and test_file.is_file()):
        folder.mkdir(parents=True, exist_ok=True)
        train, test = generate_splits(config.generate_train, config.generate_test, config.generate_seed)
        write_jsonl(train, train_file)
        write_jsonl(test, test_file)
    return dataclasses.replace(
        config, train_file=str(train_file), test_file=config.test_file or str(test_file), generate_train=None
    )
