"""Whether the Hugging Face hub can be reached: one attempt per process, before a library makes many."""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading

from huggingface_hub import constants, get_session

logger = logging.getLogger(__name__)

SECONDS = 5
"""Time limit of the attempt. The libraries try at least five times, which took 37 to 69 s without a network."""


@functools.cache
def why_offline() -> str | None:
    """Return why the hub is not used, or None if it is.

    If it does not answer, this process and those that it starts have HF_HUB_OFFLINE=1 from then on.
    """
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so the hub is not used"
    if _answers():
        return None
    logger.warning("The hub did not answer within %d s: only what was downloaded before is used.", SECONDS)
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:  # it has its own copy of the setting
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    return f"The hub did not answer within {SECONDS} s (HF_HUB_OFFLINE=1 skips the attempt)"


def not_downloaded(name: str, what: str) -> str | None:
    """Return the text of a `not_downloaded` error for a name that is not on this disk; None if the hub is used."""
    reason = why_offline()
    if reason is None:
        return None
    return (
        f"{name}: no such {what} here, and none was downloaded before. {reason}. Name a local one, or connect to the "
        "network, without HF_HUB_OFFLINE."
    )


def _answers() -> bool:
    """Whether the hub gives any answer in time, which includes finding its address."""
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(get_session().head(constants.ENDPOINT, timeout=SECONDS))
        except Exception as error:  # errors of the network, a proxy, the library: all mean the same here
            logger.debug("%s: %s", constants.ENDPOINT, error)

    attempt = threading.Thread(target=ask, daemon=True)
    attempt.start()
    attempt.join(SECONDS)
    return bool(answers)
