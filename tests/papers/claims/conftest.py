"""Data of the claims' experiments, small: a folder with sixty training and twelve test pairs under the papers' name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_data(pair_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for --data. Read only."""
    folder = tmp_path_factory.mktemp("claims-data")
    for file, part in zip(pair_files, ("train", "test"), strict=True):
        shutil.copy(file, folder / f"nlrx_synth_{part}.jsonl")
    return folder
