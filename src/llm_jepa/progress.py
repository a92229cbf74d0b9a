"""The progress of a piece of work: one line at the bottom of a terminal, or a line of the log every 30 seconds.

Lines of the log are written above the line at the bottom (`AboveProgress`). A run of a sweep also writes its progress
into a file (`recorded`), which the sweep reads.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

logger = logging.getLogger(__name__)

LOG_EVERY_S = 30.0
DRAW_EVERY_S = 0.2
RECORD_EVERY_S = 1.0
WIDTH = 80  # of a line of output, at most

Item = TypeVar("Item")


class Progress:
    """Shows the progress of a piece of work: percent, time left, and more.

    Args:
        name: What is done, in one short word.
        total, done: The amount of work, and how much of it is already done.
        unit: What is counted, in the plural; "" leaves the counts out.
        bar: Whether to draw a line at the bottom of standard error; if false, log a line every 30 seconds. Default:
            what `draw_on_terminal` has found.
    """

    def __init__(self, name: str, total: float, unit: str = "", *, done: float = 0, bar: bool | None = None) -> None:
        self.name, self.total, self.unit, self.done = name, total, unit, done
        self.bar = _state.on_terminal if bar is None else bar
        self.more: Sequence[str] = ()
        self._began_at, self._started_s = done, time.monotonic()
        self._drawn_s, self._recorded_s = 0.0, 0.0
        self._width = 0  # of the line that is drawn

    def __enter__(self) -> Self:
        if not _state.open:
            _state.logged_s = self._started_s
        for each in _state.open if self.bar else ():
            each._erase()
        _state.open.append(self)
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the line from the terminal, and show the outer piece of work again."""
        self._erase()
        if self in _state.open:
            _state.open.remove(self)
        if self.bar and _state.open and _state.open[-1].bar:
            _state.open[-1].draw()

    def is_due(self) -> bool:
        """Whether a line would be drawn, logged or recorded now; if not, its text need not be made."""
        now = time.monotonic()
        is_shown = now - self._drawn_s >= DRAW_EVERY_S if self.bar else now - _state.logged_s >= LOG_EVERY_S
        return is_shown or (self._is_recorded and now - self._recorded_s >= RECORD_EVERY_S)

    @property
    def _is_recorded(self) -> bool:
        return _state.record is not None and _state.open[_state.record[1] :][:1] == [self]

    def advance(self, count: float = 1) -> None:
        """Add to the amount of work that is done."""
        self.set(self.done + count)

    def set(self, done: float, more: Sequence[str] | None = None) -> None:
        """Set the amount of work that is done, and more texts to show, the most important first."""
        self.done = done
        if more is not None:
            self.more = more
        if self.is_due():
            self._show()

    def line(self, width: int = WIDTH) -> str:
        """Return one line of at most `width` columns; a text that does not fit is left out."""
        share = min(self.done / self.total, 1.0) if self.total else 1.0
        parts = [f"{self.name:6} {100 * share:3.0f}%"]
        if self.unit:
            parts.append(f"{self.done:,.0f} of {self.total:,.0f} {self.unit}")
        done = self.done - self._began_at
        if done > 0 and self.done < self.total:
            seconds = (time.monotonic() - self._started_s) * (self.total - self.done) / done
            parts.append(f"{duration(seconds)} left")
        kept = " | ".join(parts)
        for each in self.more:
            if len(f"{kept} | {each}") <= width:
                kept += f" | {each}"
        return kept

    def _show(self) -> None:
        now = time.monotonic()
        if _state.record is not None and self._is_recorded:
            self._recorded_s = now
            record = {"name": self.name, "done": self.done, "total": self.total, "more": list(self.more)}
            _write(_state.record[0], record)
        if _state.open[-1:] != [self]:
            return
        if self.bar:
            self._drawn_s = now
            self.draw()
        elif now - _state.logged_s >= LOG_EVERY_S:
            _state.logged_s = now
            logger.info(self.line())

    def draw(self) -> None:
        """Draw the line at the bottom again."""
        line = self.line(min(WIDTH, shutil.get_terminal_size().columns) - 1)
        sys.stderr.write("\r" + line.ljust(self._width))
        sys.stderr.flush()
        self._width = len(line)

    def _erase(self) -> None:
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0


@dataclass
class _State:
    """What this process shows.

    Attributes:
        open: The pieces of work in progress, the outermost first. The innermost is shown.
        logged_s: When the last line was logged, or the outermost work started.
        on_terminal: Whether standard error is a terminal.
        record: The file of `recorded`, and the index in `open` of what is recorded: the outermost within the context.
    """

    open: list[Progress] = field(default_factory=list)
    logged_s: float = 0.0
    on_terminal: bool = False
    record: tuple[Path, int] | None = None


_state = _State()


def draw_on_terminal() -> None:
    """From now on, draw all progress if standard error is a terminal."""
    _state.on_terminal = sys.stderr.isatty()


def tracked(items: Sequence[Item], name: str, unit: str) -> Iterator[Item]:
    """Yield the items, and show how many are done."""
    with Progress(name, len(items), unit) as shown:
        for item in items:
            yield item
            shown.advance()


def duration(seconds: float) -> str:
    """Return a time as a short text.

    >>> duration(0.4), duration(48), duration(560), duration(8600)
    ('0 s', '48 s', '9 min', '2 h 23 min')
    """
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


class AboveProgress(logging.StreamHandler):
    """Writes the log to standard error, above the line that is drawn at the bottom."""

    def emit(self, record: logging.LogRecord) -> None:
        drawn = [each for each in _state.open if each.bar]
        for each in drawn:
            each._erase()
        super().emit(record)
        if drawn:
            drawn[-1].draw()


@contextmanager
def recorded(file: Path) -> Iterator[None]:
    """Within the context, write the progress to a file every second.

    At the end, the file is removed, and progress that an error has left open is closed.
    """
    place = len(_state.open)
    before, _state.record = _state.record, (file, place)
    file.unlink(missing_ok=True)
    try:
        yield
    finally:
        _state.record = before
        for each in _state.open[place:]:
            each.close()
        file.unlink(missing_ok=True)


def read_record(file: Path) -> dict[str, Any] | None:
    """Return what `recorded` wrote last; None if there is no file, or only a part of it."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _write(file: Path, record: dict[str, Any]) -> None:
    with suppress(OSError):  # a full disk is reported when something more important is written
        file.write_text(json.dumps(record), encoding="utf-8")
