"""From examples to token ids: where each view starts and ends, and what becomes of rows that do not fit."""

from __future__ import annotations

import pytest

from llm_jepa.data.config import DataConfig
from llm_jepa.data.encode import PairEncoder, share_room
from llm_jepa.data.encoded_pairs import check_special_tokens, check_system_messages, encode_examples
from llm_jepa.data.example import Example
from llm_jepa.data.tokenizer import decode_ids, encode_text
from llm_jepa.objective import Pair

END, SEP = 1, 2
DOG = Example("lines with a dog", ".*dog.*", source="rows.jsonl:1")


def encoder(tokenizer, **settings) -> PairEncoder:
    return PairEncoder(tokenizer, DataConfig(**settings))


def chat(text: str, code: str, system: str | None = None, source: str = "rows.jsonl:1") -> Example:
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns += [{"role": "user", "content": text}, {"role": "assistant", "content": code}]
    return Example(text, code, system, turns, source)


def test_a_row_is_text_then_separator_then_code_and_the_end_token(byte_tokenizer):
    """Each view is tokenised on its own, so its end is known and never looked for."""
    pair = encoder(byte_tokenizer).encode(DOG)
    assert pair.text_ids == encode_text(byte_tokenizer, "lines with a dog")
    assert pair.bridge_ids == [SEP]
    assert pair.code_ids == [*encode_text(byte_tokenizer, ".*dog.*"), END]
    assert pair.source == "rows.jsonl:1"


def test_the_prompt_is_exactly_the_row_up_to_the_code(byte_tokenizer, bos_tokenizer, chat_tokenizer):
    """Generation starts where the training row's code starts, token for token."""
    for tokenizer in (byte_tokenizer, bos_tokenizer, chat_tokenizer):
        for example in (DOG, chat("lines with a dog", ".*dog.*")):
            coder = encoder(tokenizer)
            pair = coder.encode(example)
            assert coder.encode_prompt(example) == pair.text_ids + pair.bridge_ids


@pytest.mark.parametrize("text", ["<|end|>", "<|sep|>", "a<|pad|>b", "<s>"])
def test_special_tokens_written_in_data_are_no_control_tokens(byte_tokenizer, bos_tokenizer, text):
    """The row has one end token, at its end, and one separator, whatever the data says."""
    for tokenizer in (byte_tokenizer, bos_tokenizer):
        coder = encoder(tokenizer)
        pair = coder.encode(Example(text, text))
        control = set(tokenizer.all_special_ids)
        assert not control & set(pair.text_ids[len(coder.bos_ids) :] + pair.code_ids[:-1])
        assert coder.decode_code(pair.code_ids) == text


def test_the_end_token_is_in_the_row_even_if_it_is_the_pad_token(bos_tokenizer):
    """A collator that masks pad tokens by their id would lose it; ours goes by lengths."""
    assert bos_tokenizer.pad_token_id == bos_tokenizer.eos_token_id == END
    encoded = encode_examples([DOG], encoder(bos_tokenizer))
    assert encoded.pairs[0].code_ids[-1] == END


def test_a_start_token_stands_once_at_the_start_of_the_text(bos_tokenizer, byte_tokenizer):
    """Where the tokenizer adds one to a text; the code view has none."""
    pair = encoder(bos_tokenizer).encode(DOG)
    row = pair.text_ids + pair.bridge_ids + pair.code_ids
    assert row[0] == bos_tokenizer.bos_token_id
    assert row.count(bos_tokenizer.bos_token_id) == 1
    assert encoder(byte_tokenizer).bos_ids == []


def test_a_tokenizer_without_separator_gets_a_line_break_between_the_views(bos_tokenizer):
    """Our choice; the tokenizer's vocabulary stays as it is."""
    assert decode_ids(bos_tokenizer, encoder(bos_tokenizer).encode(DOG).bridge_ids) == "\n"


def test_a_tokenizer_without_end_token_is_refused(bos_tokenizer, raises):
    """A model could not learn to stop."""
    bos_tokenizer.eos_token = None
    with raises("end_token_missing", "eos_token"):
        encoder(bos_tokenizer)


