"""The geometry of finished runs, side by side on the same pairs: what geometry.json holds.

    RUN, RUN, ... ──▶ the pairs of a split or a file, the same for all     runs/trained_run.py
                  ──▶ both views as vectors, in float32                    training/view_embeddings.py
                  ──▶ numbers and maps                                     view_geometry.py
                  ──▶ one dict, as geometry.json holds it                  geometry_tables.py writes it

`enc` compares Enc(Text) with Enc(Code). `pred` compares the prediction with its target, as the run was trained; a run
without predictions (jepa_lambda 0, jepa_k 0) has no `pred`.

For the report of an experiment, `stored_geometry` measures the embeddings that its runs kept, so that no model is
loaded: on fewer pairs, one seed per arm, only the side that the objective compares, and without the linear map.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llm_jepa.data.encoded_pairs import EncodedPairs
from llm_jepa.data.prepare import load_data, load_rows
from llm_jepa.errors import ConfigError, DataError
from llm_jepa.evaluation.evaluate import view_texts
from llm_jepa.evaluation.kept_embeddings import StoredEmbeddings, has_prediction, words_for
from llm_jepa.objective import Pair
from llm_jepa.progress import tracked
from llm_jepa.runs.folder import ExperimentFolder, RunFolder, run_name
from llm_jepa.runs.trained_run import TrainedRun, load_run
from llm_jepa.training.view_embeddings import view_embeddings

from .view_geometry import MIN_PAIRS, view_geometry

logger = logging.getLogger(__name__)

SPLITS = ("test", "validation", "train")
READINGS = ("training", "published")
MOST_PAIRS = 2000  # pairs that are measured by default: as many as NL-RX-SYNTH has test rows (our choice)

STORED_MAP_PAIRS = 150
"""Pairs in an experiment's map (our choice). A page has their texts, and stays below a megabyte with nine arms."""

SCHEMA = 1  # of geometry.json: raised when a key changes its meaning

Geometry = dict[str, Any]


@dataclass(frozen=True)
class AnalysisConfig:
    """What is measured, and how.

    Attributes:
        file: A file of rows; None for a split of the runs' own data.
        split: One of `SPLITS`, if no file is named.
        num_pairs: Most pairs to take: drawn by `seed`, kept in the order of the file.
        reading: `training`: where the run's objective reads the views. `published`: without [PRED], at the last
            token between a view and an answer, as in the published code (docs/geometry.md).
        ridge: Of the linear map.
        seed: Used to draw pairs, to shuffle them, to choose the parts held out, and for t-SNE.

    Raises:
        ConfigError: If a value is out of its range.
    """

    file: str | None = None
    split: str = "test"
    num_pairs: int = MOST_PAIRS
    reading: str = "training"
    ridge: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS or self.reading not in READINGS:
            raise ConfigError(
                "value_not_allowed",
                f"split={self.split!r}, reading={self.reading!r}: expected one of {', '.join(SPLITS)}, and one of "
                f"{', '.join(READINGS)}.",
            )
        if self.num_pairs < MIN_PAIRS:
            raise ConfigError("value_out_of_range", f"num={self.num_pairs}: expected at least {MIN_PAIRS} pairs.")
        if not 0 <= self.ridge < float("inf"):
            raise ConfigError("value_out_of_range", f"ridge={self.ridge}: expected a finite number, 0 or more.")
        if not 0 <= self.seed < 2**32:
            text = f"seed={self.seed}: expected a whole number from 0 to 2**32 - 1."
            raise ConfigError("value_out_of_range", text)


@dataclass
class _Rows:
    """The pairs that a run reads, drawn from `num_rows` rows with a JEPA term, and their words."""

    file: str
    pairs: list[Pair]
    sources: list[str]
    words: list[tuple[str, str]]
    num_rows: int
    num_dropped: int


def analyze_runs(folders: Sequence[Path], config: AnalysisConfig) -> Geometry:
    """Measure the geometry of finished runs on the same pairs; return what geometry.json holds.

    Models are loaded one after the other and run in float32.

    Raises:
        ConfigError: If a folder is not a finished run, is named twice, or has no such split; or if the runs do not
            read the same pairs.
        DataError: If the rows cannot be read, or are too few.
    """
    names = run_names(folders)
    runs: dict[str, Any] = {}
    first: _Rows | None = None
    for name, folder in tracked(list(zip(names, folders, strict=True)), "analyze", "runs"):
        run = load_run(folder)
        rows = _read_rows(run, config)
        first = first or rows
        _check_same(names[0], first, name, rows)
        logger.info("%s   %d pairs", name, len(rows.pairs))
        runs[name] = _analyze(run, rows, config)
    assert first is not None
    about = {"split": None if config.file else config.split, "file": first.file, "num_rows": first.num_rows}
    how: dict[str, Any] = {"precision": "float32 models, float64 algebra", "reading": config.reading}
    how |= {"ridge": config.ridge, "seed": config.seed, "notes": _notes(runs, first, config)}
    words = zip(first.sources, first.words, strict=True)
    pairs = [{"source": source, "text": text, "code": code} for source, (text, code) in words]
    return _record(runs, pairs, about, how)


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
        found = {arm: each for arm in arms if (each := _kept(ExperimentFolder(folder).run(arm, seed))) is not None}
        if len(found) > len(kept):
            kept, run_seed = found, seed
    runs, notes = _stored_runs(kept, run_seed)
    if not runs:
        return None
    first = kept[next(iter(runs))]
    about = {"split": first.split, "file": first.file, "num_rows": first.num_rows}
    how: dict[str, Any] = {"precision": "states as the runs made them, kept in float32, float64 algebra"}
    how |= {"reading": "training", "ridge": 0.0, "seed": 0, "notes": notes}
    return _record(runs, first.pairs, about, how) | {"run_seed": run_seed, "arms": list(arms)}


