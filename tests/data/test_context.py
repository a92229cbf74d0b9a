"""What all rows share around a question, and what they do not."""

from __future__ import annotations

import pytest

from llm_jepa.data.context import Context
from llm_jepa.data.example import Example


def chat(*contents, system=None):
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(contents)]
    return Example("\n".join(contents[:-1]), contents[-1], system, messages)


def context_of(*examples, is_chat=True, include_system=False):
    return Context.of(examples, is_chat=is_chat, include_system=include_system)


def test_a_system_message_that_all_rows_have_is_kept():
    assert context_of(chat("q", "a", system="s"), chat("r", "b", system="s")).system == "s"


@pytest.mark.parametrize("other", ["t", None])
def test_system_messages_that_differ_are_none_and_are_told(other):
    context = context_of(chat("q", "a", system="s"), chat("r", "b", system=other), chat("u", "c", system="s"))
    assert context.system is None and context.system_differs
    assert "different system messages" in context.notes("x")[0]
    assert context.with_system("mine").notes("x") == []


def test_turns_that_all_chats_begin_with_are_kept():
    """Examples of an answer; the question and what differs are no part of them."""
    context = context_of(chat("q", "a", "r", "b"), chat("q", "a", "u", "c"))
    assert [turn["content"] for turn in context.turns] == ["q", "a"]
    context = context_of(
        chat("q", "a", "r", "b", "u", "c"), chat("q", "a", "r", "other", "v", "c"), chat("q", "a", "w", "d")
    )
    assert [turn["content"] for turn in context.turns] == ["q", "a"]
    assert context_of(chat("q", "a", "r", "b"), chat("q", "other", "u", "c")).turns == []


def test_a_system_message_that_is_left_out_of_training_is_no_context(raises):
    """Without a chat template it is left out, unless include_system puts it before the text."""
    rows = [chat("q", "a", system="s"), chat("r", "b", system="s")]
    assert context_of(*rows, is_chat=False).system is None
    with raises("setting_without_effect", "--system"):
        context_of(*rows, is_chat=False).with_system("t")
    assert context_of(*rows, is_chat=False, include_system=True).ask("q").system == "s"


def test_words_that_all_texts_begin_or_end_with_are_missed_in_a_text_without_them():
    """They may be part of the instruction: said, and not added, since they may be an accident too."""
    texts = ["Regex for: lines with a dog\nAnswer:", "Regex for: words\nAnswer:"]
    context = context_of(*(Example(text, "x") for text in texts), is_chat=False)
    assert (context.text_prefix, context.text_suffix) == ("Regex for: ", "\nAnswer:")
    assert context.notes("Regex for: a cat\nAnswer:") == []
    assert [note.split(" '")[0] for note in context.notes("a cat")] == [
        "All training texts begin with",
        "All training texts end with",
    ]


def test_half_a_word_is_no_habit_of_the_rows():
    context = context_of(Example("words with a dog", "x"), Example("wordless in a bog", "y"), is_chat=False)
    assert (context.text_prefix, context.text_suffix) == ("", "")


def test_a_context_is_read_as_it_was_written():
    context = context_of(chat("q", "a", "r", "b", system="s"), chat("q", "a", "u", "c", system="s"))
    assert Context(**context.to_dict()) == context
