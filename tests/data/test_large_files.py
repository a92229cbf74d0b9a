"""Rows that stay on disk: the same lines, the same pairs, the same runs, without the memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
from pathlib import Path

import pytest

from llm_jepa.data import config as data_config
from llm_jepa.data import json_lines, rows
from llm_jepa.data.config import DataConfig
from llm_jepa.data.digest import digest_rows
from llm_jepa.data.encoded_pairs import StoredPairs
from llm_jepa.data.json_lines import iter_lines
from llm_jepa.data.lazy_rows import Joined, MappedLines, StoredExamples
from llm_jepa.data.prepare import load_data
from llm_jepa.data.shuffled_views import shuffle_code_views
from llm_jepa.objective import JEPAConfig
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run

FILES = {
    "plain": b'{"a": 1}\n{"b": 2}\n',
    "no final newline": b'{"a": 1}\n{"b": 2}',
    "blank lines": b'\n \n{"a": 1}\n\t\n\n  {"b": 2}\n\n',
    "CRLF": b'{"a": 1}\r\n\r\n{"b": 2}\r\n',
    "byte-order mark": b'\xef\xbb\xbf{"a": 1}\n{"b": 2}\n',
    "byte-order mark alone": b"\xef\xbb\xbf",
    "byte-order mark and a blank line": b"\xef\xbb\xbf \nx\n",
    "empty": b"",
    "blank": b"\n\n \n",
    "a line at the cap": b"x" * 40 + b"\ny\n",
    "a line over the cap": b"y\n" + b"x" * 41 + b"\nz\n",
    "a last line over the cap": b"y\n" + b"x" * 90,
    "a blank line over the cap": b" " * 90 + b"\nz\n",
    "no line break at all": b"x" * 30,
}


@pytest.mark.parametrize("name", FILES)
def test_lines_by_number_are_the_lines_that_a_scan_reads(tmp_path, monkeypatch, name):
    """Line numbers, bytes, blank lines, byte-order mark, cap: one rule for both ways to read."""
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 40)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(FILES[name])
    assert list(MappedLines(path)) == list(iter_lines(io.BytesIO(path.read_bytes())))


def test_random_files_read_the_same_both_ways(tmp_path, monkeypatch):
    """200 files of line breaks, blanks and letters in any order."""
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 8)
    draw, path = random.Random(0), tmp_path / "rows.jsonl"
    for _ in range(200):
        path.write_bytes(bytes(draw.choices(b"\n\n\r \tab\xef\xbb\xbf\x0b", k=draw.randrange(40))))
        assert list(MappedLines(path)) == list(iter_lines(io.BytesIO(path.read_bytes())))


def test_lines_are_read_in_any_order(tmp_path):
    """Random access, from the end too; beyond it is an IndexError."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(b"row %d\n" % number for number in range(50)))
    lines = MappedLines(path)
    assert [lines[row] for row in (7, 49, 0, -1)] == [(8, b"row 7"), (50, b"row 49"), (1, b"row 0"), (50, b"row 49")]
    with pytest.raises(IndexError):
        lines[50]


def test_the_index_is_put_beside_nothing_of_the_users(tmp_path, monkeypatch):
    """It is a temporary file, gone when it is no longer needed."""
    elsewhere, data = tmp_path / "tmp", tmp_path / "data"
    elsewhere.mkdir()
    data.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    (data / "rows.jsonl").write_bytes(b"x\n" * 9)
    lines = MappedLines(data / "rows.jsonl")
    assert len(lines) == 9
    assert [each.name for each in data.iterdir()] == ["rows.jsonl"]
    del lines
    assert not list(elsewhere.iterdir())


def test_a_process_that_is_started_anew_reads_the_same_lines(tmp_path):
    """Workers of a data loader get the file by its name."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"a\n\nb\n")
    assert list(pickle.loads(pickle.dumps(MappedLines(path)))) == [(1, b"a"), (3, b"b")]


def test_a_file_that_changes_while_rows_are_read_from_it_is_refused(tmp_path, raises):
    """Other rows under the same numbers would be trained on in silence."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"a\nb\n")
    lines = MappedLines(path)
    path.open("ab").write(b"c\n")
    with raises("file_changed", "rows.jsonl"):
        lines[0]
    with raises("file_unreadable", "gone.jsonl"):
        MappedLines(tmp_path / "gone.jsonl")


# The same results


ROWS = [
    {"text": f"text {i}", "code": f"code {i % 40}", "group": f"g{i % 60}" if i % 3 else None, "use_jepa": i % 7 > 0}
    for i in range(100)
]
FAULTS = ["{", {"text": " ", "code": "x"}, {"text": "long " * 40, "code": "x"}, ROWS[3], {"text": None, "code": "x"}]


