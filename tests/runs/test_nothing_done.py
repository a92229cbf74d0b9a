"""Nothing done is never a success: what would train, measure or compare nothing is refused with exit code 2."""

from __future__ import annotations

import json

import pytest

from llm_jepa.cli import main

ROWS = [{"text": f"lines with the number {n}", "code": f".*{n}.*"} for n in range(10, 42)]
SETTINGS = {
    **{"train_file": "train.jsonl", "test_file": "test.jsonl", "validation_size": 4, "vocab_size": 300, "max_steps": 2},
    **{"per_device_train_batch_size": 8, "max_new_tokens": 3, "validation_generations": 0, "use_cpu": True},
}


def write(name, rows):
    with open(name, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("train.jsonl", ROWS)
    write("test.jsonl", [{"text": "x y", "code": "3"}, {"text": "x z", "code": "12"}])
    write("numbers.jsonl", [{"text": "x y", "code": "#### 3"}])
    write("one_code.jsonl", [row | {"code": "x"} for row in ROWS])
    write("empty.jsonl", [])
    write("no_views.jsonl", [row | {"use_jepa": False} for row in ROWS])


@pytest.mark.parametrize(
    ("changes", "code", "values"),
    [
        ({"max_steps": 0}, "value_out_of_range", ["max_steps=0"]),
        ({"max_steps": -1, "num_train_epochs": 0}, "value_out_of_range", ["num_train_epochs=0"]),
        ({"dataloader_drop_last": True, "per_device_train_batch_size": 64}, "batch_too_large", ["28", "64"]),
        ({"jepa_distance": "infonce", "per_device_train_batch_size": 1}, "batch_too_small", ["infonce"]),
        ({"jepa_gamma": 0.0, "jepa_lambda": 0.0}, "settings_conflict", ["jepa_lambda=0", "jepa_gamma=0"]),
        ({"jepa_loss_dropout": 1.0}, "value_out_of_range", ["jepa_loss_dropout=1.0"]),
        ({"train_file": "no_views.jsonl"}, "no_jepa_rows", ["28"]),
        ({"train_file": "empty.jsonl"}, "file_empty", ["empty.jsonl"]),
        ({"train_file": "one_code.jsonl", "shuffle_views": True}, "codes_all_equal", ["shuffle_views"]),
        ({"test_file": "empty.jsonl"}, "file_empty", ["empty.jsonl"]),
        ({"metric": "number"}, "no_usable_gold", ["scorer number", "2 test rows"]),
        ({"metric": "choice"}, "no_usable_gold", ["scorer choice", "choices"]),
        (
            {"metric": "number", "test_file": "numbers.jsonl", "validation_generations": 4},
            "no_usable_gold",
            ["scorer number", "4 validation rows", "validation_generations"],
        ),
    ],
)
@pytest.mark.parametrize("verb", ["train", "compare"])
def test_a_run_that_would_do_nothing_is_refused_before_it_begins(home, capsys, tmp_path, verb, changes, code, values):
    """No step, no row, no term, no answer that can be scored: exit 2, with what to change, and no log of training."""
    write("settings.yaml", [SETTINGS | changes])
    assert main([verb, "settings.yaml", "--out", "out"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.endswith(f"[{code}]") and all(value in error for value in values)
    assert not list(tmp_path.glob("out/**/metrics.jsonl"))
