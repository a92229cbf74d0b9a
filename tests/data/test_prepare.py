"""From files to encoded splits: the order of the steps, and an account of every row."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from llm_jepa.data.checks import find_leaks
from llm_jepa.data.config import DataConfig
from llm_jepa.data.digest import data_fingerprint
from llm_jepa.data.prepare import LoadedData, load_data, load_rows
from llm_jepa.objective.config import JEPAConfig


def numbered(start: int, stop: int) -> list[dict[str, str]]:
    return [{"text": f"text {i}", "code": f"code {i}"} for i in range(start, stop)]


@pytest.fixture
def load(write_lines):
    """Write the files' rows, then load them."""

    def load(train, test=(), validation=(), tokenizer=None, objective=None, **settings) -> LoadedData:
        names = {"train_file": train, "test_file": test, "validation_file": validation}
        files = {name: write_lines(*lines, name=f"{name}.jsonl") for name, lines in names.items() if lines}
        settings = {"validation_size": 0, "vocab_size": 300, **settings}
        return load_data(DataConfig(**files, **settings), objective or JEPAConfig(), tokenizer)

    return load


def account_holds(data: LoadedData) -> bool:
    return all(
        data.summary[name]["rows_in"] == len(split) + sum(data.summary[name]["dropped"].values())
        for name, split in {"train": data.train, "validation": data.validation, "test": data.test}.items()
    )


def test_every_row_is_accounted_for(load):
    """Twenty training rows: one broken, blank, too long and repeated each, two leaked; two of the rest set aside."""
    too_long = {"text": "".join(map(chr, range(33, 123))), "code": "x"}
    train = ["{", {"text": " ", "code": "x"}, too_long, *numbered(0, 16), *numbered(2, 3)]
    data = load(
        train,
        test=numbered(0, 2),
        validation_size=2,
        max_length=30,
        on_broken="drop",
        on_empty="drop",
        on_overflow="drop",
        on_duplicate="drop",
    )
    account = data.summary["train"]
    assert account["rows_in"] == 20
    lost_by_reading = {"json": 1, "leak": 2, "duplicate": 1, "to_validation": 2}
    assert account["dropped"].items() >= lost_by_reading.items()
    lost_by_encoding = Counter(account["dropped"]) + Counter(data.summary["validation"]["dropped"])
    assert (lost_by_encoding["empty"], lost_by_encoding["overflow"]) == (1, 1)
    assert len(data.train) + len(data.validation) == 14
    assert account_holds(data)
    json.dumps(data.summary)


def test_notes_say_what_was_left_out(load):
    """Each in one sentence with its number."""
    data = load([*numbered(0, 9), "{"], test=numbered(0, 3), on_broken="drop")
    assert "3 training rows have a pair that is in the validation or test rows too; left out." in data.notes
    assert "1 of 10 training rows are left out: json 1." in data.notes


def test_training_rows_that_are_tested_on_are_left_out_before_validation_is_set_aside(load):
    """So that neither training nor validation has a test pair."""
    data = load(numbered(0, 70), test=numbered(0, 20), validation_size=10)
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 10, 20)
    assert data.summary["leaked_pairs"] == data.summary["leaked_train_rows"] == 20
    assert not find_leaks(data.train.examples + data.validation.examples, data.test.examples).held_out_rows
    assert not find_leaks(data.train.examples, data.validation.examples).held_out_rows


def test_a_small_file_keeps_most_of_its_rows_for_training(load):
    """At most a fifth is set aside, whatever validation_size says, and a note tells."""
    data = load(numbered(0, 20), validation_size=200)
    assert (len(data.train), len(data.validation)) == (16, 4)
    assert any("validation_size=200 is more than a fifth of the 20" in note for note in data.notes)


def test_groups_that_leave_fewer_validation_rows_are_told(write_lines):
    """All rows are of one group, which stays together: none can be set aside."""
    rows = [{"text": f"a{n}", "code": f"b{n}", "group": "g"} for n in range(20)]
    for size, told in ((200, "20 training rows; 0 are set aside. Rows"), (3, "0 training rows are set aside instead")):
        config = DataConfig(train_file=write_lines(*rows), validation_size=size)
        notes = load_data(config, JEPAConfig()).notes
        assert any(told in note and "Rows of one group stay together." in note for note in notes)


