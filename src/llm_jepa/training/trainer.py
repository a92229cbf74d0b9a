"""`transformers.Trainer` with the LLM-JEPA objective: named terms, held-out monitors, and no wrong scale.

Third station on a batch's way (docs/method.md). The stock Trainer keeps the loop, the optimizer, the schedule,
mixed precision, checkpoints and processes; what is here is the loss of a step, what is logged of it, and the
look at held-out pairs. Letters: B pairs, T tokens.
"""

from __future__ import annotations

# The Trainer's batches are dicts of tensors; ours are FusedBatch, which no annotation of its can say.
# mypy: disable-error-code="override, misc, attr-defined, arg-type"
import logging
import math
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.trainer_utils import seed_worker

from llm_jepa.data.encode import row_lengths
from llm_jepa.data.lazy_rows import Joined
from llm_jepa.errors import ConfigError, DataError, LLMJEPAError
from llm_jepa.objective import LLMJEPA, FusedBatch, FusedCollator, JEPAConfig, JEPAOutput, Pair, UnsupportedModelError
from llm_jepa.objective.backbone import evaluating
from llm_jepa.objective.config import without_removed
from llm_jepa.processes import gather, on_main, told, turns

from .adapters import PeftModel, describe_adapter, is_adapted
from .arguments import JEPATrainingArguments
from .checkpoints import (
    check_room,
    find_newest,
    find_problem,
    publish,
    read_facts,
    read_times,
    remove_leftovers,
    rotate,
    staged,
)
from .meters import StepTimer, TermMeter
from .monitors import CollapseAlarm, embedding_monitors
from .resume import check_resume, describe_run, describe_views
from .sampler import BesideRows, LengthGroupedSampler, MixedBatches, SharedBatches
from .sanity_checks import check_work
from .saving import MAX_SHARD_SIZE, restore_weights, save_jepa
from .view_embeddings import view_embeddings

logger = logging.getLogger(__name__)

MAX_ROWS_NAMED = 8
MAX_SKIPPED = 40  # steps in a row that overflow in fp16: its scale has been halved to nothing by then


class NonFiniteLossError(LLMJEPAError):
    """The loss or its gradient is nan or infinite; the run stopped before the optimizer step."""


@dataclass(frozen=True)
class StepCounts:
    """What the means of one optimizer step are over, in all its micro-batches and processes.

    Attributes:
        labels: Labelled tokens.
        pairs: Pairs that have a JEPA term.
        micro_batches: Micro-batches, those of all processes counted.
    """

    labels: int
    pairs: int
    micro_batches: int


