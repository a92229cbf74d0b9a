"""The command line as its users meet it: exit codes, what goes to which stream, and errors that say what to do."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from llm_jepa.cli import main
from llm_jepa.data.config import DataConfig
from llm_jepa.data.inspect import inspect_rows
from llm_jepa.data.prepare import load_data
from llm_jepa.data.rows import read_examples
from llm_jepa.data.shuffled_views import shuffle_code_views
from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.experiments.experiment import read_experiment
from llm_jepa.experiments.jobs import Job
from llm_jepa.progress import WIDTH

ROWS = [{"text": f"lines with the number {n}", "code": f".*{n}.*"} for n in range(10, 42)]
TINY = {"validation_size": 4, "vocab_size": 300, "max_steps": 4, "per_device_train_batch_size": 8, "logging_steps": 1}
# A shell that starts the tests in the background has SIGINT ignored, which its children inherit.
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from llm_jepa.cli import main
sys.exit(main())
"""
PDF = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> dict[str, Any]:
        """The last line of standard output, which is one JSON object."""
        return json.loads(self.out.rstrip("\n").rsplit("\n", 1)[-1])


@pytest.fixture
def call(capsys, monkeypatch) -> Callable[..., Said]:
    """Run a command in this process, in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))

    def call(*argv: object) -> Said:
        capsys.readouterr()
        try:
            code = main([str(each) for each in argv])
        except SystemExit as stop:  # argparse
            code = stop.code
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture
def error_of(call) -> Callable[..., str]:
    """Run a command that must be refused; return its error as one line."""

    def error_of(*argv: object) -> str:
        said = call(*argv)
        assert said.code == 2
        assert said.out == ""
        assert "Traceback" not in said.err
        _, prefix, words = said.err.partition("llm-jepa: ")
        assert prefix and "llm-jepa: " not in words and "\n\n" not in words, f"not one paragraph: {said.err!r}"
        return " ".join(words.split())

    return error_of


@pytest.fixture
def refused(error_of) -> Callable[..., None]:
    """`refused("unknown_arm", ["jeppa"], "train", ...)`: the command ends with this code; its text has the values."""

    def refused(code: str, values: Sequence[object], *argv: object) -> None:
        message = error_of(*argv)
        assert message.endswith(f" [{code}]")
        for value in values:
            assert str(value) in message

    return refused


def write_rows(path: Path, *lines: object) -> Path:
    """Write rows (as JSON) and raw lines as a .jsonl file."""
    raw = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(line + "\n" for line in raw))
    return path


def write_config(folder: Path, name: str = "config.yaml", **settings: object) -> Path:
    """Write a config of a tiny run on `ROWS`, with these settings in place of the usual."""
    folder.mkdir(exist_ok=True)
    usual = {
        "train_file": str(write_rows(folder / "train.jsonl", *ROWS[:24])),
        "test_file": str(write_rows(folder / "test.jsonl", *ROWS[24:])),
    }
    path = folder / name
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in {**usual, **TINY, **settings}.items()))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, byte for byte."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of four steps, done once for all tests that only read it."""
    folder = tmp_path_factory.mktemp("run")
    assert main(["train", str(write_config(folder)), "--out", str(folder / "jepa")]) == 0
    return folder / "jepa"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    """An experiment of two arms and two seeds, its runs done in this process, one after the other."""
    folder = tmp_path_factory.mktemp("experiment")

    def run_here(jobs: list[Job], *_: object, **options: object) -> list:
        for job in jobs:
            assert main(["train", str(job.folder.config_file), "--out", str(job.folder)]) == 0
        return []

    config = write_config(folder, arms=["ntp", "jepa"], seeds=[1, 2], max_steps=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm_jepa.experiments.compare.run_jobs", run_here)
        assert main(["compare", str(config), "--out", str(folder / "out")]) == 0
    return folder / "out"


# ---- what is wrong in a config or a call ----


def test_one_setting_is_explained(call, refused):
    """Its default and help; one of transformers; a name of another tool, and a mistyped one, are answered."""
    said = call("config", "jepa_lambda")
    assert said.out.startswith("jepa_lambda: 1.0\n    ") and said.last["key"] == "jepa_lambda"
    assert "transformers.TrainingArguments" in call("config", "max_steps").last["help"]
    assert call("config", "seeds").last["default"] == "[82, 23, 37]"
    refused("key_unknown", ["'lbd'", " jepa_lambda"], "config", "lbd")
    refused("key_unknown", ["'jepa_lamda'", "'jepa_lambda'"], "config", "jepa_lamda")


@pytest.mark.parametrize(
    ("argv", "advice"),
    [
        (["train", "a.yaml", "--jepa_lambda", "1"], "--set jepa_lambda=1."),
        (["compare", "a.yaml", "--max-steps=9"], "--set max_steps=9."),
        (["compare", "a.yaml", "--baseline"], "--set baseline=VALUE."),
        (["compare", "a.yaml", "--colour", "1"], "--set key=value."),
    ],
)
def test_a_setting_that_is_written_as_a_flag_is_answered_with_set(argv, advice, refused):
    """Exit code 2, as for every wrong call."""
    refused("unknown_flag", [argv[2], advice], *argv)


def test_a_mistyped_config_or_run_is_answered_with_the_nearest_name(refused, run, tmp_path):
    """Of the same folder."""
    (tmp_path / "my.yaml").write_text("max_steps: 1\n")
    refused("file_missing", ["mi.yaml", " my.yaml?"], "compare", tmp_path / "mi.yaml")
    refused("folder_missing", ["jeba", " jepa?"], "generate", run.parent / "jeba", "a line")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_tab_completion_knows_commands_and_keys(call, tmp_path, shell):
    """It is written to a file, so that the last line of the output stays JSON."""
    pytest.importorskip("shtab")
    script = tmp_path / "folder" / "script"
    said = call("completion", shell, "--out", script)
    assert said.last == {"shell": shell, "out": str(script)} and f"source {script}" in said.out
    assert "jepa_lambda" in script.read_text()
    if shell == "bash":
        ask = "COMP_WORDS=({}); COMP_CWORD={}; _shtab_llm_jepa; echo ${{COMPREPLY[@]}}"
        for words, place, expected in (
            ("llm-jepa retr", 1, "retrieve"),
            ("llm-jepa config jepa_lamb", 2, "jepa_lambda"),
        ):
            line = f"source {script}; {ask.format(words, place)}"
            done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
            assert expected in done.stdout.split(), done


def test_tab_completion_without_its_library_says_what_to_install(refused, tmp_path, monkeypatch):
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "shtab", None)
    refused("package_missing", ["'llm-jepa[completion]'"], "completion", "bash", "--out", tmp_path / "x")


