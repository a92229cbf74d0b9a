"""One run: one arm with one seed, from settings to a folder that tells all of it.

config.yaml        the settings, with the seed          environment.json   versions, machine, commit
metrics.jsonl      every line of the training log       eval.json          scores on the test rows, cost, alarm
predictions.jsonl  every answer, with its verdict       model/             a plain transformers folder
embeddings.safetensors  both views of some held-out pairs, for the report's geometry
checkpoint-N/      with save_steps                      DONE               last of all: the run is whole
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_utils import IntervalStrategy

from llm_jepa.data.context import Context
from llm_jepa.data.encoded_pairs import EncodedPairs
from llm_jepa.data.generated_files import with_files
from llm_jepa.data.prepare import LoadedData, load_data
from llm_jepa.data.shuffled_views import about_exchange, shuffle_code_views
from llm_jepa.data.tokenizer import load_tokenizer
from llm_jepa.errors import ConfigError, DataError, nearest
from llm_jepa.evaluation.evaluate import (
    EvaluationConfig,
    check_golds,
    evaluate,
    know_golds,
    score_generations,
    score_retrieval,
)
from llm_jepa.evaluation.kept_embeddings import StoredEmbeddings
from llm_jepa.files import write_json, write_json_lines, write_whole
from llm_jepa.objective import LLMJEPA, Pair, UnsupportedModelError
from llm_jepa.objective.distances import IN_BATCH
from llm_jepa.objective.pair import share_alike
from llm_jepa.processes import is_main, join, on_main
from llm_jepa.training.arguments import JEPATrainingArguments
from llm_jepa.training.checkpoints import find_newest
from llm_jepa.training.models import build_model, check_model_fits, check_same_ids, load_own_tokenizer, num_parameters
from llm_jepa.training.progress import StepLog
from llm_jepa.training.resume import digest_tokenizer
from llm_jepa.training.saving import save_jepa
from llm_jepa.training.stopping import StopRequest
from llm_jepa.training.trainer import JEPATrainer
from llm_jepa.yaml_loading import dump_yaml, load_yaml

from .data_files_unchanged import DataWatch
from .environment import describe_environment
from .locks import sole_trainer
from .settings import RunConfig, Settings, naming_settings
from .trained_run import context_of

logger = logging.getLogger(__name__)

NUM_COMPARED, MANY_ALIKE = 1000, 0.01  # rows compared with each other, and the share of pairs alike that is noted
FLOP_BATCHES = 4  # batches whose FLOPs are counted; the count differs between batches by their lengths only


def train_run(run: RunConfig, seed: int, folder: Path, *, progress: bool = False) -> dict[str, Any]:
    """Train, evaluate and save one run in `folder`; return what its eval.json holds.

    A folder that is whole already is read, not run again. One that was cut short goes on from its newest whole
    checkpoint if it has one (`save_steps`, or a signal, which saves first), and starts again if not.

    Under `torchrun` or `accelerate launch` every process calls this with the same arguments. They train together and
    share the scoring out; rank 0 alone writes the folder, which all must see.

    Args:
        run: The settings.
        seed: Seed of the weights, of the order of rows and of dropout.
        folder: The run's folder.
        progress: Show progress bars on standard error.

    Raises:
        ConfigError: If the folder holds a run of other settings, or the settings do not work together.
        DataError: If the data is not as the settings say.
    """
    join(use_cpu=bool(run.training.get("use_cpu")))
    with ExitStack() as held:
        on_main(held.enter_context, _sole_run(folder, run.settings | {"seed": seed}))
        return _train_claimed(run, seed, folder, progress=progress and is_main())


def _train_claimed(run: RunConfig, seed: int, folder: Path, *, progress: bool) -> dict[str, Any]:
    if on_main((folder / "DONE").is_file):
        return on_main(_read_report, folder)
    on_main(lambda: write_json(folder / "environment.json", describe_environment()))

    run = replace(run, data=on_main(with_files, run.data, folder / "data"))
    watch = DataWatch([*run.data.train_files, run.data.validation_file, run.data.test_file, run.data.views_file])
    trainer, data = build_trainer(run, seed, folder, progress=progress)
    settings = _evaluation_settings(run, data)
    data.notes += check_answers(run, data)
    context = _context(data)
    seen: dict[str, Any] = {"summary": data.summary, "notes": data.notes, "sha256": watch.sha256}
    seen |= {"max_new_tokens": settings.max_new_tokens, "tokenizer_sha256": digest_tokenizer(data.tokenizer)}
    seen["context"] = context.to_dict()
    on_main(write_json, folder / "data.json", seen)
    stop = StopRequest()
    trainer.add_callback(stop)
    trainer.add_callback(watch)
    with stop.listening():  # a signal ends the training after its step, with a checkpoint, and then this function
        trainer.train(resume_from_checkpoint=on_main(find_newest, folder))
    training_time_s = trainer.training_time_s
    watch.check()

    trainer.jepa.eval()
    report: dict[str, Any] = {"seed": seed, "num_steps": trainer.state.global_step, "training_time_s": training_time_s}
    report |= _validation_scores(trainer)
    if len(data.test):
        metrics, records = evaluate(trainer.jepa, data.encoder, data.test, settings, progress=progress)
        report |= metrics
        on_main(write_json_lines, folder / "predictions.jsonl", records)
    if len(data.views_validation):
        report["views_retrieval"] = score_retrieval(trainer.jepa, data.views_validation, data.encoder.pad_id)
    _keep_embeddings(trainer, data, run, folder)
    report["cost"] = trainer.step_timer.summary() | {"flops_per_step": count_step_flops(trainer)}
    if run.jepa.has_term and run.jepa.jepa_loss_dropout:
        report["cost"]["flops_per_dropped_step"] = count_step_flops(trainer, dropped=True)
    report["alarm"] = trainer.alarm.summary() if run.jepa.uses_views and trainer.alarm.could_alarm else None
    report["num_parameters"] = num_parameters(trainer.jepa.model)
    report["num_trained_parameters"] = num_parameters(trainer.jepa, trained=True)  # [PRED] among them
    size = trainer.args.max_shard_size
    save_jepa(trainer.jepa, folder / "model", data.tokenizer, max_shard_size=size)
    on_main(write_json, folder / "eval.json", _json_safe(report))
    on_main(write_whole, folder / "DONE", "")
    return on_main(_read_report, folder)


def _context(data: LoadedData) -> Context:
    """Return what all training rows have around a question; rows that are asked in another way are noted."""
    context = context_of(data.train.examples, data.encoder)
    for name, rows in (("validation rows", data.validation), ("test rows", data.test)):
        for difference in context.differences(context_of(rows.examples, data.encoder), name) if len(rows) else ():
            data.notes.append(difference)
            logger.warning(difference)
    return context


@contextmanager
def _sole_run(folder: Path, settings: Settings) -> Iterator[None]:
    """Claim a run's folder, and let no other process train in it for the time of the block."""
    check_folder(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    with sole_trainer(folder):
        claim_folder(folder, settings)
        yield


def _read_report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "eval.json").read_text())


