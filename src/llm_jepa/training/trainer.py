"""`transformers.Trainer` with the LLM-JEPA objective: named terms, monitors on held-out rows, the scale of the loss.

The stock Trainer does the loop, the optimizer, the schedule, mixed precision and processes. This module has the loss
of a step, its logging, and the evaluation during training; `row_order.py` has the order of the rows, `resumable.py`
the checkpoints.
"""

from __future__ import annotations

# The Trainer's batches are dicts of tensors, and its annotations say so; ours are FusedBatch.
# mypy: disable-error-code="override, misc, attr-defined, arg-type"
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_optimizer import is_optimizer_factory

from llm_jepa.data.config import DataConfig
from llm_jepa.errors import ConfigError, DataError, LLMJEPAError
from llm_jepa.objective import LLMJEPA, FusedBatch, FusedCollator, JEPAConfig, JEPAOutput, Pair, UnsupportedModelError
from llm_jepa.objective.backbone import evaluating
from llm_jepa.objective.self_check import check_causal
from llm_jepa.processes import gather, told, turns

from .arguments import JEPATrainingArguments
from .meters import StepTimer, TermMeter
from .monitors import CollapseAlarm, embedding_monitors
from .resumable import ResumableTrainer
from .row_order import OrderedTrainer
from .sanity_checks import check_arguments, check_combinations, check_rows, check_work
from .sharding import part
from .text_rows import AnyRows, TextRows, under_objective
from .view_embeddings import view_embeddings

logger = logging.getLogger(__name__)

OVERRIDDEN = (
    *("train", "evaluate", "log", "compute_loss", "floating_point_ops"),
    *("get_batch_samples", "get_train_dataloader", "save_model"),
    *("_get_num_items_in_batch", "_prepare_inputs", "_prepare_context_parallel_inputs", "_get_train_sampler"),
    *("_run_epoch", "_track_num_input_tokens", "_clip_grad_norm", "_get_grad_norm"),
    *("_get_output_dir", "_save", "_save_checkpoint"),
    *("_load_best_model", "_load_from_checkpoint", "_load_optimizer_and_scheduler", "_load_rng_state"),
)
"""Methods of `transformers.Trainer` that are replaced here, in row_order.py or in resumable.py. A release may drop
those with an underscore without notice, so a test looks for each of them in the installed release."""

MAX_ROWS_NAMED = 8
MAX_SKIPPED = 40  # steps in a row that overflow in fp16; by then the scale has been halved to nearly zero


class NonFiniteLossError(LLMJEPAError):
    """The loss or its gradient is nan or infinite; the run stopped before the optimizer step."""


@dataclass(frozen=True)
class StepCounts:
    """The numbers that one optimizer step is averaged over, in all its micro-batches and processes."""

    labels: int  # labelled tokens
    pairs: int  # those that have a JEPA term
    micro_batches: int


