"""Every format of rows: the same pairs, the row's number in messages, and what is refused."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from llm_jepa.data.config import DataConfig
from llm_jepa.data.digest import data_fingerprint
from llm_jepa.data.formats import FORMATS, PACKINGS, UNPACKED, write_file
from llm_jepa.data.prepare import load_data
from llm_jepa.data.rows import read_examples
from llm_jepa.objective import JEPAConfig

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")

ROWS: list[dict[str, Any]] = [
    {"text": 'a, "b"\tc', "code": "00501", "group": "g"},
    {"text": "two\nlines", "code": "None", "group": None},
    {"text": "é [\u2028]", "code": "2020-01-01", "group": None},
    {"text": "four", "code": "true", "group": None},
]

ENDINGS = [
    ending + packing for ending in FORMATS for packing in ("", *PACKINGS) if not (packing and ending in UNPACKED)
]


def one_file(ending: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        write_file(folder / f"rows{ending}", ROWS)
        return str(folder / f"rows{ending}")

    return write


def two_files(folder: Path) -> str:
    write_file(folder / "part-1.jsonl", ROWS[:1])
    write_file(folder / "part-2.csv", ROWS[1:])
    return str(folder / "part-*")


def folder_of(ending: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        write_file(folder / f"train{ending}", ROWS)
        write_file(folder / f"test{ending}", [{"text": "test", "code": "test", "group": "t"}])
        return str(folder)

    return write


def saved(folder: Path) -> str:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    return str(folder / "saved")


def saved_dictionary(folder: Path) -> str:
    parts = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(parts).save_to_disk(str(folder / "both"))
    return str(folder / "both")


SOURCES = {ending: one_file(ending) for ending in ENDINGS}
SOURCES |= {f"a folder of {ending}": folder_of(ending) for ending in ENDINGS if ending != ".ndjson"}
SOURCES |= {"a pattern": two_files, "Dataset.save_to_disk": saved, "DatasetDict.save_to_disk": saved_dictionary}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_format_gives_the_same_pairs(tmp_path, source):
    """Examples and encoded rows are those of JSON lines; each row has a number."""
    name = source(tmp_path)
    found = read_examples(name, DataConfig()).examples
    assert [(each.text, each.code, each.group) for each in found] == [tuple(row.values()) for row in ROWS]
    assert all(re.search(r":\d+$", each.source) for each in found)
    plain = one_file(".jsonl")(tmp_path.parent)
    pairs = [
        load_data(DataConfig(train_file=file, validation_size=0), JEPAConfig()).train.pairs for file in (name, plain)
    ]
    assert [(each.text_ids, each.code_ids) for each in pairs[0]] == [
        (each.text_ids, each.code_ids) for each in pairs[1]
    ]


def test_the_page_lists_every_format():
    """By the end of its name."""
    table = PAGE.split("| what | name |")[1].split("\n\n")[0]
    assert all(f"`{ending}`" in table for ending in [*FORMATS, *PACKINGS])
    assert all(word in table for word in ("save_to_disk", "train-*.jsonl", "owner/name"))


@pytest.mark.parametrize(
    ("ending", "number"), [(".jsonl", 3), (".jsonl.gz", 3), (".csv", 4), (".tsv.zst", 4), (".json", 3), (".parquet", 3)]
)
def test_a_broken_row_is_named_by_file_and_number_in_every_format(tmp_path, raises, ending, number):
    """The same sentence; a table counts the line of its columns' names."""
    path = tmp_path / f"rows{ending}"
    write_file(path, [{"text": "a", "code": "b"}, {"text": "a", "code": "b"}, {"text": "a\0", "code": "b"}])
    with raises("character_not_allowed", f"rows{ending}:{number}: text ", "NUL", "place 2"):
        read_examples(str(path), DataConfig())


def test_a_chat_and_lists_in_a_table_are_json(tmp_path):
    """As `messages`, `choices` and `answers` are lists elsewhere; a text view in brackets stays a text."""
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    write_file(tmp_path / "chat.csv", [{"messages": chat}])
    assert read_examples(str(tmp_path / "chat.csv"), DataConfig()).examples[0].messages == chat
    write_file(tmp_path / "choice.csv", [{"text": "[1]", "code": "b", "choices": ["a", "b"]}])
    found = read_examples(str(tmp_path / "choice.csv"), DataConfig()).examples[0]
    assert (found.text, found.scoring) == ("[1]", {"choices": ["a", "b"]})


def test_files_of_a_pattern_are_read_in_order_and_known_by_their_contents(tmp_path, monkeypatch, raises):
    """Each row keeps its file; all files have one form; another file that fits changes the hash."""
    monkeypatch.chdir(tmp_path)
    for number in (10, 2, 1):
        write_file(Path(f"train-{number:02}.jsonl"), [{"text": str(number), "code": "x"}])
    found = read_examples("train-*.jsonl", DataConfig()).examples
    assert [each.source for each in found] == ["train-01.jsonl:1", "train-02.jsonl:1", "train-10.jsonl:1"]
    before = data_fingerprint(["train-*.jsonl"])
    write_file(Path("train-03.csv"), [{"prompt": "a", "completion": "x"}])
    assert data_fingerprint(["train-*.jsonl"]) == before != data_fingerprint(["train-*"])
    with raises("form_differs", "train-03.csv:2: ", "prompt and completion", "train-01.jsonl:1", "text and code"):
        read_examples("train-*", DataConfig())
    with raises("not_jsonl", "train-*.jsonl", "rows_in_memory=false"):
        read_examples("train-*.jsonl", DataConfig(rows_in_memory=False))


