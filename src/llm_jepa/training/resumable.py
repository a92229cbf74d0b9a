"""A Trainer whose runs continue from a checkpoint as if they had never stopped, and whose checkpoints are whole."""

from __future__ import annotations

# mypy: disable-error-code="override, misc, attr-defined, arg-type"
import logging
import pickle
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase, Trainer
from transformers.trainer import TRAINER_STATE_NAME

from llm_jepa.errors import ConfigError, DataError
from llm_jepa.objective import LLMJEPA, Pair
from llm_jepa.processes import gather, on_main, told

from .adapters import PeftModel, describe_adapter
from .arguments import JEPATrainingArguments
from .checkpoints import check_room, find_newest, find_problem, publish, read_manifest, remove_leftovers, rotate, staged
from .meters import StepTimer
from .resume import check_resume, describe_rows, describe_run
from .saving import restore_weights, save_jepa

logger = logging.getLogger(__name__)


class ResumableTrainer(Trainer):
    """What a run saves, and what it continues from; `JEPATrainer` says what a step is.

    Attributes:
        time_before_s: Seconds of training before the checkpoint that the run continues from; 0 without a checkpoint.
        preparation_time_s: Seconds of loading and building before the training. When a run continues from a
            checkpoint, the seconds that the checkpoint records are added.
    """

    args: JEPATrainingArguments
    jepa: LLMJEPA
    tokenizer: PreTrainedTokenizerBase | None
    view_pairs: Sequence[Pair]
    views_ratio: float
    step_timer: StepTimer
    time_before_s = 0.0
    preparation_time_s = 0.0
    _started_s = 0.0
    _staging: Path | None = None
    _accepted: Sequence[str] = ()  # facts that may differ from those of the checkpoint
    _facts: dict[str, Any] | None = None

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs: Any) -> Any:
        """Train. With `True`, continue from the newest whole checkpoint; with a folder, from that checkpoint.

        Raises:
            DataError: If the checkpoint is missing or damaged; with `True`, if every checkpoint is.
            ConfigError: If it was written with other settings, rows or tokenizer, except for `allow_changed`.
            LLMJEPAError: If the disk has no room for the checkpoints that `save_strategy` asks for.
        """
        self._check_processes()
        if self.args.should_save:
            remove_leftovers(self.args.output_dir)
        checkpoint = on_main(self._checkpoint, resume_from_checkpoint)
        if checkpoint is not None:
            manifest = on_main(read_manifest, checkpoint)
            self._accepted = check_resume(manifest["facts"], self.facts(), self.args.allow_changed, str(checkpoint))
            times = manifest["times"]  # this run's times are those of the whole run
            self.time_before_s = times["training_time_s"]
            self.preparation_time_s += times["preparation_time_s"]
            self.step_timer.earlier = times.get("steps")
        if self.args.save_strategy != "no":
            on_main(check_room, self.args.output_dir, self._checkpoint_bytes(), self.args.save_total_limit)
        self._started_s = time.perf_counter()
        return super().train(None if checkpoint is None else str(checkpoint), **kwargs)

    @property
    def training_time_s(self) -> float:
        """Seconds since training began, including the time before the checkpoint that the run continues from.

        Evaluations and checkpoints count. Steps that were taken after the checkpoint and lost do not count.
        """
        return self.time_before_s + time.perf_counter() - self._started_s

    def _times(self) -> dict[str, Any]:
        """Return the times that a checkpoint keeps."""
        steps = self.step_timer.summary()
        times = {"training_time_s": self.training_time_s, "preparation_time_s": self.preparation_time_s}
        return times | ({"steps": steps} if steps["num_steps_timed"] else {})

    def _check_processes(self) -> None:
        """Make sure that all processes train the same run: a machine may have another file or another version."""
        if self.args.world_size == 1:
            return
        everyone = gather(self.facts() | {"seed of loss dropout": self.jepa.seed})
        for number, facts in enumerate(everyone):
            if differing := [name for name in facts if facts[name] != everyone[0].get(name)]:
                text = (
                    f"Process {number} has another {', '.join(differing)} than process 0. All must have the same "
                    "settings, files and seed. Call set_seed before the model is made."
                )
                raise told(ConfigError("processes_differ", text))

    def _checkpoint(self, wanted: str | Path | bool | None) -> Path | None:
        if wanted is None or wanted is False:
            return None
        if wanted is True:
            newest = find_newest(self.args.output_dir)
            if newest is None:
                raise DataError("checkpoint_missing", f"{self.args.output_dir} has no checkpoint to continue from.")
            return newest
        way_on = "Name another checkpoint, or train from the start."
        if not Path(wanted).is_dir():
            raise DataError("checkpoint_missing", f"{wanted}: no such checkpoint. {way_on}")
        if problem := find_problem(Path(wanted)):
            raise DataError("checkpoint_damaged", f"{wanted} cannot be used: {problem}. {way_on}")
        return Path(wanted)

    def facts(self) -> dict[str, Any]:
        """Return what a run that continues from this run's checkpoints must have in common with it."""
        if self._facts is None:  # only once, because every row is hashed
            rows = cast(Sequence[Pair], self.train_dataset)
            facts = describe_run(self.args, self.jepa.config, rows, self.tokenizer)
            if (dtype := self.jepa.backbone.embeddings.weight.dtype) != torch.float32:
                facts["weights_dtype"] = str(dtype).removeprefix("torch.")
            if len(self.view_pairs):
                facts |= {"view_rows": describe_rows(self.view_pairs), "views_ratio": self.views_ratio}
            self._facts = facts | on_main(describe_adapter, self.jepa.model)
        return self._facts

    def _checkpoint_bytes(self) -> int:
        """Estimate the size of a checkpoint: the weights, and two moments (AdamW) of each trained weight."""
        frozen = 0 if isinstance(self.jepa.model, PeftModel) else 1  # an adapter is saved without its model
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
                step, best = self.state.global_step, self.state.best_model_checkpoint
                if best is not None and Path(best).parent == staging:  # the state has its final name
                    self.state.best_model_checkpoint = str(output_dir / Path(best).name)
                    self.state.save_to_json(str(staging / f"checkpoint-{step}" / TRAINER_STATE_NAME))
                publish(staging, output_dir, step, self.facts(), self._times())
                rotate(output_dir, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()  # no process writes the next one before the staging folder is removed

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        optimizer = cast(torch.optim.Optimizer, self.optimizer)
        fresh = [dict(group) for group in optimizer.param_groups]
        with _plain_tensors_only(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
        changed = {"learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"} & set(self._accepted)
        if not changed:
            return
        # The loaded state holds the old values. The values that the user accepted must take effect.
        if not isinstance(self.lr_scheduler, LambdaLR):
            names, kind = ", ".join(sorted(changed)), self.args.lr_scheduler_type
            text = f"lr_scheduler_type={kind} cannot continue with another {names}. Go back to the old value."
            raise ConfigError("settings_conflict", text)
        for group, new, shape in zip(optimizer.param_groups, fresh, self.lr_scheduler.lr_lambdas, strict=True):
            group.update({name: new[name] for name in ("weight_decay", "betas", "eps", "initial_lr") if name in new})
            group["lr"] = group["initial_lr"] * shape(self.lr_scheduler.last_epoch)
        self.lr_scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.lr_scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _plain_tensors_only(checkpoint):
            super()._load_rng_state(checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = output_dir or self.args.output_dir
        save_jepa(self.jepa, folder, self.tokenizer, max_shard_size=self.args.max_shard_size)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save a plain transformers folder, also for a sharded model; every process must call it."""
        self._save(output_dir)

    def _load_best_model(self) -> None:
        restore_weights(self.jepa, cast(str, self.state.best_model_checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        restore_weights(self.jepa, resume_from_checkpoint)


@contextmanager
def _plain_tensors_only(checkpoint: str | None) -> Iterator[None]:
    """Raise a clear error if transformers, which loads only plain tensors, finds a file with code in it."""
    try:
        yield
    except pickle.UnpicklingError as error:
        text = f"{checkpoint} has a file with code in it, or a damaged one. It was not loaded. Use another checkpoint."
        raise DataError("checkpoint_not_plain", text) from error