def claim_folder(folder: Path, settings: Settings) -> None:
    """Write `config.yaml` into a new run folder, or make sure that the one there says the same.

    Differences that `allow_changed` names are accepted, and written, as long as the run is not done.

    Raises:
        ConfigError: If the folder holds a run of other settings; the text names what differs.
    """
    accepted = check_folder(folder, settings)
    if accepted or not has_begun(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "config.yaml", dump_yaml(settings, sort_keys=True, allow_unicode=True))


def check_folder(folder: Path, settings: Settings) -> bool:
    """Make sure that a run of these settings may go on, or begin, in the folder; nothing is written.

    Returns:
        Whether a run goes on there with settings that differ, as `allow_changed` accepts.

    Raises:
        ConfigError: If the folder holds a run of other settings, or something else.
    """
    config = folder / "config.yaml"
    if config.is_file():
        before = load_yaml(config.read_text(encoding="utf-8"))
        if (folder / "DONE").is_file():
            _check_done(folder, before, settings)
            return False
        allowed = {"allow_changed", *(settings.get("allow_changed") or ())}
        differing = differences(*(_without(allowed, each) for each in (before, settings)))
        if differing and has_begun(folder):
            raise ConfigError(
                f"{folder} holds another run: {'; '.join(differing)}. Choose another --out, remove that folder, or "
                "accept a change by its name with --allow-changed."
            )
        return has_begun(folder) and before != settings
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty and holds no run of llm-jepa. Choose another --out.")
    return False


def _check_done(folder: Path, before: Settings, settings: Settings) -> None:
    """Nothing can be accepted of a run that is done: its settings are what it was trained with."""
    differing = differences(*(_without({"allow_changed"}, each) for each in (before, settings)))
    if differing:
        raise ConfigError(
            f"{folder} holds another run: {'; '.join(differing)}. It is done, and goes on with no other settings. "
            "Choose another --out, or remove that folder."
        )


