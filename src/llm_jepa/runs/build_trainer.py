"""From the settings of a run to its trainer: data, model, objective, and the arguments of training, all tested."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback, TrainerCallback, set_seed
from transformers.trainer_utils import IntervalStrategy

from llm_jepa.data.encoded_pairs import EncodedPairs
from llm_jepa.data.prepare import LoadedData, load_data
from llm_jepa.data.shuffled_views import about_exchange, shuffle_code_views
from llm_jepa.data.tokenizer import load_tokenizer
from llm_jepa.errors import ConfigError, DataError, nearest
from llm_jepa.evaluation.evaluate import EvaluationConfig, check_golds, know_golds, score_generations
from llm_jepa.objective import LLMJEPA, Pair
from llm_jepa.objective.distances import IN_BATCH
from llm_jepa.objective.pair import share_alike
from llm_jepa.training.arguments import JEPATrainingArguments
from llm_jepa.training.bf16_products import has_bf16_instructions
from llm_jepa.training.gguf_files import about_quantization
from llm_jepa.training.models import (
    build_model,
    check_model_fits,
    check_same_ids,
    find_model,
    load_own_tokenizer,
    num_parameters,
)
from llm_jepa.training.step_log import StepLog
from llm_jepa.training.trainer import JEPATrainer

from .evaluation_points import space_evaluations
from .folder import RunFolder
from .pseudo_labels import PseudoLabels
from .settings import RunConfig, Settings, naming_settings

logger = logging.getLogger(__name__)

# How many rows are compared with each other, and the share of pairs that are alike from which there is a note.
NUM_COMPARED, MANY_ALIKE = 1000, 0.01


class Models(dict[str, nn.Module]):
    """The last model that was built, by its settings, so that trainers that are only tested can share it."""

    def get_or_build(self, key: str, build: Callable[[], nn.Module]) -> nn.Module:
        if key not in self:
            self.clear()
            self[key] = build()
        return self[key]


def build_trainer(
    run: RunConfig,
    seed: int,
    folder: Path,
    *,
    progress: bool = False,
    labels: PseudoLabels | None = None,
    data: LoadedData | None = None,
    models: Models | None = None,
) -> tuple[JEPATrainer, LoadedData]:
    """Load the data, and build the model and the trainer of a run. The seed is set before the weights are initialised.

    Args:
        labels: The labels of its view rows, if it has a teacher.
        data: Its data, if that is already loaded.
        models: Models that can be used again, because their weights do not matter.

    Raises:
        ConfigError: If the settings do not work together, with the data, or on this machine.
        DataError: If the data is not as the settings say.
    """
    if data is None:
        data = load_data(run.data, run.jepa, pretrained_tokenizer(run), label_views=labels)
    train_pairs, view_pairs = _pairs_of(run, data, seed)
    arguments = _arguments(run, seed, folder, data, progress)
    data.notes += [*notes_on(run), *_about_negatives(run, train_pairs, view_pairs)]
    set_seed(seed)
    jepa = _build_jepa(run, data, seed, models)
    # The monitors measure pairs of the kind that the JEPA term trains on.
    monitored = data.validation.pairs if run.data.task_views else data.views_validation.pairs
    data.notes += space_evaluations(
        arguments,
        run,
        num_parameters=num_parameters(jepa.model),
        num_train=len(train_pairs),
        validation=data.validation.pairs,
        monitored=monitored,
    )
    scored = _validation_generations(run, data, jepa)
    with naming_settings(run, "report_to"):
        trainer = JEPATrainer(
            jepa,
            arguments,
            train_pairs,
            data.validation.pairs,
            view_dataset=view_pairs,
            views_ratio=run.data.views_ratio,
            monitor_dataset=None if run.data.task_views else monitored,
            pad_token_id=data.encoder.pad_id,
            processing_class=data.tokenizer,
            extra_metrics=scored,
            callbacks=[MetricsFile(RunFolder(folder))],
        )
    trainer.add_callback(StepLog(lambda: trainer.terms.loss, progress))
    _try_libraries(trainer, run)
    _check_best_metric(trainer, run.evaluation.metric if scored else None)
    trainer.remove_callback(PrinterCallback)  # prints raw dicts to standard output
    trainer.remove_callback(ProgressCallback)
    return trainer, data


def _pairs_of(run: RunConfig, data: LoadedData, seed: int) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """Return the training pairs and the view pairs, for the control with the codes of other pairs."""
    train_pairs, view_pairs = data.train.pairs, data.views.pairs
    if run.data.shuffle_views and run.data.task_views:
        train_pairs = _shuffled(train_pairs, seed, data, "training rows")
    if run.data.shuffle_views and run.data.trains_view_rows:
        view_pairs = _shuffled(view_pairs, seed, data, "view rows")
    return train_pairs, view_pairs


def _try_libraries(trainer: JEPATrainer, run: RunConfig) -> None:
    """Let the libraries refuse now what they would refuse in the first step."""
    with naming_settings(run, "optim", "optim_args", "optim_target_modules"):
        trainer.try_optimizer()
    with naming_settings(run, "lr_scheduler_type", "lr_scheduler_kwargs"):
        trainer.try_schedule()
    with naming_settings(run, "torch_compile", "torch_compile_backend", "torch_compile_mode"):
        trainer.try_compiler()


def _arguments(run: RunConfig, seed: int, folder: Path, data: LoadedData, progress: bool) -> JEPATrainingArguments:
    """Return the arguments of training; refuse what cannot work on this machine, or would train nothing."""
    looks_at = {} if len(data.validation) or len(data.views_validation) else _without_looks(run, data)
    name = "-".join(each for each in (run.training.get("run_name"), folder.name) if each)  # the name for trackers
    with naming_settings(run):
        arguments = run.training_arguments(folder, seed=seed, disable_tqdm=not progress, run_name=name, **looks_at)
    if run.model.attn_implementation == "flex_attention" and arguments.device.type == "cpu":
        text = "attn_implementation=flex_attention has no gradient on a CPU. Set sdpa or eager, or use a GPU."
        raise ConfigError("device_not_capable", text)
    if arguments.learning_rate == 0:
        raise ConfigError("value_out_of_range", "learning_rate=0 trains nothing. Set it above 0.")
    return arguments


def _check_best_metric(trainer: JEPATrainer, scored: str | None) -> None:
    """Make sure that each validation step measures the metric that selects checkpoints or sets the learning rate."""
    wanted = trainer.args.metric_for_best_model
    if wanted is None or trainer.args.eval_strategy == IntervalStrategy.NO:
        return
    monitored = trainer.monitor_pairs[: trainer.args.monitor_pairs]
    has_term = trainer.jepa.config.uses_views and any(pair.use_jepa for pair in monitored)
    measured = ["ce_loss"] if trainer.eval_pairs else []
    measured += ["jepa_loss"] if has_term else []
    measured += [scored] if scored else []
    if wanted.removeprefix("eval_") not in measured:
        raise ConfigError(
            "value_not_allowed",
            f"metric_for_best_model={wanted!r} is not measured on validation rows in this run. Set it to one of: "
            f"{', '.join(measured)}.{nearest(wanted, measured)}",
        )


def _shuffled(pairs: Sequence[Pair], seed: int, data: LoadedData, rows: str) -> Sequence[Pair]:
    """Return the pairs of the shuffled control; notes on what weakens it are added to the data."""
    try:
        shuffled = shuffle_code_views(pairs, seed)
    except DataError as error:
        if error.code != "codes_all_equal":  # a row of a large file that has changed
            raise
        raise DataError(error.code, f"{error} All {rows} with a JEPA term have the same code.") from error
    notes = about_exchange(pairs, shuffled, rows)
    for note in notes:
        logger.info(note)
    data.notes += notes
    return shuffled


def _about_negatives(run: RunConfig, train_pairs: Sequence[Pair], view_pairs: Sequence[Pair]) -> list[str]:
    """Note how many of InfoNCE's negatives are left out because pairs are alike, if it is more than MANY_ALIKE."""
    if not run.jepa.has_term or run.jepa.jepa_distance not in IN_BATCH:
        return []
    notes = []
    kinds = [("training rows", train_pairs)] if run.data.task_views else []
    kinds += [("view rows", view_pairs)] if run.data.trains_view_rows else []
    for rows, pairs in kinds:
        places = random.Random(0).sample(range(len(pairs)), min(len(pairs), NUM_COMPARED))
        share = share_alike([pair for place in places if (pair := pairs[place]).use_jepa])
        if share > MANY_ALIKE:
            notes.append(
                f"jepa_distance={run.jepa.jepa_distance}: two {rows} have equal codes, equal texts or one group in "
                f"{share:.0%} of cases. They are no negatives of each other."
            )
    return notes