def test_decoding_stops_at_the_first_end_token(byte_tokenizer):
    """What a model writes after it is not the answer; without one, all of it is."""
    coder = encoder(byte_tokenizer)
    ids = encode_text(byte_tokenizer, " a  b ")
    assert coder.decode_code([*ids, END, *ids, END]) == " a  b "
    assert coder.decode_code(ids) == " a  b "
    assert coder.decode_code([END]) == coder.decode_code([]) == ""


def test_other_special_tokens_in_an_answer_are_shown(byte_tokenizer):
    """Left out, they could make a wrong answer right."""
    coder = encoder(byte_tokenizer)
    a = encode_text(byte_tokenizer, "a")
    assert coder.decode_code([*a, SEP, *a]) == "a<|sep|>a"


# One text


def test_one_text_is_split_by_tokens(byte_tokenizer):
    """10 tokens at 0.3: 3 and 7; no bridge, and the end token after the rest."""
    ids = encode_text(byte_tokenizer, "0123456789")
    assert len(ids) == 10
    pair = PairEncoder(byte_tokenizer, DataConfig(), jepa_split=0.3).encode(Example("0123456789"))
    assert (pair.text_ids, pair.bridge_ids, pair.code_ids) == (ids[:3], [], [*ids[3:], END])


@pytest.mark.parametrize("split", [0.01, 0.5, 0.99])
def test_each_part_of_a_split_has_a_token(byte_tokenizer, raises, split):
    """Two tokens are one and one at any share; one token cannot be split."""
    coder = PairEncoder(byte_tokenizer, DataConfig(), split)
    assert [len(coder.encode(Example("01")).text_ids), len(coder.encode(Example("01")).code_ids)] == [1, 2]
    with raises("text_too_short", "tokens: 1", "at least 2"):
        coder.encode(Example("0"))


def test_a_start_token_does_not_count_in_the_split(bos_tokenizer):
    """The same split of the same text, with and without it."""
    pair = encoder(bos_tokenizer).encode(Example("01"))
    assert pair.text_ids[0] == bos_tokenizer.bos_token_id
    assert (len(pair.text_ids), len(pair.code_ids)) == (2, 2)


# System messages


def test_one_system_message_for_all_rows_is_left_out_and_said(byte_tokenizer):
    """It tells no row from another."""
    rows = [chat("q", "a", "be brief"), chat("r", "b", "be brief")]
    coder = encoder(byte_tokenizer)
    assert "be brief" in (check_system_messages(rows, coder) or "")
    assert coder.encode(rows[0]) == coder.encode(Example("q", "a", source=rows[0].source))


@pytest.mark.parametrize("other", ["be long", None])
def test_system_messages_that_differ_cannot_be_left_out(byte_tokenizer, raises, other):
    """They are part of the question; the second row is named, and both ways out."""
    rows = [chat("q", "a", "be brief"), chat("r", "b", other, source="rows.jsonl:2")]
    for act in (check_system_messages, encode_examples):
        with raises("system_differs", "rows.jsonl:2: ", "rows.jsonl:1", "include_system=true"):
            act(rows, encoder(byte_tokenizer))


def test_include_system_puts_it_before_the_text_view(byte_tokenizer):
    """With a line break between; rows without a system message stay as they are."""
    coder = encoder(byte_tokenizer, include_system=True)
    rows = [chat("q", "a", "be brief"), chat("q", "a")]
    texts = [decode_ids(byte_tokenizer, pair.text_ids) for pair in encode_examples(rows, coder).pairs]
    assert texts == ["be brief\nq", "q"]


def test_several_turns_need_a_chat_template(byte_tokenizer, raises):
    """Joined without roles, question and answer would be one."""
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    with raises("template_missing", "rows.jsonl:9: "):
        encoder(byte_tokenizer).encode(Example("user\nassistant\nuser", "assistant", None, turns, "rows.jsonl:9"))


# Rows that do not fit