def test_a_missing_config_is_named(refused, tmp_path):
    """And what was expected."""
    refused("file_missing", ["gone.yaml", "configs/demo.yaml"], "train", tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("content", "code", "place"),
    [
        (PDF, "not_utf8", "config.yaml: "),
        (b"\x00\x01\xff" * 500, "not_utf8", "config.yaml: "),
        (b"", "file_empty", "config.yaml "),
        (b"- ntp\n- jepa\n", "wrong_type", "config.yaml: "),
        (b"a: [1\nb: 2\n", "not_yaml", "config.yaml:2: "),
    ],
    ids=["pdf", "binary", "empty", "list", "syntax"],
)
def test_a_config_that_is_no_mapping_is_refused(content, code, place, refused, tmp_path):
    """With the file, and the line where there is one."""
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    refused(code, [place], "compare", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_key_gets_the_nearest_known_one(refused, tmp_path):
    """In the file, in an arm and in --set alike."""
    for settings, extra in (
        ({"max_step": 3}, ()),
        ({"arms": {"ntp": {}, "mine": {"max_step": 3}}}, ()),
        (
            {},
            ("--set", "max_step=3"),
        ),
    ):
        config = write_config(tmp_path, **settings)
        refused("key_unknown", ["'max_step'", "'max_steps'"], "compare", config, *extra, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_arm_gets_the_nearest_known_one(refused, tmp_path):
    """Whether `compare` meets it in the file or `train` in the call."""
    config = write_config(tmp_path, arms=["ntp", "jpea"])
    refused("unknown_arm", ["'jpea'", "'jepa'"], "compare", config, "--out", tmp_path / "out")
    config = write_config(tmp_path)
    refused("unknown_arm", ["--arm jpea", "'jepa'"], "train", config, "--arm", "jpea", "--out", tmp_path / "out")
    refused("unknown_arm", ["--arm jpea"], "data", "inspect", "a.jsonl", "--config", config, "--arm", "jpea")


@pytest.mark.parametrize(
    ("override", "code", "value"),
    [
        ("nonsense", "value_malformed", "--set 'nonsense'"),
        ("=3", "value_malformed", "--set '=3'"),
        ("max_steps=[1", "not_yaml", "--set 'max_steps=[1'"),
        ("max_steps=many", "wrong_type", "max_steps='many'"),
        ("max_steps=.inf", "wrong_type", "max_steps=inf"),
    ],
)
def test_a_bad_override_is_refused(override, code, value, refused, tmp_path):
    """With the override as it was given, or the key."""
    refused(code, [value], "train", write_config(tmp_path), "--set", override, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("seeds", "code"),
    [
        *((wrong, "wrong_type") for wrong in ("", "a,b", "1,,2", "1.5")),
        ("1,1", "value_repeated"),
        ("4294967296", "value_out_of_range"),
    ],
)
def test_bad_seeds_are_refused(seeds, code, refused, tmp_path):
    """No list, not even an empty one, falls back to the seeds of the file in silence."""
    config = write_config(tmp_path)
    refused(code, ["seeds", seeds.split(",")[0]], "compare", config, f"--seeds={seeds}", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["bogus"],
        [],
        ["data"],
        ["train"],
        ["data", "make", "sql", "--out", "x", "--num", "1"],
        ["generate", "run", " "],
        ["retrieve", "run", "text", "--num", "0"],
    ],
    ids=" ".join,
)
def test_a_wrong_call_exits_with_2_and_says_where_help_is(argv, refused):
    """argparse's own errors read like all others."""
    refused("wrong_call", ["--help`"], *argv)


def test_a_flag_is_not_taken_for_a_longer_one(refused):
    """`--seed` is not `--seeds`."""
    refused("unknown_flag", ["--seed 3", "--help`"], "compare", "x.yaml", "--seed", "3")


@pytest.mark.parametrize(("out", "wrong"), [("file", "file"), ("file/below", "file"), ("/proc/no/out", "/proc/no")])
def test_an_output_folder_that_cannot_be_is_refused(out, wrong, error_of, tmp_path):
    """The error of the operating system, with the path, and no traceback."""
    (tmp_path / "file").write_text("mine")
    config = write_config(tmp_path / "c")
    for command in ("train", "compare"):
        assert wrong in error_of(command, config, "--out", tmp_path / out)
    assert wrong in error_of("data", "make", "nlrx", "--num", 2, "--out", tmp_path / out)
    assert (tmp_path / "file").read_text() == "mine"


# ---- what is wrong in data and models ----


def test_a_missing_data_file_gets_the_nearest_name(refused, tmp_path):
    """Before anything is trained."""
    config = write_config(tmp_path, train_file=str(tmp_path / "trian.jsonl"))
    refused("file_missing", ["trian.jsonl: ", " train.jsonl?"], "train", config, "--out", tmp_path / "o")
    config = write_config(tmp_path, test_file=str(tmp_path / "tset.jsonl"))
    refused("file_missing", ["tset.jsonl: ", " test.jsonl?"], "compare", config, "--out", tmp_path / "p")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("line", "code", "found"),
    [
        ('{"text": "a", "code": ', "not_json", "JSON"),
        ('["text", "code"]', "row_not_object", " list"),
        ({"text": "a"}, "form_differs", " text"),
        ({"text": "a", "code": 3}, "wrong_type", "code holds a number"),
        ({"text": "a", "code": None}, "wrong_type", "code holds null"),
        ({"text": "a", "code": " "}, "view_empty", "code"),
        ({"text": "", "code": "a"}, "view_empty", "text"),
    ],
    ids=["broken", "list", "missing", "number", "null", "blank code", "empty text"],
)
def test_a_bad_row_is_named_by_file_and_line(line, code, found, refused, tmp_path):
    """By `train`, by `compare` and by `data inspect`; and it is said what to do."""
    rows = write_rows(tmp_path / "bad.jsonl", *ROWS[:9], line, *ROWS[9:12])
    config = write_config(tmp_path, train_file=str(rows))
    for argv in (["train", config, "--out", tmp_path / "a"], ["compare", config, "--out", tmp_path / "b"]):
        refused(code, ["bad.jsonl:10: ", found, "=drop"], *argv)
    refused(code, ["bad.jsonl:10: "], "data", "inspect", rows)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("name", "code", "content"),
    [
        ("a.pdf", "unknown_format", PDF),
        ("a.jsonl", "not_json", PDF),
        ("b.jsonl", "not_utf8", b"\xff\x00\x9c" * 400),
        ("empty.jsonl", "file_empty", b""),
        ("folder", "dataset_not_loadable", None),
    ],
    ids=["pdf", "pdf called jsonl", "binary", "empty", "folder"],
)
def test_a_file_of_another_kind_is_refused(name, code, content, refused, tmp_path):
    """With its name and what is read."""
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    good = write_rows(tmp_path / "good.jsonl", *ROWS)
    for argv in (["inspect", path], ["check", path, good], ["check", good, path]):
        refused(code, [name], "data", *argv)


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(refused, tiny_model, tmp_path):
    """Both sizes are in the message."""
    model, tokenizer = tmp_path / "model", tmp_path / "tokenizer"
    tiny_model("llama", vocab_size=64).save_pretrained(model)
    train_tokenizer(["lines with a dog"], 270).save_pretrained(tokenizer)
    config = write_config(tmp_path, model_name_or_path=str(model), tokenizer_name_or_path=str(tokenizer))
    refused("vocabulary_too_large", [" 64 rows", " 270"], "train", config, "--out", tmp_path / "out")
    assert not (tmp_path / "out" / "DONE").exists()


