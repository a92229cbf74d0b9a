"""docs/data.md: its examples are rows that can be read, and what it says of the defaults is so."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from llm_jepa.data.config import LARGE_FILE_BYTES, DataConfig
from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.encoded_pairs import encode_examples
from llm_jepa.data.json_lines import MAX_LINE_BYTES
from llm_jepa.data.row_forms import OWN_COLUMNS
from llm_jepa.data.rows import read_examples

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("rows", EXAMPLES)
def test_every_example_is_a_file_that_can_be_trained_on(tmp_path, chat_tokenizer, rows):
    """Read and encoded as it stands on the page."""
    path = tmp_path / "rows.jsonl"
    path.write_text(rows, encoding="utf-8")
    examples = read_examples(str(path), DataConfig()).examples
    encoder = PairEncoder(chat_tokenizer, DataConfig())
    assert len(encode_examples(examples, encoder)) == len(rows.splitlines())


def test_the_page_names_the_defaults_and_limits_that_hold():
    """Policies in the order of the table, the columns, the two sizes."""
    config = DataConfig()
    for key in ("on_broken", "on_empty", "on_overflow", "on_duplicate", "on_leak"):
        assert re.search(rf"\| `{key}` \| {getattr(config, key)}[, ]", PAGE), key
    assert all(f"| `{column}` |" in PAGE for column in OWN_COLUMNS)
    assert f"over {LARGE_FILE_BYTES // 2**20} MiB stay on disk" in PAGE
    assert f"a line over {MAX_LINE_BYTES // 2**20} MiB" in PAGE


def test_the_experiments_data_is_what_the_page_says():
    """Name, number of rows and first digits of the sha256 of every file, where the folder is there."""
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    table = re.sub(r"(\d),(\d{3})", r"\1\2", PAGE.split("## The data of this project's experiments")[1])
    names = re.findall(r"`(\w+\.jsonl)`", table)
    counts = [int(count) for cell in re.findall(r"\.jsonl` \| ([\d, ]+) \|", table) for count in cell.split(",")]
    digests = re.findall(r"`([0-9a-f]{8})`", table)
    said = {name: (count, digest) for name, count, digest in zip(names, counts, digests, strict=True)}
    content = {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}
    assert said == {
        name: (len(data.splitlines()), hashlib.sha256(data).hexdigest()[:8]) for name, data in content.items()
    }
