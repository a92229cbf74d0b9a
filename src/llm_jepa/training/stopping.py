"""SIGTERM and Ctrl-C while a run trains: finish the step, save, and stop. A second signal stops at once.

A scheduler that takes a machine back sends SIGTERM and waits. The run leaves a checkpoint at the end of an optimizer
step, and continues from it as if it had never stopped.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback

logger = logging.getLogger(__name__)

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class StopRequest(TrainerCallback):
    """Ends training with a checkpoint after the step in which a signal came."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None  # the first that came
        self._before: dict[signal.Signals, Any] = {}
        self._stopped_at: int | None = None

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Handle the two signals within the block; after it, pass a signal that came to the earlier handler.

        So after Ctrl-C the block ends with KeyboardInterrupt, if the handler is Python's own.
        """
        if threading.current_thread() is not threading.main_thread():  # Python sets handlers only in the main thread
            yield self
            return
        self._before = {number: signal.signal(number, self._on_signal) for number in NAMES}
        try:
            yield self
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)
        if self.signal is not None:
            signal.raise_signal(self.signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:  # the second signal stops at once
            for each, handler in self._before.items():
                signal.signal(each, handler)
            signal.raise_signal(signal.Signals(number))
            return
        self.signal = signal.Signals(number)
        logger.warning(
            "stop   %s: the step is finished and saved first; a second signal stops at once", NAMES[self.signal]
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop(args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step != self._stopped_at:  # the signal came after the epoch's last step had ended
            self._stop(args, state, control)

    def _stop(self, args: Any, state: Any, control: Any) -> None:
        if args.world_size > 1:  # a signal in any process ends all of them after the same step, and in the same way
            came = torch.tensor(int(self.signal or 0), device=args.device)
            torch.distributed.all_reduce(came, op=torch.distributed.ReduceOp.MAX)
            if self.signal is None and (number := int(came)):
                self.signal = signal.Signals(number)
        if self.signal is not None:
            self._stopped_at = state.global_step
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False  # an evaluation may take longer than the scheduler waits
