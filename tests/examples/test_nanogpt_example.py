"""The nanoGPT example and the notebook: they run, they say what they promise, and they fail in plain words."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from llm_jepa.data.nlrx import generate_pairs
from llm_jepa.files import write_json_lines
from llm_jepa.nanogpt import GPT

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "llm_jepa_nanogpt.ipynb"
SMALL = ["--n-layer=1", "--n-head=2", "--n-embd=16", "--batch-size=4", "--max-iters=4", "--eval-interval=2"]
ITER = re.compile(r"iter +(\d+): CE=(\d+\.\d{4}) JEPA= *(\d+\.\d{4}|-) total=(\d+\.\d{4})")
HELD_OUT = re.compile(
    r"  held out: CE=\d+\.\d{4} matched=[+-]\d\.\d{3} shuffled=[+-]\d\.\d{3} gap=[+-]\d\.\d{3} "
    r"retrieval@1=\d+\.\d% \(chance \d+\.\d%\)( looks collapsed)?"
)


def load(name):
    """Import a script, which is no part of the package, by its file."""
    spec = importlib.util.spec_from_file_location(f"nanogpt_example_{name}", EXAMPLES / "nanogpt" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(EXAMPLES / "nanogpt"))  # the scripts lie beside each other, as they do for who runs them

train = load("train")
plot = load("plot")
example_rows = load("rows")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("To be, or not to be, that is the question.\n" * 30, encoding="utf-8")
    return ["--text", str(path), "--block-size", "16"]


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_json_lines(path, map(asdict, generate_pairs(60, seed=1)))
    return ["--pairs", str(path), "--block-size", "160"]


@pytest.fixture
def run(tmp_path, capsys):
    """Return a function that runs train.py and gives its exit code, its lines and its errors."""

    def run(*flags, out="out"):
        code = train.main([*flags, *SMALL, "--out", str(tmp_path / out), "--log", str(tmp_path / f"{out}.json")])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return run


def iterations(lines):
    """Return number, CE, JEPA and total of each `iter` line, as text."""
    return [match.groups() for line in lines if (match := ITER.fullmatch(line))]


# ---- train.py ----


@pytest.mark.parametrize("data", ["text", "pairs"])
def test_train_prints_the_lines_that_the_readme_shows(data, run, request):
    """Fixed columns; the total is CE + lambda * JEPA; a look at held-out rows as often as was asked for."""
    code, lines, _ = run(*request.getfixturevalue(data), "--jepa-lambda", "0.5")
    assert code == 0
    found = iterations(lines)
    assert [int(number) for number, *_ in found] == [0, 4]
    for _, ce, jepa, total in found:
        assert float(total) == pytest.approx(float(ce) + 0.5 * float(jepa), abs=2e-4)
    looks = [line for line in lines if line.startswith("  held out")]
    assert len(looks) == 3
    assert all(HELD_OUT.fullmatch(line) for line in looks), looks


@pytest.mark.parametrize("data", ["text", "pairs"])
def test_baseline_and_jepa_start_alike_and_see_the_same_batches(data, run, request, monkeypatch):
    """The same CE before the first step, the same rows in each one; the baseline has no JEPA term."""
    seen = []
    right = GPT.jepa_loss

    def watch(self, idx, targets, *args, **more):
        if self.training:
            seen.append(idx)
        return right(self, idx, targets, *args, **more)

    monkeypatch.setattr(GPT, "jepa_loss", watch)
    batches, found = {}, {}
    for arm, flags in {"baseline": ["--jepa-lambda", "0"], "infonce": ["--jepa-distance", "infonce"]}.items():
        seen.clear()
        _, lines, _ = run(*request.getfixturevalue(data), *flags, out=arm)
        batches[arm], found[arm] = list(seen), iterations(lines)
    assert len(batches["baseline"]) == 5
    assert all(torch.equal(one, other) for one, other in zip(batches["baseline"], batches["infonce"], strict=True))
    assert found["baseline"][0][1] == found["infonce"][0][1]
    assert [jepa for _, _, jepa, _ in found["baseline"]] == ["-", "-"]
    assert found["baseline"][-1][1] != found["infonce"][-1][1]


def test_a_row_of_pairs_is_text_separator_code_and_a_trained_end(tmp_path):
    """Each view lies where `views` says; the last target is the end, and padding is no target."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"text": "ab" * n, "code": f"x{n}z"}) + "\n" for n in range(1, 21)))
    chars, rows, held_out = example_rows.rows_of_pairs(str(path), block_size=60)
    assert (len(rows.table), len(held_out.table)) == (18, 2)
    x, y, views = rows.batch(torch.tensor([0, 2]), "cpu")
    assert "".join(chars[number] for number in x[1]) == "ababab\x1fx3z"
    assert views.tolist() == [[3, 3], [7, 3]]
    ends = [row[row != -1][-1].item() for row in y]
    assert [chars[number] for number in ends] == ["\x03", "\x03"]
    assert (y[0] == -1).sum() == 4


