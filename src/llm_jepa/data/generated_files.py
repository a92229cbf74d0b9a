"""Generated pairs as files, for an experiment that names no training file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from llm_jepa.files import write_json_lines

from .config import BOTH, GENERATED_TESTS, DataConfig
from .nlrx import generate_transfer


def with_files(config: DataConfig, folder: Path) -> DataConfig:
    """Return settings that name files: the given ones, or, with `generate_train`, files generated into `folder`.

    The files depend only on the `generate_*` settings. They are written once, and used again later.
    """
    if config.train_file is not None or config.generate_train is None:
        return config
    stem = f"nlrx-{config.generate_train}-{config.generate_test}-{config.generate_seed}"
    if config.generate_views is not None or config.generate_test_phrasing != "plain":
        stem += f"-{config.generate_views or 0}-{config.generate_test_phrasing}"
    if config.generate_colloquial_share != 1:
        stem += f"-{config.generate_colloquial_share}"
    if config.generate_validation:
        stem += f"-{config.generate_validation}"
    both = config.generate_test_phrasing == BOTH
    names = ["train", "test"] + (["views"] if config.generate_views is not None else [])
    names += (["validation"] if config.generate_validation else []) + (["test_plain"] if both else [])
    files = {name: str(folder / f"{stem}-{name}.jsonl") for name in names}
    if not all(Path(file).is_file() for file in files.values()):
        folder.mkdir(parents=True, exist_ok=True)
        made = generate_transfer(
            config.generate_train,
            config.generate_views or 0,
            config.generate_test,
            config.generate_seed,
            test_phrasing="colloquial" if both else config.generate_test_phrasing,
            num_validation=config.generate_validation,
            colloquial_share=config.generate_colloquial_share,
        )
        for name, file in files.items():
            write_json_lines(Path(file), map(dataclasses.asdict, made[name]))
    own_tests = dict(zip(GENERATED_TESTS, (files["test"], files["test_plain"]), strict=True)) if both else None
    return dataclasses.replace(
        config,
        train_file=files["train"],
        test_file=config.test_file or files["test"],
        test_files=config.test_files or (None if config.test_file else own_tests),
        views_file=files.get("views", config.views_file),
        validation_file=files.get("validation", config.validation_file),
        generate_train=None,
        generate_views=None,
        generate_validation=0,
        generate_test_phrasing="plain",
        generate_colloquial_share=1.0,
    )
