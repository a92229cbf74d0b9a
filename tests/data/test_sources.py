"""Which part of a folder, a saved data set or a clone is read, and that every view is text as it is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_jepa.data.config import DataConfig
from llm_jepa.data.digest import data_fingerprint
from llm_jepa.data.prepare import load_data
from llm_jepa.data.rows import read_examples
from llm_jepa.objective import JEPAConfig

README = """---
configs:
- config_name: one
  data_files: a/train.jsonl
- config_name: two
  data_files:
  - {split: train, path: b/train.jsonl}
  - {split: test, path: b/test.jsonl}
---
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write files, each with rows whose text is the file's name; the current folder is their parent."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, *files: str) -> Path:
        for file in files:
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"text": file, "code": "2020-01-01"}) + "\n")
        return tmp_path / name

    return make


def read(name: str, part: str = "train") -> tuple[str, str]:
    """Return text and source of the first row."""
    example = read_examples(name, DataConfig(), part=part).examples[0]
    assert example.code == "2020-01-01"  # as written, no date
    return example.text, example.source


@pytest.fixture
def refused(raises) -> Callable[..., None]:
    """Check that a name is refused with a code and values, and the exit code of a wrong call."""

    def check(name: str, code: str, *values: str, part: str = "train") -> None:
        with raises(code, name, *values) as caught:
            read_examples(name, DataConfig(), part=part)
        assert caught.value.exit_code == 2

    return check


@pytest.mark.parametrize("part, file", [("train", "train.jsonl"), ("test", "test.jsonl"), ("validation", "dev.jsonl")])
def test_each_setting_takes_its_own_split_of_a_folder(folder, part, file):
    """With the line of the file; `folder:split` names another one."""
    folder("evalset", "train.jsonl", "test.jsonl", "dev.jsonl")
    assert read("evalset", part) == (file, f"evalset/{file}:1")
    assert read("./evalset:test", part) == ("test.jsonl", "./evalset/test.jsonl:1")


@pytest.mark.parametrize(
    "files, name, part, code, values",
    [
        (["train.jsonl", "test.jsonl"], "evalset", "validation", "split_missing", ["validation", ": train, test."]),
        (["train.jsonl"], "evalset", "test", "split_missing", ["test", ": train."]),
        (["test.jsonl"], "evalset", "train", "split_missing", ["train", ": test."]),
        (["train.jsonl"], "evalset:tset", "test", "unknown_split", ["'tset'", "evalset: train."]),
        (["train.jsonl"], "evalset:a:b", "test", "unknown_config", ["evalset:config:split"]),
        (["train.jsonl"], "evalset/train.jsonl:test", "test", "no_splits", [" :test."]),
    ],
)
def test_no_other_split_is_taken_instead(folder, refused, files, name, part, code, values):
    """The choices are named."""
    folder("evalset", *files)
    refused(name, code, *values, part=part)


@pytest.mark.parametrize("part", ["train", "test", "validation"])
def test_a_folder_that_names_no_split_has_one_set_of_rows(folder, part):
    """Whatever they are for."""
    folder("some", "rows.jsonl")
    assert read("some", part) == ("rows.jsonl", "some/rows.jsonl:1")


@pytest.mark.parametrize("files", [("TRAIN.jsonl", "TEST.jsonl"), ("rows.jsonl", "Dev.jsonl")])
def test_files_of_other_splits_are_not_read_as_one(folder, refused, files):
    """The library knows a split's name in lower case alone."""
    folder("some", *files)
    refused("some", "ambiguous_splits", files[1])


def test_files_that_belong_to_no_split_are_named(folder, caplog):
    """Beside a train.jsonl the library reads no rows.jsonl."""
    folder("some", "train.jsonl", "rows.jsonl")
    read("some")
    assert "some: files in no split, which are not read: rows.jsonl" in caplog.text


def test_a_saved_dataset_dict_gives_the_split_that_is_asked_for(folder, refused):
    """Its splits have any names."""
    datasets = pytest.importorskip("datasets")
    rows = {split: [{"text": split, "code": "2020-01-01"}] for split in ("train", "val", "test", "extra")}
    saved = datasets.DatasetDict({split: datasets.Dataset.from_list(each) for split, each in rows.items()})
    saved.save_to_disk(str(folder("saved")))
    assert [read("saved", part)[0] for part in ("train", "validation", "test")] == ["train", "val", "test"]
    assert read("saved:extra", "test") == ("extra", "saved:extra:1")
    refused("saved:gone", "unknown_split", "'gone'", "saved: train, val, test, extra.")


def test_a_config_of_a_clone_is_named(folder, refused):
    """`clone:config`, `clone:config:split`; without, the choices are in the message."""
    (folder("clone", "a/train.jsonl", "b/train.jsonl", "b/test.jsonl") / "README.md").write_text(README)
    refused("clone", "ambiguous_config", "one, two.", "clone:one.")
    assert read("clone:two", "test") == ("b/test.jsonl", "clone/b/test.jsonl:1")
    assert read("clone:two:train", "test")[0] == "b/train.jsonl"
    refused("clone:one", "split_missing", "test", part="test")
    refused("clone:one:test", "unknown_split", "'test'", "clone:one: train.")


def test_a_data_set_of_the_hub_is_read_like_a_clone(folder, monkeypatch):
    """File by file, with types that nobody guessed."""
    import datasets
    from datasets.packaged_modules.json.json import JsonConfig

    file = folder("cache", "0f1e") / "0f1e"
    config = JsonConfig()
    config.data_files = {"train": [], "test": ["hf://datasets/owner/name@abc/data/test.jsonl"]}
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["default"])
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name, chosen: type("B", (), {"config": config}))
    monkeypatch.setattr(datasets.DownloadManager, "download", lambda self, files: [str(file)] * len(files))
    assert read("owner/name", "test") == ("0f1e", "owner/name/data/test.jsonl:1")


