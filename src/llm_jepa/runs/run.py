"""One run: one arm with one seed, from its settings to its folder, which has all results (`folder.py`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_jepa.data.context import Context
from llm_jepa.data.generated_files import with_files
from llm_jepa.data.prepare import LoadedData
from llm_jepa.evaluation.evaluate import evaluate, score_retrieval
from llm_jepa.evaluation.kept_embeddings import StoredEmbeddings
from llm_jepa.processes import is_main, join, on_main
from llm_jepa.progress import recorded
from llm_jepa.training.checkpoints import find_newest
from llm_jepa.training.models import num_parameters
from llm_jepa.training.resume import digest_tokenizer
from llm_jepa.training.saving import save_jepa
from llm_jepa.training.stopping import StopRequest
from llm_jepa.training.trainer import JEPATrainer

from .build_trainer import build_trainer, check_answers, evaluation_settings
from .claim import check_folder, claim_folder
from .cost import step_flops, steps_time
from .data_files_unchanged import DataWatch
from .environment import describe_environment
from .folder import RunFolder, add_scores
from .locks import sole_trainer
from .pseudo_labels import TEACHER_COST, pseudo_labels
from .rewrite_first import answer_rewritten
from .settings import RunConfig, Settings
from .step_flops import count_step_flops
from .trained_run import context_of

logger = logging.getLogger(__name__)


def train_run(run: RunConfig, seed: int, folder: Path, *, progress: bool = False) -> dict[str, Any]:
    """Train, evaluate and save one run in `folder`; return what its eval.json holds.

    If the run is already done, its results are read, and nothing is run again. If it was interrupted, it continues from
    its newest complete checkpoint (from `save_steps`, or saved at a signal), or starts again if it has none.

    With `torchrun` or `accelerate launch`, every process calls this with the same arguments. They train together and
    divide the scoring among them. Only rank 0 writes the folder, but all processes must be able to read it.

    Args:
        seed: Seed of the weights, of the order of rows and of dropout.
        progress: Draw the progress on standard error. Without it, the progress is logged every 30 seconds.

    Raises:
        ConfigError: If the folder has a run with other settings, or the settings do not work together.
        DataError: If the data is not as the settings say.
    """
    run.plugins.load()  # this may be a process of its own
    files = RunFolder(folder)
    join(use_cpu=bool(run.training.get("use_cpu")))
    with ExitStack() as held:
        on_main(held.enter_context, _sole_run(files, run.settings | {"seed": seed}))
        if not on_main(lambda: files.is_done):
            with recorded(files.progress_file) if is_main() else nullcontext():
                _train_claimed(run, seed, files, progress=progress and is_main())
        return on_main(files.evaluation)


@contextmanager
def _sole_run(folder: RunFolder, settings: Settings) -> Iterator[None]:
    """Claim a run's folder, and let no other process train in it for the duration of the block."""
    check_folder(folder, settings)
    folder.path.mkdir(parents=True, exist_ok=True)
    with sole_trainer(folder.path):
        claim_folder(folder, settings)
        yield


def _train_claimed(run: RunConfig, seed: int, folder: RunFolder, *, progress: bool) -> None:
    started_s = time.perf_counter()
    on_main(lambda: folder.write_environment(describe_environment()))
    run = replace(run, data=on_main(with_files, run.data, folder.generated))
    if run.teacher.rewrite_first:
        answer_rewritten(run, seed, folder, progress=progress)
        return
    files = [*run.data.train_files, run.data.validation_file, *run.data.tests.values(), run.data.views_file]
    watch = DataWatch([*files, run.evaluation.databases, *run.plugins.files])
    labels = pseudo_labels(run, seed, folder, progress=progress)
    trainer, data = build_trainer(run, seed, folder.path, progress=progress, labels=labels)
    data.notes += check_answers(run, data)
    context = _context(data)
    if labels is not None:
        data.summary["pseudo_labels"] = labels.summary
    seen = {
        "summary": data.summary,
        "notes": data.notes,
        "sha256": watch.sha256,
        "max_new_tokens": evaluation_settings(run, data).max_new_tokens,
        "tokenizer_sha256": digest_tokenizer(data.tokenizer),
        "context": context.to_dict(),
    }
    on_main(folder.write_data, seen)
    stop = StopRequest()
    trainer.add_callback(stop)
    trainer.add_callback(watch)
    trainer.preparation_time_s = time.perf_counter() - started_s
    with stop.listening():  # at a signal, training saves a checkpoint after its step, and this function ends
        trainer.train(resume_from_checkpoint=on_main(find_newest, folder.path))
    watch.check()
    _finish(trainer, data, run, folder, progress=progress)