@pytest.mark.parametrize("command", ["evaluate", "generate", "embed", "retrieve", "report"])
def test_a_folder_that_is_no_run_is_refused(command, refused, tmp_path):
    """A folder of other files, a file, and nothing at all."""
    extra = {"evaluate": ["--data", "x.jsonl"], "report": [], "embed": ["x.jsonl", "--out", "x.npy"]}.get(
        command, ["a text"]
    )
    (tmp_path / "file").write_bytes(PDF)
    for path, code in (
        (tmp_path, "not_a_run"),
        (tmp_path / "file", "not_a_run"),
        (tmp_path / "gone", "folder_missing"),
    ):
        refused("not_an_experiment" if command == "report" else code, [path.name], command, path, *extra)


# ---- nothing already written is lost ----


@pytest.mark.slow
def test_the_folder_of_another_experiment_stays_byte_for_byte(experiment, refused, tmp_path):
    """Other settings, other data, or a folder of something else."""
    before = contents(experiment)
    config = write_config(experiment.parent, arms=["ntp", "jepa"], seeds=[1, 2], max_steps=3)
    refused("settings_changed", ["max_steps was 2 and is 3"], "compare", config, "--out", experiment)
    assert contents(experiment) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    for command in ("compare", "train"):
        refused("folder_not_empty", ["mine"], command, config, "--out", tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"thesis.txt": b"mine"}