def notes_on(run: RunConfig) -> list[str]:
    """Return notes on settings whose effect a reader of the run may not expect."""
    notes: list[str] = []
    if run.model.gguf_file:
        notes += about_quantization(Path(find_model(run.model)) / run.model.gguf_file)
    if run.model.weights_dtype == "bf16" and not torch.cuda.is_available() and not has_bf16_instructions():
        notes.append(
            "weights_dtype is bf16, but this processor has no bf16 instructions. So products are computed in float32 "
            "and rounded."
        )
    return notes


def _without_looks(run: RunConfig, data: LoadedData) -> Settings:
    """Return the training settings of a run without validation rows, and add a note on that to its data."""
    if run.training.get("load_best_model_at_end"):
        text = "load_best_model_at_end needs validation rows. Set validation_size above 0, or name a validation_file."
        raise ConfigError("no_validation_rows", text)
    data.notes.append("No validation rows: there is no evaluation during training (eval_strategy: no).")
    logger.info(data.notes[-1])
    return {"eval_strategy": "no"}


def pretrained_tokenizer(run: RunConfig) -> PreTrainedTokenizerBase | None:
    """Return the pretrained tokenizer of a run; None if `load_data` trains one on the rows."""
    name = run.data.tokenizer_name_or_path
    if not run.model.model_name_or_path:
        return None
    if not name:
        return load_own_tokenizer(run.model)
    tokenizer = load_tokenizer(name)
    check_same_ids(run.model, tokenizer, name)
    return tokenizer


