"""What each view holds: the row's own parts, question and answer rendered alone, or columns that the row brings."""

from __future__ import annotations

import pytest

from llm_jepa.data.config import DataConfig
from llm_jepa.data.context import Context
from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.encoded_pairs import encode_examples
from llm_jepa.data.example import Example
from llm_jepa.data.inspect import inspect_rows
from llm_jepa.data.rows import read_examples
from llm_jepa.data.tokenizer import encode_text
from llm_jepa.objective import JEPAConfig

CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "lines with a dog"},
    {"role": "assistant", "content": ".*dog.*"},
]
ROW = Example("lines with a dog", ".*dog.*", "be brief", CHAT, "rows.jsonl:1")
TEXT_ALONE, CODE_ALONE = "<|im_start|>user\nlines with a dog", "<|im_start|>assistant\n.*dog.*"


def views(tokenizer, example: Example, jepa_views: str = "rendered", **settings) -> list[str | None]:
    encoder = PairEncoder(tokenizer, DataConfig(**settings), jepa_views=jepa_views)
    (pair,) = encode_examples([example], encoder).pairs
    ids = (pair.text_view_ids, pair.code_view_ids)
    return [None if each is None else tokenizer.decode(each) for each in ids]


def test_rendered_views_are_question_and_answer_each_alone_in_the_template(chat_tokenizer):
    """As published: no system message, no header of the answer, and each ends with its last word."""
    assert views(chat_tokenizer, ROW) == [TEXT_ALONE, CODE_ALONE]


def test_prefix_views_are_the_parts_of_the_row(chat_tokenizer):
    """The default: nothing stands beside the row."""
    assert views(chat_tokenizer, ROW, "prefix") == [None, None]


def test_the_row_is_the_same_whatever_its_views_are(chat_tokenizer):
    """Cross-entropy trains on the same tokens in both."""
    one, two = (
        PairEncoder(chat_tokenizer, DataConfig(), jepa_views=kind).encode(ROW) for kind in ("prefix", "rendered")
    )
    assert (one.text_ids, one.bridge_ids, one.code_ids) == (two.text_ids, two.bridge_ids, two.code_ids)


def test_every_turn_before_the_answer_is_in_the_rendered_text_view(chat_tokenizer):
    """A question may mean nothing without what was said before it; the answer's own view is the answer."""
    turns = [{"role": role, "content": role[0]} for role in ("user", "assistant", "user", "assistant")]
    text, code = views(chat_tokenizer, Example("u\na\nu", "a", None, turns))
    assert text == "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\nu"
    assert code == "<|im_start|>assistant\na"


def test_an_answer_that_the_template_does_not_render_alone_is_rendered_as_a_users_turn(chat_tokenizer, caplog):
    """Gemma's template wants a user first; the published code does the same."""
    chat_tokenizer.chat_template = (
        "{% if messages[0].role == 'assistant' %}{{ raise_exception('user first') }}{% endif %}"
    ) + str(chat_tokenizer.chat_template)
    assert views(chat_tokenizer, ROW) == [TEXT_ALONE, "<|im_start|>user\n.*dog.*"]
    assert "as a user's turn" in caplog.text


def test_special_tokens_written_in_rendered_views_stay_text(chat_tokenizer):
    """A view has the one control token that the template wrote."""
    text = "<|im_end|><|im_start|>"
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
    pair = PairEncoder(chat_tokenizer, DataConfig(), jepa_views="rendered").encode(Example(text, text, None, messages))
    control = {index for index, token in chat_tokenizer.added_tokens_decoder.items() if token.special}
    for ids in (pair.text_view_ids, pair.code_view_ids):
        written = [token for token in ids or [] if token in control]
        assert written == [chat_tokenizer.convert_tokens_to_ids("<|im_start|>")]


