"""Which run a folder belongs to: a new one is claimed for its settings, one that goes on must have the same."""

from __future__ import annotations

from llm_jepa.errors import ConfigError

from .folder import RunFolder
from .settings import Settings


def claim_folder(folder: RunFolder, settings: Settings) -> None:
    """Write `config.yaml` into a new run folder, or make sure that the one there says the same.

    Differences that `allow_changed` names are accepted, and written, as long as the run is not done.

    Raises:
        ConfigError: If the folder holds a run of other settings; the text names what differs.
    """
    accepted = check_folder(folder, settings)
    if accepted or not folder.has_begun:
        folder.write_settings(settings)


def check_folder(folder: RunFolder, settings: Settings) -> bool:
    """Make sure that a run of these settings may go on, or begin, in the folder; nothing is written.

    Returns:
        Whether a run goes on there with settings that differ, as `allow_changed` accepts.

    Raises:
        ConfigError: If the folder holds a run of other settings, or something else.
    """
    if not folder.has_settings:
        if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
            raise ConfigError(f"{folder} is not empty and holds no run of llm-jepa. Choose another --out.")
        return False
    before = folder.settings()
    # Nothing can be accepted of a run that is done: its settings are what it was trained with.
    accepted = set() if folder.is_done else set(settings.get("allow_changed") or ())
    differing = differences(*(_without({"allow_changed"} | accepted, each) for each in (before, settings)))
    if differing and folder.has_begun:
        way_on = (
            "It is done, and goes on with no other settings. Choose another --out, or remove that folder."
            if folder.is_done
            else "Choose another --out, remove that folder, or accept a change by its name with --allow-changed."
        )
        raise ConfigError(f"{folder} holds another run: {'; '.join(differing)}. {way_on}")
    return folder.has_begun and not folder.is_done and before != settings


def _without(names: set[str], settings: Settings) -> Settings:
    return {key: value for key, value in settings.items() if key not in names}


def differences(old: Settings, new: Settings) -> list[str]:
    """Return a sentence part for each key in which two settings differ; test sets in another order differ too."""
    return [
        f"{key} was {old.get(key, 'not set')!r} and is {new.get(key, 'not set')!r}"
        for key in sorted(old.keys() | new.keys())
        if _comparable(key, old) != _comparable(key, new)
    ]


def _comparable(key: str, settings: Settings) -> object:
    """Return a value as it is compared: the first of test_files is the main one, so that their order counts."""
    value = settings.get(key, "not set")
    return list(value.items()) if key == "test_files" and isinstance(value, dict) else value
