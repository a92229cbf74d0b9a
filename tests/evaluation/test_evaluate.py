"""A model that knows its rows scores all of them; one that does not, scores what it got right."""

from __future__ import annotations

import json
import sqlite3

import pytest
import torch

from llm_jepa.data.example import Example
from llm_jepa.evaluation.evaluate import EvaluationConfig, answer, check_golds, evaluate, score_retrieval
from llm_jepa.evaluation.scorers.regex import automata
from llm_jepa.files import write_json_lines
from llm_jepa.objective import LLMJEPA
from llm_jepa.objective.reference import enc, pred

CONFIG = EvaluationConfig(max_new_tokens=24)


def test_a_model_that_knows_its_rows_by_heart_scores_all_of_them(learned):
    """Every answer equals its gold text and every text finds its code."""
    metrics, records = evaluate(learned.jepa, learned.encoder, learned.rows, CONFIG)
    assert (metrics["exact_match"], metrics["starts_with"]) == (1.0, 1.0)
    assert (metrics["num_rows"], metrics["num_empty"]) == (4, 0)
    assert metrics["retrieval"]["recall@1"] == 1.0 and metrics["retrieval"]["num_candidates"] == 4
    assert [record["output"] for record in records] == [".*dog.*", ".*[0-9].*", ".*x", "(){1}"]


def test_each_record_tells_the_row_the_answer_and_why(learned, some_rows):
    """One row right, one begun right, one wrong; the shares count them, the records say why."""
    rows = some_rows(
        {"text": "lines with a dog", "code": ".*dog.*"},
        {"text": "lines with a number", "code": ".*[0-9]"},
        {"text": "empty lines", "code": "(){2}"},
    )
    metrics, records = evaluate(learned.jepa, learned.encoder, rows, CONFIG)
    assert metrics["exact_match"] == pytest.approx(1 / 3) and metrics["starts_with"] == pytest.approx(2 / 3)
    assert [(record["exact_match"], record["starts_with"]) for record in records] == [
        (True, True),
        (False, True),
        (False, False),
    ]
    assert records[1]["source"].endswith("other.jsonl:2")
    assert (records[1]["text"], records[1]["gold"]) == ("lines with a number", ".*[0-9]")
    assert records[1]["output"] == ".*[0-9].*" and records[1]["reason"].startswith("equal for 7 characters, then")


def test_the_metric_of_the_comparison_gives_the_reason(learned, some_rows):
    """`metric: starts_with` changes which verdict is explained, not the scores."""
    rows = some_rows({"text": "lines with a number", "code": ".*[0-9]"})
    exact, _ = evaluate(learned.jepa, learned.encoder, rows, CONFIG)
    starts, records = evaluate(
        learned.jepa, learned.encoder, rows, EvaluationConfig(metric="starts_with", max_new_tokens=24)
    )
    assert exact == starts
    assert records[0]["reason"] == "begins with the gold text, 2 characters follow"


def test_an_answer_that_does_not_end_is_cut_and_wrong(learned):
    """One token is too few for any of the answers: nothing is right, and nothing is hidden."""
    metrics, records = evaluate(learned.jepa, learned.encoder, learned.rows, EvaluationConfig(max_new_tokens=1))
    assert metrics["exact_match"] == 0.0
    assert all(record["reason"].startswith("ends after") for record in records)


def test_answers_do_not_depend_on_how_many_are_made_at_once(learned):
    outputs = [
        answer(learned.jepa, learned.encoder, learned.rows.examples, EvaluationConfig("exact_match", 24, size))
        for size in (1, 3, 256)
    ]
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_model_that_was_never_trained_is_not_right(learned, some_rows, tiny_model):
    """The control of the first test: the same rows, random weights."""
    vocab = len(learned.encoder.tokenizer)
    untrained = LLMJEPA(tiny_model("llama", vocab_size=vocab), learned.jepa.config)
    metrics, _ = evaluate(untrained, learned.encoder, learned.rows, CONFIG)
    assert metrics["exact_match"] == 0.0


def test_retrieval_ranks_each_text_among_the_distinct_codes(learned, some_rows):
    """Two of four rows share a code: three candidates, and the recall of a plain loop over separate forwards."""
    rows = some_rows(
        {"text": "lines with a dog", "code": ".*dog.*"},
        {"text": "a dog", "code": ".*dog.*"},
        {"text": "lines with a number", "code": ".*[0-9].*"},
        {"text": "empty lines", "code": ".*y"},
    )
    found = score_retrieval(learned.jepa, rows, learned.encoder.pad_id)
    assert (found["num_queries"], found["num_candidates"]) == (4, 3)
    with torch.no_grad():
        layers = learned.jepa.backbone.layers
        codes = [enc(layers, rows.pairs[place].code_view, torch.device("cpu")) for place in (0, 2, 3)]
        hits = []
        for pair, gold in zip(rows.pairs, (0, 0, 1, 2), strict=True):
            text = pred(learned.jepa, pair.text_ids)
            hits.append(int(torch.stack([torch.cosine_similarity(text, code, 0) for code in codes]).argmax()) == gold)
    assert found["recall@1"] == pytest.approx(sum(hits) / 4)