@pytest.mark.slow
def test_report_rebuilds_the_results_from_the_run_folders_alone(experiment, call):
    """Every file outside the run folders may be gone, but for experiment.yaml."""
    before = contents(experiment)
    rebuilt = [path for path in experiment.rglob("*") if path.is_file() and path.parent == experiment]
    rebuilt += (experiment / "figures").iterdir()
    for path in rebuilt:
        if path.name != "experiment.yaml":
            path.unlink()
    said = call("report", experiment)
    assert said.code == 0
    assert set(said.last["verdicts"]) == {"jepa"}
    assert contents(experiment) == before
    assert "report.html" in before and len(before["report.html"]) < 1_000_000
    assert call("report", experiment, "--markdown").out.startswith("| arm | n | exact match %")


def test_data_make_is_reproducible_and_never_writes_over_a_file(call, refused, tmp_path):
    """The seed decides; --force is the way to replace; the two files of one call differ."""
    first, second, other = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    for path, seed in ((first, 7), (second, 7), (other, 8)):
        assert call("data", "make", "nlrx", "--out", path, "--num", 20, "--seed", seed).last["seed"] == seed
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    assert len(first.read_text().splitlines()) == 20
    before = first.read_bytes()
    refused("file_exists", [first, "--force"], "data", "make", "nlrx", "--out", first, "--num", 3)
    assert first.read_bytes() == before
    assert call("data", "make", "nlrx", "--out", first, "--num", 3, "--force").code == 0
    assert len(first.read_text().splitlines()) == 3
    splits = ["--num", 3, "--num-test", 3]
    refused("file_repeated", [other], "data", "make", "nlrx", "--out", other, "--test-out", other, *splits)
    flags = ["--test-out", "--num-test"]
    refused("setting_missing", flags, "data", "make", "nlrx", "--out", tmp_path / "d", "--num", 3, "--num-test", 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_data_make_writes_either_phrasing_and_pairs_of_both(call, refused, tmp_path):
    """The same regexes in other words; with --test-out it is the test rows that have them; plain by default."""
    made = {}
    for name, flags in {
        "plain": [],
        "colloquial": ["--phrasing", "colloquial"],
        "both": ["--phrasing", "both"],
    }.items():
        file = tmp_path / f"{name}.jsonl"
        assert call("data", "make", "nlrx", "--out", file, "--num", 9, *flags).code == 0
        made[name] = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["code"] for row in made["plain"]] == [row["code"] for row in made["colloquial"]]
    assert made["both"] == [
        {"text": one["text"], "paraphrase": two["text"]}
        for one, two in zip(made["plain"], made["colloquial"], strict=True)
    ]
    splits = ["--num", 3, "--test-out", tmp_path / "test.jsonl", "--num-test", 9]
    call("data", "make", "nlrx", "--out", tmp_path / "train.jsonl", "--phrasing", "colloquial", *splits)
    assert (tmp_path / "test.jsonl").read_bytes() == (tmp_path / "colloquial.jsonl").read_bytes()
    both = ["data", "make", "nlrx", "--out", tmp_path / "x.jsonl", "--phrasing", "both", *splits]
    refused("settings_conflict", ["--phrasing both", "--test-out"], *both)


def test_data_make_and_split_write_what_the_name_says(call, refused, tmp_path):
    """The same rows as CSV; a split has the format of its file, and an unknown ending is refused."""
    for name in ("a.csv", "a.jsonl.gz"):
        assert call("data", "make", "nlrx", "--out", tmp_path / name, "--num", 9).code == 0
    assert (tmp_path / "a.csv").read_text().startswith("text,code\n")
    rows = [read_examples(str(tmp_path / name), DataConfig()).examples for name in ("a.csv", "a.jsonl.gz")]
    assert [each.views for each in rows[0]] == [each.views for each in rows[1]]
    refused("unknown_format", [" .xlsx"], "data", "make", "nlrx", "--out", tmp_path / "a.xlsx", "--num", 9)
    for name, ending in (("a.csv", ".csv"), ("a.jsonl.gz", ".jsonl.gz"), ("a.*", ".jsonl")):
        out = tmp_path / f"parts{ending}"
        said = call("data", "split", tmp_path / name, "--num-test", 3, "--out", out)
        assert said.code == 0 and set(said.last["files"]) == {f"train{ending}", f"test{ending}"}
        parts = [read_examples(str(out / f"{part}{ending}"), DataConfig()).examples for part in ("train", "test")]
        assert sorted(each.views for part in parts for each in part) == sorted(
            each.views for each in read_examples(str(tmp_path / name), DataConfig()).examples
        )