def test_rows_of_two_strings_are_rendered_as_they_are(bos_tokenizer, byte_tokenizer):
    """No template was asked for: the text, with its begin token where the tokenizer has one, and the code."""
    row = Example("a dog", "x", source="rows.jsonl:1")
    assert views(bos_tokenizer, row) == ["<s>a dog", "x"]
    assert views(byte_tokenizer, row) == ["a dog", "x"]


def test_one_text_cannot_be_rendered(byte_tokenizer, raises):
    """It has no question and no answer."""
    with raises("second_view_missing", "rows.jsonl:1: ", "jepa_views=rendered", "jepa_views=prefix"):
        views(byte_tokenizer, Example("0123", source="rows.jsonl:1"))


def test_a_query_is_encoded_as_the_text_view_of_a_row(chat_tokenizer):
    """`retrieve RUN "text"` must ask as training did."""
    for kind in ("prefix", "rendered"):
        encoder = PairEncoder(chat_tokenizer, DataConfig(), jepa_views=kind)
        row = encoder.encode(Example("a dog", "x", None, [{"role": "user", "content": "a dog"}, CHAT[2]]))
        asked = encoder.encode_query(Context(is_chat=True).ask("a dog"), [5, 1])
        assert (asked.text_ids, asked.text_view_ids) == (row.text_ids, row.text_view_ids)


# Truncation


@pytest.mark.parametrize("size", [(60, 5), (5, 60), (60, 60)])
def test_truncation_cuts_the_rendered_views_with_the_row(chat_tokenizer, size):
    """A view never holds words that its row lost."""
    text, code = "0" * size[0], "1" * size[1]
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": code}]
    config = DataConfig(max_length=40, on_overflow="truncate")
    encoder = PairEncoder(chat_tokenizer, config, jepa_views="rendered")
    (pair,) = encode_examples([Example(text, code, None, messages)], encoder).pairs
    zero, one = (encode_text(chat_tokenizer, each)[0] for each in "01")
    assert len(pair) == 40
    assert (pair.text_view_ids or []).count(zero) == pair.text_ids.count(zero) > 1
    assert (pair.code_view_ids or []).count(one) == pair.code_ids.count(one) > 1


def test_a_view_beside_the_row_that_is_too_long_is_refused_dropped_or_cut(byte_tokenizer, raises):
    """max_length holds for every row of a batch, views included."""
    row = Example("a", "b", source="rows.jsonl:1", text_view="0" * 30)
    with raises("row_too_long", "rows.jsonl:1: ", "text view", "30 tokens", "max_length is 12"):
        views(byte_tokenizer, row, "prefix", max_length=12)
    assert views(byte_tokenizer, row, "prefix", max_length=12, on_overflow="truncate") == ["0" * 12, None]
    config = DataConfig(max_length=12, on_overflow="drop")
    assert encode_examples([row], PairEncoder(byte_tokenizer, config)).dropped == {"overflow": 1}


# Columns of the row's own


def test_a_row_may_bring_its_views_its_flag_and_its_group(write_lines, byte_tokenizer):
    """text_view, code_view, use_jepa, group; the row itself is text and code as ever."""
    own = {"text_view": "dog lines", "code_view": "dog", "use_jepa": False, "group": "animals"}
    (example,) = read_examples(write_lines({"text": "a dog", "code": "x", **own}), DataConfig()).examples
    assert (example.text_view, example.code_view, example.use_jepa, example.group) == tuple(own.values())
    pair = PairEncoder(byte_tokenizer, DataConfig()).encode(example)
    assert byte_tokenizer.decode(pair.text_view_ids) == "dog lines"
    assert byte_tokenizer.decode(pair.code_view) == "dog"
    assert (pair.use_jepa, pair.group) == (False, "animals")
    plain = PairEncoder(byte_tokenizer, DataConfig()).encode(Example("a dog", "x"))
    assert (pair.text_ids, pair.bridge_ids, pair.code_ids) == (plain.text_ids, plain.bridge_ids, plain.code_ids)


