"""The settings of training: transformers' own, with the defaults that this method needs."""

from __future__ import annotations

import logging
import math
import os
import re
from dataclasses import dataclass

import torch
from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available

from llm_jepa.errors import ConfigError
from llm_jepa.fields import setting, setting_made_by

from .bf16_products import has_bf16_instructions
from .saving import MAX_SHARD_SIZE

logger = logging.getLogger(__name__)

_SIZE = r"[1-9]\d*(\.\d+)?\s*[KMGT]B"
AUTO = "auto"
PRECISIONS = (AUTO, "float32", "bf16")
NOT_HERE = {
    "remove_unused_columns": "rows are pairs, not columns",
    "logging_nan_inf_filter": "it would hide a nan loss",
    "save_on_each_node": "rank 0 alone writes the run folder",
    "label_smoothing_factor": "the objective computes its cross-entropy itself, and has no smoothing",
    "neftune_noise_alpha": "noise on the embeddings would change the views as well",
    "save_only_model": "a run that continues from such a checkpoint would differ from one that was never stopped",
    "ignore_data_skip": "a resumed run would train again on rows that it has already seen",
    "auto_find_batch_size": "runs of one comparison would have batches of different sizes",
    "push_to_hub": "the folder of a run holds rows of the data and answers. After the run, write a model folder with "
    "`llm-jepa export`, and upload that with `hf upload`",
    "use_liger_kernel": "its kernels work in plain models only, and compute the cross-entropy themselves",
    "fp16_full_eval": "validation rows are evaluated in the precision of training",
    "bf16_full_eval": "validation rows are evaluated in the precision of training",
}
"""Fields of transformers that would be ignored here or would break a promise, each with the reason."""
BY_METRIC = ("reduce_lr_on_plateau", "greedy")
"""Learning-rate schedules that depend on a metric of the validation rows."""
AT_LEAST = {
    1: ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "max_steps"),
    0: ("learning_rate", "warmup_steps", "weight_decay", "max_grad_norm", "dataloader_num_workers"),
}
"""The smallest value of some fields of transformers, which checks them only after training has begun."""