def test_data_split_sets_test_rows_apart(call, refused, tmp_path):
    """Lines as they stand, in their order; equal pairs and groups on one side; a second call changes nothing."""
    rows = [{"text": f"line {number % 30}", "code": f"{number % 30}", "note": "ä"} for number in range(40)]
    rows += [{"text": f"of a group {number}", "code": "g", "group": "one"} for number in range(3)]
    file = write_rows(tmp_path / "pairs.jsonl", *rows)
    said = call("data", "split", file, "--num-test", 8, "--out", tmp_path / "parts")
    assert said.code == 0 and said.last["files"]["train.jsonl"] + said.last["files"]["test.jsonl"] == len(rows)
    lines = file.read_text().splitlines()
    parts = [(tmp_path / "parts" / name).read_text().splitlines() for name in ("train.jsonl", "test.jsonl")]
    assert 6 <= len(parts[1]) <= 8 and not set(parts[0]) & set(parts[1])
    for part in parts:
        assert part == [line for line in lines if line in part]
    grouped = [sum('"group"' in line for line in part) for part in parts]
    assert sorted(grouped) == [0, 3]
    again = ["data", "split", file, "--num-test", 8, "--out", tmp_path / "parts"]
    refused("file_exists", ["train.jsonl"], *again)
    refused("not_a_folder", ["pairs.jsonl", "train.jsonl and test.jsonl"], *again[:-1], file)
    refused("too_few_rows", ["43"], "data", "split", file, "--num-test", 43, "--out", tmp_path / "x")
    refused("file_missing", ["gone.csv"], "data", "split", "gone.csv", "--num-test", 1, "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_data_make_mixes_plain_and_colloquial_words(call, refused, tmp_path):
    """--colloquial-share says how much is colloquial; a share of rows that have no colloquial words is refused."""
    made = {}
    for share in ("0.5", "1"):
        words = ["--phrasing", "both", "--colloquial-share", share]
        file = tmp_path / f"{share}.jsonl"
        assert call("data", "make", "nlrx", "--out", file, "--num", 30, *words).code == 0
        made[share] = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["text"] for row in made["0.5"]] == [row["text"] for row in made["1"]]
    assert made["0.5"] != made["1"]
    words = ["--colloquial-share", "0.5"]
    flags = ["--colloquial-share", "--phrasing"]
    refused("setting_missing", flags, "data", "make", "nlrx", "--out", tmp_path / "x", "--num", 3, *words)
    assert not (tmp_path / "x").exists()


def test_data_inspect_shows_the_view_rows_too(call, tmp_path):
    """What each row carries is drawn and counted."""
    train = write_rows(tmp_path / "train.jsonl", *ROWS)
    views = write_rows(tmp_path / "views.jsonl", *({"text": row["text"], "paraphrase": "said"} for row in ROWS))
    changes = ["--set", f"views_file={views}", "--set", "views_cross_entropy=false", "--set", "task_views=false"]
    said = call("data", "inspect", train, "--rows", 1, "--set", "vocab_size=300", *changes)
    assert "Rows of views_file, 1 for each row above:" in said.out and "labels   0 of " in said.out
    assert (said.last["jepa"], said.last["views"]["jepa"], said.last["views"]["cross_entropy"]) == (0, 26, 0)


# ---- what is printed where ----


def test_train_evaluate_generate_retrieve(run, call):
    """One run answers all of them; each ends with one JSON object."""
    data = run.parent / "test.jsonl"
    said = call("evaluate", run, "--data", data, "--predictions", run.parent / "new" / "predictions.jsonl")
    assert said.last["num_rows"] == 8 and 0 <= said.last["exact_match"] <= 1
    assert len((run.parent / "new" / "predictions.jsonl").read_text().splitlines()) == 8
    said = call("evaluate", run, "--data", data, "--scorer", "regex", "--scorer", "label")
    assert said.last["num_unknown"] == {"regex": 0, "label": 0} and 0 <= said.last["regex"] <= 1
    assert "\nregex " in said.out
    said = call("generate", run, "lines with the number 12")
    assert said.last["text"] == "lines with the number 12" and isinstance(said.last["output"], str)
    for extra in ((), ("--data", data)):
        said = call("retrieve", run, "lines with the number 12", "--num", 3, *extra)
        assert said.code == 0 and len(said.last["found"]) == 3
        assert len(said.out.splitlines()) == 4


def test_a_scorer_that_there_is_not_is_refused_with_the_nearest(run, refused):
    data = run.parent / "test.jsonl"
    refused("unknown_scorer", ["'regexp'", "'regex'"], "evaluate", run, "--data", data, "--scorer", "regexp")
    refused("setting_missing", ["--databases"], "evaluate", run, "--data", data, "--scorer", "sql")


@pytest.mark.slow
def test_train_takes_one_arm_and_one_seed_of_an_experiment(experiment, call, tmp_path):
    """The config of `compare` does for `train`; what is not chosen is chosen, and said."""
    config = write_config(tmp_path, arms={"ntp": {}, "jepa": {"jepa_k": 2}}, seeds=[5, 6], max_steps=1)
    said = call("train", config, "--out", tmp_path / "a")
    assert said.last["seed"] == 5 and "arm jepa of ntp, jepa" in said.err
    assert "jepa_k: 2" in (tmp_path / "a" / "config.yaml").read_text()
    said = call("train", config, "--arm", "ntp", "--seed", 6, "--out", tmp_path / "b")
    assert said.last["seed"] == 6 and "jepa_lambda: 0.0" in (tmp_path / "b" / "config.yaml").read_text()


def test_a_check_of_data_finds_what_was_planted(call, tmp_path):
    """Three leaks and two duplicates; more leaks than --max-leak allows are exit code 3."""
    train = write_rows(tmp_path / "train.jsonl", *ROWS[:20], *ROWS[:2])
    test = write_rows(tmp_path / "test.jsonl", *ROWS[17:30])
    for limit, code in ((None, 0), (3, 0), (2, 3)):
        said = call("data", "check", train, test, *([] if limit is None else ["--max-leak", limit]))
        assert said.code == code
        assert (said.last["leaked_pairs"], said.last["duplicate_rows"]) == (3, 2)
    config = write_config(tmp_path / "run", test_files={"one": "gone.jsonl", "two": str(test)}, test_file=None)
    assert call("data", "check", train, test, "--config", config).last["leaked_pairs"] == 3  # TEST in place of its sets
    shown = " ".join(said.out.split())
    assert f"leak {test}:1 = {train}:18" in shown and f"duplicate {train}:21 = {train}:1" in shown


