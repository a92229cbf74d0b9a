"""The user's own Python files, named in a config, which every process of a run imports: they register distances."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from llm_jepa.errors import ConfigError, LLMJEPAError, first_line
from llm_jepa.fields import setting_made_by
from llm_jepa.files import expanded, nearest_file


@dataclass
class PluginConfig:
    """Which code of the user a run imports."""

    plugins: list[str] = setting_made_by(
        list,
        "Python files (my_distances.py) or installed modules that every process that trains imports first "
        "(docs/python.md). They are your own code, and run with your rights.",
    )

    @property
    def files(self) -> list[str]:
        """The plugins that are files."""
        return [name for name in self.plugins if name.endswith(".py")]

    def load(self) -> None:
        """Import each plugin that this process has not imported yet; ConfigError if one is missing, or fails."""
        for name in self.plugins:
            path = expanded(name)
            if name in self.files and not path.is_file():
                raise ConfigError("file_missing", f"plugins: {path} does not exist.{nearest_file(path)}")
            try:
                _import_file(path) if name in self.files else importlib.import_module(name)
            except LLMJEPAError as error:
                raise ConfigError(error.code, f"plugins: {name}: {error}") from error
            except Exception as error:  # the user's code may raise anything; the text shows it
                text = f"plugins: {name} cannot be imported: {type(error).__name__}: {first_line(error)}"
                if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
                    text += ". Expected a Python file, or a module that is installed."
                raise ConfigError("plugin_not_importable", text) from error


def _import_file(path: Path) -> None:
    """Import a file under its own module name, again if its content has changed."""
    digest = sha256(str(path.resolve()).encode() + path.read_bytes()).hexdigest()
    name = f"llm_jepa_plugin_{digest[:16]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
