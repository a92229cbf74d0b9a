"""What the user sees while a run trains: lines of the log, and the progress."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from llm_jepa.progress import Progress

logger = logging.getLogger(__name__)


class StepLog(TrainerCallback):
    """Logs lines with fixed columns: each term separately, and the gap of the last evaluation during training.

    Args:
        loss: Returns the loss of the last step; called only when progress is shown, not in every step.
        progress: Draw the progress below the lines. Without it, the progress is logged every 30 seconds.
    """

    def __init__(self, loss: Callable[[], float], progress: bool = False) -> None:
        self.loss, self.progress = loss, progress
        self.shown: Progress | None = None
        self.latest: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.shown = Progress("train", state.max_steps, "steps", done=state.global_step, bar=self.progress)
            self.shown.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.shown is not None and self.shown.is_due():
            self.shown.set(state.global_step, [f"loss {self.loss():.4f}"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.shown is not None:
            self.shown.close()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        logs = logs or {}
        self.latest |= {key: value for key, value in logs.items() if key.startswith(("monitor/", "eval_"))}
        if "ce_loss" in logs and state.is_world_process_zero:
            logger.info(format_step(state.global_step, state.max_steps, logs, self.latest))


def format_step(step: int, max_steps: int, logs: dict[str, float], latest: dict[str, float]) -> str:
    """Return one line of at most 80 columns; values that are not known yet are left out.

    >>> format_step(120, 2000, {"ce_loss": 1.8312, "jepa_loss": 0.2147, "loss": 2.0459, "tokens_per_s": 41200},
    ...             {"monitor/gap": 0.31})
    'step   120/2000 | ce 1.8312 | jepa 0.2147 | loss 2.0459 | gap 0.31 | 41,200 tok/s'
    """
    parts = [f"step   {step}/{max_steps}", f"ce {logs['ce_loss']:.4f}"]
    if math.isfinite(logs.get("jepa_loss", math.nan)):
        parts.append(f"jepa {logs['jepa_loss']:.4f}")
    parts.append(f"loss {logs['loss']:.4f}")
    if "monitor/gap" in latest:
        parts.append(f"gap {latest['monitor/gap']:z.2f}")
    return " | ".join([*parts, f"{logs['tokens_per_s']:,.0f} tok/s"])
