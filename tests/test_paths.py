"""Three ways into the project, by the commands that the documents show, word for word; only the sizes are smaller."""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from llm_jepa.cli import main
from llm_jepa.data.nlrx import generate_pairs
from llm_jepa.objective import distances

ROOT = Path(__file__).parents[1]
TINY = {"max_steps": 3, "vocab_size": 300, "validation_size": 8, "max_test_rows": 20, "max_new_tokens": 4}
SMALLER = {"compare": ["--seeds", "82", *(word for key, value in TINY.items() for word in ("--set", f"{key}={value}"))]}

pytestmark = pytest.mark.slow


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(page: str, start: str) -> list[str]:
    """Return the indented blocks that begin with `start`, without their indent."""
    found = re.findall(rf"(?:^|\n\n)((?: {{4}}{re.escape(start)}.*\n)(?: {{4}}.*\n)*)", page)
    return [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in found]


def run(commands: str) -> list[str]:
    """Run each `llm-jepa` line of a block in this process; return what was called."""
    called = []
    for line in commands.splitlines():
        program, *words = shlex.split(line, comments=True)
        assert program == "llm-jepa", line
        assert main([*words, *SMALLER.get(words[0], [])]) == 0, line
        called.append(words[0])
    return called


def write_csv(path: Path, num_rows: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "code"])
        writer.writerows((pair.text, pair.code) for pair in generate_pairs(num_rows, seed=3))


def test_a_student_follows_the_example_of_nanogpt(tmp_path):
    """Every line of the first block of examples/nanogpt/README.md, in a shell; the training stops after four steps."""
    shutil.copytree(ROOT / "examples" / "nanogpt", tmp_path / "examples" / "nanogpt")
    (tmp_path / "examples" / "nanogpt" / "notes.txt").write_text("To be, or not to be, that is the question.\n" * 90)
    programs = tmp_path / "bin"
    programs.mkdir()
    small = "--max-iters=4 --eval-interval=2 --n-layer=1 --n-head=2 --n-embd=16 --batch-size=4"
    for name, command in (("python", f'"$@" {small}'), ("llm-jepa", '-m llm_jepa "$@"')):
        (programs / name).write_text(f"#!/bin/sh\nexec {sys.executable} {command}\n")
        (programs / name).chmod(0o755)
    (commands,) = blocks(read("examples/nanogpt/README.md"), "cd examples/nanogpt")
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-e", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("iter     4: CE=") == commands.count("python train.py") == 4
    assert (tmp_path / "examples" / "nanogpt" / "runs" / "nanogpt" / "ckpt.pt").is_file()


def test_a_practitioner_goes_from_a_csv_file_to_an_encoder(tmp_path, monkeypatch):
    """Every line under "Your own data" of the README, with its my.yaml."""
    pytest.importorskip("sentence_transformers", reason="the extra [encoder] is not installed")
    page = read("README.md").partition("## Your own data")[2]
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "pairs.csv", 800)
    (settings,) = blocks(page, "train_file:")
    (tmp_path / "my.yaml").write_text(settings)
    (commands,) = blocks(page, "llm-jepa data split")
    called = run(commands)
    assert called[0] == "data" and called[-1] == "export" and "compare" in called
    assert (tmp_path / "runs" / "my" / "report.html").is_file()
    assert load_file(tmp_path / "my-model" / "model.safetensors")
    assert (tmp_path / "my-encoder" / "modules.json").is_file()


def test_a_researcher_compares_a_distance_of_their_own(tmp_path, monkeypatch):
    """The file, the settings and the commands of docs/python.md."""
    monkeypatch.setattr(distances, "_registered", {})
    monkeypatch.setattr(distances, "_declared", set())
    monkeypatch.chdir(tmp_path)
    page = read("docs/python.md").partition("## Your own distance")[2]
    code = re.search(r"```python\n(# my_distances\.py\n.*?)```", page, flags=re.DOTALL).group(1)
    settings = re.search(r"```yaml\n(plugins:.*?)```", page, flags=re.DOTALL).group(1)
    (tmp_path / "my_distances.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(settings)
    write_csv(tmp_path / "pairs.csv", 80)
    assert main(["data", "split", "pairs.csv", "--num-test", "20", "--out", "."]) == 0
    (commands,) = blocks(page, "llm-jepa compare mine.yaml --dry-run")
    assert run(commands) == ["compare", "compare", "analyze", "plan"]
    assert '"jepa_log_cosh"' in (tmp_path / "runs" / "mine" / "results.json").read_text()
    assert (tmp_path / "runs" / "mine" / "geometry" / "report.html").is_file()
