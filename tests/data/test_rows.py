"""What a data file may look like, and what a wrong one gets: an error that names the line."""

from __future__ import annotations

import copy
import gzip
import json
import pickle
import socket

import pytest

from llm_jepa.data import formats, json_lines, sources
from llm_jepa.data.config import DataConfig
from llm_jepa.data.context import Context
from llm_jepa.data.example import Example
from llm_jepa.data.rows import read_examples

PAIR = {"text": "lines with a dog", "code": ".*dog.*"}
CHAT = {
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "lines with a dog"},
        {"role": "assistant", "content": ".*dog.*"},
    ]
}


def views(path: str, **settings) -> list[tuple[str, str | None]]:
    return [(example.text, example.code) for example in read_examples(path, DataConfig(**settings)).examples]


# Forms


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"prompt": PAIR["text"], "completion": PAIR["code"]},
        {"prompt": CHAT["messages"][:2], "completion": CHAT["messages"][2:]},
        CHAT,
        {**PAIR, "id": 7, "meta": None},
    ],
    ids=["text-code", "prompt-completion", "prompt-completion-chat", "messages", "further-columns"],
)
def test_each_row_form_gives_the_same_two_views(write_lines, row):
    """The forms of TRL, and text/code, all mean one thing; columns that are not views are left alone."""
    assert views(write_lines(row)) == [("lines with a dog", ".*dog.*")]


def test_a_chat_keeps_its_messages_and_its_system_message(write_lines):
    """A chat template needs the whole chat; the views are the user's turn and the assistant's."""
    (example,) = read_examples(write_lines(CHAT), DataConfig()).examples
    assert example.system == "be brief"
    assert example.messages == CHAT["messages"]


def test_text_alone_is_one_sequence_to_be_split(write_lines):
    """Without a second column there is no code: `jepa_split` makes the views from tokens."""
    assert views(write_lines({"text": "a b c d"})) == [("a b c d", None)]


def test_named_columns_come_before_all_others(write_lines):
    """text_column and code_column decide, even where a row has columns with the usual names."""
    path = write_lines({"text": "t", "code": "c", "question": "q", "sql": "s"})
    assert views(path, text_column="question", code_column="sql") == [("q", "s")]


def test_one_named_column_completes_the_usual_other(write_lines):
    """The paraphrase file has `text` and `paraphrase`: naming the second is enough."""
    path = write_lines({"text": "t", "paraphrase": "p"})
    assert views(path, code_column="paraphrase") == [("t", "p")]


def test_the_published_three_turn_file_loads_unchanged(synth_files):
    """All 8,000 rows of NL-RX-SYNTH, with the line of each."""
    result = read_examples(synth_files[0], DataConfig())
    assert (len(result.examples), result.rows_in, result.dropped) == (8000, 8000, {})
    assert result.examples[-1].source.endswith("nlrx_synth_train.jsonl:8000")


def test_the_source_is_the_line_in_the_file_blank_lines_counted(write_lines):
    """An editor that goes to this line stands on the row."""
    path = write_lines("", PAIR, "  ", PAIR)
    assert [e.source for e in read_examples(path, DataConfig()).examples] == [f"{path}:2", f"{path}:4"]


def test_limit_looks_at_the_first_rows_only(write_lines):
    """A fault after the limit is not found, and not looked for."""
    result = read_examples(write_lines(PAIR, PAIR, "{broken"), DataConfig(), limit=2)
    assert result.rows_in == len(result.examples) == 2


def test_parquet_rows_read_like_json_rows(tmp_path):
    """Strings and chats; rows are numbered from 1."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([CHAT, CHAT]), path)
    second = read_examples(str(path), DataConfig()).examples[1]
    assert second == Example(PAIR["text"], PAIR["code"], "be brief", CHAT["messages"], f"{path}:2")


def test_a_folder_that_datasets_saved_is_read(tmp_path):
    """`Dataset.save_to_disk` writes such a folder."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "saved"
    datasets.Dataset.from_list([PAIR]).save_to_disk(str(folder))
    assert views(str(folder)) == [("lines with a dog", ".*dog.*")]


def test_a_prompt_needs_no_answer():
    """`generate` has a question only; as a chat if the model was trained on chats."""
    assert Context().ask("q").messages is None
    assert [m["role"] for m in Context(is_chat=True, system="s").ask("q").messages or []] == ["system", "user"]