class JEPATrainer(OrderedTrainer, ResumableTrainer):
    """Train a model under the LLM-JEPA objective.

    Args:
        model: The model under its objective, or a plain model, which is put under `jepa_config`.
        args: Settings of training.
        train_dataset: Training rows: a sequence of pairs; or a `datasets.Dataset`, or a list of rows, of prompt and
            completion, messages, text and code, or text alone, which `processing_class` encodes.
        eval_dataset: Held-out rows, for the loss and the monitors; may be empty.
        jepa_config: The objective of a plain model. Default: that of the paper, `JEPAConfig()`.
        data_config: How rows of text are read, and what happens to those that are too long (`max_length`), for example.
        pad_token_id: Id that fills padding. Default: the tokenizer's.
        view_dataset: Rows of a second file. Each step has some of them next to the training rows.
        views_ratio: Rows of `view_dataset` for each training row.
        monitor_dataset: Held-out pairs whose embeddings the monitors measure. Default: `eval_dataset`.
        processing_class: The tokenizer; it encodes rows of text, and is saved with the model.
        extra_metrics: Called at each evaluation during training; its values (an accuracy, for example) are logged.
        callbacks: As in transformers.

    Raises:
        ConfigError: If a data set is neither pairs nor rows of text, the settings do not go together, no padding
            token is known, or the objective was changed by hand (`LLMJEPA.check_record`).
        DataError: If a row of text cannot be used.

    Attributes:
        alarm: The collapse alarm. If the run trains a JEPA term, each evaluation during training updates it.
        terms: The means of the named terms, and the loss of the last step.
    """

    def __init__(
        self,
        model: LLMJEPA | nn.Module,
        args: JEPATrainingArguments,
        train_dataset: AnyRows,
        eval_dataset: AnyRows | None = None,
        *,
        jepa_config: JEPAConfig | None = None,
        data_config: DataConfig | None = None,
        view_dataset: Sequence[Pair] = (),
        views_ratio: float = 1.0,
        monitor_dataset: Sequence[Pair] | None = None,
        pad_token_id: int | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        extra_metrics: Callable[[], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        check_arguments(args)
        self.jepa = model = under_objective(model, jepa_config, args.seed)
        model.check_record()
        self.texts = texts = TextRows(model, processing_class, data_config)
        train_dataset = texts.pairs("train_dataset", train_dataset)
        self.eval_pairs = list(texts.pairs("eval_dataset", eval_dataset or ()))
        check_rows("view_dataset", view_dataset)
        check_rows("monitor_dataset", monitor_dataset or ())
        _use_one_gpu(args)
        _expose_hooks(model)
        if pad_token_id is None:
            encoder = texts.encoder
            pad_token_id = getattr(processing_class, "pad_token_id", None) if encoder is None else encoder.pad_id
        if pad_token_id is None:
            text = "pad_token_id is not given, and the tokenizer has none. Give any id: padding is masked by length."
            raise ConfigError("setting_missing", text)
        num_ids = len(model.backbone.embeddings.weight)
        if not 0 <= pad_token_id < num_ids:
            text = f"pad_token_id={pad_token_id} must be an id of the model, from 0 to {num_ids - 1}. Give any of them."
            raise ConfigError("value_out_of_range", text)
        self.pad_token_id = pad_token_id
        self.monitor_pairs = self.eval_pairs if monitor_dataset is None else list(monitor_dataset)
        self.view_pairs = view_dataset if views_ratio else ()
        self.views_ratio = views_ratio
        self.tokenizer = processing_class  # not the Trainer's, which would change token ids of the model's config
        self.extra_metrics = extra_metrics
        self.alarm = CollapseAlarm()
        self.step_timer = StepTimer()
        self.terms = TermMeter()
        self._problem: str | None = None  # why the current step must not be taken
        self.num_skipped = 0  # steps in a row that the scaler of fp16 left out
        collator = FusedCollator(model.config, pad_token_id, packing=args.packing, pack_length=args.pack_length)
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=train_dataset,  # not copied: its rows may be on disk
            eval_dataset=self.eval_pairs,
            callbacks=[*(callbacks or []), _Follow(self)],
        )
        self.callback_handler.processing_class = processing_class
        self.loss_is_scaled_for_ga = True  # our terms are means over the whole step already
        self._check_views_of_a_step()
        check_combinations(model, args, is_fsdp=self.is_fsdp_enabled)
        check_work(model, args, train_dataset, self.view_pairs)
        self._check_plain_model()
        collator.same_forwards |= self.is_fsdp_enabled

    def _check_plain_model(self) -> None:
        """Check a model that trains no views: it must be causal, and may get our mask in packed rows or in monitors."""
        if self.jepa.config.uses_views:
            return
        check_causal(self.jepa.model)
        if not (self.args.packing or self.monitor_pairs):
            return
        try:
            LLMJEPA(self.jepa.model, JEPAConfig())
        except UnsupportedModelError as error:
            if self.args.packing:
                raise ConfigError(error.code, f"packing=True is not possible with this model. {error}") from error
            logger.warning("model  embeddings of views are not measured: %s", error)
            self.monitor_pairs = []

    def try_optimizer(self) -> None:
        """Make the optimizer once and take a step, so that a missing package or a wrong argument raises now."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # it is made when the model is sharded
            return
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.create_optimizer()
        self.optimizer = None
        if is_optimizer_factory(kind) or {"params", "model", "optimizer_dict"} & options.keys():
            return  # it works layer by layer, and for this model only
        weight = nn.Parameter(torch.zeros(64, 128, device=self.args.device))  # enough for states in 8 bits
        weight.grad = torch.zeros_like(weight)
        kind([weight], **options).step()

    def try_schedule(self) -> None:
        """Make the learning-rate schedule once, as training will, and compute it for steps from every part of a run."""
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=self.args.learning_rate)
        num_steps = max(self.args.max_steps, 100)
        schedule = self.create_scheduler(num_steps, optimizer)
        self.lr_scheduler = None
        if isinstance(schedule, LambdaLR):
            for shape, step in product(schedule.lr_lambdas, range(0, num_steps, num_steps // 100)):
                shape(step)

    def try_compiler(self) -> None:
        """If the model will be compiled, compile one product, so that a missing compiler raises now."""
        if self.args.torch_compile:
            options: Any = {"backend": self.args.torch_compile_backend, "mode": self.args.torch_compile_mode}
            torch.compile(torch.square, **options)(torch.zeros(8, device=self.args.device))

    # ---- one step ----

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[FusedBatch], Any]:
        """Collect the micro-batches of one optimizer step, and count the labels and pairs that it averages over."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.tensor(
            [sum(batch.num_labels for batch in batches), sum(batch.num_pairs for batch in batches)], device=device
        )
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        labels, pairs = counts.tolist()
        return batches, StepCounts(labels, pairs, len(batches) * self.args.world_size)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> None:
        return None  # `get_batch_samples` counts both terms

    def _prepare_inputs(self, inputs: FusedBatch) -> FusedBatch:
        return inputs.to(self.args.device)

    def _prepare_context_parallel_inputs(self, model: nn.Module, inputs: Any) -> Any:
        return nullcontext, inputs  # rows are never split along their length

    def _track_num_input_tokens(self, inputs: FusedBatch) -> None:
        super()._track_num_input_tokens({"input_ids": inputs.rows.input_ids, "attention_mask": inputs.rows.real})

    def floating_point_ops(self, inputs: FusedBatch) -> int:
        """Return 0, because the Trainer's formula ignores the views. `runs/step_flops.py` counts the operations."""
        return 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: FusedBatch,
        return_outputs: bool = False,
        num_items_in_batch: StepCounts | None = None,
    ) -> Any:
        """Return the loss of a micro-batch, scaled so that the losses of a step's micro-batches add up to its loss.

        With `sum_micro_batches` the loss of a step is the sum of the micro-batches' own losses.
        """
        batch, counts = inputs, num_items_in_batch
        adds_means = self.args.sum_micro_batches
        # What the means are taken over, if more than this micro-batch.
        whole = {} if adds_means or counts is None else {"num_labels": counts.labels, "num_pairs": counts.pairs}
        output: JEPAOutput = model(batch, step=self.state.global_step, num_steps=self.state.max_steps, **whole)
        if not torch.isfinite(output.loss):
            self._problem = _non_finite(self.state.global_step, output, batch)
            if self.args.world_size == 1 or not model.training:
                raise NonFiniteLossError("loss_not_finite", self._problem)
            # The other processes do not know of it, and wait for this one's gradient. A nan loss reaches them.
            output.loss = output.loss * torch.nan
        if model.training:
            self.terms.add(output, batch, 1 / counts.micro_batches if adds_means and counts else 1.0)
        # Data-parallel training averages gradients over processes; the counts above are sums over them. A micro-batch's
        # own means are averaged as they are, as in the published trainer.
        loss = output.loss * (1 if adds_means else self.accelerator.num_processes)
        return (loss, output) if return_outputs else loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if not self.jepa.config.jepa_detach_backbone:
            return super()._clip_grad_norm(model)
        # A probe must not change the model's step, so the predictor is clipped by its own norm.
        limit = self.args.max_grad_norm
        norms = [self.accelerator.clip_grad_norm_(self.jepa.model.parameters(), limit)]
        norms.append(nn.utils.clip_grad_norm_(self.jepa.predictor.parameters(), limit))
        return torch.linalg.vector_norm(torch.stack(norms))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of a sharded model
        if not math.isfinite(norm):  # in every process: gradients have been averaged
            problems = [problem for problem in gather(self._problem) if problem]
            self.num_skipped += 1
            message = (
                f"The gradient of step {self.state.global_step + 1} has norm {float(norm)}; the step was not taken. "
                "Lower learning_rate or jepa_lambda, or train in float32."
            )
            # While the scaler of fp16 searches for its scale, gradients overflow now and then; it skips such a step.
            if problems or self.accelerator.scaler is None or self.num_skipped > MAX_SKIPPED:
                code = "loss_not_finite" if problems else "gradient_not_finite"
                raise told(NonFiniteLossError(code, "\n".join(problems or [message])))
        else:
            self.num_skipped = 0
        self.terms.end_step()
        return norm

    def _run_epoch(self, *args: Any, **kwargs: Any) -> Any:
        # For a run that was killed after its last step and is resumed, the stock loop would take one step more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return None
        return super()._run_epoch(*args, **kwargs)

    # ---- what is logged ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the named terms to a line of the training log."""
        if "loss" in logs:
            logs |= self.terms.pop()
        if "train_runtime" in logs and self.time_before_s:
            logs = self._of_whole_run(logs)
        super().log(logs, start_time)

    def _of_whole_run(self, logs: dict[str, float]) -> dict[str, float]:
        """Return the last log line of a resumed run; the stock line covers only the steps since the resume."""
        time_s, step = self.training_time_s, self.state.global_step
        whole = {"train_runtime": round(time_s, 4), "train_steps_per_second": round(step / time_s, 3)}
        lines = [(line["step"], line["loss"]) for line in self.state.log_history if "loss" in line]
        if lines:
            starts = [0, *(end for end, _ in lines)]
            steps = [end - start for start, (end, _) in zip(starts, lines, strict=False)]
            whole["train_loss"] = sum(n * loss for n, (_, loss) in zip(steps, lines, strict=True)) / max(sum(steps), 1)
        return {key: value for key, value in logs.items() if key != "train_samples_per_second"} | whole

    def evaluate(
        self, eval_dataset: AnyRows | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate the held-out pairs, or other rows (`eval_dataset`), without touching random streams.

        Returns:
            `eval_ce_loss` in nats per token; `eval_jepa_loss` and `monitor/*` (see `embedding_monitors`) over the
            first `monitor_pairs` pairs, of `monitor_dataset` if there is one; and what `extra_metrics` adds.
        """
        pairs, monitored = self.eval_pairs, self.monitor_pairs
        if eval_dataset is not None:
            pairs = list(self.texts.pairs("eval_dataset", eval_dataset))
            monitored = pairs if monitored or self.jepa.config.uses_views else []
        self.terms.pause()  # time spent here is not training time
        metrics: dict[str, float] = {}
        if pairs:
            metrics[f"{metric_key_prefix}_ce_loss"] = self._held_out_ce(pairs)
        if monitored:
            metrics |= self._measure_views(monitored, metric_key_prefix, is_check=eval_dataset is None)
        if self.extra_metrics is not None:
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in self.extra_metrics().items()}
        if metrics:
            self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.terms.resume()
        return metrics

    def _held_out_ce(self, pairs: Sequence[Pair]) -> float:
        """Return the cross-entropy over the labelled tokens of `pairs`, in nats per token."""
        collate = FusedCollator(self.jepa.config, self.pad_token_id)
        size = self.args.per_device_eval_batch_size
        total, count = 0.0, 0
        with evaluating(self.jepa):
            for number, is_own in turns(math.ceil(len(pairs) / size)):
                batch = collate(pairs[number * size : (number + 1) * size])
                with self.compute_loss_context_manager():
                    output = self.jepa(batch.to(self.args.device))
                total += output.ce_loss.item() * batch.num_labels * is_own
                count += batch.num_labels * is_own
        total, count = (sum(share) for share in zip(*gather((total, count)), strict=True))
        return total / max(count, 1)

    def _measure_views(self, pairs: Sequence[Pair], prefix: str, *, is_check: bool) -> dict[str, float]:
        first = pairs[: self.args.monitor_pairs]
        views = view_embeddings(self.jepa, first, self.pad_token_id, context=self.compute_loss_context_manager)
        if not len(views.numbers):
            return {}
        try:
            monitors = embedding_monitors(views.text_pred, views.code_emb, views.code_groups)
        except DataError as error:
            message = f"After step {self.state.global_step}: {error}"
            raise told(
                NonFiniteLossError(error.code, f"{message} Lower learning_rate or jepa_lambda, or train in float32.")
            ) from error
        trains_views = self.jepa.config.uses_views
        if trains_views and is_check and (reason := self.alarm.update(self.state.global_step, monitors)):
            logger.warning("Collapse alarm. %s", reason)
        metrics = {f"monitor/{name}": value for name, value in monitors.items()}
        return metrics | ({f"{prefix}_jepa_loss": views.jepa_loss} if trains_views else {})


def _use_one_gpu(args: JEPATrainingArguments) -> None:
    """Keep the Trainer from wrapping the model in nn.DataParallel, which cannot split our batches."""
    if args.n_gpu > 1:
        text = "device there are %d GPUs, but one process uses only one; `torchrun --nproc-per-node %d ...` uses all"
        logger.warning(text, args.n_gpu, args.n_gpu)
        args._n_gpu = 1


def _expose_hooks(model: LLMJEPA) -> None:
    """Give the objective the attributes that the Trainer reads from its model: FSDP units, gradient checkpointing."""
    for name in ("_no_split_modules", "activation_checkpointing_enable", "gradient_checkpointing_enable"):
        if hasattr(model.model, name):
            setattr(model, name, getattr(model.model, name))


class _Follow(TrainerCallback):
    """Updates the slow copy, the step times, the log, and the alarm of a resumed run."""

    def __init__(self, trainer: JEPATrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        alarm = self.trainer.alarm = CollapseAlarm()
        for line in state.log_history if self.trainer.jepa.config.uses_views else []:
            alarm.update(line["step"], part(line, "monitor/"))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.step_timer.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.step_timer.stop(with_term=self.trainer.terms.has_term)
        self._log_before_saving(args, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._log_before_saving(args, control)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The scaler of fp16 skips a step that overflows; with fused optimizers accelerate does not notice it.
        if not self.trainer.num_skipped:
            self.trainer.jepa.update_target()

    @staticmethod
    def _log_before_saving(args: Any, control: Any) -> None:
        # The means start again after each log line. Without a line here, a checkpoint or the end would lose steps.
        if args.logging_strategy != "no":
            control.should_log |= control.should_save or control.should_training_stop


def _non_finite(step: int, output: JEPAOutput, batch: FusedBatch) -> str:
    rows = ", ".join(batch.sources[:MAX_ROWS_NAMED]) or "of unknown origin"
    more = f" and {len(batch.sources) - MAX_ROWS_NAMED} more" if len(batch.sources) > MAX_ROWS_NAMED else ""
    return (
        f"The loss of step {step + 1} is {output.loss.item()} (ce_loss {output.ce_loss.item():.4g}, jepa_loss "
        f"{output.jepa_loss.item():.4g}); the step was not taken. Rows of the batch: {rows}{more}. Lower learning_rate "
        "or jepa_lambda, or look at these rows with `llm-jepa data inspect`."
    )