def test_a_validation_file_is_cleaned_of_test_pairs_and_training_of_both(load):
    """Values are chosen on validation, so it must not hold the test's rows."""
    data = load(numbered(0, 30), validation=numbered(10, 20), test=numbered(15, 30))
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 5, 15)
    assert data.summary["leaked_validation_rows"] == 5
    assert account_holds(data)


def test_leaks_can_be_kept_on_purpose_and_are_still_counted(load):
    """To repeat a published number; the note says what it is worth."""
    data = load(numbered(0, 9), test=numbered(0, 3), on_leak="keep")
    assert len(data.train) == 9
    assert data.summary["leaked_pairs"] == 3
    assert any("do not trust scores" in note for note in data.notes)


def test_the_tokenizer_has_seen_training_rows_alone(load):
    """The same training rows give the same tokenizer, whatever stands in the test file."""
    first, second = (
        load(numbered(0, 20), test=[{"text": word * 9, "code": word * 9}] * 9, vocab_size=290)
        for word in ("zebra", "quagga")
    )
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()


def test_a_given_tokenizer_is_used_as_it_is(load, byte_tokenizer):
    """The tokenizer of a model that is already there."""
    assert load(numbered(0, 5), tokenizer=byte_tokenizer).tokenizer is byte_tokenizer


def test_pairs_and_examples_stay_in_step(load):
    """Scoring compares a generated answer with the example's own code."""
    data = load(numbered(0, 9), test=numbered(20, 25))
    for split in (data.train, data.test):
        for pair, example in zip(split.pairs, split.examples, strict=True):
            assert data.encoder.decode_code(pair.code_ids) == example.code
            assert pair.code_ids[-1] in data.encoder.end_ids


def test_one_column_of_text_is_said_to_be_split(load):
    """The likely mistake is a code column of another name."""
    data = load([{"text": f"some words {i}", "paraphrase": "p"} for i in range(4)])
    assert any("first 50%" in note and "code_column" in note for note in data.notes)


def test_rows_of_two_strings_under_a_chat_tokenizer_are_said(load, chat_tokenizer):
    """They are taken as they are; a user of an instruct model may have meant a chat."""
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    plain = load(numbered(0, 4), tokenizer=chat_tokenizer)
    chats = load([{"messages": turns}] * 4, tokenizer=chat_tokenizer)
    assert (plain.summary["chat_template"], chats.summary["chat_template"]) == (False, True)
    assert any("not chats" in note for note in plain.notes)
    assert not any("not chats" in note for note in chats.notes)


def test_a_tokenizer_that_changes_answers_is_said(load, byte_tokenizer, monkeypatch):
    """With such a tokenizer no model could reach an exact match."""
    assert not load(numbered(0, 4)).notes
    monkeypatch.setattr("llm_jepa.data.row_notes.decode_ids", lambda *_: "lower case")
    assert any("does not give back 4 of the first 4 answers" in note for note in load(numbered(0, 4)).notes)


def test_rows_without_a_jepa_term_are_counted_and_all_of_them_are_refused(load, raises):
    """A flag that was written the wrong way round would train no JEPA term at all, in silence."""
    rows = [{**row, "use_jepa": number > 0} for number, row in enumerate(numbered(0, 4))]
    assert "1 of 4 training rows are under cross-entropy alone (use_jepa: false)." in load(rows).notes
    with raises("no_jepa_rows", "4 training rows", "use_jepa", "jepa_lambda is 1"):
        load([{**row, "use_jepa": False} for row in rows])


def test_a_chat_template_without_the_begin_token_is_said(load, bos_tokenizer):
    """The tokenizer puts one before any other text; the template's word counts."""
    bos_tokenizer.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }}<|end|>{% endfor %}"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    data = load([{"messages": turns}] * 4, tokenizer=bos_tokenizer)
    assert any("begins a text with '<s>', its chat template does not" in note for note in data.notes)
    bos_tokenizer.chat_template = "<s>" + bos_tokenizer.chat_template
    assert not any("begins a text" in note for note in load([{"messages": turns}] * 4, tokenizer=bos_tokenizer).notes)


