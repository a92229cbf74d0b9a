"""Measures the time of a run's steps, and the means of its terms between two log lines."""

from __future__ import annotations

import math
import statistics
import time

import torch
from torch import Tensor

from llm_jepa.objective import FusedBatch, JEPAOutput
from llm_jepa.processes import gather, world_size


class StepTimer:
    """Times optimizer steps from the first micro-batch to the end of the step, and nothing else.

    The first steps (`WARM_UP`) are not in the summary: they allocate memory and fill caches.
    """

    WARM_UP = 3

    def __init__(self) -> None:
        self.earlier: dict[str, float] | None = None  # the summary of the run before the checkpoint that it resumes
        self.times_s: list[float] = []
        self._with_term: list[bool] = []
        self._start = math.nan

    def start(self) -> None:
        """Begin a step."""
        _wait_for_device()
        self._start = time.perf_counter()

    def stop(self, *, with_term: bool = True) -> None:
        """End the step, which had a JEPA term, or was one that loss dropout makes cheaper."""
        _wait_for_device()
        self.times_s.append(time.perf_counter() - self._start)
        self._with_term.append(with_term)

    def summary(self) -> dict[str, float]:
        """Return the median and the mean time of a step in seconds, and the number of steps that were timed.

        If some of these steps had a JEPA term and others had none, it has the median of each kind too. If the run
        continues from a checkpoint, all are those of the part before it or after it, whichever has more steps.
        """
        steps = list(zip(self.times_s, self._with_term, strict=True))
        steps = steps[self.WARM_UP :] or steps
        if self.earlier is not None and self.earlier["num_steps_timed"] > len(steps):
            return self.earlier
        times = [time_s for time_s, _ in steps]
        median, mean = (statistics.median(times), statistics.fmean(times)) if times else (math.nan, math.nan)
        summary = {"step_time_s": median, "mean_step_time_s": mean, "num_steps_timed": len(times)}
        full, dropped = ([time_s for time_s, has_term in steps if has_term == kind] for kind in (True, False))
        if full and dropped:
            summary |= {"full_step_time_s": statistics.median(full), "dropped_step_time_s": statistics.median(dropped)}
        return summary


class TermMeter:
    """Means of the named terms over the optimizer steps since the last line of the log.

    The terms of a micro-batch are its share of the step's means, so they are added up within a step and over processes.
    The JEPA term is averaged over the steps that had one.
    """

    def __init__(self) -> None:
        self._loss_so_far: Tensor | float = 0.0
        self._loss: Tensor | float = math.nan
        self._start()

    @property
    def loss(self) -> float:
        """The loss of the last step on the rows of this process; nan before the first step."""
        return float(self._loss)

    @property
    def has_term(self) -> bool:
        """Whether the last micro-batch had a JEPA term."""
        return self._lambda_eff > 0

    def _start(self) -> None:
        self._sums: dict[str, Tensor | float] = {"ce_loss": 0.0, "tokens": 0, "jepa_loss": 0.0}  # then other terms
        self._steps, self._jepa_steps, self._lambdas = 0, 0, 0.0
        self._lambda_eff, self._time_s, self._since = 0.0, 0.0, time.perf_counter()

    def add(self, output: JEPAOutput, batch: FusedBatch, share: float = 1.0) -> None:
        """Add one micro-batch, with its terms multiplied by `share`."""
        self._loss_so_far += output.loss.detach() * share
        self._sums["ce_loss"] += output.ce_loss * share
        self._sums["tokens"] += int(batch.rows.real.sum()) if batch.num_pairs or batch.num_labels else 0
        if output.lambda_eff:
            for name, term in {"jepa": output.jepa_loss, **output.terms}.items():
                self._sums[f"{name}_loss"] = self._sums.get(f"{name}_loss", 0.0) + term * share
        self._lambda_eff = output.lambda_eff

    def end_step(self) -> None:
        """Close an optimizer step."""
        self._loss, self._loss_so_far = self._loss_so_far * world_size(), 0.0
        self._steps += 1
        self._jepa_steps += self._lambda_eff > 0
        self._lambdas += self._lambda_eff

    def pause(self) -> None:
        """Stop the clock of the token rate."""
        self._time_s += time.perf_counter() - self._since

    def resume(self) -> None:
        """Start the clock again."""
        self._since = time.perf_counter()

    def pop(self) -> dict[str, float]:
        """Return the means (nats per token, distance per pair, weight, tokens per second) and start again."""
        self.pause()
        steps, shares = max(self._steps, 1), gather({name: float(each) for name, each in self._sums.items()})
        sums = {name: sum(share[name] for share in shares) for name in self._sums}
        means = {"ce_loss": sums.pop("ce_loss") / steps}
        rates = {"lambda_eff": self._lambdas / steps, "tokens_per_s": sums.pop("tokens") / max(self._time_s, 1e-9)}
        means |= {name: each / self._jepa_steps if self._jepa_steps else math.nan for name, each in sums.items()}
        self._start()
        return means | rates


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