def test_inspect_shows_what_training_reads(call, tmp_path):
    """With a config: the tokenizer of its training, no leaks, no validation rows, and the views of an arm."""
    config = write_config(tmp_path, arms=["ntp", "jepa", "jepa_shuffled"], seeds=[3], validation_size=4)
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    write_rows(train, *ROWS[:24], ROWS[24])
    run = read_experiment(yaml.safe_load(config.read_text()))[1]["jepa_shuffled"]
    data = load_data(run.data, run.jepa)
    said = call("data", "inspect", train, "--config", config, "--rows", 1)
    assert said.last["dropped"] == {"leak": 1, "to_validation": 4} and said.last["kept"] == len(data.train)
    assert said.last["vocab_size"] == len(data.tokenizer)
    assert inspect_rows(data.train, data.tokenizer, run.jepa, num_rows=1) in said.out
    shuffled = replace(data.train, pairs=shuffle_code_views(data.train.pairs, 3))
    said = call("data", "inspect", train, "--config", config, "--arm", "jepa_shuffled", "--rows", 1)
    assert inspect_rows(shuffled, data.tokenizer, run.jepa, num_rows=1) in said.out
    said = call("data", "inspect", test, "--config", config, "--rows", 1)
    assert inspect_rows(data.test, data.tokenizer, run.jepa, num_rows=1) in said.out
    other = write_rows(tmp_path / "other.jsonl", *ROWS[:2])
    assert call("data", "inspect", other, "--config", config).last["vocab_size"] == len(data.tokenizer)


def test_a_run_that_was_moved_with_its_data_is_asked_as_before(call, refused, run, tmp_path):
    """From another folder; where the data did not come along, the message names --data."""
    shutil.copytree(run.parent, tmp_path / "new")
    moved = tmp_path / "new" / "jepa"
    for name in ("config.yaml", "data.json"):
        text = (moved / name).read_text()
        (moved / name).write_text(text.replace(str(run.parent), "/gone"))
    for argv in (["retrieve", moved, "a line"], ["analyze", moved, "--out", tmp_path / "geometry"]):
        assert call(*argv).code == 0
    (tmp_path / "new" / "test.jsonl").unlink()
    refused("file_missing", ["/gone/test.jsonl: ", "--data"], "retrieve", moved, "a line")


def test_inspect_and_check_read_rows_with_the_tokenizer_of_the_model(call, tiny_model, tmp_path):
    """Training would too: tokens and lengths are those of the model that is named."""
    tokenizer = train_tokenizer(["lines with a dog"], 270)
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    train, test = (write_rows(tmp_path / f"{name}.jsonl", *ROWS[:9]) for name in ("train", "test"))
    settings = ["--set", f"model_name_or_path={tmp_path / 'model'}"]
    assert call("data", "inspect", train, *settings).last["vocab_size"] == len(tokenizer)
    said = call("data", "check", train, test, *settings, "--set", "max_length=12", "--set", "on_leak=keep")
    assert said.code == 2 and "max_length" in said.last["refused"] and said.err.endswith("[row_too_long]\n")


def test_a_check_of_data_shows_what_is_equal_up_to_case_and_has_another_answer(call, tmp_path):
    """Counts and places on the terminal."""
    text, code = ROWS[0].values()
    train = write_rows(tmp_path / "train.jsonl", *ROWS[:9], {"text": text, "code": "another"})
    test = write_rows(tmp_path / "test.jsonl", {"text": text.upper(), "code": code}, {"text": text, "code": "a third"})
    said = call("data", "check", train, test)
    shown = " ".join(said.out.split())
    assert "1 more test pairs are in train, up to case and space" in shown
    assert "2 training rows have the text of another training row and another code" in shown
    assert "1 test rows have the text of a training row and another code" in shown
    assert f"near leak {test}:1 ~ {train}:1" in shown and f"conflict {train}:1 against {train}:10" in shown
    assert f"conflict {test}:2 against {train}:1" in shown


@pytest.mark.parametrize(
    ("row", "settings", "code", "words"),
    [
        ({"text": "", "code": "x"}, [], "view_empty", "text"),
        ({"text": " ".join(map(str, range(1000))), "code": "x"}, [], "row_too_long", "512"),
        ({"text": "a", "code": "b"}, ["metric=choice"], "no_usable_gold", "choice"),
        ({"text": "a", "code": "b", "text_view": " "}, [], "view_empty", "text view"),
    ],
)
def test_a_check_of_data_finds_what_training_would_refuse(row, settings, code, words, call, tmp_path):
    """With the counts of the check before it, and exit code 2."""
    train = write_rows(tmp_path / "train.jsonl", *ROWS[:9], row)
    test = write_rows(tmp_path / "test.jsonl", *ROWS[9:12])
    said = call("data", "check", train, test, *(word for each in settings for word in ("--set", each)))
    assert said.code == 2 and said.last["train_rows"] == 10
    assert words in said.last["refused"] and words in said.err and said.err.endswith(f"[{code}]\n")