def test_rows_of_one_text_are_judged_by_what_follows_the_split(learned, some_rows):
    """`text` alone: the prompt is the first part, the gold answer what the second part decodes to."""
    rows = some_rows({"text": "lines with a dog"})
    assert rows.examples[0].code is None
    _, records = evaluate(learned.jepa, learned.encoder, rows, CONFIG)
    assert records[0]["gold"] and "lines with a dog".endswith(records[0]["gold"])


def test_predictions_are_one_json_object_a_line(learned, tmp_path):
    """Text in any script stays readable, and comes back as it was."""
    records = [{"text": "Zeilen mit ß 线", "output": 'a"\n\u2028b'}, {"text": "", "output": ""}]
    write_json_lines(tmp_path / "predictions.jsonl", records)
    raw = (tmp_path / "predictions.jsonl").read_bytes().decode()
    assert [json.loads(line) for line in raw.split("\n")[:-1]] == records and raw.endswith("\n")
    assert "ß 线" in raw
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_no_rows_give_no_division_by_zero(learned):
    """An empty list of examples is answered by an empty list."""
    examples: list[Example] = []
    assert answer(learned.jepa, learned.encoder, examples, CONFIG) == []


@pytest.mark.parametrize(
    ("changes", "code", "values"),
    [
        ({"metric": "exact"}, "unknown_scorer", ["metric='exact'", "exact_match, starts_with"]),
        ({"metric": "regexp"}, "unknown_scorer", ["metric='regexp'", "Did you mean 'regex'?"]),
        ({"scorers": ["number", "lable"]}, "unknown_scorer", ["scorers=", "'lable'", "Did you mean 'label'?"]),
        ({"metric": "sql"}, "setting_missing", ["sql", "databases"]),
        ({"databases": "spider"}, "setting_without_effect", ["databases='spider'", "sql"]),
        ({"max_new_tokens": 0}, "value_out_of_range", ["max_new_tokens=0", "at least 1"]),
        ({"generation_batch_size": 0}, "value_out_of_range", ["generation_batch_size=0", "at least 1"]),
        ({"validation_generations": -1}, "value_out_of_range", ["validation_generations=-1", "at least 0"]),
    ],
)
def test_a_setting_out_of_range_names_its_field(changes, code, values, raises):
    with raises(code, *values):
        EvaluationConfig(**changes)


def test_scorers_that_are_asked_for_are_reported_beside_the_two_that_always_are(learned, some_rows):
    """A bool a scorer in each record, its share and its unknowns in the metrics; the metric gives the reason."""
    rows = some_rows(
        {"text": "lines with a dog", "code": ".*(d)(o)g.*"},
        {"text": "lines with a number", "code": ".*[1-9].*"},
        {"text": "empty lines", "code": "()"},
    )
    config = EvaluationConfig(metric="regex", scorers=["label", "regex"], max_new_tokens=24)
    metrics, records = evaluate(learned.jepa, learned.encoder, rows, config)
    assert [row["regex"] for row in records] == [True, False, True]
    assert metrics["regex"] == pytest.approx(2 / 3) and metrics["exact_match"] == 0.0
    assert records[0]["reason"] == records[0]["reasons"]["regex"] == "matches the same lines as the gold regex"
    assert set(records[0]["reasons"]) == {"regex", "label"}
    assert metrics["num_unknown"] == {"regex": 0, "label": 0}


def test_unknown_is_null_in_the_record_counted_apart_and_never_right(learned, some_rows, monkeypatch):
    """Where the limits do not suffice, the row counts as not right, and everybody can see that it was not decided."""
    monkeypatch.setattr(automata, "MAX_STATES", 1)
    rows = some_rows({"text": "lines with a dog", "code": ".*dog.*|q"}, {"text": "lines with a number", "code": "x"})
    config = EvaluationConfig(scorers=["regex"], max_new_tokens=24)
    metrics, records = evaluate(learned.jepa, learned.encoder, rows, config)
    assert records[0]["regex"] is None and records[0]["reasons"]["regex"] == "not decided: more than 1 states"
    assert metrics["regex"] == 0.0 and metrics["num_unknown"]["regex"] >= 1
    assert json.loads(json.dumps(records))[0]["regex"] is None


