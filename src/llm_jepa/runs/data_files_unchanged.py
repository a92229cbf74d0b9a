"""Data files that must not change while a run trains on them.

A run records the hash of its files, and continues after a stop only with the same rows. If somebody changed a file in
between, neither would be right, and the losses would not show it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from transformers import TrainerCallback

from llm_jepa.data.digest import data_fingerprint
from llm_jepa.data.sources import local_files
from llm_jepa.errors import DataError
from llm_jepa.processes import gather

logger = logging.getLogger(__name__)


class DataWatch(TrainerCallback):
    """Checks the files at the end of each epoch. If one has changed, training saves a checkpoint and ends.

    It is created before the files are read. It checks size and time of the last change. Only if they differ, it
    computes the hash again, so a file that was only touched, or copied onto itself, does not stop the run. None, and
    names that are not on this disk, are left out.
    """

    def __init__(self, files: Iterable[str | None]) -> None:
        names = [name for name in files if name is not None]
        self._states = {name: _state(name) for name in names}
        self.sha256 = data_fingerprint(names)  # at the start

    def find_changed(self) -> str | None:
        """Return a sentence about the first file that has changed, or None."""
        for name, before in self.sha256.items():
            if (state := _state(name)) == self._states[name]:
                continue
            now = data_fingerprint([name]).get(name)
            if now != before:
                sizes = [f"{sum(size for _, size, _ in each):,} bytes" for each in (self._states[name], state)]
                return (
                    f"{name} changed while the run trained on it: {sizes[0]}, sha256 {before[:12]} at the start, "
                    f"{sizes[1] + ', sha256 ' + now[:12] if now else 'gone'} now."
                )
            self._states[name] = state
        return None

    def check(self) -> None:
        """Raise DataError if a file has changed; the text says how the run can continue."""
        if changed := self.find_changed():
            raise DataError(
                "file_changed",
                f"{changed} The work so far is in the newest checkpoint. To continue, restore the file and give the "
                "same command again, or use the new rows with --allow-changed train_rows.",
            )

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if any(gather(self.find_changed())):  # all processes must stop after the same step
            logger.warning("stop   a data file has changed: the work is saved, and the run stops")
            control.should_save = control.should_training_stop = True


def _state(name: str) -> list[tuple[str, int, int]]:
    """Return path, size and time of change of each file that a name refers to; empty if there is none."""
    found = [(each, each.stat()) for each in local_files(name)]
    return [(str(each), state.st_size, state.st_mtime_ns) for each, state in found]