def test_a_dry_run_checks_everything_and_runs_nothing(call, tmp_path):
    """It names the runs that there would be."""
    said = call("compare", write_config(tmp_path), "--seeds", "1,2", "--dry-run", "--out", tmp_path / "out")
    assert said.last["runs"] == [f"{arm}-s{seed}" for seed in (1, 2) for arm in ("ntp", "jepa", "jepa_shuffled")]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("metric", "golds", "reason"),
    [
        ("number", ["3", "12"], "no number after ####"),
        ("regex", ["(?=a)b", "(?!a)b"], "it has a group that begins with"),
        ("label", ["...", '["a", "b"]'], "no word in it|lists labels"),
        ("any_of", ["a; b", "c | d"], "may list several answers"),
        ("choice", ["a", "b"], "choices is 'None'"),
    ],
)
def test_a_metric_that_can_decide_no_gold_answer_is_refused_before_training(
    metric, golds, reason, error_of, refused, tmp_path
):
    """Of test rows and of validation rows, by `train`, by `compare`, and by its --dry-run."""
    rows = write_rows(tmp_path / "golds.jsonl", *({"text": f"question {gold}", "code": gold} for gold in golds))
    test = write_config(tmp_path, "a.yaml", metric=metric, test_file=str(rows), arms=["ntp", "jepa"])
    for more in ((), ("--dry-run",)):
        message = error_of("compare", test, *more, "--out", tmp_path / "out")
        assert message.endswith(" [no_usable_gold]")
        assert f" {metric} " in message and " 2 test rows" in message and f"{rows}:" in message
        assert re.search(reason, message)
    refused("no_usable_gold", [" 2 test rows"], "train", test, "--out", tmp_path / "run")
    assert not (tmp_path / "out").exists() and not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_golds_that_a_metric_cannot_decide_are_counted_before_training(call, refused, run, tmp_path):
    """In the notes of a dry run and of a run, and by `evaluate`, which refuses where it is all of them."""
    rows = [{"text": f"question {number}", "code": f"#### {number}"} for number in range(3)]
    file = write_rows(tmp_path / "golds.jsonl", *rows, {"text": "q", "code": "7"})
    note = "1 of 4 test rows have a gold answer that number cannot"
    config = write_config(tmp_path, metric="number", test_file=str(file), validation_generations=0, max_steps=1)
    said = call("compare", config, "--dry-run", "--out", tmp_path / "out")
    assert any(each.startswith(note) for each in said.last["notes"])
    assert call("train", config, "--out", tmp_path / "run").code == 0
    assert any(each.startswith(note) for each in json.loads((tmp_path / "run" / "data.json").read_text())["notes"])
    said = call("evaluate", run, "--data", file, "--scorer", "number")
    assert "1 of 4 given rows have a gold answer that number cannot" in " ".join(said.out.split())
    plain = run.parent / "test.jsonl"
    refused("no_usable_gold", ["number", " 8 given rows"], "evaluate", run, "--data", plain, "--scorer", "number")


def test_a_call_that_finds_nothing_to_do_is_refused(call, refused, run, tmp_path):
    """No view to look at or to search, no row that fits into a split, no step, and no learning rate."""
    idle = write_rows(tmp_path / "idle.jsonl", *({**row, "use_jepa": False} for row in ROWS[:5]))
    refused("no_jepa_rows", [idle], "retrieve", run, "lines", "--data", idle)
    refused("no_jepa_rows", [idle], "analyze", run, "--data", idle, "--out", tmp_path / "geometry")
    said = call("evaluate", run, "--data", idle)
    assert "no row has a JEPA term" in said.out and "nan" not in said.out
    same = write_rows(tmp_path / "same.jsonl", *[ROWS[0]] * 5)
    refused(
        "group_too_large", [same, "2 test rows"], "data", "split", same, "--num-test", 2, "--out", tmp_path / "parts"
    )
    assert not (tmp_path / "parts").exists()
    for settings, code, name in (
        ({"learning_rate": 0.0}, "value_out_of_range", "learning_rate=0"),
        ({"dataloader_drop_last": True, "per_device_train_batch_size": 64}, "batch_too_large", "drop_last=true"),
    ):
        refused(code, [name], "train", write_config(tmp_path, **settings), "--out", tmp_path / "run")


@pytest.mark.slow
def test_the_demo_needs_no_file_and_runs_in_any_folder(call, quick_runs, tmp_path, monkeypatch):
    """Its settings come with the package, and are those of configs/demo.yaml."""
    monkeypatch.chdir(tmp_path)
    said = call("demo", "--quick", "--out", "out")
    assert said.code == 0 and list(said.last["arms"]) == ["ntp", "jepa", "jepa_infonce", "jepa_infonce_shuffled"]
    assert (tmp_path / "out" / "report.html").is_file() and len(quick_runs) == 4
    root = Path(__file__).parents[1]
    packaged = root / "src" / "llm_jepa" / "experiments" / "demo.yaml"
    assert packaged.read_text() == (root / "configs" / "demo.yaml").read_text()


def all_help() -> list[list[str]]:
    """Return the call of --help for every command."""
    data = [["data", name] for name in ("make", "inspect", "check")]
    names = (
        "compare",
        "train",
        "report",
        "evaluate",
        "generate",
        "embed",
        "retrieve",
        "export",
        "data",
        "env",
        "config",
    )
    return [[*command, "--help"] for command in ([], *([name] for name in names), *data)]


