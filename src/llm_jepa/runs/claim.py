"""Which run a folder belongs to: a new folder gets the settings of its run, a run that continues must have the same."""

from __future__ import annotations

from llm_jepa.errors import ConfigError

from .folder import RunFolder
from .settings import Settings


def claim_folder(folder: RunFolder, settings: Settings) -> None:
    """Write `config.yaml` into a new run folder, or make sure that an existing one has the same settings.

    Differences that `allow_changed` names are accepted and written, if the run is not done.

    Raises:
        ConfigError: If the folder has a run with other settings; the text names the differences.
    """
    accepted = check_folder(folder, settings)
    if accepted or not folder.has_begun:
        folder.write_settings(settings)


def check_folder(folder: RunFolder, settings: Settings) -> bool:
    """Make sure that a run with these settings may continue or start in the folder; nothing is written.

    Returns:
        Whether a run continues there with different settings, which `allow_changed` accepts.

    Raises:
        ConfigError: If the folder has a run with other settings, or something else.
    """
    if not folder.has_settings:
        if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
            text = f"{folder} is not empty, and is not the folder of a run of llm-jepa. Choose another --out."
            raise ConfigError("folder_not_empty", text)
        return False
    before = folder.settings()
    # If the run is done, no change is accepted: its settings are those that it was trained with.
    accepted = set() if folder.is_done else set(settings.get("allow_changed") or ())
    differing = differences(*(_without({"allow_changed"} | accepted, each) for each in (before, settings)))
    if differing and folder.has_begun:
        way_on = (
            "It is done, and cannot continue with other settings. Choose another --out, or remove that folder."
            if folder.is_done
            else "Choose another --out, remove that folder, or accept a change with --allow-changed and its name."
        )
        raise ConfigError("settings_changed", f"{folder} holds another run: {'; '.join(differing)}. {way_on}")
    return folder.has_begun and not folder.is_done and before != settings


def _without(names: set[str], settings: Settings) -> Settings:
    return {key: value for key, value in settings.items() if key not in names}


def differences(old: Settings, new: Settings) -> list[str]:
    """Return a phrase for each key in which two settings differ, also if only the order of test sets differs."""
    return [
        f"{key} was {old.get(key, 'not set')!r} and is {new.get(key, 'not set')!r}"
        for key in sorted(old.keys() | new.keys())
        if _comparable(key, old) != _comparable(key, new)
    ]


def _comparable(key: str, settings: Settings) -> object:
    """Return a value for comparison. The order of test_files counts, because the first one is the main one."""
    value = settings.get(key, "not set")
    return list(value.items()) if key == "test_files" and isinstance(value, dict) else value
