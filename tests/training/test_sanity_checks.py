"""A run that could train nothing is refused before its first step."""

from __future__ import annotations

from dataclasses import replace

import pytest


@pytest.mark.parametrize(
    ("objective", "arguments", "code", "values"),
    [
        (
            {},
            {"dataloader_drop_last": True, "per_device_train_batch_size": 16},
            "batch_too_large",
            ["dataloader_drop_last=true", "8 training rows", "has 16"],
        ),
        (
            {"jepa_distance": "infonce"},
            {"per_device_train_batch_size": 1},
            "batch_too_small",
            ["jepa_distance=infonce ", "per_device_train_batch_size", "JEPA term"],
        ),
        (
            {"jepa_distance": "infonce_symmetric"},
            {"per_device_train_batch_size": 1},
            "batch_too_small",
            ["jepa_distance=infonce_symmetric ", "per_device_train_batch_size", "JEPA term"],
        ),
        (
            {"jepa_variance_weight": 0.5},
            {"per_device_train_batch_size": 1},
            "batch_too_small",
            ["jepa_variance_weight=0.5", "per_device_train_batch_size"],
        ),
        ({"jepa_loss_dropout": 0.9999}, {"max_steps": 3}, "term_never_used", ["3 steps", "jepa_loss_dropout=0.9999"]),
    ],
)
def test_settings_that_leave_nothing_to_train_are_refused(
    make_jepa, make_trainer, make_pairs, raises, objective, arguments, code, values
):
    with raises(code, *values):
        make_trainer(make_jepa(**objective), make_pairs(8), **arguments)


def test_rows_that_leave_nothing_to_train_are_refused(make_jepa, make_trainer, make_pairs, raises):
    """No row; no label and no term; one code, text or group for InfoNCE."""
    pairs = make_pairs(8)
    for objective, changes, code, values in (
        ({"jepa_lambda": 0.0}, {"use_ce": False}, "no_labels", ["use_ce", "jepa_lambda"]),
        ({"jepa_distance": "infonce"}, {"code_ids": [9, 1]}, "no_negatives", ["same code", "infonce"]),
        ({"jepa_distance": "infonce"}, {"text_ids": [9, 1]}, "no_negatives", ["same text", "infonce"]),
        ({"jepa_distance": "infonce"}, {"group": "one"}, "no_negatives", ["same group", "infonce"]),
    ):
        with raises(code, *values):
            make_trainer(make_jepa(**objective), [replace(pair, **changes) for pair in pairs])
    with raises("no_rows"):
        make_trainer(make_jepa(), [])


def test_rows_without_a_term_are_told(make_jepa, make_trainer, make_pairs, caplog):
    """Plain training under an objective with a term is possible from Python, and not in silence."""
    make_trainer(make_jepa(), [replace(pair, use_jepa=False) for pair in make_pairs(4)])
    assert "no training row has a JEPA term, though jepa_lambda is 1.0" in caplog.text
