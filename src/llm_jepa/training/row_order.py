"""A Trainer whose batches depend only on seed and epoch, with rows of a second file next to the training rows."""

from __future__ import annotations

# mypy: disable-error-code="override, misc, attr-defined, arg-type"
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import seed_worker

from llm_jepa.data.encoded_pairs import row_lengths
from llm_jepa.data.lazy_rows import Joined
from llm_jepa.errors import ConfigError
from llm_jepa.objective import FusedBatch, FusedCollator, Pair

from .arguments import JEPATrainingArguments
from .sampler import BesideRows, LengthGroupedSampler, SharedBatches, num_beside, spread


class OrderedTrainer(Trainer):
    """Chooses the rows of each batch in each process; `JEPATrainer` trains on them."""

    args: JEPATrainingArguments
    view_pairs: Sequence[Pair]  # rows of a second file, trained on with the training rows
    views_ratio: float  # rows of `view_pairs` for each training row
    _sampler: LengthGroupedSampler | SharedBatches | None = None

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of this process; with those of the other processes they make up each step."""
        if self.args.world_size == 1 and not len(self.view_pairs):
            return super().get_train_dataloader()
        dataset, filler = self._all_rows, None
        batches = self._sampler = self._batches(self.args.world_size, self.args.process_index)
        if self.args.world_size > 1:  # a process may have no row in a step
            lengths = row_lengths(dataset)
            filler = dataset[min(range(len(lengths)), key=lengths.__getitem__)]
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=CollateOrFill(cast(FusedCollator, self.data_collator), filler),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            worker_init_fn=partial(
                seed_worker, num_workers=self.args.dataloader_num_workers, rank=self.args.process_index
            ),
        )

    @property
    def _all_rows(self) -> Sequence[Pair]:
        rows = cast(Sequence[Pair], self.train_dataset)
        return Joined(rows, self.view_pairs) if len(self.view_pairs) else rows

    def _batches(self, num_processes: int, rank: int) -> SharedBatches:
        strategy, beside = self.args.train_sampling_strategy, None
        if len(self.view_pairs):
            beside = BesideRows(
                row_lengths(cast(Sequence[Pair], self.train_dataset)),
                row_lengths(self.view_pairs),
                self.views_ratio,
                self._order_seed,
                shuffle=strategy != "sequential",
                group=strategy == "group_by_length",
            )
        return SharedBatches(
            self._get_train_sampler(self.train_dataset),
            self._train_batch_size,
            beside,
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
        # transformers 5.23 sets the epoch too, but a loader that wraps ours (to skip rows) may not pass it on.
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)
        return super()._run_epoch(*args, epoch=epoch, **kwargs)

    def sample_of_first_epoch(self, number: int) -> Iterator[tuple[FusedBatch, float]]:
        """Yield some batches of the first epoch, as a single process would get them, with weights (`spread`).

        The costs of these batches, each times its weight, add up to about the mean cost of a batch. Only these are laid
        out. They depend on seed and rows alone, so arms with equal batches have the same.
        """
        batches, rows = self._batches(1, 0), self._all_rows
        batches.set_epoch(0)
        numbers, lengths = list(batches), row_lengths(rows)
        of_batches = [[lengths[row] for row in batch] for batch in numbers]
        # About how many tokens each has: with padding, which packed rows have little of.
        sizes = [sum(each) if self.args.packing else max(each) * len(each) for each in of_batches]
        for place, weight in spread(sizes, number):
            yield self.data_collator([rows[row] for row in numbers[place]]), weight

    @property
    def batches_per_step(self) -> float:
        """The mean number of batches of a step in a single process; the last step of an epoch may have fewer."""
        number = len(self._batches(1, 0))
        return number / math.ceil(number / self.args.gradient_accumulation_steps)

    @property
    def _step_rows(self) -> int:
        """Task rows of an optimizer step, in all processes."""
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def _check_views_of_a_step(self) -> None:
        """Make sure that each whole step has rows of the second file, and none of them twice."""
        if not len(self.view_pairs):
            return
        rows = self._step_rows
        number = num_beside(rows, self.views_ratio)
        if not 0 < number <= len(self.view_pairs):
            raise ConfigError(
                "value_out_of_range",
                f"views_ratio={self.views_ratio} gives {number} view rows for the {rows} task rows of a step. Expected "
                f"1 to {len(self.view_pairs)}, the number of view rows. Change views_ratio or "
                "per_device_train_batch_size.",
            )


@dataclass(frozen=True)
class CollateOrFill:
    """Lays out a batch; for a process that has no row in it, one row of which nothing counts towards the loss."""

    collate: FusedCollator
    filler: Pair | None

    def __call__(self, pairs: Sequence[Pair]) -> FusedBatch:
        if pairs:
            return self.collate(pairs)
        assert self.filler is not None
        return self.collate([self.filler]).emptied()