def _without(names: set[str], settings: Settings) -> Settings:
    return {key: value for key, value in settings.items() if key not in names}


def has_begun(folder: Path) -> bool:
    """Whether the run in the folder has trained at all. One that was refused before may come back corrected."""
    return (folder / "metrics.jsonl").is_file() or (folder / "DONE").is_file()


def differences(old: Settings, new: Settings) -> list[str]:
    """Return a sentence part for each key in which two settings differ."""
    return [
        f"{key} was {old.get(key, 'not set')!r} and is {new.get(key, 'not set')!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, "not set") != new.get(key, "not set")
    ]


def build_trainer(
    run: RunConfig,
    seed: int,
    folder: Path,
    *,
    progress: bool = False,
    data: LoadedData | None = None,
    models: Models | None = None,
) -> tuple[JEPATrainer, LoadedData]:
    """Load the data, build the model and the trainer of a run; the seed is set before the weights are drawn.

    Args:
        run: The settings.
        seed: The run's seed.
        folder: Its folder.
        progress: Show progress bars.
        data: Its data, where that is loaded already.
        models: Models that are there already, whose weights do not matter.

    Raises:
        ConfigError: If the settings do not work together, with the data, or on this machine.
        DataError: If the data is not as the settings say.
    """
    data = load_data(run.data, run.jepa, pretrained_tokenizer(run)) if data is None else data
    train_pairs, view_pairs = data.train.pairs, data.views.pairs
    if run.data.shuffle_views and run.data.task_views:
        train_pairs = _shuffled(train_pairs, seed, data, "training rows")
    if run.data.shuffle_views and run.data.trains_view_rows:
        view_pairs = _shuffled(view_pairs, seed, data, "view rows")
    looks_at = {} if len(data.validation) or len(data.views_validation) else _without_looks(run, data)
    with naming_settings(run):
        arguments = run.training_arguments(folder, seed=seed, disable_tqdm=not progress, **looks_at)
    if run.model.attn_implementation == "flex_attention" and arguments.device.type == "cpu":
        raise ConfigError(
            "attn_implementation=flex_attention has no gradient on a CPU. Set sdpa or eager, or use a GPU."
        )
    if arguments.learning_rate == 0:
        raise ConfigError("learning_rate=0 trains nothing. Set it above 0.")
    data.notes += [*notes_on(run), *_about_negatives(run, train_pairs, view_pairs)]
    set_seed(seed)
    jepa = _build_jepa(run, data, seed, models)
    looks = _validation_generations(run, data, jepa)
    with naming_settings(run, "report_to"):
        trainer = JEPATrainer(
            jepa,
            arguments,
            train_pairs,
            data.validation.pairs,
            view_dataset=view_pairs,
            views_ratio=run.data.views_ratio,
            # Where the JEPA term lives: what it does to pairs that it never sees is another question.
            monitor_dataset=None if run.data.task_views else data.views_validation.pairs,
            pad_token_id=data.encoder.pad_id,
            processing_class=data.tokenizer,
            extra_metrics=looks,
            callbacks=[MetricsFile(folder / "metrics.jsonl"), StepLog(progress)],
        )
    with naming_settings(run, "optim", "optim_args", "optim_target_modules"):
        trainer.try_optimizer()
    with naming_settings(run, "lr_scheduler_type", "lr_scheduler_kwargs"):
        trainer.try_schedule()
    with naming_settings(run, "torch_compile", "torch_compile_backend", "torch_compile_mode"):
        trainer.try_compiler()
    _check_best_metric(trainer, run.evaluation.metric if looks else None)
    trainer.remove_callback(PrinterCallback)  # prints raw dicts to standard output
    trainer.remove_callback(ProgressCallback)
    return trainer, data


def _check_best_metric(trainer: JEPATrainer, scored: str | None) -> None:
    """Make sure that each look at held-out rows measures what checkpoints, or the learning rate, are to go by."""
    wanted = trainer.args.metric_for_best_model
    if wanted is None or trainer.args.eval_strategy == IntervalStrategy.NO:
        return
    measured = [*trainer.measures_of_a_look(), *([scored] if scored else [])]
    if wanted.removeprefix("eval_") not in measured:
        raise ConfigError(
            f"metric_for_best_model={wanted!r} is nothing that is measured on validation rows here. Set it to one of: "
            f"{', '.join(measured)}.{nearest(wanted, measured)}"
        )


