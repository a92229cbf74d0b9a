"""`embed` and `retrieve` on files of pairs and on files of one column."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from llm_jepa.cli import main
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run
from llm_jepa.runs.trained_run import load_run
from llm_jepa.training.view_embeddings import view_embeddings


@pytest.fixture(scope="module")
def run(tiny_settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("embed") / "run"
    train_run(read_run(tiny_settings(max_steps=2, learning_rate=3e-2)), 7, folder)
    return folder


@pytest.fixture
def call(capsys):
    """Run the command; return its exit code, its last line as JSON, and what it said on standard error."""

    def run_it(*argv: object):
        code = main([str(each) for each in argv])
        said = capsys.readouterr()
        return code, json.loads(said.out.splitlines()[-1]) if code == 0 else {}, " ".join(said.err.split())

    return run_it


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("side", ["text", "code"])
def test_embed_writes_the_side_that_the_distance_compares(side, run, pair_files, call, tmp_path):
    """In the order of the file, in both formats, whatever the batch size; a row without a JEPA term too."""
    trained = load_run(run)
    rows = pairs_of(pair_files[1])
    views = view_embeddings(trained.jepa, trained.rows(str(pair_files[1])).pairs, trained.encoder.pad_id)
    expected = {"text": views.text_pred, "code": views.code_emb}[side].numpy()
    idle = write(tmp_path / "idle.jsonl", *({**row, "use_jepa": False} for row in rows))
    for file, name, size in ((pair_files[1], "a.parquet", 5), (idle, "b.npy", 128)):
        out = tmp_path / "new" / name
        code, last, _ = call("embed", run, file, "--out", out, "--side", side, "--batch-size", size)
        assert code == 0 and (last["num"], last["dim"], last["left_out"]) == (12, 128, 0)
    table = pyarrow.parquet.read_table(tmp_path / "new" / "a.parquet").to_pylist()
    assert [row["text"] for row in table] == [row[side] for row in rows]
    assert [row["source"].rpartition(":")[2] for row in table] == [str(number) for number in range(1, 13)]
    np.testing.assert_allclose(np.array([row["embedding"] for row in table]), expected, atol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "new" / "b.npy"), expected, atol=1e-5)


@pytest.mark.parametrize("side", ["text", "code"])
@pytest.mark.parametrize("column", ["own", "other", "named"])
def test_a_file_of_one_column_gives_what_the_pairs_give(side, column, run, pair_files, call, tmp_path):
    """The side's own name, the only column there is, or one that is named."""
    name = side if column == "own" else "passage"
    more = {"id": "7"} if column == "named" else {}
    file = write(tmp_path / "lone.jsonl", *({name: row[side], **more} for row in pairs_of(pair_files[1])))
    extra = ["--column", "passage"] if column == "named" else []
    for source, out, options in ((pair_files[1], "pairs.npy", []), (file, "lone.npy", extra)):
        assert call("embed", run, source, "--out", tmp_path / out, "--side", side, *options)[0] == 0
    np.testing.assert_allclose(np.load(tmp_path / "lone.npy"), np.load(tmp_path / "pairs.npy"), atol=1e-5)


def test_retrieve_searches_any_file_of_candidates(run, pair_files, call, tmp_path):
    """Codes alone are found as those of pairs are; the cosine is that of `embed`."""
    codes = write(tmp_path / "codes.jsonl", *({"regex": row["code"], "id": 1} for row in pairs_of(pair_files[1])))
    text = pairs_of(pair_files[1])[0]["text"]
    _, pairs, _ = call("retrieve", run, text, "--data", pair_files[1])
    _, lone, _ = call("retrieve", run, text, "--data", codes, "--column", "regex")
    assert [each["code"] for each in lone["found"]] == [each["code"] for each in pairs["found"]]
    for side, file, column in (("text", write(tmp_path / "t.jsonl", {"text": text}), "text"), ("code", codes, "regex")):
        assert call("embed", run, file, "--side", side, "--column", column, "--out", tmp_path / f"{side}.npy")[0] == 0
    text_pred, code_emb = (np.load(tmp_path / f"{side}.npy") for side in ("text", "code"))
    cosines = code_emb @ text_pred[0] / np.linalg.norm(code_emb, axis=1) / np.linalg.norm(text_pred)
    assert lone["found"][0]["cosine"] == pytest.approx(cosines.max(), abs=1e-5)


def test_what_cannot_be_embedded_is_refused_by_name(run, call, tmp_path):
    """Before any work, where the name of the file to write is wrong; else by file and line."""
    two = write(tmp_path / "two.jsonl", {"body": "a", "id": 1})
    empty = write(tmp_path / "empty.jsonl", {"text": "a"}, {"text": " "})
    number = write(tmp_path / "number.jsonl", {"text": "a"}, {"text": 5})
    other = write(tmp_path / "other.jsonl", {"text": "a"}, {"body": "a"})
    (tmp_path / "there.npy").write_text("mine")
    for file, out, code, values in (
        (two, "x.csv", "wrong_ending", ["x.csv", ".parquet or .npy"]),
        (two, "there.npy", "file_exists", ["there.npy", "--force"]),
        (two, "x.npy", "column_missing", ["two.jsonl:1: ", "body, id", "prompt or text"]),
        (empty, "x.npy", "view_empty", ["empty.jsonl:2: "]),
        (number, "x.npy", "wrong_type", ["number.jsonl:2: "]),
        (other, "x.npy", "column_missing", ["other.jsonl:2: ", "body"]),
    ):
        status, _, err = call("embed", run, file, "--out", tmp_path / out)
        assert status == 2 and f"[{code}]" in err and all(value in err for value in values)
    assert (tmp_path / "there.npy").read_text() == "mine" and not (tmp_path / "x.npy").exists()
    assert "--column names a column of --data" in call("retrieve", run, "a", "--column", "x")[2]


def test_without_a_terminal_long_work_says_how_far_it_is(run, pair_files, call, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("llm_jepa.progress.LOG_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO):
        assert call("embed", run, pair_files[1], "--out", tmp_path / "x.npy", "--batch-size", 6)[0] == 0
    assert "embed   50% | 6 of 12 rows" in caplog.text