# Bytes


def test_control_and_bidi_characters_are_kept_as_they_are(write_lines):
    """They are data; only what no tokenizer can hold is refused."""
    text = "a\tb\x07\u202e\u200b\U0001f600"
    assert views(write_lines({"text": text, "code": "x"})) == [(text, "x")]


def test_a_table_whose_first_line_is_a_row_is_told_to_name_its_columns(tmp_path, raises):
    """Leaving out such rows would leave out all."""
    (tmp_path / "rows.csv").write_text("lines with a dog,.*dog.*\nlines with a cat,.*cat.*\n")
    with raises("column_missing", "rows.csv:2: ", "first line of a table must name the columns") as caught:
        read_examples(str(tmp_path / "rows.csv"), DataConfig())
    assert "on_broken" not in str(caught.value)


@pytest.mark.parametrize(
    "line, code, values",
    [
        ('{"text": "a", "code": }', "not_json", ["column 23"]),
        ('{"text": "a", "code": "b"', "not_json", ["column 26"]),
        ('["a", "b"]', "row_not_object", ["a list"]),
        ("[", "not_json", ["array"]),
        ('"text"', "row_not_object", ["a string"]),
        ("null", "row_not_object", ["null"]),
        ('{"text": "a", "text": "b", "code": "c"}', "key_repeated", ["'text'"]),
        ("[" * 100_000, "not_json", []),
        (b'{"text": "a\xff", "code": "b"}', "not_utf8", ["byte 12"]),
        ('{"text": "a\\ud800", "code": "b"}', "character_not_allowed", ["text", "\\ud800", "place 2"]),
        ('{"text": "a\\u0000", "code": "b"}', "character_not_allowed", ["text", "NUL", "place 2"]),
        ({"text": None, "code": "b"}, "wrong_type", ["text", "null", "a string"]),
        ({"text": "a"}, "form_differs", ["rows.jsonl:1", "text and code"]),
        ({"prompt": "a", "completion": "b"}, "form_differs", ["prompt and completion", "text and code"]),
        (CHAT, "form_differs", ["messages", "text and code"]),
        (
            {"question": "a", "answer": "b"},
            "column_missing",
            ["question, answer", "prompt and completion", "text_column"],
        ),
        ({}, "column_missing", ["(none)"]),
    ],
)
def test_a_broken_row_is_refused_by_line(write_lines, raises, line, code, values):
    """File, line, what was found, what was expected, what to do: all in one paragraph."""
    path = write_lines(PAIR, PAIR, line, PAIR)
    with raises(code, f"{path}:3: ", "on_broken=drop", *values) as caught:
        views(path)
    assert "\n" not in str(caught.value)


def test_the_error_of_a_row_survives_pickling_and_copying():
    """Errors travel between processes."""
    error = json_lines.RowError("json", "not_json", "what is wrong")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (again.reason, again.code, str(again)) == ("json", "not_json", "what is wrong")


@pytest.mark.parametrize(
    "messages, code, values",
    [
        ("hello", "wrong_type", ["messages", "a string", "a list"]),
        ([], "wrong_last_roles", ["messages"]),
        (["hello"], "wrong_type", ["message 1", "a string"]),
        ([{"role": "tool", "content": "x"}], "unknown_role", ["message 1", "'tool'", "system, user, assistant"]),
        ([{"role": "user", "content": "q"}], "wrong_last_roles", ["roles user;"]),
        ([{"from": "human", "value": "q"}], "unknown_role", ["message 1", "from and value"]),
        (CHAT["messages"][1:] + CHAT["messages"][1:2], "wrong_last_roles", ["assistant, user"]),
        (CHAT["messages"][1:2] + CHAT["messages"], "system_not_first", ["messages"]),
        (
            [{"role": "user", "content": [{"type": "image"}]}, CHAT["messages"][2]],
            "wrong_type",
            ["message 1, content", "a list"],
        ),
        ([CHAT["messages"][1], {"role": "assistant", "content": None}], "wrong_type", ["message 2, content", "null"]),
        ([CHAT["messages"][1], {**CHAT["messages"][2], "tool_calls": [{}]}], "not_text", ["message 2", "tools"]),
    ],
)
def test_a_chat_that_does_not_end_in_question_and_answer_is_refused(write_lines, raises, messages, code, values):
    """The answer is the assistant's last turn, and the text view ends with the user's turn before it."""
    with raises(code, ":1: ", *values):
        views(write_lines({"messages": messages}))


