"""`views_file`: pairs of two views without a label, read, cleaned and counted beside the task's rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_jepa.data.config import DataConfig
from llm_jepa.data.digest import digest_rows
from llm_jepa.data.generated_files import with_files
from llm_jepa.data.inspect import inspect_rows
from llm_jepa.data.prepare import LoadedData, load_data
from llm_jepa.data.views_file import read_views
from llm_jepa.files import read_json_lines
from llm_jepa.objective.config import JEPAConfig
from llm_jepa.training.resume import digest_tokenizer

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"


def labelled(start: int, stop: int) -> list[dict[str, str]]:
    return [{"text": f"text {i}", "code": f"code {i}"} for i in range(start, stop)]


def paraphrases(start: int, stop: int) -> list[dict[str, str]]:
    return [{"text": f"plain {i}", "paraphrase": f"said {i}"} for i in range(start, stop)]


@pytest.fixture
def load(write_lines):
    """Write the files' rows, then load them."""

    def load(views, train=None, test=(), objective=None, **settings) -> LoadedData:
        files = {
            "train_file": write_lines(*(train or labelled(0, 10)), name="train.jsonl"),
            "views_file": write_lines(*views, name="views.jsonl"),
        }
        files |= {"test_file": write_lines(*test, name="test.jsonl")} if test else {}
        settings = {"validation_size": 0, "views_validation_size": 0, "vocab_size": 300, **settings}
        return load_data(DataConfig(**files, **settings), JEPAConfig(**(objective or {})))

    return load


def strings(data: LoadedData) -> list[tuple[str, str]]:
    """Both views of each view row, as the model reads them."""
    return [(data.tokenizer.decode(pair.text_view), data.tokenizer.decode(pair.code_view)) for pair in data.views.pairs]


# ---- rows ----