@dataclass
class JEPATrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with all its fields under their own names; the differences are listed here.

    Defaults that differ on purpose: columns are kept, a non-finite loss is never hidden in an average, rows are grouped
    by length (or packed), nothing is reported to a tracker, checkpoints are off unless `save_steps` is set, and
    gradient checkpointing is the non-reentrant one. A value that is not possible here is a ConfigError.
    """

    output_dir: str | None = setting(None, "Folder of checkpoints and of the model.")
    learning_rate: float = setting(
        1e-3, "Peak learning rate. In a run of a pretrained model the default is 2e-5, with LoRA 2e-4."
    )
    per_device_train_batch_size: int = setting(32, "Pairs in a batch, on each device.")
    lr_scheduler_type: str = setting("cosine", "Shape of the learning rate over the steps.")
    warmup_steps: float = setting(0.05, "Steps of linear warm-up; below 1, a share of all steps.")
    logging_steps: float = setting(20, "Steps between two lines of the training log.")
    save_strategy: str = setting("no", "When checkpoints are written: no, steps or epoch.")
    save_steps: float | None = setting(  # type: ignore[assignment]
        None, "Steps between two checkpoints; below 1, a share of all steps. None are written by default."
    )
    eval_strategy: str = setting("steps", "When validation rows are evaluated during training: no, steps, epoch.")
    eval_steps: float | None = setting(
        0.1,
        "Steps between two evaluations; below 1, a share of all steps. Where it is not set, a large model is "
        "evaluated less often (docs/models.md).",
    )
    report_to: str | list[str] = setting(
        "none", "Trackers, as in transformers: tensorboard, trackio, wandb, mlflow, or a list (docs/python.md)."
    )
    remove_unused_columns: bool = setting(False, "Must stay off: rows are pairs.")
    logging_nan_inf_filter: bool = setting(False, "Must stay off: it would hide a nan loss.")
    train_sampling_strategy: str = setting(
        AUTO,
        "Order of training rows: group_by_length (least padding), random, sequential, or auto (random "
        "with packing, else group_by_length).",
    )
    packing: bool = setting(
        False,
        "Put several pairs into a row; no pair attends to another. Loss and gradients are the same up to rounding.",
    )
    pack_length: int | None = setting(None, "Tokens in a packed row. Default: the length of the batch's longest pair.")
    precision: str = setting(
        "auto",
        "auto (bf16 on a GPU that has it, else float32), float32 or bf16. On a CPU bf16 is autocast (docs/models.md).",
    )
    sum_micro_batches: bool = setting(
        False,
        "Add up both terms' means over the micro-batches, as the published JEPA trainer does: before clipping, the "
        "gradient of a step is about gradient_accumulation_steps times as large. Several processes average their "
        "sums.",
    )
    monitor_pairs: int = setting(128, "Validation pairs whose embeddings the monitors measure.")

    max_shard_size: str = setting(
        MAX_SHARD_SIZE, "Largest file of weights in checkpoints and in the model, such as 5GB. Larger models are split."
    )
    allow_changed: list[str] = setting_made_by(
        list,
        "Names of settings that may differ from those of the resumed run; also train_rows, view_rows, tokenizer, "
        "num_processes, base_weights (LoRA).",
    )

    def __post_init__(self) -> None:
        self._check_sharding()
        self._check_values()
        self._place_bf16()
        self._check_ranges()
        self._fill_in()
        super().__post_init__()
        if self.lr_scheduler_type in BY_METRIC and self.greater_is_better:  # by default they wait for a lower metric
            self.lr_scheduler_kwargs = {"mode": "max"} | dict(self.lr_scheduler_kwargs or {})  # type: ignore[arg-type]
        asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if not (self.fp16 or self.bf16) and self.mixed_precision == asked != "no":
            logger.warning("precision=%s is used, not the %s of accelerate's configuration", self.precision, asked)
            self.mixed_precision = "no"

    def num_steps(self, num_rows: int) -> int:
        """Return the number of optimizer steps of a run with so many training rows."""
        if self.max_steps > 0:
            return self.max_steps
        batches = num_rows / (self.train_batch_size * self.world_size)
        whole = math.floor(batches) if self.dataloader_drop_last else math.ceil(batches)
        of_epoch = max(math.ceil(whole / self.gradient_accumulation_steps), 1)
        return math.ceil(of_epoch * self.num_train_epochs)

    def _check_values(self) -> None:
        if self.precision not in PRECISIONS:
            text = f"precision={self.precision!r} is not one of: {', '.join(PRECISIONS)}."
            raise ConfigError("value_not_allowed", text)
        if self.precision == "float32" and (self.bf16 or self.fp16):
            asked = "bf16" if self.bf16 else "fp16"
            raise ConfigError("settings_conflict", f"precision=float32 contradicts {asked}=True. Remove one of them.")
        for name, why in NOT_HERE.items():
            if getattr(self, name):
                text = f"{name}={getattr(self, name)} is not possible here: {why}. Remove it."
                raise ConfigError("setting_not_supported", text)
        if self.pack_length is not None and self.pack_length < 1:
            raise ConfigError("value_out_of_range", f"pack_length={self.pack_length} must be at least 1.")
        if self.pack_length is not None and not self.packing:
            text = f"pack_length={self.pack_length} needs packing=True. Set packing, or remove pack_length."
            raise ConfigError("setting_without_effect", text)
        if not re.fullmatch(_SIZE, str(self.max_shard_size)):
            text = f"max_shard_size={self.max_shard_size!r} is not a size. Expected a number and KB, MB or GB."
            raise ConfigError("value_malformed", text)
        if self.monitor_pairs < 2:
            text = f"monitor_pairs={self.monitor_pairs} must be at least 2: one pair has no gap."
            raise ConfigError("value_out_of_range", text)

    def _place_bf16(self) -> None:
        """Use bf16 on the CPU if there is no GPU. Where it would be slow, refuse it; the error names the setting.

        With `use_cpu` any processor is accepted, so that a run meant for a GPU can be tried on a CPU first.
        """
        is_asked = self.bf16 or self.precision == "bf16"
        if not is_asked or self.use_cpu or is_torch_bf16_gpu_available() or is_torch_xla_available():
            return
        name = "bf16" if self.bf16 else "precision"
        if torch.accelerator.is_available():
            raise ConfigError(
                "device_not_capable",
                f"{name}={getattr(self, name)} needs a GPU with bfloat16, and the GPU here does not have it. Remove "
                f"{name} to train in float32.",
            )
        if not has_bf16_instructions():
            raise ConfigError(
                "device_too_slow",
                f"{name}={getattr(self, name)} is slower than float32 here: there is no GPU, and the processor has no "
                f"bf16 instructions. Remove {name} to train in float32, or set use_cpu: true to use bf16 anyway.",
            )
        self.use_cpu = True  # transformers refuses bf16 without a GPU unless the CPU is asked for

    def _check_ranges(self) -> None:
        for name, least in ((name, least) for least, names in AT_LEAST.items() for name in names):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value >= least and not (name == "max_steps" and value == -1):
                raise ConfigError("value_out_of_range", f"{name}={value} must be at least {least}.")
        for name in ("num_train_epochs", "eval_steps", "logging_steps", "save_steps"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 < value < math.inf:
                raise ConfigError("value_out_of_range", f"{name}={value} must be above 0.")

    def _fill_in(self) -> None:
        """Fill in what depends on other settings, or on the machine."""
        if self.train_sampling_strategy == AUTO:
            # Pairs of equal length leave no gaps that another one fits into, so packing takes pairs in random order.
            self.train_sampling_strategy = "random" if self.packing else "group_by_length"
        goes_by_metric = self.load_best_model_at_end or self.lr_scheduler_type in BY_METRIC
        if goes_by_metric and self.metric_for_best_model is None:
            self.metric_for_best_model = "ce_loss"  # transformers would look for a loss that no evaluation has
        if self.save_steps is not None and self.save_strategy == "no":
            self.save_strategy = "steps"
        self.save_steps = 500 if self.save_steps is None else self.save_steps  # transformers wants a number
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        if self.precision == "bf16" or (self.precision == "auto" and has_bf16 and not self.fp16):
            self.bf16 = True
        if self.gradient_checkpointing and self.gradient_checkpointing_kwargs is None:
            self.gradient_checkpointing_kwargs = {"use_reentrant": False}
        self.dataloader_pin_memory &= torch.cuda.is_available()

    def _check_sharding(self) -> None:
        """Refuse FSDP on a CPU: accelerate would train plainly data-parallel instead, without a warning."""
        asked = bool(self.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1")
        if asked and (self.use_cpu or not torch.accelerator.is_available()):
            raise ConfigError(
                "device_not_capable",
                "FSDP needs an accelerator; use DDP. Leave out fsdp (or use_fsdp of accelerate's configuration) and "
                "start the same command with torchrun, or accelerate launch with configs/accelerate/ddp.yaml.",
            )