def _shuffled(pairs: Sequence[Pair], seed: int, data: LoadedData, rows: str) -> Sequence[Pair]:
    """Return the pairs of the shuffled control; what weakens it is noted with the data."""
    try:
        shuffled = shuffle_code_views(pairs, seed)
    except ValueError as error:
        raise DataError(f"{error} All {rows} with a JEPA term have one code.") from error
    notes = about_exchange(pairs, shuffled, rows)
    for note in notes:
        logger.info(note)
    data.notes += notes
    return shuffled


def _about_negatives(run: RunConfig, train_pairs: Sequence[Pair], view_pairs: Sequence[Pair]) -> list[str]:
    """Say how many of InfoNCE's negatives are left out because pairs are alike, where it is more than MANY_ALIKE."""
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
    """Return what a reader of a run must know of its settings, where a default may be far from what is meant."""
    if not run.model.model_name_or_path or "learning_rate" in run.settings:
        return []
    rate = JEPATrainingArguments.learning_rate
    return [
        f"learning_rate is not set: {rate:g} is for small models from random weights. A pretrained model wants less, "
        "such as 2e-5 for all of its weights, or 2e-4 with LoRA."
    ]


def _without_looks(run: RunConfig, data: LoadedData) -> Settings:
    """Return the training settings of a run without validation rows, and say so in the notes on its data.

    Raises:
        ConfigError: If a setting needs looks at such rows.
    """
    for key in ("stop_on_collapse", "load_best_model_at_end"):
        if run.training.get(key):
            raise ConfigError(
                f"{key} needs validation rows, and there are none. Set validation_size above 0 or a validation_file, "
                f"or remove {key}."
            )
    data.notes.append("No validation rows: the run is not looked at while it trains (eval_strategy: no).")
    logger.info(data.notes[-1])
    return {"eval_strategy": "no"}


def pretrained_tokenizer(run: RunConfig) -> PreTrainedTokenizerBase | None:
    """Return the pretrained tokenizer of a run; None where `load_data` trains one on the rows."""
    name = run.data.tokenizer_name_or_path
    if not run.model.model_name_or_path:
        return None
    if not name:
        return load_own_tokenizer(run.model)
    tokenizer = load_tokenizer(name)
    check_same_ids(run.model, tokenizer, name)
    return tokenizer


class Models(dict[str, nn.Module]):
    """The model that was built last, by what it was built from: trainers that are only tried can share it."""

    def get_or_build(self, key: str, build: Callable[[], nn.Module]) -> nn.Module:
        """Return the model of this key; another that is kept is let go first."""
        if key not in self:
            self.clear()
            self[key] = build()
        return self[key]


def _build_jepa(run: RunConfig, data: LoadedData, seed: int, models: Models | None = None) -> LLMJEPA:
    splits = (data.train, data.validation, data.test, data.views, data.views_validation)
    longest = max(split.facts.longest for split in splits)
    ids = {"end_id": data.encoder.end_ids[0], "pad_id": data.encoder.pad_id}
    use_cpu = bool(run.training.get("use_cpu"))

    def build() -> nn.Module:
        return build_model(run.model, data.tokenizer, run.adapter, **ids, use_cpu=use_cpu)

    with naming_settings(run):
        key = repr((run.model, run.adapter, ids, use_cpu, len(data.tokenizer)))
        model = build() if models is None else models.get_or_build(key, build)
        check_model_fits(model, data.tokenizer, max_length=longest + run.jepa.jepa_k)
        try:
            jepa = LLMJEPA(model, run.jepa, seed=seed)
        except UnsupportedModelError as error:
            raise ConfigError(str(error)) from error
    if run.adapter.quantization != "none":  # the table is in bfloat16, in which most updates would be lost
        jepa.predictor.float()
    return jepa


def _evaluation_settings(run: RunConfig, data: LoadedData) -> EvaluationConfig:
    """Fill in the longest answer: that of the training rows plus 16, so that a model that does not stop is seen."""
    if run.evaluation.max_new_tokens is not None:
        return run.evaluation
    return replace(run.evaluation, max_new_tokens=data.train.facts.longest_code + 16)


def check_answers(run: RunConfig, data: LoadedData) -> list[str]:
    """Make sure that answers to test rows, and to validation rows at each look, can be scored.

    Returns:
        Notes on gold answers that cannot.

    Raises:
        DataError: If a scorer can use none of them.
    """
    settings = _evaluation_settings(run, data)
    notes = check_golds(data.encoder, data.test, settings, "test")
    rows = _answered_rows(run, data)
    if not len(rows) or run.training.get("eval_strategy") == "no":
        return notes
    known = know_golds(data.encoder, data.validation, settings)
    try:
        return notes + check_golds(data.encoder, rows, settings, "validation", known)
    except DataError as error:
        raise DataError(
            f"{str(error).rstrip('.')}. Or leave out their answers, with validation_generations: 0."
        ) from error


