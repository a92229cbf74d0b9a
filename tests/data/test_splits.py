"""Validation rows: set aside the same way every time, and never trained on."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import date

from datasets import Dataset

from llm_jepa.data.checks import find_leaks, pair_key
from llm_jepa.data.config import DataConfig
from llm_jepa.data.example import Example
from llm_jepa.data.rows import read_examples
from llm_jepa.data.splits import split_file, split_validation

# 100 rows, 80 pairs: the last 20 rows repeat the first 20.
ROWS = [Example(f"text {i % 80}", f"code {i % 7}", source=f"train.jsonl:{i + 1}") for i in range(100)]


def test_no_validation_pair_is_trained_on():
    """Equal pairs stay together; every row is on one side, in the order of the file."""
    for size in (1, 10, 50, 99):
        train, validation = split_validation(ROWS, size)
        assert not find_leaks(train, validation).held_out_rows
        assert len(train) + len(validation) == 100
        lines = [int(row.source.split(":")[1]) for row in validation]
        assert lines == sorted(lines)


def test_the_size_is_exact_where_pairs_allow_it():
    """Two rows of one pair cannot fill a place for one."""
    assert len(split_validation(ROWS, 30)[1]) == 30
    assert split_validation(ROWS, 0) == (ROWS, [])
    twins = [ROWS[0]] * 2 + [ROWS[1]] * 2
    assert len(split_validation(twins, 3)[1]) == 2


def test_the_choice_depends_on_the_pairs_and_the_split_seed_alone():
    """Shuffled rows give the same validation pairs; a global seed changes nothing; another split seed does."""
    random.seed(1)
    first = {pair_key(row) for row in split_validation(ROWS, 30)[1]}
    random.seed(2)
    shuffled = random.sample(ROWS, len(ROWS))
    assert {pair_key(row) for row in split_validation(shuffled, 30)[1]} == first
    assert {pair_key(row) for row in split_validation(ROWS, 30, seed=1)[1]} != first


def test_new_rows_move_few_old_ones():
    """A file that grows keeps its validation rows, but for those that new ones push out."""
    before = {pair_key(row) for row in split_validation(ROWS[:80], 20)[1]}
    grown = [*ROWS[:80], Example("new", "row")]
    after = {pair_key(row) for row in split_validation(grown, 20)[1]}
    assert len(before - after) <= 1


def test_a_split_that_leaves_nothing_to_train_on_is_refused(raises):
    """The message has both numbers and the ways out."""
    with raises("too_few_rows", "validation_size=100", "100 rows", "validation_file"):
        split_validation(ROWS, 100)


def test_rows_of_one_group_stay_together():
    """30 groups of 3, and a pair that stands in two groups ties them: no group and no pair is on both sides."""
    rows = [Example(f"text {i}", "x", source=f"train.jsonl:{i + 1}", group=f"g{i % 30}") for i in range(90)]
    rows += [Example("text 0", "x", group="tied"), Example("more", "x", group="tied")]
    for size in (2, 3, 10, 40):
        train, validation = split_validation(rows, size)
        for key in (pair_key, lambda row: row.group):
            assert not {key(row) for row in train} & {key(row) for row in validation}
        assert size - 5 < len(validation) <= size


def test_rows_without_a_group_are_chosen_as_ever():
    """A group on some rows leaves the order of the others: it depends on their pairs alone."""
    rows = [*ROWS[:80], *(Example(f"new {i}", "x", group="g") for i in range(30))]
    chosen = {pair_key(row) for row in split_validation(ROWS[:80], 20)[1]}
    assert {pair_key(row) for row in split_validation(rows, 20)[1]} == chosen


def test_a_split_of_several_files_keeps_what_their_columns_mean(tmp_path):
    """Lines of JSON from tables: an empty cell is no group and no view; lists and dates stay readable."""
    head = "text,code,text_view,group,use_jepa,answers\n"
    for name in "ab":
        rows = "".join(f'{name}{number},c,,,{"false" if number else ""},"[""x""]"\n' for number in range(5))
        (tmp_path / f"{name}.csv").write_text(head + rows)
    pattern, config = str(tmp_path / "*.csv"), DataConfig()
    split_file(pattern, 3, tmp_path / "out", config)
    parts = [read_examples(str(tmp_path / "out" / f"{part}.jsonl"), config).examples for part in ("train", "test")]
    assert [len(part) for part in parts] == [7, 3]
    known = {each.text: replace(each, source="") for each in read_examples(pattern, config).examples}
    assert {each.text: replace(each, source="") for part in parts for each in part} == known
    dated = [{"text": f"a{number}", "code": "c", "when": date(2020, 1, 2)} for number in range(5)]
    Dataset.from_list(dated).save_to_disk(str(tmp_path / "saved"))
    assert split_file(str(tmp_path / "saved"), 2, tmp_path / "more", config) == {"train.jsonl": 3, "test.jsonl": 2}
    assert "2020-01-02" in (tmp_path / "more" / "test.jsonl").read_text()