def _build_jepa(run: RunConfig, data: LoadedData, seed: int, models: Models | None = None) -> LLMJEPA:
    splits = (data.train, data.validation, *data.tests.values(), data.views, data.views_validation)
    longest = max(split.facts.longest for split in splits)
    ids = {"end_id": data.encoder.end_ids[0], "pad_id": data.encoder.pad_id}
    use_cpu = bool(run.training.get("use_cpu"))

    def build() -> nn.Module:
        return build_model(run.model, data.tokenizer, run.adapter, **ids, use_cpu=use_cpu)

    with naming_settings(run):
        key = repr((run.model, run.adapter, ids, use_cpu, len(data.tokenizer)))
        model = build() if models is None else models.get_or_build(key, build)
        check_model_fits(model, data.tokenizer, max_length=longest, jepa_k=run.jepa.jepa_k)
        jepa = LLMJEPA(model, run.jepa, seed=seed)
    if run.adapter.quantization != "none":  # [PRED] would be in bfloat16, in which most of its updates are lost
        jepa.predictor.float()
    return jepa


def evaluation_settings(run: RunConfig, data: LoadedData) -> EvaluationConfig:
    """Set max_new_tokens if it is missing: the longest training answer plus 16, to see if a model does not stop."""
    if run.evaluation.max_new_tokens is not None:
        return run.evaluation
    return replace(run.evaluation, max_new_tokens=data.train.facts.longest_code + 16)


def check_answers(run: RunConfig, data: LoadedData) -> list[str]:
    """Return notes on gold answers, to test rows and validation rows, that cannot be used.

    It is a DataError if a scorer can use none of the gold answers.
    """
    settings = evaluation_settings(run, data)
    notes = [note for name, each in data.tests.items() for note in check_golds(data.encoder, each, settings, name)]
    rows = _answered_rows(run, data)
    if not len(rows) or run.training.get("eval_strategy") == "no":
        return notes
    known = know_golds(data.encoder, data.validation, settings)
    try:
        return notes + check_golds(data.encoder, rows, settings, "validation", known)
    except DataError as error:
        text = f"{str(error).rstrip('.')}. Or generate no answers to validation rows, with validation_generations: 0."
        raise DataError(error.code, text) from error


def _answered_rows(run: RunConfig, data: LoadedData) -> EncodedPairs:
    """Return the validation rows that are answered during training: the first ones."""
    count = run.evaluation.validation_generations
    return EncodedPairs(data.validation.pairs[:count], data.validation.examples[:count])


def _validation_generations(run: RunConfig, data: LoadedData, jepa: LLMJEPA) -> Callable[[], dict[str, float]] | None:
    """Return a function that scores answers to the first validation rows, for evaluation during training."""
    rows = _answered_rows(run, data)
    if not len(rows):
        return None
    settings = evaluation_settings(run, data)
    known = know_golds(data.encoder, data.validation, settings)

    def score() -> dict[str, float]:
        metrics, _ = score_generations(jepa, data.encoder, rows, settings, known)
        return {settings.metric: metrics[settings.metric]}

    return score


class MetricsFile(TrainerCallback):
    """Appends every line of the training log to metrics.jsonl.

    A run that resumes starts with the lines of its checkpoint, so that no step occurs twice.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.folder.write_metrics(state.log_history)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.folder.add_metrics({"step": state.global_step, **(logs or {})})