class JEPATrainer(Trainer):
    """Train a model under the LLM-JEPA objective.

    Args:
        model: The model under its objective.
        args: Settings of training.
        train_dataset: Training rows, a sequence of pairs.
        eval_dataset: Held-out rows, for the loss and the monitors; may be empty.
        pad_token_id: Id that fills padding. Default: the tokenizer's.
        view_dataset: Rows of a second file, which stand beside the training rows of each step; may be empty.
        views_ratio: How many of them for each training row.
        monitor_dataset: Held-out pairs whose embeddings are looked at. Default: `eval_dataset`.
        processing_class: The tokenizer; saved beside the model.
        extra_metrics: Called at each look at held-out rows; its values join the log (an accuracy, say).
        callbacks: As in transformers.

    Raises:
        ConfigError: If a data set is no sequence of pairs, or the settings do not go together.
        ValueError: If the objective was changed by hand (`LLMJEPA.check_record`), or no padding token is known.

    Attributes:
        step_timer: Times of the optimizer steps.
        time_before_s: Seconds that were trained before the checkpoint that the run goes on from; 0 without one.
        alarm: The collapse alarm, fed at each look at held-out rows where the run trains a JEPA term.
    """

    def __init__(
        self,
        model: LLMJEPA,
        args: JEPATrainingArguments,
        train_dataset: Sequence[Pair],
        eval_dataset: Sequence[Pair] = (),
        *,
        view_dataset: Sequence[Pair] = (),
        views_ratio: float = 1.0,
        monitor_dataset: Sequence[Pair] | None = None,
        pad_token_id: int | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        extra_metrics: Callable[[], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.jepa = model
        model.check_record()
        for name, rows in (
            *(("train_dataset", train_dataset), ("eval_dataset", eval_dataset)),
            *(("view_dataset", view_dataset), ("monitor_dataset", monitor_dataset)),
        ):
            _check_rows(name, rows)
        _use_one_gpu(args)
        _lend_what_the_trainer_asks_for(model)
        if pad_token_id is None:
            pad_token_id = getattr(processing_class, "pad_token_id", None)
        if pad_token_id is None:
            raise ValueError(
                "pad_token_id is not given, and the tokenizer has none. Any id will do: rows go by length."
            )
        self.eval_pairs = list(eval_dataset)
        self.monitor_pairs = self.eval_pairs if monitor_dataset is None else list(monitor_dataset)
        self.view_pairs: Sequence[Pair] = view_dataset if views_ratio else ()
        self.views_ratio = views_ratio
        self.pad_token_id = pad_token_id
        self.tokenizer = processing_class  # not the Trainer's, which would change token ids of the model's config
        self.extra_metrics = extra_metrics
        self.alarm = CollapseAlarm()
        self.step_timer = StepTimer()
        self.time_before_s = 0.0
        self._started_s = time.perf_counter()
        self._terms = TermMeter()
        self._sampler: LengthGroupedSampler | MixedBatches | None = None
        self._staging: Path | None = None
        self._accepted: list[str] = []
        self._facts: dict[str, Any] | None = None
        self._problem: str | None = None  # why the step at hand must not be taken
        self._num_skipped = 0  # steps in a row that the scaler of fp16 left out
        super().__init__(
            model=model,
            args=args,
            data_collator=FusedCollator(model.config, pad_token_id, packing=args.packing, pack_length=args.pack_length),
            train_dataset=train_dataset,  # not copied: its rows may be on disk
            eval_dataset=self.eval_pairs,
            callbacks=[*(callbacks or []), _Follow(self)],
        )
        self.loss_is_scaled_for_ga = True  # our terms are means over the whole step already
        self._check_views_of_a_step()
        self._check_combinations()
        check_work(model, args, train_dataset, self.view_pairs)
        if not model.config.uses_views:
            self._check_plain_model()
        if self.is_fsdp_enabled:
            cast(FusedCollator, self.data_collator).same_forwards = True

    def _check_combinations(self) -> None:
        """Refuse settings that do not go together."""
        if isinstance(self.jepa.model, PeftModel):
            if self.is_fsdp_enabled:
                raise ConfigError("LoRA with FSDP is not supported yet. Use DDP: adapters make gradients small.")
            if self.args.max_shard_size != MAX_SHARD_SIZE:
                raise ConfigError(
                    f"max_shard_size={self.args.max_shard_size} has no meaning with LoRA: an adapter is one file. "
                    "Remove it."
                )
        if self.args.fp16 and self.args.device.type == "cpu":
            raise ConfigError(
                "fp16=True needs a GPU, and this is a CPU, where all would be in float32. Remove fp16, or set "
                "precision: bf16 with use_cpu: true."
            )
        if self.is_fsdp_enabled and self.jepa.config.jepa_detach_backbone:
            raise ConfigError(
                "jepa_detach_backbone with FSDP is not supported: parameters that are shared out cannot be frozen for "
                "a part of a step. Use DDP."
            )

    def _check_plain_model(self) -> None:
        """Check a model that trains no views, if it meets our mask all the same: in packed rows, in a look at views."""
        if not self.args.packing and not self.monitor_pairs:
            return
        try:
            LLMJEPA(self.jepa.model, JEPAConfig())
        except UnsupportedModelError as error:
            if self.args.packing:
                raise ConfigError(f"packing=True is not possible with this model. {error}") from error
            logger.warning("model  embeddings of views are not looked at: %s", error)
            self.monitor_pairs = []

    def _check_views_of_a_step(self) -> None:
        """Make sure that each whole step has rows of the second file, and none twice."""
        if not len(self.view_pairs):
            return
        rows = self._step_rows
        number = BesideRows((), self.views_ratio, 0).number(rows)
        if not 0 < number <= len(self.view_pairs):
            raise ConfigError(
                f"views_ratio={self.views_ratio} gives {number} view rows for the {rows} task rows of a step; expected "
                f"from 1 to {len(self.view_pairs)}, as many as there are. Change views_ratio or "
                "per_device_train_batch_size."
            )

    def try_optimizer(self) -> None:
        """Make the optimizer once, as training will, and take a step of one number, so that what lacks is found now.

        Raises:
            Exception: Whatever transformers or the optimizer's package raises: a missing package, a wrong argument.
        """
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # made when the model is shared out
            return
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.create_optimizer()
        self.optimizer = None
        if is_optimizer_factory(kind) or {"params", "model", "optimizer_dict"} & options.keys():
            return  # layer by layer, of this model alone
        weight = nn.Parameter(torch.zeros(64, 128, device=self.args.device))  # enough for states in 8 bits
        weight.grad = torch.zeros_like(weight)
        kind([weight], **options).step()

    def try_schedule(self) -> None:
        """Make the learning-rate schedule once, as training will, and ask it for every part of a run.

        Raises:
            Exception: Whatever transformers raises: a missing or a wrong argument.
        """
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=self.args.learning_rate)
        num_steps = max(self.args.max_steps, 100)
        schedule = self.create_scheduler(num_steps, optimizer)
        self.lr_scheduler = None
        if isinstance(schedule, LambdaLR):
            for shape, step in product(schedule.lr_lambdas, range(0, num_steps, num_steps // 100)):
                shape(step)

    def try_compiler(self) -> None:
        """Compile one product, where the model will be compiled: that needs a compiler on this machine.

        Raises:
            Exception: Whatever torch.compile raises.
        """
        if self.args.torch_compile:
            options: Any = {"backend": self.args.torch_compile_backend, "mode": self.args.torch_compile_mode}
            torch.compile(torch.square, **options)(torch.zeros(8, device=self.args.device))

    def measures_of_a_look(self) -> list[str]:
        """Return the names of what each look at held-out rows measures, without those of `extra_metrics`."""
        pairs = self.monitor_pairs[: self.args.monitor_pairs]
        has_term = self.jepa.config.uses_views and any(pair.use_jepa for pair in pairs)
        return ["ce_loss"] * bool(self.eval_pairs) + ["jepa_loss"] * has_term

    @property
    def _step_rows(self) -> int:
        """Task rows of an optimizer step, in all processes."""
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    # ---- one step ----

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[FusedBatch], Any]:
        """Collect the micro-batches of one optimizer step, and count what its means are over."""
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

    def floating_point_ops(self, inputs: FusedBatch) -> int:
        """Return 0: the Trainer's formula does not know the views. `experiments/run.py` counts operations."""
        return 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: FusedBatch,
        return_outputs: bool = False,
        num_items_in_batch: StepCounts | None = None,
    ) -> Any:
        """Return the loss of a micro-batch, scaled so that those of a step add up to the step's loss.

        With `sum_micro_batches` that is the sum of the micro-batches' own losses.
        """
        batch, counts = inputs, num_items_in_batch
        adds_means = self.args.sum_micro_batches
        whole = None if adds_means else counts  # what the means are over, if it is more than this micro-batch
        output: JEPAOutput = model(
            batch,
            step=self.state.global_step,
            num_steps=self.state.max_steps,
            num_labels=None if whole is None else whole.labels,
            num_pairs=None if whole is None else whole.pairs,
        )
        if not torch.isfinite(output.loss):
            self._problem = _non_finite("loss", self.state.global_step, output, batch)
            if self.args.world_size == 1 or not model.training:
                raise NonFiniteLossError(self._problem)
            # The others do not know, and wait for this process's gradient. It tells them: nan for sure.
            output.loss = output.loss * torch.nan
        if model.training:
            self._terms.add(output, batch, 1 / counts.micro_batches if adds_means and counts else 1.0)
        # Data-parallel training averages gradients over processes; the counts above are sums over them. A micro-batch's
        # own means are averaged as they are, as in the published trainer.
        loss = output.loss * (1 if adds_means else self.accelerator.num_processes)
        return (loss, output) if return_outputs else loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if not self.jepa.config.jepa_detach_backbone:
            return super()._clip_grad_norm(model)
        # A probe must leave the model's step as it is: what is trained beside it is clipped by a norm of its own.
        limit = self.args.max_grad_norm
        norms = [self.accelerator.clip_grad_norm_(self.jepa.model.parameters(), limit)]
        norms.append(nn.utils.clip_grad_norm_(self.jepa.predictor.parameters(), limit))
        return torch.linalg.vector_norm(torch.stack(norms))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of a sharded model
        if not math.isfinite(norm):  # in every process: gradients have been averaged
            problems = [problem for problem in gather(self._problem) if problem]
            self._num_skipped += 1
            message = (
                f"The gradient of step {self.state.global_step + 1} has norm {float(norm)}; the step was not taken. "
                "Lower learning_rate or jepa_lambda, or train in float32."
            )
            # While the scaler of fp16 looks for its scale, gradients overflow now and then: it leaves such a step out.
            if problems or self.accelerator.scaler is None or self._num_skipped > MAX_SKIPPED:
                raise told(NonFiniteLossError("\n".join(problems or [message])))
        else:
            self._num_skipped = 0
        self._terms.end_step()
        return norm

    @property
    def skips_step(self) -> bool:
        """Whether the scaler of fp16 leaves the step at hand out; accelerate does not see it of fused optimizers."""
        return self._num_skipped > 0

    # ---- order of rows ----

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of this process, which with those of the others make up the batches of the step."""
        dataset = cast(Sequence[Pair], self.train_dataset)
        if len(self.view_pairs):
            self._sampler = mixed = self._mixed_batches(self.args.world_size, self.args.process_index)
            batches: MixedBatches | SharedBatches = mixed
            dataset = Joined(dataset, self.view_pairs)
        elif self.args.world_size == 1:
            return super().get_train_dataloader()
        else:
            batches = SharedBatches(
                self._get_train_sampler(dataset),
                self._train_batch_size,
                num_processes=self.args.world_size,
                rank=self.args.process_index,
                drop_last=self.args.dataloader_drop_last,
            )
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=CollateOrFill(cast(FusedCollator, self.data_collator), filler=self._shortest(dataset)),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            worker_init_fn=partial(
                seed_worker, num_workers=self.args.dataloader_num_workers, rank=self.args.process_index
            ),
        )

    def _shortest(self, dataset: Sequence[Pair]) -> Pair | None:
        """Return the shortest row, for a process that has none in a step; a single process always has one."""
        if self.args.world_size == 1:
            return None
        lengths = row_lengths(dataset)
        return dataset[min(range(len(lengths)), key=lengths.__getitem__)]

    def _mixed_batches(self, num_processes: int, rank: int) -> MixedBatches:
        """Return the batches of a process, where rows of the second file stand beside those of the task."""
        strategy = self.args.train_sampling_strategy
        beside = BesideRows(
            row_lengths(self.view_pairs),
            self.views_ratio,
            self._order_seed,
            shuffle=strategy != "sequential",
            group=strategy == "group_by_length",
        )
        return MixedBatches(
            self._get_train_sampler(self.train_dataset),
            row_lengths(cast(Sequence[Pair], self.train_dataset)),
            beside,
            self._train_batch_size,
            accumulation=self.args.gradient_accumulation_steps,
            num_processes=num_processes,
            rank=rank,
            drop_last=self.args.dataloader_drop_last,
        )

    @property
    def _order_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy == "sequential":
            return super()._get_train_sampler(train_dataset)
        self._sampler = LengthGroupedSampler(
            row_lengths(cast(Sequence[Pair], self.train_dataset)),
            self._step_rows,
            self._order_seed,
            group=self.args.train_sampling_strategy == "group_by_length",
        )
        return self._sampler

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> Any:
        # A run that was killed after its last step resumes from there, and the stock loop would take one step more.
        if self.state.global_step >= self.state.max_steps or (self.args.stop_on_collapse and self.alarm.alarmed):
            self.control.should_training_stop = True
            return None
        # transformers 5.23 tells the sampler as well; a loader that wraps ours, to skip rows say, need not pass it on.
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)
        return super()._run_epoch(*args, epoch=epoch, **kwargs)

    def batches_of_epoch(self, epoch: int) -> Iterator[FusedBatch]:
        """Lay out the batches of an epoch once more, in order; the last one may be short."""
        pairs = cast(Sequence[Pair], self.train_dataset)
        if len(self.view_pairs):
            batches = self._mixed_batches(1, 0)
            batches.set_epoch(epoch)
            both = Joined(pairs, self.view_pairs)
            yield from (self.data_collator([both[number] for number in numbers]) for numbers in batches)
            return
        sampler = self._get_train_sampler()
        if isinstance(sampler, LengthGroupedSampler):
            sampler.set_epoch(epoch)
        rows = iter(sampler)
        while numbers := list(islice(rows, self.args.train_batch_size)):
            yield self.data_collator([pairs[number] for number in numbers])

    # ---- what is logged ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the named terms to a line of the training log."""
        if "loss" in logs:
            logs |= self._terms.pop()
        if "train_runtime" in logs and self.time_before_s:
            logs = self._of_whole_run(logs)
        super().log(logs, start_time)

    def _of_whole_run(self, logs: dict[str, float]) -> dict[str, float]:
        """Return the last line of the log of a run that was resumed; the stock one is of the steps since then alone."""
        time_s, step = self.training_time_s, self.state.global_step
        whole = {"train_runtime": round(time_s, 4), "train_steps_per_second": round(step / time_s, 3)}
        lines = [(line["step"], line["loss"]) for line in self.state.log_history if "loss" in line]
        if lines:
            starts = [0, *(end for end, _ in lines)]
            steps = [end - start for start, (end, _) in zip(starts, lines, strict=False)]
            whole["train_loss"] = sum(n * loss for n, (_, loss) in zip(steps, lines, strict=True)) / max(sum(steps), 1)
        return {key: value for key, value in logs.items() if key != "train_samples_per_second"} | whole

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Look at held-out pairs: loss, distance, and what the embeddings of the views look like.

        Returns:
            `eval_ce_loss` in nats a token; `eval_jepa_loss`, `monitor/*` (see `embedding_monitors`) over the
            first `monitor_pairs` pairs (of `monitor_dataset`, where there is one); and what `extra_metrics`
            adds. It draws no random number.
        """
        self._terms.pause()  # time spent here is not training time
        pairs = self.eval_pairs
        metrics: dict[str, float] = {}
        if pairs:
            metrics[f"{metric_key_prefix}_ce_loss"] = self._held_out_ce(pairs)
        if self.monitor_pairs:
            metrics |= self._look_at_views(self.monitor_pairs[: self.args.monitor_pairs], metric_key_prefix)
        if self.extra_metrics is not None:
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in self.extra_metrics().items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._terms.resume()
        return metrics

    def _held_out_ce(self, pairs: Sequence[Pair]) -> float:
        """Cross-entropy over the labelled tokens of `pairs`, nats a token."""
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

    def _look_at_views(self, pairs: Sequence[Pair], prefix: str) -> dict[str, float]:
        views = view_embeddings(self.jepa, pairs, self.pad_token_id, context=self.compute_loss_context_manager)
        if not len(views.numbers):
            return {}
        try:
            monitors = embedding_monitors(views.text_pred, views.code_emb, views.code_groups)
        except ValueError as error:
            message = f"After step {self.state.global_step}: {error}"
            raise told(
                NonFiniteLossError(f"{message} Lower learning_rate or jepa_lambda, or train in float32.")
            ) from error
        trains_views = self.jepa.config.uses_views
        if trains_views and (reason := self.alarm.update(self.state.global_step, monitors)):
            logger.warning("Collapse alarm. %s", reason)
            self.control.should_training_stop |= self.args.stop_on_collapse
        metrics = {f"monitor/{name}": value for name, value in monitors.items()}
        return metrics | ({f"{prefix}_jepa_loss": views.jepa_loss} if trains_views else {})

    def replay_alarm(self) -> None:
        """Bring the alarm of a resumed run to where the log says it was."""
        self.alarm = CollapseAlarm()
        for line in self.state.log_history if self.jepa.config.uses_views else []:
            looks = {key.removeprefix("monitor/"): value for key, value in line.items() if key.startswith("monitor/")}
            if looks:
                self.alarm.update(line["step"], looks)

    # ---- what is saved, and what a run goes on from ----

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs: Any) -> Any:
        """Train; from the newest whole checkpoint with `True`, from a given one with its folder.

        Raises:
            DataError: If the checkpoint, or with `True` every one, is missing or damaged.
            ConfigError: If it was written with other settings, rows or tokenizer, but for `allow_changed`.
            LLMJEPAError: If the disk has no room for the checkpoints that `save_strategy` asks for.
        """
        self._check_processes()
        if self.args.should_save:
            remove_leftovers(self.args.output_dir)
        checkpoint = on_main(self._checkpoint, resume_from_checkpoint)
        if checkpoint is not None:
            self._accepted = check_resume(
                without_removed(read_facts(checkpoint)), self.facts(), self.args.allow_changed, where=str(checkpoint)
            )
            self._add_to(on_main(read_times, checkpoint), checkpoint)
        if self.args.save_strategy != "no":
            on_main(check_room, self.args.output_dir, self._checkpoint_bytes(), self.args.save_total_limit)
        self._started_s = time.perf_counter()
        return super().train(None if checkpoint is None else str(checkpoint), **kwargs)

    def _add_to(self, times: dict[str, Any], checkpoint: Path) -> None:
        """Let the times of this run be those of a whole one, of which a part was done before the checkpoint."""
        if "training_time_s" not in times:
            logger.warning("time   %s does not say how long training took until there: times begin with it", checkpoint)
        self.time_before_s = times.get("training_time_s", 0.0)
        self.step_timer.earlier = times.get("steps")

    @property
    def training_time_s(self) -> float:
        """Seconds since training began, those before the checkpoint that the run went on from among them.

        Looks at held-out rows and checkpoints count; steps that were taken after the checkpoint and lost do not.
        """
        return self.time_before_s + time.perf_counter() - self._started_s

    def _times(self) -> dict[str, Any]:
        """Return what a checkpoint tells of the time until there."""
        steps = self.step_timer.summary()
        return {"training_time_s": self.training_time_s} | ({"steps": steps} if steps["num_steps_timed"] else {})

    def _check_processes(self) -> None:
        """Make sure that all processes train the same run: a machine may have another file, or another version."""
        if self.args.world_size == 1:
            return
        everyone = gather(self.facts() | {"seed of loss dropout": self.jepa.seed})
        for number, facts in enumerate(everyone):
            differing = [name for name in facts if facts[name] != everyone[0].get(name)]
            if differing:
                raise told(
                    ConfigError(
                        f"Process {number} has another {', '.join(differing)} than process 0. All must have the same "
                        "settings, files and seed: call set_seed before the model is made."
                    )
                )

    def _checkpoint(self, wanted: str | Path | bool | None) -> Path | None:
        if wanted is None or wanted is False:
            return None
        if wanted is True:
            newest = find_newest(self.args.output_dir)
            if newest is None:
                raise DataError(f"{self.args.output_dir} has no checkpoint to go on from.")
            return newest
        problem = find_problem(Path(wanted))
        if problem is not None:
            raise DataError(f"{wanted} cannot be used: {problem}. Name another checkpoint, or train from the start.")
        return Path(wanted)

    def facts(self) -> dict[str, Any]:
        """Return what a run that goes on from this one's checkpoints must have in common with it."""
        if self._facts is None:  # once: every row is hashed
            rows = cast(Sequence[Pair], self.train_dataset)
            facts = describe_run(self.args, self.jepa.config, rows, self.tokenizer)
            if (dtype := self.jepa.backbone.embeddings.weight.dtype) != torch.float32:
                facts["weights_dtype"] = str(dtype).removeprefix("torch.")
            facts |= describe_views(self.view_pairs, self.views_ratio)
            self._facts = facts | describe_adapter(self.jepa.model)
        return self._facts

    def _checkpoint_bytes(self) -> int:
        """Estimate the size of a checkpoint: the weights, and two moments of those that are trained (AdamW)."""
        frozen = 0 if is_adapted(self.jepa.model) else 1  # an adapter is saved without the model it belongs to
        return sum(
            each.numel() * each.element_size() * (3 if each.requires_grad else frozen)
            for each in self.jepa.parameters()
        )

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        output_dir = Path(self.args.output_dir)
        with staged(output_dir, owner=self.args.should_save) as staging:
            self._staging = staging
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._name_best(staging, output_dir)
                publish(staging, output_dir, self.state.global_step, self.facts(), self._times())
                rotate(output_dir, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()  # nobody writes the next one before the staging folder has gone

    def _name_best(self, staging: Path, output_dir: Path) -> None:
        """Let the state name the best checkpoint by the name it will have."""
        best = self.state.best_model_checkpoint
        if best is not None and Path(best).parent == staging:
            self.state.best_model_checkpoint = str(output_dir / Path(best).name)
            self.state.save_to_json(str(staging / f"checkpoint-{self.state.global_step}" / TRAINER_STATE_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        optimizer = cast(torch.optim.Optimizer, self.optimizer)
        fresh = [dict(group) for group in optimizer.param_groups]
        with _plain_tensors_only(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
        changed = {"learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"} & set(self._accepted)
        if not changed:
            return
        # The state that was loaded brought the old values along. What was accepted is to take effect.
        if not isinstance(self.lr_scheduler, LambdaLR):
            raise ConfigError(
                f"lr_scheduler_type={self.args.lr_scheduler_type} cannot go on with another {', '.join(changed)}."
            )
        for group, new, shape in zip(optimizer.param_groups, fresh, self.lr_scheduler.lr_lambdas, strict=True):
            group.update({name: new[name] for name in ("weight_decay", "betas", "eps", "initial_lr") if name in new})
            group["lr"] = group["initial_lr"] * shape(self.lr_scheduler.last_epoch)
        self.lr_scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.lr_scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _plain_tensors_only(checkpoint):
            super()._load_rng_state(checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        save_jepa(
            self.jepa,
            Path(output_dir or self.args.output_dir),
            self.tokenizer,
            max_shard_size=self.args.max_shard_size,
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save a plain transformers folder, of a sharded model too; every process calls it."""
        self._save(output_dir)

    def _load_best_model(self) -> None:
        restore_weights(self.jepa, cast(str, self.state.best_model_checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        restore_weights(self.jepa, resume_from_checkpoint)


def _check_rows(name: str, rows: Any) -> None:
    """Refuse rows that are not pairs, such as those of a Dataset: they would fail deep in the loader."""
    if rows is None or (isinstance(rows, Sequence) and not len(rows)):
        return
    try:
        looked_at = rows if isinstance(rows, list | tuple) else [rows[0]]  # of others, each may be read from a file
    except (TypeError, KeyError, IndexError):  # no sequence at all
        looked_at = [None]
    strange = [type(row).__name__ for row in looked_at if not isinstance(row, Pair)]
    if strange:
        of_what = f", a row {strange[0]}" if looked_at[0] is not None else ""
        raise ConfigError(
            f"{name} is of type {type(rows).__name__}{of_what}; expected a sequence of Pair, which holds token ids. "
            "Read files with llm_jepa.data.prepare.load_data and take its .train.pairs, or encode each text with "
            "PairEncoder of llm_jepa.data.encode."
        )


def _use_one_gpu(args: JEPATrainingArguments) -> None:
    """Keep the Trainer from wrapping the model in nn.DataParallel, which cannot split our batches."""
    if args.n_gpu > 1:
        logger.warning(
            "device %d GPUs are there, and one process uses one; "
            "`torchrun --nproc-per-node %d -m llm_jepa train ...` uses all",
            args.n_gpu,
            args.n_gpu,
        )
        args._n_gpu = 1


def _lend_what_the_trainer_asks_for(model: LLMJEPA) -> None:
    """Give the objective what the Trainer asks of the model that it is given.

    That is layers by class, each a unit of FSDP, and checkpointing of activations, by its new name and its old one.
    """
    for name in ("_no_split_modules", "activation_checkpointing_enable", "gradient_checkpointing_enable"):
        if hasattr(model.model, name):
            setattr(model, name, getattr(model.model, name))


@dataclass(frozen=True)
class CollateOrFill:
    """Lays out a batch; for a process that has no row in it, one row in which nothing counts."""

    collate: FusedCollator
    filler: Pair | None

    def __call__(self, pairs: Sequence[Pair]) -> FusedBatch:
        if pairs:
            return self.collate(pairs)
        assert self.filler is not None
        return self.collate([self.filler]).emptied()


class _Follow(TrainerCallback):
    """Keeps what stands beside the model in step with it: slow copy, step times, log, the alarm of a resumed run."""

    def __init__(self, trainer: JEPATrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.replay_alarm()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.step_timer.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.step_timer.stop()
        self._log_before_saving(args, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._log_before_saving(args, control)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.trainer.skips_step:
            self.trainer.jepa.update_target()

    @staticmethod
    def _log_before_saving(args: Any, control: Any) -> None:
        # The means of a line begin anew after it: a checkpoint in their midst, or the end, would lose steps.
        if args.logging_strategy != "no":
            control.should_log |= control.should_save or control.should_training_stop


@contextmanager
def _plain_tensors_only(checkpoint: str | None) -> Iterator[None]:
    """Say it clearly where transformers, which loads plain tensors alone, meets a file with code in it."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{checkpoint} has a file that holds code beside its tensors, or is damaged; it was not loaded. Use "
            "another checkpoint."
        ) from error


def _non_finite(what: str, step: int, output: JEPAOutput, batch: FusedBatch) -> str:
    rows = ", ".join(batch.sources[:MAX_ROWS_NAMED]) or "of unknown origin"
    more = f" and {len(batch.sources) - MAX_ROWS_NAMED} more" if len(batch.sources) > MAX_ROWS_NAMED else ""
    return (
        f"The {what} of step {step + 1} is {output.loss.item()} (ce_loss {output.ce_loss.item():.4g}, jepa_loss "
        f"{output.jepa_loss.item():.4g}); the step was not taken. Rows of the batch: {rows}{more}. Lower learning_rate "
        "or jepa_lambda, or look at these rows with `llm-jepa data inspect`."
    )