def _record(
    runs: dict[str, Any], pairs: Sequence[dict[str, str]], about: dict[str, Any], how: dict[str, Any]
) -> Geometry:
    """Return what geometry.json holds: `about` the rows, `how` they were measured, the pairs of the map, the runs."""
    first = next(iter(next(iter(runs.values()))["sides"].values()))
    counts = {key: first[key] for key in ("num_pairs", "num_codes")}
    mapped = [pairs[place] for place in first["embedding_map"]["places"]]
    return {"schema": SCHEMA, **about, **counts, **how, "mapped_pairs": mapped, "runs": runs}


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each run: the end of its path, just long enough to differ from the others.

    >>> run_names([Path("a/ntp-s82"), Path("a/jepa-s82")]), run_names([Path("a/jepa-s82"), Path("b/jepa-s82")])
    (['ntp-s82', 'jepa-s82'], ['a/jepa-s82', 'b/jepa-s82'])

    Raises:
        ConfigError: If no folder is given, or one twice.
    """
    parts = [folder.resolve().parts for folder in folders]
    for place, each in enumerate(parts):
        if each in parts[:place]:
            raise ConfigError("run_repeated", f"{folders[place]} is given twice. Name each run once.")
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError("run_missing", "No run is given. Name the folder of a finished run, such as OUT/jepa-s82.")


def _read_rows(run: TrainedRun, config: AnalysisConfig) -> _Rows:
    """Read the pairs that are measured, as this run encodes them."""
    file, rows = _all_rows(run, config)
    chosen = [place for place, pair in enumerate(rows.pairs) if pair.use_jepa]
    num_rows = len(chosen)
    if not num_rows:
        raise DataError(
            "no_jepa_rows",
            f"None of the {len(rows):,} rows of {file} has a JEPA term (use_jepa is false in all), so there is no view "
            "to measure. Use rows without use_jepa, or with use_jepa: true.",
        )
    if num_rows > config.num_pairs:
        drawn = torch.randperm(num_rows, generator=torch.Generator().manual_seed(config.seed))[: config.num_pairs]
        chosen = [chosen[place] for place in sorted(drawn.tolist())]
    pairs, examples = [rows.pairs[place] for place in chosen], [rows.examples[place] for place in chosen]
    words = view_texts(run.encoder, EncodedPairs(pairs, examples))
    if config.reading == "published":
        pairs = [_up_to_the_answer(pair) for pair in pairs]
    sources = [example.source for example in examples]
    return _Rows(file, pairs, sources, words, num_rows, rows.rows_in - num_rows)


def _all_rows(run: TrainedRun, config: AnalysisConfig) -> tuple[str, EncodedPairs]:
    if config.file is not None:
        return config.file, run.rows(config.file)
    if config.split == "test":
        file = run.test_file()
        return file, load_rows(file, run.encoder, limit=run.data.max_test_rows)
    data = run.data_with_files()
    loaded = load_data(data, run.jepa.config, run.encoder.tokenizer)
    rows = loaded.validation if config.split == "validation" else loaded.train
    if not len(rows):
        text = f"{run.folder} has no {config.split} rows. Name a file with --data, or another --split."
        raise ConfigError("split_missing", text)
    train = ", ".join(data.train_files)
    return data.validation_file or train if config.split == "validation" else train, rows


def _up_to_the_answer(pair: Pair) -> Pair:
    """Return the pair with each view followed by its row's bridge, whose last token is the one before an answer."""
    if not pair.bridge_ids:
        raise ConfigError(
            "view_not_readable",
            f"{pair.source}: there is no token between the views, where --view published reads them. Leave out "
            "--view published for rows of one text.",
        )
    bridge = pair.bridge_ids
    return replace(pair, text_view_ids=pair.text_view + bridge, code_view_ids=pair.code_view + bridge)