def test_a_line_of_exactly_the_cap_is_read(write_lines, monkeypatch):
    """The cap counts the line without its end."""
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", len(json.dumps(PAIR)))
    assert len(views(write_lines(PAIR, PAIR))) == 2


def test_dropped_rows_are_counted_by_reason(write_lines):
    """rows in = kept + dropped, exactly; blank lines are no rows."""
    path = write_lines("{", PAIR, b"\xff", "", {"text": None, "code": "x"}, {"text": "\0", "code": "x"}, {"a": 1})
    result = read_examples(path, DataConfig(on_broken="drop"))
    assert result.dropped == {"json": 1, "encoding": 1, "type": 1, "characters": 1, "fields": 1}
    assert result.rows_in == 6 == len(result.examples) + sum(result.dropped.values())


def test_a_broken_first_row_does_not_decide_the_form(write_lines):
    """`{"text": 1}` would make text alone the form of a file of pairs."""
    assert len(views(write_lines({"text": 1}, PAIR, PAIR), on_broken="drop")) == 2


@pytest.mark.parametrize(
    "content, code, kind",
    [
        (gzip.compress(json.dumps(PAIR).encode(), mtime=0), "not_utf8", "gzip"),
        (b"PK\x03\x04\xff", "not_utf8", "compressed"),
        (b"PAR1\xff", "not_utf8", "Parquet"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not_json", "git lfs pull"),
        (b"<!DOCTYPE html>\n", "not_json", "web page"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_recognised(tmp_path, raises, content, code, kind):
    """The message names what the file is."""
    for name in ("rows.jsonl", "rows.parquet"):
        (tmp_path / name).write_bytes(content)
        cut = name == "rows.parquet" and content.startswith(b"PAR1")
        of_name = code if name == "rows.jsonl" else "file_damaged" if cut else "not_parquet"
        shown = [] if cut else [kind]
        with raises(of_name, name, *shown):
            views(str(tmp_path / name))


def test_lines_packed_with_gzip_are_read_under_their_own_name(tmp_path, raises):
    """A damaged file is refused."""
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(PAIR).encode(), mtime=0))
    assert views(str(path)) == [(PAIR["text"], PAIR["code"])]
    path.write_bytes(path.read_bytes()[:20])
    with raises("file_damaged", "rows.jsonl.gz"):
        views(str(path))


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_a_file_that_the_system_cannot_open_is_not_called_damaged(tmp_path, raises, monkeypatch, ending):
    """Copying it again would not help."""
    path = tmp_path / f"rows{ending}"
    path.write_bytes(b"x")
    monkeypatch.setattr(sources, "read_file", lambda path, label: formats.read_file(path / "gone", label, name=label))
    with raises("file_unreadable", f"rows{ending}"):
        views(str(path))


def test_a_column_with_a_byte_order_mark_in_its_name_is_shown(write_lines, raises):
    """Otherwise the message would say: found text, expected text."""
    with raises("column_missing", "'\\ufefftext', code"):
        views(write_lines({"\ufefftext": "a", "code": "b"}))


def test_white_space_at_the_end_of_a_view_is_kept_and_noted(write_lines):
    """It may become the view's last token, where Enc is read."""
    result = read_examples(write_lines(PAIR, {"text": "a\n", "code": "b"}, {"text": "a", "code": "b "}), DataConfig())
    assert [example.text for example in result.examples] == [PAIR["text"], "a\n", "a"]
    (note,) = result.notes
    assert note.startswith("2 rows have a view that ends in white space") and "rows.jsonl:2" in note


# Columns that are not read


def test_columns_that_are_not_read_are_named_once(write_lines):
    """Empty ones and those of a scorer are not among them."""
    rows = [{**PAIR, "id": 7, "meta": None, "tags": [], "db_id": "x"}, {**PAIR, "split": "train"}]
    assert read_examples(write_lines(*rows), DataConfig()).notes == [
        "Columns that are not read: id, split. The views are from text and code."
    ]


@pytest.mark.parametrize("column", ["tools", "images", "history", "context", "labels", "weight", "reasoning_content"])
def test_a_column_that_other_trainers_read_has_a_note_of_its_own(write_lines, column):
    """With its name and the row."""
    (note,) = read_examples(write_lines(PAIR, {**PAIR, column: ["x"]}), DataConfig()).notes
    assert f"rows.jsonl:2: the column {column} is not read." in note


def test_a_label_that_marks_bad_answers_is_noted(write_lines):
    """As of KTO: false is a value too."""
    (note,) = read_examples(write_lines({**PAIR, "label": False}), DataConfig()).notes
    assert "the column label is not read. If it marks bad answers" in note


@pytest.mark.parametrize("column", ["input", "context"])
def test_the_second_half_of_a_question_is_not_left_out(write_lines, raises, column):
    """Alpaca and Dolly ask in two columns; an empty one is no part of the question."""
    row = {"instruction": "Classify", column: "", "output": "x"}
    mapped = {"text_column": "instruction", "code_column": "output"}
    assert views(write_lines(row), **mapped) == [("Classify", "x")]
    with raises("question_in_two_columns", f":2: {column} ", "instruction", "text_column"):
        views(write_lines(row, {**row, column: "some text"}), **mapped)


# Files


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_rows_is_refused(tmp_path, raises, content):
    """An empty file is a mistake upstream, never an empty data set."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with raises("file_empty", path):
        views(str(path))


def test_a_file_of_broken_rows_alone_is_refused_even_when_they_may_be_dropped(write_lines, raises):
    """Dropping everything is not what `drop` asked for."""
    with raises("no_rows_left", "rows.jsonl", "2 rows", "json: 2"):
        views(write_lines("{", "{"), on_broken="drop")


@pytest.mark.parametrize(
    "name",
    [
        "gone.jsonl",
        "./gone",
        "gone",
        "../gone/rows.parquet",
        "a/b/c",
        "C:/data",
        "a\\b",
        "~nobody/x",
        ":test",
        "gone:test",
    ],
)
def test_a_missing_file_never_becomes_a_question_to_the_network(monkeypatch, raises, name):
    """Only owner/name, without a suffix, can be a data set of the hub."""

    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with raises("file_missing", name):
        views(name)


def test_a_missing_file_is_answered_with_the_nearest_name(write_lines, raises):
    """Most missing files are typing errors."""
    path = write_lines(PAIR, name="train.jsonl")
    with raises("file_missing", "trian.jsonl", " train.jsonl"):
        views(path.replace("train", "trian"))


def test_a_data_set_that_the_hub_cannot_give_is_a_data_error(monkeypatch, raises):
    """The user reads what was tried and what is expected, not a traceback."""
    import datasets

    def offline(name):
        raise ConnectionError(f"no network for {name}")

    monkeypatch.setattr(sources, "why_offline", lambda: None)
    monkeypatch.setattr(sources, "not_downloaded", lambda *_: None)
    monkeypatch.setattr(datasets, "get_dataset_config_names", offline)
    with raises("dataset_not_loadable", "owner/name:test: ", "no network for owner/name.", ".jsonl"):
        views("owner/name:test")


@pytest.mark.parametrize("name", ["rows.txt", "rows.xlsx", "rows.gz", "rows"])
def test_files_of_other_formats_are_refused_by_name(write_lines, raises, name):
    """Guessing a format from content is how rows get lost."""
    with raises("unknown_format", name, ".jsonl"):
        views(write_lines(PAIR, name=name))


def test_a_parquet_file_that_is_none_is_refused(tmp_path, raises):
    """The file's name is in the message, the traceback is not."""
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"not parquet")
    with raises("not_parquet", "rows.parquet"):
        views(str(path))


def test_template_values_in_a_row_are_said_not_to_be_read(write_lines, caplog):
    """TRL reads them; here they are the same for every row, and nothing is ignored in silence."""
    row = {**CHAT, "chat_template_kwargs": {"enable_thinking": False}}
    assert views(write_lines(row, row)) == [("lines with a dog", ".*dog.*")] * 2
    assert caplog.text.count("chat_template_kwargs is not read") == 1
