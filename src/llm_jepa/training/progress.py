"""What a person sees of a run: a line of the log, or a bar, on standard error."""

from __future__ import annotations

import logging
import math
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

logger = logging.getLogger(__name__)


class StepLog(TrainerCallback):
    """Logs fixed columns: the terms apart, with the gap and the accuracy of the last look at held-out rows.

    Args:
        progress: Draw a progress bar below the lines.
    """

    def __init__(self, progress: bool = False) -> None:
        self.progress = progress
        self.bar: tqdm | None = None
        self.latest: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.progress and state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        logs = logs or {}
        self.latest |= {key: value for key, value in logs.items() if key.startswith(("monitor/", "eval_"))}
        if "ce_loss" in logs and state.is_world_process_zero:
            line = format_step(state.global_step, state.max_steps, logs, self.latest)
            if self.bar is None:
                logger.info(line)
            else:
                self.bar.write(line, file=self.bar.fp)


def format_step(step: int, max_steps: int, logs: dict[str, float], latest: dict[str, float]) -> str:
    """Return one line of at most 80 columns; what is not known yet is left out.

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