def _answered_rows(run: RunConfig, data: LoadedData) -> EncodedPairs:
    """Return the validation rows that are answered at each look, the first ones."""
    count = run.evaluation.validation_generations
    return EncodedPairs(data.validation.pairs[:count], data.validation.examples[:count])


def _validation_generations(run: RunConfig, data: LoadedData, jepa: LLMJEPA) -> Callable[[], dict[str, float]] | None:
    """Return what scores answers to the first validation rows, at each look during training."""
    rows = _answered_rows(run, data)
    if not len(rows):
        return None
    settings = _evaluation_settings(run, data)
    known = know_golds(data.encoder, data.validation, settings)

    def score() -> dict[str, float]:
        metrics, _ = score_generations(jepa, data.encoder, rows, settings, known)
        return {settings.metric: metrics[settings.metric]}

    return score


def _validation_scores(trainer: JEPATrainer) -> dict[str, Any]:
    """Return the look at the validation rows that the saved model had, on which every choice is to be made.

    It is the last one, or with `load_best_model_at_end` that of the checkpoint which was loaded.
    """
    looks = [line for line in trainer.state.log_history if "eval_ce_loss" in line or "monitor/gap" in line]
    best = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    looks = [line for line in looks if best in (None, line["step"])]
    if not looks:
        return {}
    return {"validation": {key.removeprefix("eval_"): value for key, value in looks[-1].items() if key != "epoch"}}


def _keep_embeddings(trainer: JEPATrainer, data: LoadedData, run: RunConfig, folder: Path) -> None:
    """Keep the embeddings of held-out pairs of the kind that the JEPA term trains on: test rows, or view pairs."""
    of_views = bool(len(data.views_validation)) and not run.data.task_views
    rows, split, file = (
        (data.views_validation, "held-out view", run.data.views_file)
        if of_views
        else (data.test, "test", run.data.test_file)
    )
    kept = StoredEmbeddings.of(trainer.jepa, data.encoder, rows, split, file) if file is not None else None
    if kept is not None:
        on_main(kept.write, folder)


def count_step_flops(trainer: JEPATrainer, num_batches: int = FLOP_BATCHES, *, dropped: bool = False) -> float:
    """Return the counted FLOPs of forward and backward of a batch, the mean over the first batches of epoch 0.

    The step is one with its views or, on demand, one whose JEPA term loss dropout leaves out. Every arm counts the same
    rows. Matrix products and attention are counted, padding included, by PyTorch's counter; on a CPU attention is taken
    apart for it, for it knows the fused kernels of GPUs only.
    """
    batches = list(islice(trainer.batches_of_epoch(0), num_batches))
    model = trainer.jepa.train()
    num_steps = trainer.state.max_steps
    step = _step_to_count(model, num_steps, dropped)
    attention = nullcontext() if trainer.args.device.type == "cuda" else sdpa_kernel(SDPBackend.MATH)
    counter = FlopCounterMode(display=False)
    with counter, attention:
        for batch in batches:
            with trainer.compute_loss_context_manager():
                loss = model(batch.to(trainer.args.device), step=step, num_steps=num_steps).loss
            loss.backward()
            model.zero_grad()
    model.eval()
    return counter.get_total_flops() / len(batches)


def _step_to_count(jepa: LLMJEPA, num_steps: int, dropped: bool) -> int:
    """Return a step with a JEPA term, so that the cost counted is that of a step with its views; or one without."""
    steps = range(max(num_steps, 10_000))  # loss dropout may have dropped all of a short run, or none
    return next((step for step in steps if (jepa.lambda_at(step, num_steps) > 0) != dropped), 0)


class MetricsFile(TrainerCallback):
    """Appends every line of the training log to metrics.jsonl; nan is written as null.

    A run that resumes begins with the lines its checkpoint remembers, so that no step stands twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            write_whole(self.path, "".join(_json_line(line) for line in state.log_history))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_json_line({"step": state.global_step, **(logs or {})}))


def _json_line(values: dict[str, Any]) -> str:
    return json.dumps(_json_safe(values), ensure_ascii=False) + "\n"


def _json_safe(value: Any) -> Any:
    """Return plain JSON values: tensors and numpy numbers as numbers, nan and infinity as None."""
    if isinstance(value, dict):
        return {key: _json_safe(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(each) for each in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