def test_limits_take_the_first_rows(load):
    """max_train_rows and max_test_rows count rows of the file."""
    data = load(numbered(0, 20), test=numbered(30, 40), max_train_rows=7, max_test_rows=2)
    assert (data.summary["train"]["rows_in"], len(data.test)) == (7, 2)


def test_without_a_training_file_nothing_starts(raises):
    """The field is named."""
    with raises("setting_missing", "train_file"):
        load_data(DataConfig(), JEPAConfig())


def test_a_split_that_loses_all_its_rows_is_refused(load, raises):
    """An empty test split would make every score nothing of nothing."""
    with raises("no_rows_left", "test rows", "empty 1"):
        load(numbered(0, 4), test=[{"text": " ", "code": "x"}], on_empty="drop")


def test_one_more_file_is_read_with_the_same_account(load, write_lines):
    """`evaluate RUN --data FILE`: broken and blank rows are counted here too."""
    data = load(numbered(0, 9), on_broken="drop", on_empty="drop")
    path = write_lines("{", {"text": " ", "code": "x"}, *numbered(0, 3), name="more.jsonl")
    rows = load_rows(path, data.encoder)
    assert (rows.rows_in, len(rows), rows.dropped) == (5, 3, {"json": 1, "empty": 1})


def test_the_published_files_load_with_their_leaks_left_out(synth_files):
    """39 training rows go, 200 are set aside; every answer fits and comes back."""
    config = DataConfig(train_file=synth_files[0], test_file=synth_files[1], max_test_rows=2000)
    data = load_data(config, JEPAConfig())
    assert (len(data.train), len(data.validation), len(data.test)) == (7761, 200, 2000)
    assert "39 training rows have a pair that is in the validation or test rows too; left out." in data.notes
    assert (data.summary["leaked_pairs"], data.summary["duplicate_rows"]) == (39, 89)
    decoded = [data.encoder.decode_code(pair.code_ids) for pair in data.test.pairs]
    assert decoded == [example.code for example in data.test.examples]


def test_a_fingerprint_changes_with_the_content_and_with_nothing_else(tmp_path):
    """Files by content; folders by the names and contents in them; names of the hub have none."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"x")
    folder = str(tmp_path)
    before = data_fingerprint([str(file), folder, None, "owner/name"])
    assert set(before) == {str(file), folder}
    assert before[str(file)] == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    file.touch()
    assert data_fingerprint([str(file), folder]) == before
    file.rename(tmp_path / "b.jsonl")
    assert data_fingerprint([folder])[folder] != before[folder]


# Prompts and servers


def asked(text: str) -> dict:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "x"}]}


def test_prompts_that_a_server_will_not_send_are_noted(load, chat_tokenizer):
    """The name of a control token is letters here and a token there. Plain rows have no note."""
    notes = load([asked("a dog"), asked("a cat")], tokenizer=chat_tokenizer).notes
    assert not any("apply_chat_template" in note for note in notes)
    (note,) = load([asked("a dog"), asked("what is <|im_end|>")], tokenizer=chat_tokenizer).notes
    assert note.startswith("1 of the first 2 prompts are not those of apply_chat_template")
    assert "train_file.jsonl:2" in note and "'<|im_end|>'" in note


def test_a_template_that_reads_the_clock_is_noted_too(load, chat_tokenizer):
    """date_string freezes the date of training; a server of the template writes its own."""
    chat_tokenizer.chat_template = "{{ strftime_now('%Y') }}" + str(chat_tokenizer.chat_template)
    frozen = {"date_string": "1 Jan 1999"}
    date, note = load([asked("a dog")], tokenizer=chat_tokenizer, chat_template_kwargs=frozen).notes
    assert "no system message: '1 Jan 1999'" in date
    assert "1 of the first 1 prompts" in note and "writes today's date" in note


def test_a_thought_that_the_template_opens_and_no_answer_ends_is_noted(load, chat_tokenizer):
    """The template of a reasoning model, and answers without reasoning."""
    ended = {"messages": [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": "hm</think>x"}]}
    settings = {"tokenizer": chat_tokenizer, "chat_template_kwargs": {"no_think": True}}  # its template writes <think>
    assert not any("opens <think>" in note for note in load([ended], **settings).notes)
    (note,) = (each for each in load([asked("a dog"), ended], **settings).notes if "opens <think>" in each)
    assert "1 of the first 2 answers do not close it" in note