def test_a_gold_answer_that_cannot_be_used_is_an_error_of_its_row_and_the_others_are_scored(
    learned, some_rows, caplog, raises
):
    """It is named with file and line, and counted; where no row has one that can be used, the work stops."""
    rows = some_rows({"text": "lines with a dog", "code": ".*dog.*"}, {"text": "lines with a number", "code": "(["})
    config = EvaluationConfig(scorers=["regex"], max_new_tokens=24)
    with caplog.at_level("WARNING"):
        metrics, records = evaluate(learned.jepa, learned.encoder, rows, config)
    assert [record["regex"] for record in records] == [True, None]
    assert records[1]["reasons"]["regex"].startswith("error: ") and "'(['" in records[1]["reasons"]["regex"]
    assert metrics["regex"] == 0.5
    assert (metrics["num_unknown"], metrics["num_gold_errors"]) == ({"regex": 0}, {"regex": 1})
    assert "other.jsonl:2: The gold regex" in caplog.text
    with raises("no_usable_gold", "scorer regex", "1 rows", "other.jsonl:1: ", "'(['"):
        evaluate(learned.jepa, learned.encoder, some_rows({"text": "lines with a dog", "code": "(["}), config)


@pytest.mark.parametrize(
    ("metric", "undecidable", "decidable"),
    [("number", "12", "#### 12"), ("regex", "(?=a)b", "ab")],
)
def test_gold_answers_that_a_scorer_cannot_decide_are_counted_before_training(
    learned, some_rows, metric, undecidable, decidable, raises
):
    """All of them: refused. Some: a note with their number and the first one's place. None: nothing to say."""
    config = EvaluationConfig(metric=metric)
    good, bad = {"text": "a line", "code": decidable}, {"text": "a line", "code": undecidable}
    with raises("no_usable_gold", f"scorer {metric}", "2 test rows", "jsonl:1: "):
        check_golds(learned.encoder, some_rows(bad, bad), config, "test")
    (note,) = check_golds(learned.encoder, some_rows(good, bad, good), config, "test")
    assert f"1 of 3 test rows have a gold answer that {metric} cannot decide" in note and "jsonl:2: " in note
    assert check_golds(learned.encoder, some_rows(good, good), config, "test") == []


def test_gold_answers_that_are_longer_than_an_answer_may_be_are_counted(learned, some_rows):
    """The model cannot write them; whoever sets max_new_tokens too low must not read 0% as a result."""
    rows = some_rows({"text": "a line", "code": "abcabc"}, {"text": "a line", "code": "a"})
    assert check_golds(learned.encoder, rows, EvaluationConfig(max_new_tokens=24), "test") == []
    (note,) = check_golds(learned.encoder, rows, EvaluationConfig(max_new_tokens=1), "test")
    assert note.startswith("1 of 2 test rows have a gold answer of more than max_new_tokens=1 tokens")
    assert check_golds(learned.encoder, rows, EvaluationConfig(metric="label", max_new_tokens=1), "test") == []


def test_sql_is_scored_on_the_database_that_the_row_names(learned, some_rows, tmp_path):
    """The column `database` reaches the scorer; the child is gone afterwards."""
    with sqlite3.connect(tmp_path / "shop.sqlite") as connection:
        connection.execute("CREATE TABLE dogs (name TEXT)")
    rows = some_rows(
        {"text": "lines with a dog", "code": "SELECT name FROM dogs", "database": "shop"},
        {"text": "lines with a number", "code": "SELECT name FROM dogs", "db_id": "nowhere"},
    )
    config = EvaluationConfig(metric="sql", databases=str(tmp_path), max_new_tokens=24)
    metrics, records = evaluate(learned.jepa, learned.encoder, rows, config)
    assert records[0]["sql"] is False and "SQLite says" in records[0]["reason"]  # it answers `.*dog.*`
    assert records[1]["sql"] is None and "no nowhere.sqlite" in records[1]["reason"]
    assert metrics["num_gold_errors"] == {"sql": 1}


def test_answers_of_a_row_are_any_of_them(learned, some_rows):
    """The column `answers` goes before the code, which a row can have one of only."""
    rows = some_rows({"text": "lines with a dog", "code": "cat", "answers": ["cat", "dog"]})
    metrics, _ = evaluate(learned.jepa, learned.encoder, rows, EvaluationConfig(metric="any_of", max_new_tokens=24))
    assert metrics["any_of"] == 1.0 and metrics["exact_match"] == 0.0


def test_columns_for_scorers_change_nothing_that_is_trained_on(some_rows):
    """The rows' hash, which a resume compares, is the same with them and without."""
    row = {"text": "lines with a dog", "code": ".*dog.*"}
    extra = {"database": "x", "choices": ["a", "b"], "answer": 1, "answers": ["q"]}
    plain, more = some_rows(row), some_rows(row | extra)
    assert more.examples[0].scoring == extra and plain.examples[0].scoring is None
    assert plain.pairs == more.pairs
