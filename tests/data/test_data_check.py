"""What `data check` finds, and what it says that each finding does."""

from __future__ import annotations

import pytest

from llm_jepa.data import data_check
from llm_jepa.data.config import DataConfig
from llm_jepa.data.data_check import FINDINGS, check_files, describe_findings
from llm_jepa.data.near_duplicates import INSTALL, find_near

LONG = "show me all of the lines that have a {} somewhere before the word dog and after a number"


def pair(text: str, code: str) -> dict[str, str]:
    return {"text": text, "code": code}


def test_one_text_up_to_case_with_two_codes_is_counted(write_lines):
    """Apart from texts that are equal as they are; codes are compared as they are."""
    train = write_lines(pair("a dog", "1"), pair("A  dog", "2"), pair("cat", "1"), pair("Cat", "1"), name="train.jsonl")
    test = write_lines(pair("CAT", "3"), pair("a dog", "2"), name="test.jsonl")
    found = check_files(train, test, DataConfig())
    assert (found["conflicting_rows"], found["conflicting_rows_more"]) == (0, 2)
    assert (found["conflicting_test_rows"], found["conflicting_test_rows_more"]) == (1, 1)
    assert found["first_conflicts_normalised"][0] == {"row": f"{train}:1", "other": f"{train}:2"}
    assert found["first_test_conflicts_normalised"] == [{"row": f"{test}:1", "other": f"{train}:3"}]


def test_distinct_codes_and_the_share_of_the_commonest_are_known(write_lines):
    """What always answering it would score is said."""
    train = write_lines(*(pair(f"text {n}", code) for n, code in enumerate("aaab")), name="train.jsonl")
    test = write_lines(pair("x", "a"), pair("y", "c"), name="test.jsonl")
    found = check_files(train, test, DataConfig())
    assert (found["distinct_codes"], found["commonest_code"], found["commonest_code_share"]) == (2, "a", 0.75)
    said = describe_findings(found)[-1]
    assert said[0] == "2 distinct training codes; the commonest has 75.00% of the rows"
    assert "right on 50.00% of the test rows" in said[1]


def test_rows_of_one_text_have_no_codes_to_count(write_lines):
    """Nothing is said of codes."""
    train, test = (write_lines({"text": name}, name=f"{name}.jsonl") for name in ("train", "test"))
    found = check_files(train, test, DataConfig())
    assert found["distinct_codes"] == 0 and "codes;" not in str(describe_findings(found))


def test_every_finding_says_what_it_does_to_a_comparison(write_lines):
    """Where there is one; nothing more where there is none."""
    train = write_lines(pair("a", "1"), name="train.jsonl")
    test = write_lines(pair("b", "2"), name="test.jsonl")
    found = check_files(train, test, DataConfig())
    assert not any(effect for _, effect in describe_findings(found)[:-1])
    assert all(effect for _, effect in describe_findings(found | {each.key: 1 for each in FINDINGS}))


def test_nearly_equal_texts_are_found_and_equal_ones_are_not_counted_again():
    """One word of twenty differs; the first such row is named."""
    pytest.importorskip("datasketch")
    one, two, other = LONG.format("cat"), LONG.format("cow"), "words that begin with a vowel"
    assert find_near([one, other, one, two], [two, LONG.format("rat"), "no such text"]) == ([(3, 0)], [(0, 0), (1, 0)])


def test_near_duplicates_are_part_of_a_check(write_lines):
    """With those that have the same code, too."""
    pytest.importorskip("datasketch")
    train = write_lines(pair(LONG.format("cat"), "1"), pair(LONG.format("CAT"), "1"), name="train.jsonl")
    test = write_lines(pair(LONG.format("cow"), "1"), pair(LONG.format("rat"), "2"), name="test.jsonl")
    found = check_files(train, test, DataConfig())
    assert (found["near_rows"], found["near_test_rows"], found["near_test_rows_same_code"]) == (0, 2, 1)
    assert found["first_near_test_rows"][0] == {"row": f"{test}:1", "near": f"{train}:1"}
    assert found["near_note"] is None


def test_without_the_library_the_check_says_what_it_left_out(write_lines, monkeypatch):
    """And counts nothing."""
    monkeypatch.setattr(data_check, "can_find_near", lambda: False)
    rows = write_lines(pair("a", "1"))
    found = check_files(rows, rows, DataConfig())
    assert found["near_note"] == INSTALL and found["near_rows"] is None
    assert not any("MinHash" in sentence for sentence, _ in describe_findings(found))


def test_a_check_of_many_rows_says_how_many_it_compared(write_lines, monkeypatch):
    """The time for near-duplicates has a limit."""
    pytest.importorskip("datasketch")
    monkeypatch.setattr(data_check, "MOST_ROWS", 1)
    rows = write_lines(pair(LONG.format("cat"), "1"), pair(LONG.format("cow"), "1"))
    found = check_files(rows, rows, DataConfig())
    assert found["near_rows"] == 0 and "only the first 1 rows" in found["near_note"]
