"""How a setting is defined: as a field of a dataclass with its default and its help text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any


def setting(default: Any, help: str) -> Any:
    """Return a dataclass field; the command line and the configuration page show its help text."""
    return field(default=default, metadata={"help": help})


def setting_made_by(factory: Callable[[], Any], help: str) -> Any:
    """Return a dataclass field whose default is created for each instance, such as a list or a mapping."""
    return field(default_factory=factory, metadata={"help": help})
