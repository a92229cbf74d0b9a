"""Shows the progress of a sweep, from what its runs write to their `RunFolder.progress_file`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from llm_jepa.progress import Progress, read_record
from llm_jepa.runs.folder import RunFolder

TRAINING = 0.8  # the share of a run's time that is training, until a run has ended and shown its own share


class SweepProgress(Progress):
    """Shows the percentage of all runs that is done, with step and loss of each running one."""

    def __init__(self, num_runs: int, num_done: int, *, bar: bool) -> None:
        super().__init__("runs", num_runs, done=num_done, bar=bar)
        self._num_ended = num_done
        self._shares: list[float] = []  # the share of training in the time of each run that has ended here
        self._training: set[str] = set()  # runs whose training has begun
        self._seen: dict[str, tuple[float, str]] = {}  # the largest share of a run seen as done, and its last step

    def end(self, folder: RunFolder) -> None:
        """Count a run that has ended, whether it is done or failed."""
        self._num_ended += 1
        self._training.discard(folder.name)
        self._seen.pop(folder.name, None)
        if folder.is_done:
            report = folder.evaluation()
            self._shares.append(report["training_time_s"] / report["total_time_s"])

    def look(self, running: Sequence[RunFolder]) -> None:
        """Read and show the progress of the running runs, if it is time to show it."""
        if not self.is_due():
            return
        done, more = float(self._num_ended), [f"{self._num_ended} of {self.total} done"]
        for folder in running:
            record = read_record(folder.progress_file)
            share, step = self._seen.get(folder.name, (0.0, ""))
            if record is not None:  # None: it does not exist yet, or is being written
                share = max(share, self._share_of_run(folder.name, record))
                what = "step" if record["name"] == "train" else record["name"]
                at = f"{what} {record['done']:,.0f}/{record['total']:,.0f}"
                step = " ".join([folder.name, at, *record["more"]])
                self._seen[folder.name] = share, step
            done += share
            more += [step] if step else []
        self.set(done, more)

    def _share_of_run(self, name: str, record: dict) -> float:
        """Return how much of a run is done, from 0 to 1. Answers before its training come from its teacher."""
        part = record["done"] / record["total"] if record["total"] else 1.0
        training = statistics.fmean(self._shares) if self._shares else TRAINING
        if record["name"] == "train":
            self._training.add(name)
            return training * part
        return training + (1 - training) * part if name in self._training else 0.0
