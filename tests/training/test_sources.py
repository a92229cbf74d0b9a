"""F1, F3: no line of ours reads a pickle as one, or runs the code of a model whatever a setting says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import llm_jepa

SOURCES = sorted(Path(llm_jepa.__file__).parent.rglob("*.py"))
UNSAFE = {"dill", "joblib", "cloudpickle", "shelve", "marshal"}
READERS = {"pickle.load", "pickle.loads", "pickle.Unpickler", "numpy.load", "np.load"}


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


def test_no_source_of_ours_reads_a_pickle_or_trusts_code():
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
def test_what_reads_a_pickle_is_found(source):
    """Negative control of the test above."""
    assert unsafe_lines(source) == [1]
    assert unsafe_lines("torch.load(f, weights_only=True)\nimport json\nf(trust_remote_code=config.trust)") == []
