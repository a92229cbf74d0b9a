"""A run that could train nothing is refused before its first step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_jepa.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("objective", "arguments", "message"),
    [
        ({}, {"dataloader_drop_last": True, "per_device_train_batch_size": 16}, "drop_last=true leaves no batch"),
        ({"jepa_distance": "infonce"}, {"per_device_train_batch_size": 1}, "the JEPA term would do nothing"),
        ({"jepa_distance": "infonce_symmetric"}, {"per_device_train_batch_size": 1}, "would do nothing"),
        ({"jepa_variance_weight": 0.5}, {"per_device_train_batch_size": 1}, "jepa_variance_weight=0.5 compares"),
        ({"jepa_loss_dropout": 0.9999}, {"max_steps": 3}, "has weight in none of the 3 steps"),
    ],
)
def test_settings_that_leave_nothing_to_train_are_refused(
    make_jepa, make_trainer, make_pairs, objective, arguments, message
):
    with pytest.raises(ConfigError, match=message):
        make_trainer(make_jepa(**objective), make_pairs(8), **arguments)


def test_rows_that_leave_nothing_to_train_are_refused(make_jepa, make_trainer, make_pairs):
    """No row; no label and no term; one code, text or group for InfoNCE."""
    pairs = make_pairs(8)
    for objective, rows, message in (
        ({}, [], "no training row"),
        ({"jepa_lambda": 0.0}, [replace(pair, use_ce=False) for pair in pairs], "No training row has a label"),
        ({"jepa_distance": "infonce"}, [replace(pair, code_ids=[9, 1]) for pair in pairs], "the same code"),
        ({"jepa_distance": "infonce"}, [replace(pair, text_ids=[9, 1]) for pair in pairs], "the same text"),
        ({"jepa_distance": "infonce"}, [replace(pair, group="one") for pair in pairs], "the same group"),
    ):
        with pytest.raises(DataError, match=message):
            make_trainer(make_jepa(**objective), rows)


def test_rows_without_a_term_are_told(make_jepa, make_trainer, make_pairs, caplog):
    """Plain training under an objective with a term is possible from Python, and not in silence."""
    make_trainer(make_jepa(), [replace(pair, use_jepa=False) for pair in make_pairs(4)])
    assert "no training row has a JEPA term, though jepa_lambda is 1.0" in caplog.text
