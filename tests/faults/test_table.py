"""The table of docs/reliability.md is made from what was measured."""

from __future__ import annotations

import doctest
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import write_table


def test_its_examples_hold():
    assert doctest.testmod(write_table).failed == 0


def test_lines_of_a_fault_are_added_up_in_the_order_of_their_names(tmp_path):
    lines = [
        {"id": name, "fault": "f", "tried": 2, "passed": passed, "seconds": 0.5}
        for name, passed in (("A10", 2), ("A9", 1), ("A10", 1))
    ]
    file = tmp_path / "faults.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = [(row["id"], row["tried"], row["passed"]) for row in write_table.read_rows(file)]
    assert found == [("A9", 2, 1), ("A10", 4, 3)]
