"""Whether the Hugging Face hub can be read: one attempt a process, before a library makes many."""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading

from huggingface_hub import constants, get_session

logger = logging.getLogger(__name__)

SECONDS = 5
"""How long the one attempt may take. The libraries try five times and more, which took 37 to 69 s without a network."""


@functools.cache
def why_offline() -> str | None:
    """Return why the hub is not read, or None where it is.

    If it does not answer, this process and those that it starts read what was downloaded before, as with
    HF_HUB_OFFLINE=1.
    """
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so the hub is not asked"
    if _answers():
        return None
    logger.warning("The hub did not answer within %d s: only what was downloaded before is read.", SECONDS)
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:  # which keeps its own copy of the setting
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    return f"The hub did not answer within {SECONDS} s (HF_HUB_OFFLINE=1 leaves the attempt out)"


def not_downloaded(name: str, what: str) -> str | None:
    """Return an error's sentences for a name that is not on this disk while the hub is not read; None while it is."""
    reason = why_offline()
    if reason is None:
        return None
    return f"{name}: no such {what} here, and none was downloaded before. {reason}. Name a local one, or connect."


def _answers() -> bool:
    """Whether the hub gives any answer in time; the search for its address, which has no time limit, included."""
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(get_session().head(constants.ENDPOINT, timeout=SECONDS))
        except Exception as error:  # of the network, of a proxy, of the library: all mean the same here
            logger.debug("%s: %s", constants.ENDPOINT, error)

    attempt = threading.Thread(target=ask, daemon=True)
    attempt.start()
    attempt.join(SECONDS)
    return bool(answers)