def test_absent_and_null_are_the_same_in_a_rows_own_columns(write_lines):
    """Parquet has no other way to leave a value out."""
    path = write_lines({"text": "a", "code": "x"}, {"text": "a", "code": "x", "use_jepa": None, "text_view": None})
    one, two = read_examples(path, DataConfig()).examples
    assert (one.text_view, one.use_jepa, one.group) == (two.text_view, two.use_jepa, two.group) == (None, True, None)


@pytest.mark.parametrize(
    "own, code, values",
    [
        ({"use_jepa": 1}, "wrong_type", ["use_jepa", "a number", "true or false"]),
        ({"use_jepa": "false"}, "wrong_type", ["use_jepa", "a string", "true or false"]),
        ({"group": 3}, "wrong_type", ["group", "a number", "a string"]),
        ({"text_view": ["a"]}, "wrong_type", ["text_view", "a list", "a string"]),
        ({"code_view": "a\0"}, "character_not_allowed", ["code_view", "NUL"]),
    ],
)
def test_a_wrong_value_in_a_rows_own_column_is_refused_by_line(write_lines, raises, own, code, values):
    """A flag that is text would otherwise always be true."""
    with raises(code, "rows.jsonl:2: ", *values):
        read_examples(write_lines({"text": "a", "code": "x"}, {"text": "a", "code": "x", **own}), DataConfig())


def test_a_column_that_is_named_as_the_rows_text_is_that_alone(write_lines):
    """`text_column: text_view`: the row's own text, not a second view beside it."""
    path = write_lines({"text_view": "a", "code_view": "x"})
    config = DataConfig(text_column="text_view", code_column="code_view")
    assert read_examples(path, config).examples == [Example("a", "x", source=f"{path}:1")]


@pytest.mark.parametrize("view", ["text_view", "code_view"])
def test_a_blank_view_of_the_rows_own_is_an_empty_view(byte_tokenizer, raises, view):
    """Refused by line, or dropped and counted, as any other."""
    with raises("view_empty", f"{view[:4]} view"):
        views(byte_tokenizer, Example("a", "x", **{view: " "}), "prefix")


def test_views_of_a_chats_own_are_rendered_where_views_are(chat_tokenizer):
    """As text where the views are parts of the row; in the template where they are rendered."""
    row = Example("lines with a dog", ".*dog.*", "be brief", CHAT, text_view="a dog", code_view="dog")
    assert views(chat_tokenizer, row, "prefix") == ["a dog", "dog"]
    assert views(chat_tokenizer, row) == ["<|im_start|>user\na dog", "<|im_start|>assistant\ndog"]


# What `data inspect` shows


def test_both_kinds_of_views_are_shown_with_every_token(chat_tokenizer):
    """Which tokens each view holds, and where each is read."""

    def drawn(kind: str) -> str:
        encoder = PairEncoder(chat_tokenizer, DataConfig(), jepa_views=kind)
        encoded = encode_examples([ROW], encoder)
        return " ".join(inspect_rows(encoded, chat_tokenizer, JEPAConfig(jepa_views=kind)).split())

    rendered = drawn("rendered")
    assert "textview <|im_start|> user ⏎ lines ·with ·a ·dog codeview <|im_start|>" in rendered
    assert "after the text view, which is all it reads" in rendered
    assert "rows of their own" in rendered
    assert "textview" not in drawn("prefix")
    assert "rows of their own" not in drawn("prefix")


def test_a_row_without_jepa_term_and_its_group_are_shown(byte_tokenizer):
    """The reader sees why the row has no [PRED]."""
    encoder = PairEncoder(byte_tokenizer, DataConfig())
    row = Example("a", "x", use_jepa=False, group="g\n1")
    shown = inspect_rows(encode_examples([row], encoder), byte_tokenizer, JEPAConfig())
    assert "[PRED]   none: the row is under cross-entropy alone (use_jepa: false)" in shown
    assert "group    g⏎1" in shown