@pytest.mark.parametrize("argv", all_help(), ids=" ".join)
def test_help_fits_80_columns(argv, call):
    """Every command has help, and none is wider than a terminal."""
    said = call(*argv)
    assert said.code == 0 and "usage: llm-jepa" in said.out
    assert max(map(len, said.out.splitlines())) <= WIDTH


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("command", ["inspect", "generate", "retrieve", "evaluate", "an error"])
def test_a_character_that_a_terminal_cannot_show_gets_a_substitute(command, encoding, run, tmp_path, monkeypatch):
    """As with PYTHONIOENCODING=cp1252: the command does its work, and the last line is JSON that says it in full."""
    odd = {"text": "lines with \u2713 \U0001f600 \u4e2d", "code": ".*\u2713\n.*"}
    rows = write_rows(tmp_path / "rows\u2713.jsonl", odd, *ROWS)
    argv = {
        "inspect": ["data", "inspect", rows],
        "generate": ["generate", run, odd["text"]],
        "retrieve": ["retrieve", run, odd["text"], "--data", rows, "--num", 50],
        "evaluate": ["evaluate", run, "--data", rows],
        "an error": ["evaluate", run, "--data", tmp_path / "missing\u2713.jsonl"],
    }[command]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main([str(each) for each in argv]) == (2 if command == "an error" else 0)
    for stream in (out, err):
        stream.flush()
    shown, told = (stream.buffer.getvalue().decode(encoding) for stream in (out, err))
    if command == "an error":
        assert "missing\\u2713.jsonl" in told
        return
    last = json.loads(shown.splitlines()[-1])
    assert {"inspect": str(rows), "evaluate": str(rows)}.get(command, odd["text"]) in last.values()
    assert command in ("generate", "evaluate") or "\\u2713" in shown


@pytest.mark.parametrize("argv", [["env"], ["config"], ["data", "inspect"]], ids=" ".join)
def test_what_is_shown_fits_80_columns(argv, call, tmp_path):
    """All but the last line, which is for programs."""
    odd = {"text": "naïve 数字 \x1b[31mred\u202e " + "x" * 200, "code": "a\tb\n" + "長" * 90}
    rows = [write_rows(tmp_path / "rows.jsonl", odd, *ROWS)] if argv[-1] == "inspect" else []
    said = call(*argv, *rows)
    *shown, last = said.out.splitlines()
    assert said.code == 0 and json.loads(last)
    assert shown and max(map(len, shown)) <= WIDTH
    assert "\x1b" not in said.out and "\u202e" not in said.out


@pytest.mark.slow
def test_on_a_terminal_the_closing_json_is_left_out_unless_it_is_asked_for(
    call, run, experiment, tmp_path, monkeypatch
):
    """In its place a person reads where the main file is; that is said elsewhere too, above the JSON."""
    files = {
        ("report", experiment): experiment / "report.html",
        ("data", "make", "nlrx", "--num", 4, "--force", "--out", tmp_path / "x.jsonl"): tmp_path / "x.jsonl",
        ("data", "split", run.parent / "train.jsonl", "--num-test", 2, "--force", "--out", tmp_path): tmp_path,
        ("train", run / "config.yaml", "--out", run): run / "eval.json",
    }
    for argv, file in files.items():
        piped = call(*argv)
        assert piped.code == 0 and piped.last
        with monkeypatch.context() as patch:
            patch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
            shown, asked = call(*argv), call(*argv, "--json")
        assert "".join(str(file).split()) in "".join(shown.out.split()), shown.out
        assert shown.out == piped.out.rstrip("\n").rsplit("\n", 1)[0] + "\n" and "{" not in shown.out
        assert asked.out == piped.out


def test_train_says_what_came_out_and_how_long_it_took(call, run):
    """Training, evaluation and total apart; where the model is."""
    shown = call("train", run / "config.yaml", "--out", run).out.splitlines()
    assert re.fullmatch(r"exact match [\d.]+% \| starts with [\d.]+% \| 8 test rows, 4 steps", shown[0])
    assert re.fullmatch(r"training \d+ s \| evaluation \d+ s \| total \d+ s", shown[1])
    assert any(line.startswith("Main file: ") for line in shown) and any(line.startswith("Model: ") for line in shown)


@pytest.mark.slow
def test_commands_stop_quietly_when_nobody_reads(tmp_path):
    """`llm-jepa config | head -1`, and at the same time `python -m llm_jepa`."""
    command = f"{sys.executable} -m llm_jepa config | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("arms: ") and done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_stops_train_cleanly(name, code, tmp_path):
    """Its exit code says which; no traceback, no progress bar, nothing on standard output, no half-written file."""
    config = write_config(tmp_path, max_steps=100_000, eval_strategy="no")
    out = tmp_path / "out"
    train = subprocess.Popen(
        [sys.executable, "-c", START, "train", str(config), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        metrics = out / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (metrics.is_file() and metrics.stat().st_size) and train.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        train.send_signal(signal.Signals[name])
        stdout, stderr = train.communicate(timeout=60)
    finally:
        train.kill()
    assert train.returncode == code, stderr
    assert stdout == ""
    assert "Traceback" not in stderr and "\r" not in stderr
    assert "the same command continues from there" in stderr
    assert not list(out.rglob("*.tmp")) and not (out / "DONE").exists()
    assert all(json.loads(line) for line in metrics.read_text().splitlines())
