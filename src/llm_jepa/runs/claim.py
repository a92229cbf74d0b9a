"""Which run a folder belongs to: a new folder gets the settings of its run, a run that continues must have the same."""

from __future__ import annotations

from collections.abc import Collection

from llm_jepa.errors import ConfigError

from .folder import RunFolder
from .settings import Settings


def claim_folder(folder: RunFolder, settings: Settings) -> None:
    """Write `config.yaml` into a new run folder, or into one that `check_folder` accepts with differences."""
    if check_folder(folder, settings) or not folder.has_begun:
        folder.write_settings(settings)


def check_folder(folder: RunFolder, settings: Settings) -> bool:
    """Return whether a run continues in the folder with different settings, which `allow_changed` accepts.

    It is a ConfigError if the folder has a run with other settings, or something else. Nothing is written.
    """
    if not folder.has_settings:
        if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
            text = f"{folder} is not empty, and is not the folder of a run of llm-jepa. Choose another --out."
            raise ConfigError("folder_not_empty", text)
        return False
    before = folder.settings()
    # If the run is done, no change is accepted: its settings are those that it was trained with.
    accepted = () if folder.is_done else settings.get("allow_changed") or ()
    differing = differences(before, settings, but={"allow_changed", *accepted})
    if differing and folder.has_begun:
        way_on = (
            "It is done, and cannot continue with other settings. Choose another --out, or remove that folder."
            if folder.is_done
            else "Choose another --out, remove that folder, or accept a change with --allow-changed and its name."
        )
        raise ConfigError("settings_changed", f"{folder} holds another run: {'; '.join(differing)}. {way_on}")
    return folder.has_begun and not folder.is_done and before != settings


def differences(old: Settings, new: Settings, but: Collection[str] = ()) -> list[str]:
    """Return a phrase for each key in which two settings differ, except for the keys in `but`."""
    found = []
    for key in sorted((old.keys() | new.keys()) - set(but)):
        before, now = old.get(key, "not set"), new.get(key, "not set")
        # The order of test sets counts, because the first one is the main one.
        if before != now or (key == "test_files" and now and list(before) != list(now)):
            found.append(f"{key} was {before!r} and is {now!r}")
    return found