@pytest.mark.parametrize(
    "example", [Example("", "x"), Example(" \n\t", "x"), Example("x", ""), Example("x", "\u3000"), Example(" ")]
)
def test_a_blank_view_is_refused_or_dropped_and_counted(byte_tokenizer, raises, example):
    """No pair is ever made of it."""
    with raises("text_too_short" if example.code is None else "view_empty", "on_empty=drop"):
        encode_examples([DOG, example], encoder(byte_tokenizer))
    encoded = encode_examples([DOG, example], encoder(byte_tokenizer, on_empty="drop"))
    assert (encoded.rows_in, len(encoded), encoded.dropped, encoded.examples) == (2, 1, {"empty": 1}, [DOG])


@pytest.fixture
def long_rows() -> list[Example]:
    """Bytes that merge with nothing: one token each. Rows of 4 + 1 + 3 + 1, of 30 + 1 + 3 + 1 and so on."""
    sizes = [(4, 3), (30, 3), (3, 30), (30, 30)]
    return [Example("0" * t, "1" * c, source=f"rows.jsonl:{i}") for i, (t, c) in enumerate(sizes, start=1)]


def test_truncation_cuts_the_longer_view_from_its_end(byte_tokenizer, bos_tokenizer, long_rows):
    """Each row fills max_length; separator, start and end token stay; the shorter view is whole where it can be."""
    short = {"max_length": 12, "on_overflow": "truncate"}
    encoded = encode_examples(long_rows, encoder(byte_tokenizer, **short))
    assert [(len(p.text_ids), len(p.code_ids) - 1) for p in encoded.pairs] == [(4, 3), (7, 3), (3, 7), (5, 5)]
    assert (encoded.rows_in, len(encoded), encoded.dropped, encoded.truncated) == (4, 4, {}, 3)
    for tokenizer in (byte_tokenizer, bos_tokenizer):
        coder = encoder(tokenizer, **short)
        for pair, example in zip(encode_examples(long_rows, coder).pairs, long_rows, strict=True):
            whole = coder.encode(example)
            assert len(pair) <= 12
            assert pair.text_ids == whole.text_ids[: len(pair.text_ids)]
            assert pair.code_ids == [*whole.code_ids[: len(pair.code_ids) - 1], END]
            assert pair.bridge_ids == whole.bridge_ids


def test_one_text_is_truncated_before_it_is_split(byte_tokenizer):
    """Its views must meet: cutting each would leave a hole in the middle."""
    coder = encoder(byte_tokenizer, max_length=11, on_overflow="truncate")
    (pair,) = encode_examples([Example("0123456789abcdefghij")], coder).pairs
    assert decode_ids(byte_tokenizer, pair.text_ids + pair.code_ids[:-1]) == "0123456789"
    assert (len(pair.text_ids), pair.code_ids[-1]) == (5, END)


def test_a_max_length_with_no_room_for_both_views_is_refused(byte_tokenizer, raises):
    """A view of no token cannot be encoded, so truncation has a limit."""
    rows = [chat("0" * 30, "1" * 30, "2" * 30)]
    coder = encoder(byte_tokenizer, max_length=32, on_overflow="truncate", include_system=True)
    with raises("max_length_too_small", "rows.jsonl:1: ", "max_length=32", "31 tokens"):
        encode_examples(rows, coder)


def test_share_room_cuts_the_longer_one_and_never_to_nothing():
    """Over all small cases: no more than the room, no room left over, each at least 1, the shorter one last."""
    for text in range(1, 9):
        for code in range(1, 9):
            for room in range(2, 20):
                cut_text, cut_code = share_room(text, code, room)
                assert cut_text + cut_code == min(room, text + code)
                assert 1 <= cut_text <= text
                assert 1 <= cut_code <= code
                if cut_text < text and cut_code < code:
                    assert abs(cut_text - cut_code) <= 1


@pytest.mark.parametrize("code_ids", [[5, 6], [5, END, 6, END], [5, END, 6]])
def test_a_row_that_does_not_end_with_its_only_end_token_is_refused(byte_tokenizer, raises, code_ids):
    """The check at the start of a run: a model that never sees answers end never stops."""
    coder = encoder(byte_tokenizer)
    with raises("end_token_misplaced", "rows.jsonl:1: ", "'<|end|>'"):
        check_special_tokens(Pair([4], code_ids), DOG, coder)
