"""F1: nothing that is read back may run code."""

from __future__ import annotations

import ast
import hashlib
import json
import pickle
from pathlib import Path

import pytest

import llm_jepa
from llm_jepa.training.checkpoints import MANIFEST, find_problem

SOURCES = sorted(Path(llm_jepa.__file__).parent.rglob("*.py"))
UNSAFE = {"dill", "joblib", "cloudpickle", "shelve", "marshal"}
READERS = {"pickle.load", "pickle.loads", "pickle.Unpickler", "numpy.load", "np.load"}
FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "jepa.safetensors")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.write_text, (self.marker, "ran")


def plant(checkpoint, name, bomb):
    """Put a pickle in the place of a file, and make the manifest agree: what somebody does who means it."""
    content = pickle.dumps(bomb)
    (checkpoint / name).write_bytes(content)
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", FILES)
def test_f1_a_pickle_in_a_checkpoint_is_not_run(name, make_run, tmp_path, fault_row):
    """The manifest agrees with it; the run ends in an error and the pickle has not been run."""
    trainer = make_run("run", max_steps=2)
    trainer.train()
    checkpoint = Path(trainer.args.output_dir) / "checkpoint-2"
    with fault_row("F1", "a pickle that runs code in the place of a file of a checkpoint", 1) as row:
        plant(checkpoint, name, Bomb(tmp_path / "marker"))
        assert find_problem(checkpoint) is None
        with pytest.raises(Exception):  # noqa: B017 (whatever the reader of that format raises)
            make_run("run", max_steps=3, allow_changed=["max_steps"]).train(resume_from_checkpoint=checkpoint)
        assert not (tmp_path / "marker").exists()
        row.passed = 1


def test_f1_the_pickle_does_run_where_it_is_read_as_one(tmp_path):
    """Negative control: the bomb is one."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


def test_f1_a_checkpoint_holds_no_file_that_nobody_reads(make_run):
    """`training_args.bin`, which the stock trainer writes, is a pickle of a whole object."""
    trainer = make_run("run", max_steps=1)
    trainer.train()
    names = {path.name for path in (Path(trainer.args.output_dir) / "checkpoint-1").iterdir()}
    assert {name for name in names if not name.endswith((".json", ".safetensors"))} == {
        "optimizer.pt", "scheduler.pt", "rng_state.pth",
    }  # fmt: skip


def unsafe_lines(source):
    """Name the lines of a Python source that read pickles, or run code of a model, whatever a setting says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name, options = ast.unparse(node.func), {each.arg: ast.unparse(each.value) for each in node.keywords}
            unpickles = name == "torch.load" and options.get("weights_only") != "True"
            if unpickles or name in READERS or options.get("trust_remote_code") == "True":
                found.append(node.lineno)
        imported = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if UNSAFE & set(imported) or (isinstance(node, ast.ImportFrom) and node.module == "pickle"):
            found.append(node.lineno)
    return found


def test_f1_no_source_of_ours_reads_a_pickle_or_trusts_code():
    assert len(SOURCES) > 50
    assert {path.name: lines for path in SOURCES if (lines := unsafe_lines(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "pickle.loads(b)",
        "from pickle import loads",
        "from dill import load",
        "f(trust_remote_code=True)",
    ],
)
def test_f1_what_reads_a_pickle_is_found(source):
    """Negative control of the test above."""
    assert unsafe_lines(source) == [1]
    assert unsafe_lines("torch.load(f, weights_only=True)\nimport json\nf(trust_remote_code=config.trust)") == []