def test_a_folder_is_not_taken_for_a_reader_of_the_library(folder):
    """`csv` and `json` are names of readers too."""
    folder("json", "train.jsonl")
    assert read("json") == ("train.jsonl", "json/train.jsonl:1")


@pytest.mark.parametrize("suffix, separator", [("csv", ","), ("tsv", "\t")])
def test_a_view_in_a_table_is_text_as_it_is_written(tmp_path, suffix, separator):
    """No number, no date, no null; an empty column of a row's own is none."""
    values = ["None", "00501", "True", "1e5", "2020-01-01", "NA", " x ", "é"]
    lines = [("text", "code", "use_jepa", "group"), *((value, value, "", "") for value in values)]
    lines += [('"a\nb"', "c", "False", "g")]
    (tmp_path / f"train.{suffix}").write_text("\ufeff" + "".join(separator.join(line) + "\n" for line in lines))
    result = read_examples(str(tmp_path), DataConfig())
    assert [(each.text, each.code) for each in result.examples] == [*zip(values, values, strict=True), ("a\nb", "c")]
    assert [each.use_jepa for each in result.examples] == [True] * len(values) + [False]
    assert [each.group for each in result.examples] == [None] * len(values) + ["g"]
    assert result.examples[-1].source == f"{tmp_path}/train.{suffix}:10"


@pytest.mark.parametrize("line", ["a,b,c", "a"])
def test_a_row_of_a_table_with_other_columns_is_refused(tmp_path, refused, line):
    """By its line."""
    (tmp_path / "train.csv").write_text(f"text,code\nx,y\n{line}\n")
    refused(str(tmp_path), "wrong_cell_count", "train.csv:3: ", "2 values")


def test_a_json_array_in_a_folder_is_read(tmp_path, refused):
    """Its rows are numbered from 1; what is no object is a broken row."""
    (tmp_path / "train.json").write_text('[{"text": "a", "code": "2020-01-01"},\n 3]')
    result = read_examples(str(tmp_path), DataConfig(on_broken="drop"))
    assert ([each.code for each in result.examples], result.dropped) == (["2020-01-01"], {"json": 1})
    refused(str(tmp_path), "row_not_object", f"{tmp_path}/train.json:2: ", "a number")


def test_a_tilde_is_the_home_folder_for_files_folders_and_saved_data(folder, monkeypatch):
    """The same name is found again by the hash."""
    datasets = pytest.importorskip("datasets")
    home = folder("home", "set/train.jsonl", "set/test.jsonl").resolve()
    monkeypatch.setenv("HOME", str(home))
    datasets.Dataset.from_list([{"text": "saved", "code": "2020-01-01"}]).save_to_disk(str(home / "saved"))
    assert read("~/set/train.jsonl")[0] == "set/train.jsonl"
    assert read("~/set", "test")[0] == read("~/set:test")[0] == "set/test.jsonl"
    assert read("~/saved")[0] == "saved"
    assert set(data_fingerprint(["~/set:test", "~/saved", None])) == {"~/set:test", "~/saved"}


def test_a_path_of_windows_is_answered_with_the_one_that_is_meant(folder, refused):
    """Where it is there."""
    folder("data", "rows.jsonl")
    refused("data\\rows.jsonl", "file_missing", " data/rows.jsonl?")
    refused("C:/data/rows.jsonl:test", "file_missing")


# Several files


def test_a_list_of_training_files_is_all_of_their_rows(write_lines):
    """Each row keeps its file and line; the limit counts over all of them."""
    files = [
        write_lines(*({"text": f"{name} {number} b", "code": "x"} for number in range(6)), name=f"{name}.jsonl")
        for name in ("one", "two")
    ]
    data = load_data(DataConfig(train_file=files, validation_size=0), JEPAConfig())
    assert [example.source for example in data.train.examples] == [f"{f}:{n}" for f in files for n in range(1, 7)]
    assert data.summary["train"]["rows_in"] == 12
    data = load_data(DataConfig(train_file=files, validation_size=0, max_train_rows=8), JEPAConfig())
    assert len(data.train) == 8 and data.train.examples[-1].source == f"{files[1]}:2"
    data = load_data(DataConfig(train_file=files, validation_size=0, max_train_rows=6), JEPAConfig())
    assert any(note.startswith("two.jsonl is not read") for note in data.notes)


def test_a_list_that_cannot_be_read_as_one_is_refused(write_lines, raises):
    """Two forms, rows on disk, the same file twice, none at all."""
    pair = write_lines({"text": "a", "code": "b"}, name="a.jsonl")
    other = write_lines({"prompt": "a", "completion": "b"}, name="b.jsonl")
    with raises("form_differs", "b.jsonl: ", "prompt and completion", "a.jsonl", "text and code"):
        load_data(DataConfig(train_file=[pair, other]), JEPAConfig())
    with raises("settings_conflict", "rows_in_memory=false", "train_file"):
        load_data(DataConfig(train_file=[pair, other], rows_in_memory=False), JEPAConfig())
    for wrong, code in (([], "value_not_allowed"), ([pair, pair], "file_repeated"), ([pair, 3], "value_not_allowed")):
        with raises(code, f"train_file={wrong}"):
            DataConfig(train_file=wrong)