@pytest.mark.parametrize(
    ("columns", "settings"),
    [
        (("text", "code"), {}),
        (("prompt", "completion"), {}),
        (("text", "paraphrase"), {}),
        (("de", "en"), {"views_text_column": "de", "views_code_column": "en"}),
        (("paraphrase", "text"), {"views_text_column": "paraphrase", "views_code_column": "text"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_row_is_two_views_whatever_they_are_called(columns, settings, load):
    """The columns of the task's file are another matter."""
    data = load([dict(zip(columns, ("plain", "said"), strict=True))] * 3, **settings)
    assert strings(data) == [("plain", "said")] * 3


def test_the_tasks_own_columns_do_not_hold_for_the_view_rows(write_lines):
    train = write_lines({"q": "text", "a": "code"}, {"q": "text 2", "a": "code 2"}, name="train.jsonl")
    views = write_lines(*paraphrases(0, 2), name="views.jsonl")
    config = DataConfig(
        train_file=train, views_file=views, text_column="q", code_column="a", validation_size=0, vocab_size=300
    )
    data = load_data(config, JEPAConfig())
    assert (len(data.train), len(data.views)) == (2, 2)


def test_rows_of_one_text_are_refused_and_the_way_out_is_named(load, raises):
    """A column of another name would else be split in two, in silence."""
    with raises("second_view_missing", "views.jsonl:1: ", "views_code_column"):
        load([{"text": "one", "said": "two"}])


def test_groups_are_set_aside_whole(load):
    """No version of a held-out group is trained on."""
    rows = [{"group": f"g{i}", "text": f"version {j} of {i}", "code": f"{j} of {i}"} for i in range(20) for j in (0, 1)]
    data = load(rows, views_validation_size=8)
    trained, held_out = ({pair.group for pair in part.pairs} for part in (data.views, data.views_validation))
    assert len(data.views_validation) == 8 and not trained & held_out


def test_view_rows_have_a_bridge_of_their_own(load):
    """A question ends in the task's bridge, so what follows it must be answers alone; views hold neither."""
    data = load(paraphrases(0, 3))
    assert {tuple(pair.bridge_ids) for pair in data.train.pairs} == {(data.tokenizer.sep_token_id,)}
    assert {data.tokenizer.decode(pair.bridge_ids) for pair in data.views.pairs} == {" ~ "}
    other = load(paraphrases(0, 3), views_bridge=" means ")
    assert {other.tokenizer.decode(pair.bridge_ids) for pair in other.views.pairs} == {" means "}
    assert strings(other) == strings(data)


def test_the_bridge_of_the_task_is_refused_between_views(load, write_lines, bos_tokenizer, raises):
    """Where the tokenizer has no separator, the task's bridge is a line break."""
    files = {
        "train_file": write_lines(*labelled(0, 3), name="train.jsonl"),
        "views_file": write_lines(*paraphrases(0, 3), name="views.jsonl"),
    }
    config = DataConfig(**files, validation_size=0, views_validation_size=0, views_bridge="\n")
    with raises("bridges_equal", "views_bridge='\\n'"):
        load_data(config, JEPAConfig(), bos_tokenizer)


def test_chats_among_the_views_have_their_templates_bridge(write_lines, chat_tokenizer, raises):
    """A bridge that was asked for, and has no place, is an error."""
    turns = [{"role": "user", "content": "plain"}, {"role": "assistant", "content": "said"}]
    files = {
        "train_file": write_lines(*labelled(0, 3), name="train.jsonl"),
        "views_file": write_lines({"messages": turns}, {"messages": turns}, name="views.jsonl"),
    }
    settings = {**files, "validation_size": 0, "views_validation_size": 0}
    data = load_data(DataConfig(**settings), JEPAConfig(), chat_tokenizer)
    assert "assistant" in data.tokenizer.decode(data.views.pairs[0].bridge_ids)
    with raises("setting_without_effect", "views_bridge=' : '", "messages"):
        load_data(DataConfig(**settings, views_bridge=" : "), JEPAConfig(), chat_tokenizer)


# ---- which rows carry what ----


def test_view_rows_train_both_terms_and_the_task_rows_too_by_default(load):
    data = load(paraphrases(0, 6))
    assert all(pair.use_ce and pair.use_jepa for pair in [*data.views.pairs, *data.train.pairs])
    assert data.summary["views"].items() >= {"kept": 6, "jepa": 6, "cross_entropy": 6}.items()
    assert "6 view rows, 1 for each task row of a step, train the JEPA term and cross-entropy." in data.notes


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_carries_what_is_chosen_counted_and_shown(in_memory, load):
    """In memory and on disk; the rows know it, the notes say it, the drawing shows it, and the hash differs."""
    chosen = {"views_cross_entropy": False, "task_views": False, "rows_in_memory": in_memory}
    plain = load(paraphrases(0, 6), rows_in_memory=in_memory)
    before = {split: digest_rows(getattr(plain, split).pairs) for split in ("train", "views")}
    data = load(paraphrases(0, 6), views_ratio=0.5, **chosen)
    assert {(pair.use_ce, pair.use_jepa) for pair in data.views.pairs} == {(False, True)}
    assert {(pair.use_ce, pair.use_jepa) for pair in data.train.pairs} == {(True, False)}
    assert (data.summary["train"]["jepa"], data.summary["train"]["cross_entropy"]) == (0, 10)
    assert (data.summary["views"]["jepa"], data.summary["views"]["cross_entropy"]) == (6, 0)
    assert "6 view rows, 0.5 for each task row of a step, train the JEPA term." in data.notes
    assert "The task's training rows are under cross-entropy alone (task_views: false)." in data.notes
    shown = " ".join(inspect_rows(data.views, data.tokenizer, JEPAConfig()).split())
    assert "labels 0 of " in shown and "feeds the JEPA term alone" in shown
    assert all(digest_rows(getattr(data, split).pairs) != digest for split, digest in before.items())


def test_held_out_rows_of_the_task_keep_their_views(load):
    """Retrieval on the test rows is measured whatever was trained."""
    data = load(paraphrases(0, 6), test=labelled(20, 24), task_views=False)
    assert all(pair.use_jepa for pair in data.test.pairs)


def test_the_tokenizer_and_the_split_are_those_of_the_arm_without_view_rows(load):
    """`views_ratio: 0` takes the rows out of the steps and changes nothing else; without the file it is another."""
    with_rows, without = (load(paraphrases(0, 50), views_ratio=ratio, vocab_size=320) for ratio in (1.0, 0.0))
    assert digest_tokenizer(with_rows.tokenizer) == digest_tokenizer(without.tokenizer)
    assert strings(with_rows) == strings(without)
    assert "50 view rows are used for the tokenizer only, not for training (views_ratio: 0)." in without.notes
    bare = load_data(
        DataConfig(train_file=with_rows.train.examples[0].source.rpartition(":")[0], validation_size=0, vocab_size=320),
        JEPAConfig(),
    )
    assert digest_tokenizer(bare.tokenizer) != digest_tokenizer(without.tokenizer)


@pytest.mark.parametrize(
    ("settings", "objective", "code", "values"),
    [
        (
            {"task_views": False, "views_ratio": 0},
            {},
            "settings_conflict",
            ["task_views=false", "views_ratio=0", "jepa_lambda is 1"],
        ),
        (
            {"views_cross_entropy": False},
            {"jepa_lambda": 0.0},
            "rows_train_nothing",
            ["views_cross_entropy=false", "4 of the 4 view rows"],
        ),
    ],
)
def test_rows_that_would_train_nothing_are_refused(raises, settings, objective, code, values, load):
    with raises(code, *values):
        load(paraphrases(0, 4), objective=objective, **settings)


def test_view_rows_without_either_term_are_refused(load, raises):
    rows = [{**row, "use_jepa": number > 0} for number, row in enumerate(paraphrases(0, 4))]
    assert load(rows).summary["views"]["jepa"] == 3
    with raises("rows_train_nothing", "views_cross_entropy=false", "1 of the 4 view rows"):
        load(rows, views_cross_entropy=False)


# ---- what must not be seen ----


def test_view_rows_with_the_text_of_a_held_out_row_are_left_out(load, raises):
    """Either view counts; training rows' texts do not. A row with a held-out code is counted, and kept."""
    views = [
        {"text": " text 20", "paraphrase": "said"},  # a test row's text
        {"text": "plain", "paraphrase": "text 21"},
        {"text": "text 0", "paraphrase": "said"},  # a training row's
        {"text": "plain", "paraphrase": "code 22"},  # a test row's code
        *paraphrases(0, 3),
    ]
    data = load(views, test=labelled(20, 24))
    assert len(data.views) == 5 and data.summary["views"]["dropped"] == {"leak": 2}
    assert (data.summary["leaked_view_rows"], data.summary["leaked_view_codes"]) == (2, 1)
    assert "2 view rows have the text of a validation or test row for a view; left out." in data.notes
    assert "1 view rows have the code of a validation or test row for a view; kept." in data.notes
    assert len(load(views, test=labelled(20, 24), on_leak="keep").views) == 7
    with raises("row_leaked", "views.jsonl:1: ", "2 rows", "on_leak=drop"):
        load(views, test=labelled(20, 24), on_leak="error")


def test_what_is_nearly_a_test_question_is_counted_and_kept(load):
    """A view that is one up to case and space, and a training row that answers it otherwise."""
    views = [{"text": "Text  20", "paraphrase": "said"}, {"text": "text 21", "paraphrase": "said"}, *paraphrases(0, 3)]
    train = [*labelled(0, 10), {"text": "text 22", "code": "another code"}]
    for policy in ("drop", "keep"):
        notes = load(views, train=train, test=labelled(20, 24), on_leak=policy).notes
        assert "1 view rows have the text of a validation or test row up to case and space; kept." in notes
        assert "1 test rows have the question of a training row, but another answer; kept." in notes


def test_repeated_view_rows_follow_on_duplicate(load):
    views = [*paraphrases(0, 4), *paraphrases(1, 3)]
    assert len(load(views).views) == 6
    assert len(load(views, on_duplicate="drop").views) == 4


def test_the_view_rows_set_aside_are_the_same_in_every_arm_and_are_not_trained_on(load):
    """A fifth at most, and a note says so."""
    data = load(paraphrases(0, 50), views_validation_size=200)
    assert (len(data.views), len(data.views_validation)) == (40, 10)
    again = load(paraphrases(0, 50), views_validation_size=200, views_ratio=0.0)
    assert again.views_validation.pairs == data.views_validation.pairs
    seen = {pair.source for pair in data.views.pairs}
    assert not seen & {pair.source for pair in data.views_validation.pairs}
    assert "views_validation_size=200 is more than a fifth of the 50 view rows; 10 are set aside." in data.notes


# ---- settings ----


@pytest.mark.parametrize(
    ("settings", "code", "values"),
    [
        ({"views_ratio": 0.5}, "setting_without_effect", ["views_ratio=0.5", "views_file"]),
        ({"task_views": False}, "setting_without_effect", ["task_views=False", "views_file"]),
        ({"views_cross_entropy": False}, "setting_without_effect", ["views_cross_entropy=False", "views_file"]),
        ({"views_bridge": "?"}, "setting_without_effect", ["views_bridge='?'", "views_file"]),
        ({"views_file": "v.jsonl", "views_bridge": ""}, "value_empty", ["views_bridge"]),
        ({"views_text_column": "a"}, "setting_without_effect", ["views_text_column='a'", "views_file"]),
        ({"views_file": "v.jsonl", "views_ratio": -1}, "value_out_of_range", ["views_ratio=-1"]),
        ({"generate_views": 10}, "setting_without_effect", ["generate_views=10", "generate_train"]),
        ({"generate_validation": 10}, "setting_without_effect", ["generate_validation=10", "generate_train"]),
        (
            {"generate_validation": -1, "generate_train": 9},
            "value_out_of_range",
            ["generate_validation=-1", "at least 0"],
        ),
        (
            {"generate_validation": 10, "generate_train": 9, "validation_file": "held.jsonl"},
            "settings_conflict",
            ["generate_validation=10", "validation_file='held.jsonl'"],
        ),
        (
            {"generate_test_phrasing": "colloquial"},
            "setting_without_effect",
            ["generate_test_phrasing='colloquial'", "generate_train"],
        ),
        (
            {"generate_colloquial_share": 0.5},
            "setting_without_effect",
            ["generate_colloquial_share=0.5", "generate_train"],
        ),
        (
            {"generate_colloquial_share": 0.5, "generate_train": 9},
            "setting_without_effect",
            ["generate_colloquial_share=0.5", "generate_views", "generate_test_phrasing=colloquial"],
        ),
        (
            {"generate_colloquial_share": 0.0, "generate_train": 9},
            "value_out_of_range",
            ["generate_colloquial_share=0.0", "above 0"],
        ),
        (
            {"generate_train": 9, "generate_views": 10, "views_file": "v.jsonl"},
            "settings_conflict",
            ["generate_views=10", "views_file='v.jsonl'"],
        ),
    ],
)
def test_a_setting_without_effect_is_refused_by_name(raises, settings, code, values):
    with raises(code, *values):
        DataConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "code", "values"),
    [
        ({"on_leak": "dorp"}, "value_not_allowed", ["on_leak='dorp'", "drop, keep, error"]),
        ({"max_length": 3}, "value_out_of_range", ["max_length=3", "at least 4"]),
        ({"max_test_rows": 0}, "value_out_of_range", ["max_test_rows=0", "at least 1"]),
        ({"messages_column": "m", "text_column": "t"}, "settings_conflict", ["messages_column='m'", "text_column"]),
        ({"test_files": {}}, "value_empty", ["test_files"]),
        ({"test_files": {"a b": "a.jsonl"}}, "name_not_allowed", ["test_files", "'a b'"]),
        ({"test_files": {"people": "a.jsonl", "test": "b.jsonl"}}, "name_not_allowed", ["test_files", "'test'"]),
        ({"test_files": {"a": ""}}, "value_not_allowed", ["test_files.a=''"]),
        ({"test_file": "b", "test_files": {"a": "a"}}, "settings_conflict", ["test_file='b'", "test_files"]),
    ],
)
def test_a_setting_that_is_not_allowed_is_refused_by_name(raises, settings, code, values):
    with raises(code, *values):
        DataConfig(**settings)


def test_generated_experiments_name_three_files_and_write_them_once(tmp_path):
    """Plain labelled rows, view pairs in two phrasings, colloquial test rows; no regex in two of them."""
    config = DataConfig(
        generate_train=30, generate_views=20, generate_test=10, generate_test_phrasing="colloquial", task_views=False
    )
    named = with_files(config, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert with_files(config, tmp_path) == named and with_files(named, tmp_path) == named
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before and len(before) == 3
    train, test, views = (read_json_lines(Path(file)) for file in (named.train_file, named.test_file, named.views_file))
    assert (len(train), len(test), len(views)) == (30, 10, 20)
    assert all(row.keys() == {"text", "paraphrase"} for row in views)
    plain = with_files(DataConfig(generate_train=30, generate_test=10), tmp_path)
    assert train == read_json_lines(Path(plain.train_file))
    assert [row["code"] for row in test] == [row["code"] for row in read_json_lines(Path(plain.test_file))]
    assert [row["text"] for row in test] != [row["text"] for row in read_json_lines(Path(plain.test_file))]


def test_files_of_mixed_words_are_others_than_those_of_colloquial_words(tmp_path):
    settings = {"generate_train": 30, "generate_views": 20, "generate_test": 10, "generate_test_phrasing": "colloquial"}
    said = with_files(DataConfig(**settings), tmp_path)
    mixed = with_files(DataConfig(**settings, generate_colloquial_share=0.5), tmp_path)
    assert with_files(mixed, tmp_path) == mixed
    assert Path(said.train_file).read_bytes() == Path(mixed.train_file).read_bytes()
    for one, other in ((said.test_file, mixed.test_file), (said.views_file, mixed.views_file)):
        assert Path(one).name != Path(other).name and Path(one).read_bytes() != Path(other).read_bytes()


def test_generated_validation_rows_are_phrased_like_the_test_rows_and_share_no_regex_with_any(tmp_path):
    """They are there to choose settings on: of the test rows' kind, and none of them a row that is trained on."""
    settings = {"generate_train": 30, "generate_views": 20, "generate_test": 10, "generate_test_phrasing": "colloquial"}
    named = with_files(DataConfig(**settings, generate_validation=8), tmp_path)
    assert with_files(named, tmp_path) == named
    files = (named.train_file, named.test_file, named.validation_file)
    train, test, validation = ({row["code"] for row in read_json_lines(Path(file))} for file in files)
    assert len(validation) == 8 and not validation & (train | test) and not train & test
    without = with_files(DataConfig(**settings), tmp_path)
    assert without.validation_file is None
    assert read_json_lines(Path(without.test_file)) == read_json_lines(Path(named.test_file))


def test_the_published_paraphrases_are_read():
    """7,000 pairs beside the project, of training rows that the labelled part of transfer.yaml does not have."""
    file = SHARED_DATA / "nlrx_paraphrase_pairs.jsonl"
    if not file.exists():
        pytest.skip("nlrx_paraphrase_pairs.jsonl is not beside the project (../shared/data)")
    result = read_views(DataConfig(views_file=str(file)))
    assert len(result.examples) == result.rows_in == 7000
