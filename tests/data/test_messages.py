"""Which message of a chat is the answer, and what becomes of the fields beside role and content."""

from __future__ import annotations

from typing import Any

import pytest

from llm_jepa.data.config import DataConfig
from llm_jepa.data.prepare import load_data
from llm_jepa.data.rows import ReadResult, read_examples
from llm_jepa.objective import JEPAConfig


def user(content: str, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **fields}


def assistant(content: str, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


@pytest.fixture
def read(write_lines):
    """Read one chat."""

    def of(*messages: dict[str, Any], **settings: Any) -> ReadResult:
        return read_examples(write_lines({"messages": messages}), DataConfig(**settings))

    return of


@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}, {"loss": False}]
)
def test_a_message_that_is_not_trained_on_is_not_the_answer(read, mark):
    """The chat ends with the last answer that is trained on, and a note says so."""
    result = read(user("q1"), assistant("good"), user("q2"), assistant("bad", **mark))
    (example,) = result.examples
    assert (example.text, example.code, len(example.messages or [])) == ("q1", "good", 2)
    assert "read up to the last answer that is" in result.notes[0] and result.untrained is None


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "s"}]])
def test_a_chat_without_an_answer_to_train_on_is_refused(read, raises, system):
    """It may be dropped as a broken row."""
    with raises("answer_not_trained", ":1: ", "messages", "weight"):
        read(*system, user("q"), assistant("bad", weight=0))


def test_an_earlier_message_that_is_not_trained_on_stays_in_the_prompt(read):
    """The model reads it; OpenAI's own example is such a chat."""
    result = read(user("q1"), assistant("bad", weight=0), user("q2"), assistant("good", weight=1))
    assert (result.examples[0].text, result.examples[0].code) == ("q1\nbad\nq2", "good")
    assert result.untrained == result.examples[0].source and result.notes == []


def test_an_earlier_message_that_is_not_trained_on_needs_the_loss_on_code(write_lines, raises, chat_tokenizer):
    """With loss_on=all its tokens would be under cross-entropy."""
    chat = [user("q1"), assistant("bad", weight=0), user("q2"), assistant("good")]
    config = DataConfig(train_file=write_lines(*[{"messages": chat}] * 5), validation_size=0)
    with raises("untrained_message", "rows.jsonl:1: ", "weight 0", "loss_on=code"):
        load_data(config, JEPAConfig(loss_on="all"), chat_tokenizer)
    assert len(load_data(config, JEPAConfig(loss_on="code"), chat_tokenizer).train) == 5


@pytest.mark.parametrize(
    "fields, code, value",
    [
        ({"weight": 0.5}, "value_not_allowed", "weight 0.5"),
        ({"weight": "0"}, "value_not_allowed", "weight '0'"),
        ({"weight": 1, "loss": False}, "fields_conflict", "weight and loss"),
        ({"mask": True}, "field_not_supported", "mask"),
        ({"train_detail": [{"begin_offset": 0}]}, "field_not_supported", "train_detail"),
        ({"images": ["a.png"]}, "not_text", "images"),
        ({"function_call": {"name": "f"}}, "not_text", "tools"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused(read, raises, fields, code, value):
    """By its name; the same field with null is not there."""
    with raises(code, "message 2", value):
        read(user("q"), assistant("a", **fields))
    assert read(user("q"), assistant("a", **dict.fromkeys(fields))).notes == []


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_the_reasoning_of_an_answer_is_said_not_to_be_read(read, name):
    """Where a template would put it is not known here."""
    (note,) = read(user("q"), assistant("a", **{name: "because"})).notes
    assert f"the field {name} of the answer is not read" in note


def test_other_fields_of_messages_are_named(read):
    """Once, with what becomes of them."""
    (note,) = read(user("q", name="Ada"), assistant("a", id=3, learn=False, refusal=None, mask=False)).notes
    assert note.startswith("Fields of messages that are in no view: name, id, learn.")


def test_an_earlier_answer_that_asks_to_be_trained_on_has_a_note(read):
    """The code view is the last answer alone."""
    (note,) = read(user("q"), assistant("a", weight=1), user("q"), assistant("b", weight=1)).notes
    assert "before the last one is marked to be trained on (weight 1)" in note