def _finish(trainer: JEPATrainer, data: LoadedData, run: RunConfig, folder: RunFolder, *, progress: bool) -> None:
    """Evaluate a trained run, save its model, and mark it as done."""
    training_time_s, started_s = trainer.training_time_s, time.perf_counter()
    settings = evaluation_settings(run, data)
    trainer.jepa.eval()
    report: dict[str, Any] = {"seed": trainer.args.seed, "num_steps": trainer.state.global_step}
    report["training_time_s"] = training_time_s
    report |= _validation_scores(trainer)
    for place, (name, rows) in enumerate(data.tests.items()):
        test_set = None if place == 0 else name
        metrics, records = evaluate(trainer.jepa, data.encoder, rows, settings, progress=progress)
        add_scores(report, metrics, test_set)
        on_main(folder.write_predictions, records, test_set)
    if len(data.views_validation):
        report["views_retrieval"] = score_retrieval(trainer.jepa, data.views_validation, data.encoder.pad_id)
    _keep_embeddings(trainer, data, run, folder)
    cost: dict[str, Any] = {**trainer.step_timer.summary(), "flops_per_step": count_step_flops(trainer)}
    report["cost"] = cost
    if run.jepa.has_term and run.jepa.jepa_loss_dropout:
        cost["flops_per_dropped_step"] = count_step_flops(trainer, dropped=True)
    cost["batches_per_step"] = trainer.batches_per_step
    cost["training_flops"] = report["num_steps"] * (step_flops(run, cost) or 0.0)
    cost["training_steps_time_s"] = steps_time(run, report)
    if labels := data.summary.get("pseudo_labels"):
        cost["teacher"] = {key: labels[key] for key in TEACHER_COST}
    report["alarm"] = trainer.alarm.summary() if run.jepa.uses_views and trainer.alarm.could_alarm else None
    report["num_parameters"] = num_parameters(trainer.jepa.model)
    report["num_trained_parameters"] = num_parameters(trainer.jepa, trained=True)  # [PRED] among them
    save_jepa(trainer.jepa, folder.model, data.tokenizer, max_shard_size=trainer.args.max_shard_size)
    report["evaluation_time_s"] = time.perf_counter() - started_s
    report["total_time_s"] = trainer.preparation_time_s + training_time_s + report["evaluation_time_s"]
    on_main(folder.write_evaluation, report)
    on_main(folder.mark_done)


def _context(data: LoadedData) -> Context:
    """Return what all training rows have around a question, and note validation and test rows that differ."""
    context = context_of(data.train.examples, data.encoder)
    for name, rows in (("validation", data.validation), *data.tests.items()):
        if not len(rows):
            continue
        for difference in context.differences(context_of(rows.examples, data.encoder), f"{name} rows"):
            data.notes.append(difference)
            logger.warning(difference)
    return context


def _validation_scores(trainer: JEPATrainer) -> dict[str, Any]:
    """Return the validation scores of the saved model, which should be the basis of every choice.

    They are the last ones, or with `load_best_model_at_end` those of the checkpoint that was loaded.
    """
    looks = [line for line in trainer.state.log_history if "eval_ce_loss" in line or "monitor/gap" in line]
    best = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    looks = [line for line in looks if best in (None, line["step"])]
    if not looks:
        return {}
    return {"validation": {key.removeprefix("eval_"): value for key, value in looks[-1].items() if key != "epoch"}}


def _keep_embeddings(trainer: JEPATrainer, data: LoadedData, run: RunConfig, folder: RunFolder) -> None:
    """Keep the embeddings of some held-out pairs of the kind that the JEPA term trains on: test rows or view pairs."""
    rows, split, file = data.test, "test", run.data.test_file
    if len(data.views_validation) and not run.data.task_views:
        rows, split, file = data.views_validation, "held-out view", run.data.views_file
    kept = StoredEmbeddings.of(trainer.jepa, data.encoder, rows, split, file) if file is not None else None
    if kept is not None:
        on_main(kept.write, folder.embeddings_file)
