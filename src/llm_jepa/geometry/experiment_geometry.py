"""The geometry of an experiment, from the embeddings that its runs kept: no model is loaded.

It measures what `analyze` does (`runs_geometry.py`), but on fewer pairs, one seed per arm, only the side that the
objective compares, and without the linear map. So a report has it within seconds, on any machine.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_jepa.errors import DataError
from llm_jepa.evaluation.kept_embeddings import StoredEmbeddings
from llm_jepa.runs.folder import ExperimentFolder, RunFolder, run_name

from .runs_geometry import SCHEMA, Geometry, collapse_note
from .view_geometry import view_geometry

logger = logging.getLogger(__name__)

MAP_PAIRS = 150
"""Pairs in the map (our choice). A page has the texts of each pair, and stays below a megabyte with nine arms."""


def stored_geometry(folder: Path, arms: Sequence[str], seeds: Sequence[int | str]) -> Geometry | None:
    """Measure the geometry of one seed's runs: the first of the seeds for which most arms have embeddings.

    Args:
        folder: The experiment's folder.
        arms: Arms, in the order to show them.
        seeds: Seeds, the preferred one first.

    Returns:
        What geometry.json holds (docs/geometry.md), with arms instead of runs, and with `run_seed` and `arms`; `sides`
        has only the side that was kept. None if no run kept embeddings of enough pairs. A damaged file counts as
        missing, with a warning.
    """
    kept: dict[str, StoredEmbeddings] = {}
    run_seed: int | str | None = None
    for seed in seeds:
        found = {arm: each for arm in arms if (each := _read(ExperimentFolder(folder).run(arm, seed))) is not None}
        if len(found) > len(kept):
            kept, run_seed = found, seed
    runs, notes = _runs(kept, folder, run_seed)
    if not runs:
        return None
    first = kept[next(iter(runs))]
    found_first: dict[str, Any] = next(iter(next(iter(runs.values()))["sides"].values()))
    return {
        "schema": SCHEMA,
        "split": first.split,
        "file": first.file,
        "num_rows": first.num_rows,
        "num_pairs": found_first["num_pairs"],
        "num_codes": found_first["num_codes"],
        "precision": "states as the runs made them, kept in float32, float64 algebra",
        "reading": "training",
        "ridge": 0.0,
        "seed": 0,
        "run_seed": run_seed,
        "arms": list(arms),
        "notes": notes,
        "mapped_pairs": [first.pairs[place] for place in found_first["embedding_map"]["places"]],
        "runs": runs,
    }


def _read(run: RunFolder) -> StoredEmbeddings | None:
    try:
        return StoredEmbeddings.read(run.embeddings_file)
    except DataError as error:  # only a picture is missing then; the comparison does not need it
        logger.warning("%s", error)
        return None


def _runs(kept: Mapping[str, StoredEmbeddings], folder: Path, seed: object) -> tuple[dict[str, Any], list[str]]:
    """Return what geometry.json holds of each run, and notes; a run with other pairs than the first is left out."""
    runs: dict[str, Any] = {}
    notes: list[str] = []
    pairs: list[dict[str, str]] | None = None
    for arm, each in kept.items():
        if pairs is not None and each.pairs != pairs:
            notes.append(f"{arm} is left out: it kept embeddings of other pairs than {next(iter(runs))}.")
            continue
        try:
            found = view_geometry(each.text_pred, each.code_emb, each.code_groups, map_pairs=MAP_PAIRS, fits_map=False)
        except ValueError as error:
            notes.append(f"{arm}: {error}")
            continue
        pairs = each.pairs
        side = {"views": each.views} | asdict(found)
        runs[arm] = {"folder": run_name(arm, seed), "num_dims": found.num_dims, "sides": {each.side: side}}
        if found.looks_collapsed:
            notes.append(collapse_note(arm, side))
    return runs, notes