def test_the_held_out_end_of_a_text_is_never_trained_on(tmp_path):
    """Its last tenth has characters of its own here; no training row has them."""
    path = tmp_path / "text.txt"
    path.write_text("ab" * 450 + "cd" * 50, encoding="utf-8")
    chars, rows, held_out = example_rows.rows_of_text(str(path), block_size=16)
    assert {chars[number] for number in rows.table.unique()} == {"a", "b"}
    assert {chars[number] for number in held_out.table.unique()} == {"c", "d"}


def test_pairs_that_are_left_out_are_counted(run, tmp_path):
    """Longer than the block, and those whose code is held out."""
    path = tmp_path / "pairs.jsonl"
    rows = [{"text": f"number {n}", "code": f"n{n}"} for n in range(40)]
    rows[3]["text"] = "long " * 20
    rows[5]["code"] = "n39"
    rows[6]["code"] = "7"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, lines, _ = run("--pairs", str(path), "--block-size", "32")
    assert code == 0
    assert lines[0] == (
        "pairs  40 in the file; 1 left out, longer than --block-size 32; 1 left out, their code is held out; "
        "1 without a JEPA term, their code is one character"
    )
    assert lines[1].startswith("data   35 rows to train on, 3 held out")


def test_the_checkpoint_is_one_of_nanogpts(run, pairs, tmp_path):
    """The keys of nanoGPT's train.py, plain data alone, the characters beside it; the model loads."""
    run(*pairs)
    path = tmp_path / "out" / "ckpt.pt"
    saved = torch.load(path, weights_only=True)
    assert saved.keys() == {"model", "optimizer", "model_args", "iter_num", "best_val_loss", "config"}
    assert saved["iter_num"] == 4
    model = GPT.from_checkpoint(path)
    assert model.config.vocab_size == len(saved["config"]["chars"])
    log = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert saved["best_val_loss"] == min(look["ce"] for look in log["held_out"])
    assert (tmp_path / "out" / "meta.pkl").is_file()


def test_the_log_holds_what_was_printed_and_the_figure_is_drawn_from_it(run, pairs, text, tmp_path, capsys):
    """Two kinds of data, three ways of training; a table row for each."""
    arms = {
        "a": [*text, "--jepa-lambda", "0"],
        "b": [*pairs, "--seed", "1"],
        "c": [*pairs, "--seed", "2"],
        "d": [*pairs, "--jepa-distance", "infonce", "--jepa-lambda", "0.1"],
    }
    for out, flags in arms.items():
        _, lines, _ = run(*flags, out=out)
        log = json.loads((tmp_path / f"{out}.json").read_text(encoding="utf-8"))
        assert [f"{row['ce']:.4f}" for row in log["train"]] == [ce for _, ce, *_ in iterations(lines)]
        assert [look["iter"] for look in log["held_out"]] == [0, 2, 4]
    figure = tmp_path / "curves.png"
    assert plot.main([*(str(tmp_path / f"{out}.json") for out in arms), "--out", str(figure)]) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    rows = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [["| text", "baseline"], ["| pairs", "cosine"], ["| pairs", "infonce, lambda 0.1"]]
    assert plot.main([str(tmp_path / "nowhere.json"), "--out", str(figure)]) == 2


