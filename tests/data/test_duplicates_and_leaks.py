"""Duplicates and leaks: exactly which rows are counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_jepa.data.checks import (
    apply_duplicate_policy,
    apply_leak_policy,
    find_conflicts,
    find_duplicates,
    find_leaks,
)
from llm_jepa.data.config import DataConfig
from llm_jepa.data.data_check import check_files
from llm_jepa.data.example import Example


def rows(*views: tuple[str, str | None], name: str = "train.jsonl") -> list[Example]:
    return [Example(text, code, source=f"{name}:{line}") for line, (text, code) in enumerate(views, start=1)]


TRAIN = rows(("a", "1"), ("b", "2"), (" a\n", "1 "), ("A", "1"), ("a", "2"), ("a", "1"))
TEST = rows(("a", "1"), ("c", "2"), ("B", " 2"), ("d", "4"), name="test.jsonl")


def test_a_duplicate_repeats_text_and_code_up_to_outer_white_space():
    """Rows 3 and 6 repeat row 1. Row 4 does so when case-folded, row 5 shares its text only."""
    found = find_duplicates(TRAIN)
    assert (found.rows, found.firsts, found.num_normalised) == ([2, 5], [0, 0], 3)


def test_a_leak_is_a_held_out_row_whose_pair_was_trained_on():
    """Test row 1 leaks, in training rows 1, 3 and 6; row 3 only when case-folded; rows 1, 2, 3 by their code."""
    found = find_leaks(TRAIN, TEST)
    assert (found.held_out_rows, found.first_train_rows, found.train_rows) == ([0], [0], [0, 2, 5])
    assert (found.num_normalised, found.num_codes) == (2, 3)


def test_views_of_a_training_row_that_are_a_held_out_pair_leak():
    """The JEPA term would be trained on the pair that is asked for; not so in a row without the term."""
    row = Example("x", "1", text_view="a", source="train.jsonl:1")
    train = [
        *TRAIN[1:2],
        row,
        replace(row, code="2", code_view="1"),
        replace(row, use_jepa=False),
        replace(row, code="5"),
    ]
    found = find_leaks(train, TEST)
    assert (found.held_out_rows, found.first_train_rows, found.train_rows) == ([0], [1], [1, 2])
    assert found.num_normalised == 2
    assert apply_leak_policy(train, TEST, "drop")[0] == [train[0], *train[3:]]


def test_two_unicode_forms_of_one_text_are_equal_when_normalised():
    """A composed letter, and the letter with its mark: the same to a reader."""
    found = find_leaks(rows(("caf\u00e9", "1")), rows(("cafe\u0301", "1")))
    assert (found.held_out_rows, found.num_normalised) == ([], 1)


def test_two_views_never_equal_one_text():
    """("a", no code) is one sequence, ("a", "") is a pair."""
    assert find_duplicates(rows(("a", None), ("a", ""), ("a", None))).rows == [2]
    assert find_leaks(rows(("a", None)), rows(("a", ""))).held_out_rows == []


@pytest.mark.slow
def test_the_published_files_have_their_known_faults(synth_files):
    """39 of 2,000 test pairs are trained on; 89 of 8,000 training rows repeat an earlier one."""
    found = check_files(*synth_files, DataConfig())
    assert (found["train_rows"], found["test_rows"]) == (8000, 2000)
    assert (found["leaked_pairs"], found["duplicate_rows"]) == (39, 89)
    assert found["leaked_codes"] == 111
    assert all("_test.jsonl:" in leak["test"] and "_train.jsonl:" in leak["train"] for leak in found["first_leaks"])


def test_check_names_the_lines_of_the_first_faults(write_lines):
    """So that a user can look at them; blank lines are counted as an editor counts them."""
    train = write_lines({"text": "a", "code": "1"}, "", {"text": "a", "code": "1"}, name="train.jsonl")
    test = write_lines({"prompt": "b", "completion": "2"}, {"prompt": "a", "completion": "1"}, name="test.jsonl")
    found = check_files(train, test, DataConfig())
    assert found["first_duplicates"] == [{"row": f"{train}:3", "repeats": f"{train}:1"}]
    assert found["first_leaks"] == [{"test": f"{test}:2", "train": f"{train}:1"}]


def test_check_shows_rows_that_are_equal_up_to_case_and_space(write_lines):
    """They are counted apart from exact ones, with their places."""
    train = write_lines(*({"text": text, "code": "1"} for text in ("A  b", "c", "a b", "c")), name="train.jsonl")
    test = write_lines(
        {"text": "c", "code": "1"}, {"text": "C ", "code": "1"}, {"text": "d", "code": "1"}, name="t.jsonl"
    )
    found = check_files(train, test, DataConfig())
    assert (found["leaked_pairs"], found["leaked_pairs_more"]) == (1, 1)
    assert found["first_leaks_normalised"] == [{"test": f"{test}:2", "train": f"{train}:2"}]
    assert (found["duplicate_rows"], found["duplicate_rows_more"]) == (1, 1)
    assert found["first_duplicates_normalised"] == [{"row": f"{train}:3", "repeats": f"{train}:1"}]


def test_check_finds_one_text_with_two_answers(write_lines):
    """Within train both rows, between test and train the test row; another system message is another question."""
    train = write_lines(*({"text": text, "code": code} for text, code in ("a1", "b1", "a2", "b1")), name="train.jsonl")
    test = write_lines(*({"text": text, "code": code} for text, code in ("b2", "c1", "b1")), name="test.jsonl")
    found = check_files(train, test, DataConfig())
    assert (found["conflicting_rows"], found["conflicting_test_rows"]) == (2, 1)
    assert found["first_conflicts"] == [
        {"row": f"{train}:1", "other": f"{train}:3"},
        {"row": f"{train}:3", "other": f"{train}:1"},
    ]
    assert found["first_test_conflicts"] == [{"row": f"{test}:1", "other": f"{train}:2"}]
    french, german = (Example("a", code, system=system) for code, system in (("un", "French"), ("ein", "German")))
    assert find_conflicts([french, german], [french, german]) == []
    one_text = rows(("a", None), ("a", None))
    assert find_conflicts(one_text, one_text) == []


def test_check_counts_rows_with_an_empty_view(write_lines):
    """In both files; training would refuse them."""
    train = write_lines({"text": "", "code": "1"}, {"text": "a", "code": "1"}, name="train.jsonl")
    test = write_lines({"text": "a", "code": " "}, name="test.jsonl")
    found = check_files(train, test, DataConfig())
    assert (found["empty_rows"], found["first_empty"]) == (2, [f"{train}:1", f"{test}:1"])


def test_check_counts_test_rows_of_a_training_group(write_lines):
    """Other pairs of one document: no leak of a pair, and still no fair test."""
    train = write_lines(*({"text": f"{i}", "code": "1", "group": "a"} for i in range(3)), name="train.jsonl")
    test = write_lines(
        *({"text": f"{i}", "code": "2", "group": group} for i, group in enumerate(["a", "a", "b", None])),
        name="test.jsonl",
    )
    found = check_files(train, test, DataConfig())
    assert (found["leaked_pairs"], found["leaked_groups"]) == (0, 2)


@pytest.mark.parametrize("policy, kept", [("keep", [0, 1, 2, 3, 4, 5]), ("drop", [0, 1, 3, 4])])
def test_duplicates_are_kept_or_all_but_the_first_dropped(policy, kept):
    """The count is the same either way."""
    assert apply_duplicate_policy(TRAIN, policy) == ([TRAIN[place] for place in kept], 2)


@pytest.mark.parametrize("policy, kept", [("keep", [0, 1, 2, 3, 4, 5]), ("drop", [1, 3, 4])])
def test_leaked_training_rows_are_kept_or_all_dropped(policy, kept):
    """Every copy goes: one would be enough to know the answer."""
    assert apply_leak_policy(TRAIN, TEST, policy) == ([TRAIN[place] for place in kept], 3)


def test_policy_error_names_both_rows(raises):
    """Where the two equal rows stand, how many more there are, and what to do."""
    with raises("row_repeated", "train.jsonl:3: ", "train.jsonl:1", "2 of 6 ", "on_duplicate"):
        apply_duplicate_policy(TRAIN, "error")
    with raises("row_leaked", "train.jsonl:1: ", "test.jsonl:1", "3 training rows ", "on_leak=drop"):
        apply_leak_policy(TRAIN, TEST, "error")


def test_clean_files_pass_policy_error():
    """Nothing found, nothing raised, nothing lost."""
    clean = rows(("x", "1"), ("y", "1"))
    assert apply_duplicate_policy(clean, "error") == (clean, 0)
    assert apply_leak_policy(clean, TEST, "error") == (clean, 0)
