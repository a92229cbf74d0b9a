"""Checks what the runs of an experiment need before the first run begins: data, model, trainer, optimizer.

A run builds these in its own process, perhaps hours later, and a missing package would be found only then. Here each
arm's trainer is built once, without a step (a dry run times two batches). Data and models are loaded once for all arms
that share them.
"""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from llm_jepa.data.prepare import LoadedData, load_data
from llm_jepa.errors import ConfigError
from llm_jepa.evaluation.evaluate import gold_answers
from llm_jepa.runs.build_trainer import Models, build_trainer, check_answers, pretrained_tokenizer
from llm_jepa.runs.rewrite_first import check_can_rewrite
from llm_jepa.runs.settings import RunConfig, naming_settings
from llm_jepa.runs.trained_run import context_of
from llm_jepa.standard_error import only_errors

from .estimates import Estimate, estimate
from .experiment import naming_arm


def rehearse(
    runs: Mapping[str, RunConfig],
    seed: int,
    loaded: tuple[RunConfig, LoadedData],
    estimates: dict[str, Estimate] | None = None,
) -> list[str]:
    """Build the trainer of each run once, and check that it works; nothing is written or trained.

    Args:
        runs: The settings of each arm, or cell of one.
        seed: A seed that the runs will have.
        loaded: One of the runs, with its data, which is loaded already.
        estimates: If given, it is filled with what the training of each arm will take; two batches are timed.

    Returns:
        Notes on gold answers that a scorer cannot decide.

    Raises:
        ConfigError, DataError: If settings, data, model or machine do not work together. The text names the arm.
    """
    key, data = _data_key(loaded[0]), loaded[1]
    distinct: dict[str, str] = {}  # one arm of each group that needs only one check
    for arm, run in runs.items():
        distinct.setdefault(_key(run), arm)
    in_order = sorted(distinct.values(), key=lambda arm: (_data_key(runs[arm]) != key, _data_key(runs[arm])))
    models, notes, by_key = Models(), [], dict[str, Estimate]()
    with only_errors(), tempfile.TemporaryDirectory(prefix="llm-jepa-") as folder:
        for arm in in_order:
            run = runs[arm]
            with naming_arm(arm):
                if _data_key(run) != key:
                    data, key = load_data(run.data, run.jepa, pretrained_tokenizer(run)), _data_key(run)
                    _check_same_answers(data, loaded[1])
                notes += check_answers(run, data)
                if run.teacher.rewrite_first:  # it trains nothing
                    check_can_rewrite(context_of(data.train.examples, data.encoder))
                    continue
                # It is built without the labels of a teacher.
                trainer, _ = build_trainer(run, seed, Path(folder), data=replace(data, notes=[]), models=models)
                with naming_settings(run):
                    trainer.get_train_dataloader()
                if estimates is not None:
                    by_key[_key(run)] = estimate(trainer, run)
    if estimates is not None:
        estimates |= {arm: by_key[_key(run)] for arm, run in runs.items() if _key(run) in by_key}
    models.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return list(dict.fromkeys(notes))


def _check_same_answers(data: LoadedData, first: LoadedData) -> None:
    """Make sure that each test row has the same question and answer as in the first arm.

    Another column, or another place at which rows of one text are split, would make another task of the same file.
    """
    for name, rows in data.tests.items():
        ours, theirs = (
            list(zip([example.text for example in rows.examples], gold_answers(each.encoder, rows), strict=True))
            for each, rows in ((data, rows), (first, first.tests[name]))
        )
        if ours != theirs:
            pairs = enumerate(zip_longest(theirs, ours, fillvalue="no row"), start=1)
            row, (other, own) = next((row, both) for row, both in pairs if both[0] != both[1])
            text = f"Test row {row} of {name} (text, answer) is {other} in the first arm and {own} here."
            hint = "All arms must have the same test rows: set columns, jepa_split and limits on rows once, outside of"
            raise ConfigError("test_rows_differ", f"{text} {hint} arms.")


def _key(run: RunConfig) -> str:
    """Return a key that is equal for two runs of one check; of rates and weights it has only whether they are 0."""
    training = dict(run.training)
    if not training.get("lr_scheduler_kwargs"):
        training |= {name: bool(training[name]) for name in ("learning_rate", "weight_decay") if name in training}
    objective = {name: bool(value) if isinstance(value, float) else value for name, value in asdict(run.jepa).items()}
    parts = [asdict(each) for each in (run.data, run.model, run.adapter, run.evaluation)]
    return json.dumps([*parts, objective, training, run.teacher.rewrite_first], sort_keys=True, default=str)


def _data_key(run: RunConfig) -> str:
    """Return a key that is equal for two runs that read the same data."""
    jepa = run.jepa
    settings: list[Any] = [asdict(replace(run.data, shuffle_views=False))]
    settings += [run.model.model_name_or_path, run.model.model_revision, run.model.gguf_file]
    settings += [jepa.jepa_split, jepa.jepa_views, jepa.train_end_token]
    return json.dumps([*settings, jepa.has_term, jepa.uses_views], sort_keys=True, default=str)
