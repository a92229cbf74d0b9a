"""How `step_cost.py` times training steps: variants in turn, on the same batches, in one process.

Timed: moving the batch to the device, forward, loss, backward, clipping to norm 1, the optimizer step (fused
AdamW, weight decay 0), the update of a slow copy, and clearing the gradients. Not timed with them: making the
batch, which is timed separately, and which a data loader can do in advance.

Variants take turns in chunks of CHUNK batches, so that other work of the machine affects all of them equally. A
chunk begins with WARM_UP steps that are not counted, because in training the caches hold data of the step before.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from llm_jepa.objective import LLMJEPA, Pair
from llm_jepa.training.arguments import JEPATrainingArguments
from llm_jepa.training.trainer import JEPATrainer
from step_objectives import Objective

CHUNK = 5
WARM_UP = 2
LEARNING_RATE = 1e-4  # small enough that no variant diverges; it does not affect the time
MAX_GRAD_NORM = 1.0
ROWS_COUNTED = 2  # rows that are counted for all if every row has the same width

Batch = Sequence[Pair]


@dataclass(frozen=True)
class Placement:
    """Where steps run, and in which precision; weights are float32 either way."""

    device: torch.device
    bf16: bool = False

    def autocast(self) -> AbstractContextManager:
        """Return the context of forward and loss."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    @property
    def is_cuda(self) -> bool:
        """Whether steps run on a CUDA device."""
        return self.device.type == "cuda"


@dataclass
class Chunk:
    """Batches that a variant runs in one turn: WARM_UP uncounted ones, then one for each of `rounds`."""

    warm_up: list[Batch]
    batches: list[Batch]
    rounds: range

    @property
    def all_batches(self) -> list[Batch]:
        """Uncounted and counted batches, in the order they run."""
        return self.warm_up + self.batches


@dataclass
class Timing:
    """Measurements of one variant; lists hold one entry a round.

    Attributes:
        step_s: Seconds of a step.
        cpu_s: Processor seconds of a step, all threads of this process together; only on a CPU. Other processes
            hardly affect it, but threads that wait actively for each other do.
        collate_s: Seconds of making its batch, on the CPU.
        loop_s: Seconds from the end of the step before to the end of this one; only of the trainer.
        extra_bytes: The most that a step allocated in addition to what was there before it; only on CUDA.
        held_bytes: What the variant holds between steps.
        flops: FLOPs of forward and backward on the counted batches.
        error: Why the variant could not run, if it could not.
    """

    step_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    collate_s: list[float] = field(default_factory=list)
    loop_s: list[float] = field(default_factory=list)
    extra_bytes: int = 0
    held_bytes: int = 0
    flops: int = 0
    error: str | None = None

    def add(self, meter: Meter) -> None:
        """Add a counted step."""
        self.step_s.append(meter.seconds)
        self.extra_bytes = max(self.extra_bytes, meter.extra_bytes)
        if not meter.placement.is_cuda:
            self.cpu_s.append(meter.cpu_seconds)


