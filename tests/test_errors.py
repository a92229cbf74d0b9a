"""Errors have a code that programs and tests go by; they are rebuilt in another process as they were."""

from __future__ import annotations

import ast
import pickle
import re
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

import llm_jepa
import llm_jepa.cli.experiment_commands  # and with it every module that has an error of its own
from llm_jepa.data.json_lines import RowError
from llm_jepa.errors import DataError, LLMJEPAError

SOURCES = Path(llm_jepa.__file__).parent


def kinds_of(kind: type[LLMJEPAError]) -> set[type[LLMJEPAError]]:
    return {kind}.union(*map(kinds_of, kind.__subclasses__()))


KINDS = {kind.__name__: kind for kind in sorted(kinds_of(LLMJEPAError), key=lambda kind: kind.__name__)}


def raised() -> list[tuple[str, list[ast.expr]]]:
    """The arguments of each error that is made in the sources, with file and line."""
    return [
        (f"{file.name}:{node.lineno}", node.args)
        for file in sorted(SOURCES.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS
    ]


def test_every_code_is_a_short_name_that_is_written_out():
    """No code is put together from data: it is a literal, or handed on."""
    found = raised()
    assert len(found) > 300
    for where, arguments in found:
        *_, code, _text = arguments  # of an error of a row, the reason for counting it comes first
        assert len(arguments) in (2, 3), where
        if isinstance(code, ast.Constant):
            assert re.fullmatch(r"[a-z]+[a-z0-9]*(_[a-z0-9]+){0,4}", code.value) and len(code.value) <= 32, where
        else:
            assert not isinstance(code, ast.JoinedStr | ast.BinOp), where


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_error_keeps_code_and_text_on_its_way_between_processes(kind):
    first = ["json"] if kind is RowError else []
    error = pickle.loads(pickle.dumps(kind(*first, "file_missing", "a.jsonl: no such file.")))
    assert type(error) is kind and error.code == "file_missing" and str(error) == "a.jsonl: no such file."


class Broken(Dataset):
    """Rows of which none can be read."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        raise DataError("file_changed", "a.jsonl has changed.")


def test_an_error_in_a_loader_worker_stays_an_error_of_the_user():
    """PyTorch makes it again from one text, and would raise a RuntimeError if that failed."""
    with pytest.raises(DataError, match=r"a\.jsonl has changed\.") as caught:
        list(DataLoader(Broken(), num_workers=1))
    assert caught.value.code == "loader_worker_failed" and caught.value.exit_code == 2
