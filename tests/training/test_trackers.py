"""`report_to` as in transformers: the trackers that are installed get every term of the loss, and the objective."""

from __future__ import annotations

import importlib
import json
import sqlite3

import pytest
from transformers import TrainerCallback
from transformers.integrations import INTEGRATION_TO_CALLBACK

from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run

TERMS = {"train/loss", "train/ce_loss", "train/jepa_loss", "train/monitor/gap", "eval/jepa_loss"}


@pytest.fixture
def train_with(tiny_settings, tmp_path):
    """Train a run of three steps that reports to a tracker; return its folder."""

    def train(tracker, **settings):
        run = read_run(tiny_settings(report_to=tracker, jepa_k=2, **settings))
        train_run(run, 82, tmp_path / "jepa-s82")
        return tmp_path / "jepa-s82"

    return train


def test_tensorboard_gets_every_term_and_the_objective(train_with):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install tensorboard")
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    folder = train_with("tensorboard")
    (file,) = folder.rglob("events.out.tfevents.*")
    events = accumulator.EventAccumulator(str(file.parent)).Reload()
    assert set(events.Tags()["scalars"]) >= TERMS
    assert [event.step for event in events.Scalars("train/jepa_loss")] == [1, 2, 3]
    (text,) = events.Tensors("model_config/text_summary")
    assert json.loads(text.tensor_proto.string_val[0])["jepa_k"] == 2


def test_trackio_gets_every_term_and_a_name_for_each_run(train_with, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # it is read when trackio is imported
    pytest.importorskip("trackio", reason="trackio is not installed: pip install trackio")
    train_with("trackio", project="regexes", run_name="mine")
    (database,) = (tmp_path / "trackio").rglob("regexes*.db")
    rows = sqlite3.connect(database).execute("select run_name, metrics from metrics").fetchall()
    assert {name for name, _ in rows} == {"mine-jepa-s82"}
    assert {key for _, metrics in rows for key in json.loads(metrics)} >= TERMS


@pytest.mark.parametrize("tracker", ["wandb", "trackio", "tensorboard", "mlflow"])
def test_each_tracker_of_the_docs_is_one_of_transformers(tracker):
    assert issubclass(INTEGRATION_TO_CALLBACK[tracker], TrainerCallback)


def test_what_trackers_ask_of_a_model_is_there(make_jepa):
    """W&B, MLflow and Trackio take `config.to_dict()`, TensorBoard `config.to_json_string()`."""
    config = make_jepa(jepa_k=2).config
    assert json.loads(config.to_json_string()) == config.to_dict()