def _check_same(name: str, rows: _Rows, other: str, others: _Rows) -> None:
    if rows.words == others.words:
        return
    both = zip(rows.words, others.words, rows.sources, others.sources, strict=False)
    places = (f", first in {mine} and {theirs}" for one, another, mine, theirs in both if one != another)
    where = next(places, "")
    raise ConfigError(
        "data_differs",
        f"{name} reads {len(rows.words):,} pairs of {rows.file}, {other} {len(others.words):,} of {others.file}, and "
        f"these are not the same pairs{where}. Their numbers cannot be compared. Name one file for all runs with "
        "--data, or analyze each run by itself.",
    )


def _analyze(run: TrainedRun, rows: _Rows, config: AnalysisConfig) -> Geometry:
    run.jepa.float()
    objective = run.jepa.config
    embedded = {"enc": view_embeddings(run.jepa, rows.pairs, run.encoder.pad_id, with_pred=False)}
    if has_prediction(objective) and config.reading == "training":
        embedded["pred"] = view_embeddings(run.jepa, rows.pairs, run.encoder.pad_id)
    sides = {}
    for side, each in embedded.items():
        views = (each.text_pred, each.code_emb, each.code_groups)
        try:
            found = view_geometry(*views, ridge=config.ridge, seed=config.seed)
        except DataError as error:
            raise DataError(error.code, f"{run.folder}: {error}") from error
        sides[side] = {"views": words_for(side, objective)} | asdict(found)
    num_dims = embedded["enc"].text_pred.shape[1]
    return {"folder": str(run.folder), "objective": objective.to_dict(), "num_dims": num_dims, "sides": sides}


def _notes(runs: dict[str, Any], rows: _Rows, config: AnalysisConfig) -> list[str]:
    """Return what a reader of the numbers must know."""
    notes = []
    if rows.num_rows > len(rows.pairs):
        drawn = f"{len(rows.pairs):,} of {rows.num_rows:,} pairs were drawn"
        notes.append(f"{drawn}, seed {config.seed}; take more with --num.")
    if rows.num_dropped:
        notes.append(f"Rows of {rows.file} without a pair or a JEPA term, left out: {rows.num_dropped:,}.")
    dims = {name: run["num_dims"] for name, run in runs.items()}
    if len(set(dims.values())) > 1:
        sizes = ", ".join(f"{name} {size}" for name, size in dims.items())
        notes.append(
            f"The hidden sizes differ ({sizes}): raw and centred singular values, ranks and the map's errors depend on "
            "them. What can be compared: cosines, retrieval, and row-normalised values."
        )
    if len({run["objective"]["jepa_views"] for run in runs.values()}) > 1:
        notes.append("The runs differ in jepa_views: they read the same words in different contexts.")
    reasons: dict[str, list[str]] = {}
    for name, run in runs.items():
        for side, found in run["sides"].items():
            if found["looks_collapsed"]:
                notes.append(_collapse_note(f"{name}, {side}", found))
            if found["linear_map"]["reason"]:
                reasons.setdefault(found["linear_map"]["reason"], []).append(f"{name} {side}")
    notes += [f"Linear map of {', '.join(where)}: {reason}" for reason, where in reasons.items()]
    return notes


def _kept(run: RunFolder) -> StoredEmbeddings | None:
    try:
        return StoredEmbeddings.read(run.embeddings_file)
    except DataError as error:  # only a picture is missing then; the comparison does not need it
        logger.warning("%s", error)
        return None


def _stored_runs(kept: Mapping[str, StoredEmbeddings], seed: object) -> tuple[dict[str, Any], list[str]]:
    """Return what geometry.json holds of each run, and notes; a run with other pairs than the first is left out."""
    runs: dict[str, Any] = {}
    notes: list[str] = []
    for arm, each in kept.items():
        if runs and each.pairs != kept[next(iter(runs))].pairs:
            notes.append(f"{arm} is left out: it kept embeddings of other pairs than {next(iter(runs))}.")
            continue
        try:
            found = view_geometry(
                each.text_pred, each.code_emb, each.code_groups, map_pairs=STORED_MAP_PAIRS, fits_map=False
            )
        except ValueError as error:
            notes.append(f"{arm}: {error}")
            continue
        side = {"views": each.views} | asdict(found)
        runs[arm] = {"folder": run_name(arm, seed), "num_dims": found.num_dims, "sides": {each.side: side}}
        if found.looks_collapsed:
            notes.append(_collapse_note(arm, side))
    return runs, notes


def _collapse_note(where: str, found: Mapping[str, Any]) -> str:
    """Return a note that a run's views look collapsed, so that numbers that look good do not mean success."""
    matched, gap = (found["monitors"][key] for key in ("matched_cosine", "gap"))
    return (
        f"{where}: looks collapsed. Matching views are close (cosine {matched:.3f}), but so are other views (gap "
        f"{gap:z.3f}). A small A - B or a small error is no success there."
    )
