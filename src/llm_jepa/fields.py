"""How a setting is written: a field of a dataclass with its default and its one description."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any


def setting(default: Any, help: str) -> Any:
    """Return a dataclass field; command line, configuration page and errors are made from its help."""
    return field(default=default, metadata={"help": help})


def setting_made_by(factory: Callable[[], Any], help: str) -> Any:
    """Return a dataclass field whose default is made anew for each instance: a list or a mapping."""
    return field(default_factory=factory, metadata={"help": help})