@pytest.mark.parametrize(
    ("content", "flags", "values"),
    [
        (None, ["--text"], ["[file_missing]"]),
        (b"\xff\xfe\xfa", ["--text"], ["[not_utf8]"]),
        (b"short", ["--text"], ["5 characters", "[text_too_short]"]),
        (None, ["--pairs"], ["[file_missing]"]),
        (
            b'{"text": "a", "code": "b"}\n{"text": "a", "sql": 1}\n',
            ["--pairs"],
            ["line 2", "text, sql", "[column_missing]"],
        ),
        (b"{}\n", ["--pairs"], ["line 1", "nothing", "[column_missing]"]),
        (b"text, code\n", ["--pairs"], ["line 1", "[not_json]"]),
        (b"", ["--pairs"], ["0 pairs", "[too_few_rows]"]),
        (b'{"text": "a", "code": "bc"}\n', ["--pairs"], ["1 pairs", "0 to hold out", "[too_few_rows]"]),
    ],
)
def test_data_that_cannot_be_used_is_named(content, flags, values, run, tmp_path):
    """One line on standard error, exit code 2."""
    path = tmp_path / "data"
    if content is not None:
        path = tmp_path / ("data.jsonl" if "--pairs" in flags else "data.txt")
        path.write_bytes(content)
    code, _, error = run(*flags, str(path))
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert all(value in error for value in [str(path), *values]), error


@pytest.mark.parametrize(
    ("flags", "values"),
    [
        (["--max-iters", "0"], ["--max-iters is 0", "[value_out_of_range]"]),
        (["--jepa-distance", "cosin"], ["jepa_distance='cosin'", "[unknown_distance]"]),
        (["--jepa-lambda", "-1"], ["jepa_lambda=-1", "[value_out_of_range]"]),
        (["--jepa-k", "9"], ["9 [PRED]", "8 tokens", "17 positions", "[row_too_long]"]),
        (["--learning-rate", "inf"], ["iter", "--learning-rate", "[loss_not_finite]"]),
    ],
)
def test_a_wrong_call_is_named(flags, values, text, tmp_path, capsys):
    """What was given and what was expected; a training that diverges stops, with exit code 1."""
    code = train.main([*text, *SMALL, "--out", str(tmp_path / "out"), *flags])
    error = capsys.readouterr().err
    assert code == (1 if "--learning-rate" in flags else 2)
    assert error.startswith("error: ")
    assert all(value in error for value in values), error


# ---- the README ----


def test_the_readmes_commands_and_lines_are_those_of_the_script():
    """Every call of train.py is one that it takes; every line shown has its form; every link leads somewhere."""
    readme = (EXAMPLES / "nanogpt" / "README.md").read_text(encoding="utf-8")
    calls = re.findall(r"^ {4,}python train\.py (.*)$", readme, flags=re.MULTILINE)
    assert len(calls) >= 6
    for call in calls:
        train.parse(call.partition("#")[0].replace("$s", "1").split())
    shown = [line for line in readme.splitlines() if line.startswith(("    iter ", "      held out"))]
    assert len(shown) >= 4
    assert all(ITER.fullmatch(line[4:]) or HELD_OUT.fullmatch(line[4:]) for line in shown), shown
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", readme):
        assert (EXAMPLES / "nanogpt" / target).exists(), target


# ---- the notebook ----


def read_notebook():
    nbformat = pytest.importorskip("nbformat", reason="reading the notebook needs nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return notebook


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """At smoke size, in a fresh kernel, from an empty folder that stays empty, without warnings."""
    nbclient = pytest.importorskip("nbclient", reason="running the notebook needs nbclient")
    pytest.importorskip("ipykernel", reason="running the notebook needs ipykernel")
    monkeypatch.setenv("LLM_JEPA_SMOKE", "1")
    notebook = read_notebook()
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    assert not list(tmp_path.iterdir())
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_the_committed_notebook_was_run_in_order_and_holds_its_figures():
    """Outputs in ascending order, no error, no warning, small, and nothing of the machine that ran it."""
    notebook = read_notebook()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"stream", "display_data"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert NOTEBOOK.stat().st_size < 1_000_000
    assert notebook.metadata.kernelspec.display_name == "Python 3"
    assert not [cell.metadata for cell in notebook.cells if cell.metadata]
    assert not re.search(r"/(home|root|tmp|work|Users)/", NOTEBOOK.read_text(encoding="utf-8"))