@pytest.mark.parametrize("jepa_views", ["prefix", "rendered"])
@pytest.mark.parametrize("on_overflow", ["drop", "truncate"])
def test_rows_on_disk_and_in_memory_are_the_same_rows(write_lines, jepa_views, on_overflow):
    """Pairs, examples, order, account, notes, hash, lengths, and the shuffled control."""
    train = write_lines(*ROWS[:50], *FAULTS, "", *ROWS[50:], name="train.jsonl")
    test = write_lines(*ROWS[:5], name="test.jsonl")
    policies = {"on_broken": "drop", "on_empty": "drop", "on_duplicate": "drop", "on_overflow": on_overflow}

    def known(in_memory: bool) -> list:
        config = DataConfig(
            train_file=train, test_file=test, validation_size=9, max_length=40, rows_in_memory=in_memory, **policies
        )
        data = load_data(config, JEPAConfig(jepa_views=jepa_views))
        assert isinstance(data.train.pairs, StoredPairs) is not in_memory
        shuffled = shuffle_code_views(data.train.pairs, seed=3)
        facts = [data.summary, data.notes, digest_rows(data.train.pairs), digest_rows(shuffled), list(shuffled)]
        for split in (data.train, data.validation, data.test):
            facts += [list(split.pairs), list(split.examples), split.dropped, split.truncated, split.rows_in]
            known = split.facts
            facts += [list(known.lengths), known.longest, known.longest_code, known.num_jepa]
        return facts

    assert known(True) == known(False)


def test_a_run_on_rows_from_disk_has_the_losses_of_one_from_memory(write_lines, tmp_path):
    """Every line of the log, to the last digit, but for the times."""
    train, test = write_lines(*ROWS, name="train.jsonl"), write_lines(*ROWS[:4], name="test.jsonl")
    settings = {
        **{"train_file": train, "test_file": test, "validation_size": 8, "vocab_size": 300, "max_steps": 4},
        **{"per_device_train_batch_size": 4, "logging_steps": 1, "eval_steps": 2, "monitor_pairs": 8},
        **{"validation_generations": 2, "max_new_tokens": 3, "use_cpu": True, "shuffle_views": True},
    }
    logs = []
    for in_memory in (True, False):
        folder = tmp_path / f"run-{in_memory}"
        train_run(read_run({**settings, "rows_in_memory": in_memory}), 0, folder)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        timed = ("runtime", "per_second", "tokens_per_s")
        logs.append([{key: value for key, value in line.items() if not key.endswith(timed)} for line in lines])
    assert logs[0] == logs[1]
    assert sum("ce_loss" in line for line in logs[0]) >= 4


# When rows stay on disk


def test_large_files_stay_on_disk_by_themselves(write_lines, monkeypatch):
    """`auto` goes by the size of the file; true and false by what was asked."""
    path = write_lines(*ROWS)
    monkeypatch.setattr(rows, "LARGE_FILE_BYTES", os.path.getsize(path))
    assert not rows.stays_on_disk(path, DataConfig())
    monkeypatch.setattr(rows, "LARGE_FILE_BYTES", os.path.getsize(path) - 1)
    assert rows.stays_on_disk(path, DataConfig())
    assert not rows.stays_on_disk(path, DataConfig(rows_in_memory=True))
    assert data_config.LARGE_FILE_BYTES == 256 * 2**20


def test_a_format_that_cannot_stay_on_disk_is_refused_where_it_was_asked_to(tmp_path, raises):
    """No setting is ignored."""
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"x")
    with raises("not_jsonl", "rows.parquet: ", "rows_in_memory=false"):
        rows.stays_on_disk(str(path), DataConfig(rows_in_memory=False))
    with raises("value_not_allowed", "rows_in_memory='maybe'", "auto, true, false"):
        DataConfig(rows_in_memory="maybe")


def test_rows_that_are_on_disk_are_named_by_their_line(write_lines):
    """An error later in the run still leads to the row."""
    path = write_lines("", ROWS[0], "{", ROWS[1])
    config = DataConfig(on_broken="drop", rows_in_memory=False)
    examples = rows.read_examples(path, config).examples
    assert isinstance(examples, StoredExamples)
    assert [example.source for example in examples] == [f"{path}:2", f"{path}:4"]
    assert examples[-1] == examples[1:][0] == examples.take([1])[0]
    joined = Joined(examples, [examples[0]])
    assert [joined[place].source[-1] for place in (0, 1, 2, -1)] == ["2", "4", "2", "2"]
    assert len(joined[1:]) == 2
    with pytest.raises(IndexError):
        joined[3]


def test_a_broken_row_is_refused_by_line_on_disk_as_in_memory(write_lines, raises):
    """The same sentence."""
    path, messages = write_lines(ROWS[0], "{", ROWS[1]), []
    for in_memory in (True, False):
        with raises("not_json", f"{Path(path)}:2: ") as caught:
            rows.read_examples(path, DataConfig(rows_in_memory=in_memory))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
