"""Without a network: one attempt, one sentence, and what was downloaded before."""

from __future__ import annotations

import os
import threading
from typing import Any

import datasets
import pytest
from huggingface_hub import constants

from llm_jepa.data import hub
from llm_jepa.data.config import DataConfig
from llm_jepa.data.rows import read_examples
from llm_jepa.data.tokenizer import load_tokenizer
from llm_jepa.errors import ConfigError, DataError
from llm_jepa.training.adapters import AdapterConfig
from llm_jepa.training.models import ModelConfig, build_model, load_own_tokenizer


class Session:
    """Counts the attempts to reach the hub, each of which does `head`."""

    def __init__(self, head: Any) -> None:
        self.num_attempts, self._head = 0, head

    def head(self, *_: Any, **__: Any) -> Any:
        self.num_attempts += 1
        return self._head()


def fail() -> None:
    raise ConnectionError("no network")


@pytest.fixture
def session(monkeypatch):
    """Make a session of a process that is not offline, whose attempt does `head`; all is put back afterwards."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    hub.why_offline.cache_clear()

    def make(head: Any) -> Session:
        made = Session(head)
        monkeypatch.setattr(hub, "get_session", lambda: made)
        return made

    yield make
    hub.why_offline.cache_clear()


def test_without_a_network_there_is_one_attempt_and_one_short_answer(session, byte_tokenizer, raises):
    """For data, tokenizers and models; the processes that are started next make none."""
    made = session(fail)
    config = ModelConfig(model_name_or_path="owner/name", model_revision="main")
    calls = [
        (DataError, lambda: read_examples("owner/name:test", DataConfig())),
        (ConfigError, lambda: load_tokenizer("owner/name")),
        (ConfigError, lambda: load_own_tokenizer(config)),
        (ConfigError, lambda: build_model(config, byte_tokenizer, AdapterConfig(), end_id=1, pad_id=0)),
    ]
    for kind, call in calls:
        with raises("not_downloaded", "owner/name", "5 s", "HF_HUB_OFFLINE=1") as caught:
            call()
        assert isinstance(caught.value, kind)
    assert made.num_attempts == 1 and os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_hub_that_hangs_is_left_after_the_time_limit(session, monkeypatch):
    """The search for its address has no limit of its own."""
    end = threading.Event()
    session(end.wait)
    monkeypatch.setattr(hub, "SECONDS", 0.01)
    assert "did not answer" in str(hub.why_offline())
    end.set()


def test_a_hub_that_answers_is_read_and_one_that_the_user_turned_off_is_not_asked(session, monkeypatch, raises):
    """Any answer will do."""
    assert session(lambda: "404").num_attempts == 0 and hub.why_offline() is None
    assert hub.not_downloaded("owner/name", "file") is None
    hub.why_offline.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    made = session(fail)
    with raises("not_downloaded", "owner/name", "HF_HUB_OFFLINE is set"):
        read_examples("owner/name", DataConfig())
    assert made.num_attempts == 0