def test_a_pattern_that_fits_no_file_is_refused(tmp_path, monkeypatch, raises):
    """It never becomes a question to the network."""
    monkeypatch.chdir(tmp_path)
    for name in ("train-*.jsonl", "data/train*", "no/[ab]"):
        with raises("no_file_matches", name):
            read_examples(name, DataConfig())


@pytest.mark.parametrize(
    ("name", "content", "code", "value"),
    [
        ("rows.csv", b'{"text": "a", "code": "b"}\n', "wrong_ending", "rows.csv:1: "),
        ("rows.csv", "text,code\na,b\n".encode("utf-16"), "not_utf8", "UTF-16"),
        ("rows.csv", b"text,text\na,b\n", "column_repeated", "'text'"),
        ("rows.csv", b"text;code\na;b\n", "wrong_separator", "semicolons; expected commas"),
        ("rows.csv", b"text\tcode\na\tb\n", "wrong_separator", "tabs; expected commas"),
        ("rows.tsv", b"text,code\na,b\n", "wrong_separator", "commas; expected tabs"),
        ("rows.csv", b"text,code\na,b\na\n", "wrong_cell_count", "rows.csv:3: "),
        ("rows.csv", b'text,code\na,"b\nc,d\ne,f\n', "not_csv", "rows.csv:2: "),  # it would be one row
        ("rows.csv", b'text,code\n"he said \\"yes\\" twice",b\n', "not_csv", "rows.csv:2: "),
        ("rows.tsv", b'text\tcode\nz\tz\n"Go\ta\nhe said "yes"\tb\n', "not_csv", "rows.tsv:3: "),
        ("rows.jsonl", b"text,code\na,b\n", "not_json", "rows.jsonl:1: "),
        ("rows.jsonl", b'[{"text": "a", "code": "b"}]', "row_not_object", "a list"),
        ("rows.json", b'[{"text": "a", "code": "b"}', "not_json", "rows.json: "),
        ("rows.json", b'[{"text": "a", "text": "b"}]', "key_repeated", "'text'"),
        ("rows.json", b'[{"text": "a", "code": "b"}, 3]', "row_not_object", "rows.json:2: "),
        ("rows.parquet", b'{"text": "a", "code": "b"}', "not_parquet", "rows."),
        ("rows.parquet", b"", "not_parquet", "rows."),
        ("rows.jsonl.gz", b'{"text": "a", "code": "b"}\n', "file_damaged", "rows.jsonl.gz"),
        (
            "rows.jsonl.gz",
            gzip.compress(b'{"text": "a", "code": "b"}\n' * 99, mtime=0)[:-9],
            "file_damaged",
            "rows.jsonl.gz",
        ),
        ("rows.csv.zst", b"text,code\na,b\n", "file_damaged", "rows.csv.zst"),
        ("rows.jsonl", bytes(pyarrow.compress(b"{}", "zstd")), "not_utf8", "zstd"),
        *((f"rows{ending}", b"", "file_empty", "rows.") for ending in ENDINGS if ending != ".parquet"),
        ("rows.csv", b"text,code\n", "file_empty", "rows."),
        ("rows.json", b"[]", "file_empty", "rows."),
        ("rows.xlsx", b"", "unknown_format", ".jsonl"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, raises, name, content, code, value):
    """Empty, damaged, or with the wrong ending; the message names the file."""
    (tmp_path / name).write_bytes(content)
    with raises(code, name, value):
        read_examples(str(tmp_path / name), DataConfig())


def test_parquet_with_two_columns_of_one_name_or_with_broken_text_is_refused(tmp_path, raises):
    """One of the columns would be read, the other one lost."""
    columns = [pyarrow.array([each]) for each in ("a", "b", "c")]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, ["text", "code", "code"]), tmp_path / "a.parquet")
    with raises("column_repeated", "a.parquet", "'code'"):
        read_examples(str(tmp_path / "a.parquet"), DataConfig())
    offsets = columns[0].buffers()[1]
    broken = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, offsets, pyarrow.py_buffer(b"\xff")])
    pyarrow.parquet.write_table(pyarrow.table({"text": broken, "code": columns[1]}), tmp_path / "b.parquet")
    with raises("file_damaged", "b.parquet"):
        read_examples(str(tmp_path / "b.parquet"), DataConfig())


def test_spaces_around_the_name_of_a_column_do_not_count(tmp_path):
    """After `text, code`, rows would be rows of one text."""
    (tmp_path / "rows.csv").write_bytes(b"text, code \na, b\n")
    assert read_examples(str(tmp_path / "rows.csv"), DataConfig()).examples[0].views == ["a", " b"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_character_of_a_text_is_written_and_read(tmp_path, ending):
    """Quotation marks, separators, and line ends of every system."""
    rows = [{"text": text, "code": "c"} for text in ("a\rb", "a\r\nb", "a\nb", '"', 'a",b', "a\t,;b", "\u2028", " a ")]
    write_file(tmp_path / f"rows{ending}", rows)
    read = read_examples(str(tmp_path / f"rows{ending}"), DataConfig()).examples
    assert [each.text for each in read] == [row["text"] for row in rows]


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_rows_are_written_with_the_same_bytes(tmp_path, ending):
    """So that a seed decides a generated file; lines of JSON are written as they are."""
    for name in ("a", "b"):
        write_file(tmp_path / (name + ending), ROWS)
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()
    if ending == ".jsonl":
        lines = [json.dumps(row).encode() for row in ROWS]
        write_file(tmp_path / "c.jsonl", lines)
        assert (tmp_path / "c.jsonl").read_bytes() == b"".join(line + b"\n" for line in lines)


def test_a_file_of_an_unknown_ending_is_not_written(tmp_path, raises):
    """Nobody could read it."""
    with raises("unknown_format", "rows.xlsx: ", ".jsonl"):
        write_file(tmp_path / "rows.xlsx", ROWS)
    assert not list(tmp_path.iterdir())