class Meter:
    """Times one step after the other; on CUDA it waits for the device and notes what the step allocates."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.seconds = self.cpu_seconds = 0.0
        self.end = 0.0
        self.extra_bytes = 0

    def start(self) -> None:
        """Begin a step."""
        if self.placement.is_cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        self._start, self._cpu_start = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """End the step; its times are in `seconds` and `cpu_seconds`, what it allocated in `extra_bytes`."""
        if self.placement.is_cuda:
            torch.cuda.synchronize()
            self.extra_bytes = torch.cuda.max_memory_allocated() - self._before
        self.end = time.perf_counter()
        self.seconds, self.cpu_seconds = self.end - self._start, time.process_time() - self._cpu_start


class BareLoop:
    """A training loop of ten lines around an objective.

    Args:
        objective: What is trained; on the device already.
        placement: Where and in which precision.
    """

    def __init__(self, objective: Objective, placement: Placement) -> None:
        self.objective = objective
        self.placement = placement
        self.timing = Timing()
        self.parameters = [each for each in objective.module.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
        self.meter = Meter(placement)

    def step(self, batch: Any) -> None:
        """Train on one laid-out batch."""
        with self.placement.autocast():
            loss = self.objective.loss(batch.to(self.placement.device))
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, MAX_GRAD_NORM)
        self.optimizer.step()
        self.objective.after_step()
        self.optimizer.zero_grad()

    def run(self, chunk: Chunk) -> None:
        """Train on a chunk and note the times; a variant that runs out of device memory is not run again."""
        if self.timing.error is not None:
            return
        try:
            for number, pairs in enumerate(chunk.all_batches):
                self._timed_step(pairs, counts=number >= len(chunk.warm_up))
            self.timing.held_bytes = held_bytes(self.objective.module, self.optimizer)
        except torch.OutOfMemoryError:
            self.timing.error = "out of memory"
        if self.timing.error is not None:  # out here the exception no longer holds on to the step's tensors
            self.optimizer.zero_grad()
            release_memory()

    def _timed_step(self, pairs: Batch, counts: bool) -> None:
        start = time.perf_counter()
        batch = self.objective.collate(pairs)
        collate_s = time.perf_counter() - start
        self.meter.start()
        self.step(batch)
        self.meter.stop()
        if counts:
            self.timing.add(self.meter)
            self.timing.collate_s.append(collate_s)


class TrainerLoop:
    """`JEPATrainer` on the same batches in the same order, with its own settings except for rate and schedule.

    One call of `train()` runs all chunks, because every call would make a new data loader and scheduler, and
    allocate its memory again. Before each chunk the trainer pauses while the other variants run theirs. Its step is
    timed from `on_step_begin` to `on_step_end`; `loop_s` also contains fetching and making the batch, and the log.

    Args:
        jepa: The model, with `jepa_lambda` 0.
        pad_id: Id of padding.
        placement: Where and in which precision.
        folder: A folder that the trainer may write to.
    """

    def __init__(self, jepa: LLMJEPA, pad_id: int, placement: Placement, folder: str) -> None:
        self.jepa = jepa
        self.pad_id = pad_id
        self.placement = placement
        self.folder = folder
        self.timing = Timing()

    def run(self, chunks: Sequence[Chunk], before_chunk: Callable[[int], None]) -> None:
        """Train on all chunks; `before_chunk` is called with the number of each before its first step."""
        batches = [batch for chunk in chunks for batch in chunk.all_batches]
        watch = _Watch(chunks, before_chunk, self.placement, self.timing)
        trainer = JEPATrainer(
            self.jepa,
            self._arguments(batch_size=len(batches[0])),
            [pair for batch in batches for pair in batch],
            pad_token_id=self.pad_id,
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)  # prints raw dicts to standard output
        trainer.remove_callback(ProgressCallback)
        trainer.train()
        self.timing.held_bytes = held_bytes(self.jepa, trainer.optimizer)

    def _arguments(self, batch_size: int) -> JEPATrainingArguments:
        return JEPATrainingArguments(
            output_dir=self.folder,
            per_device_train_batch_size=batch_size,
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            warmup_steps=0,
            max_grad_norm=MAX_GRAD_NORM,
            eval_strategy="no",
            precision="bf16" if self.placement.bf16 else "float32",
            use_cpu=not self.placement.is_cuda,
            disable_tqdm=True,
        )


class _Watch(TrainerCallback):
    """Times the trainer's steps, and lets the other variants run before each chunk."""

    def __init__(
        self, chunks: Sequence[Chunk], before_chunk: Callable[[int], None], placement: Placement, timing: Timing
    ) -> None:
        # For each step: the chunk that it opens, if it opens one, and whether it counts.
        self.opens: list[int | None] = []
        self.counts: list[bool] = []
        for number, chunk in enumerate(chunks):
            self.opens += [number] + [None] * (len(chunk.all_batches) - 1)
            self.counts += [False] * len(chunk.warm_up) + [True] * len(chunk.batches)
        self.before_chunk = before_chunk
        self.meter = Meter(placement)
        self.timing = timing

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        number = self.opens[state.global_step]
        if number is not None:
            self.before_chunk(number)
        self.meter.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        last_end = self.meter.end
        self.meter.stop()
        if not self.counts[state.global_step - 1]:
            return
        self.timing.add(self.meter)
        self.timing.loop_s.append(self.meter.end - last_end)


def make_chunks(batches: Sequence[Batch], num_rounds: int) -> list[Chunk]:
    """Divide batches into chunks; `num_batches(num_rounds)` batches are needed.

    >>> [(len(chunk.warm_up), len(chunk.batches), chunk.rounds) for chunk in make_chunks([[]] * 11, 7)]
    [(2, 5, range(0, 5)), (2, 2, range(5, 7))]
    """
    supply = iter(batches)
    chunks = []
    for start in range(0, num_rounds, CHUNK):
        rounds = range(start, min(start + CHUNK, num_rounds))
        chunks.append(Chunk([next(supply) for _ in range(WARM_UP)], [next(supply) for _ in rounds], rounds))
    return chunks


def num_batches(num_rounds: int) -> int:
    """Return how many batches `make_chunks` needs."""
    return num_rounds + WARM_UP * -(-num_rounds // CHUNK)


def first_rounds(chunk: Chunk, num_rounds: int) -> Chunk | None:
    """Return the chunk cut to rounds below `num_rounds`; None if it has none."""
    rounds = range(chunk.rounds.start, min(chunk.rounds.stop, num_rounds))
    return Chunk(chunk.warm_up, chunk.batches[: len(rounds)], rounds) if rounds else None


def count_flops(objective: Objective, batches: Sequence[Batch], placement: Placement, same_width: bool) -> int:
    """Return the FLOPs of forward and backward on `batches`: matrix products and attention, padding included.

    Attention is counted over all T * T places, masked or not. On a CPU it is computed as matrix products for this,
    because PyTorch's counter knows only the fused kernels of GPUs.

    Args:
        objective: What is counted.
        batches: The batches.
        placement: Where and in which precision.
        same_width: Whether rows have the same width in all batches, so that a few can be counted for all.
    """
    counter = FlopCounterMode(display=False)
    total = 0.0
    for pairs in batches:
        counted = pairs[:ROWS_COUNTED] if same_width else pairs
        batch = objective.collate(counted).to(placement.device)
        attention = nullcontext() if placement.is_cuda else sdpa_kernel(SDPBackend.MATH)
        with counter, attention, placement.autocast():
            objective.loss(batch).backward()
        objective.module.zero_grad()
        total += counter.get_total_flops() * len(pairs) / len(counted)
    return round(total)


def held_bytes(module: nn.Module, optimizer: Any) -> int:
    """Return the bytes that a variant holds between steps: weights, buffers, optimizer moments."""
    tensors = [*module.parameters(), *module.buffers()]
    tensors += [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum({each.data_ptr(): each.numel() * each.element_size() for each in tensors}.values())


def release_memory() -> None:
    """Free what a variant that no longer exists has left on the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
