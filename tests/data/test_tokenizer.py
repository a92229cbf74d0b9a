"""The tokenizer loses nothing, injects nothing, and is the same every time."""

from __future__ import annotations

import random

import pytest
from transformers import AutoConfig, AutoTokenizer

from llm_jepa.data.tokenizer import (
    SPECIAL_TOKENS,
    check_tokenizer_fits,
    decode_ids,
    encode_text,
    load_tokenizer,
    train_tokenizer,
)

LOOK_ALIKES = ["<|end|>", "<|pad|>", "<|sep|>", "a<|end|>b", "<|im_end|>", "<|end|><|end|> <|sep|>"]


def random_strings(num_strings: int) -> list[str]:
    """Strings over all of Unicode but surrogates, with white space and marks that tokenizers like to change."""
    draw = random.Random(0)
    tricky = " \t\n\r\u2028\u00a0\u200b\u202e\ufeff\u0301éß,.!?'\U0001f600 "

    def char() -> str:
        if draw.random() < 0.5:
            return draw.choice(tricky)
        code = draw.randrange(1, 0x110000 - 0x800)
        return chr(code if code < 0xD800 else code + 0x800)

    return ["".join(char() for _ in range(draw.randrange(1, 40))) for _ in range(num_strings)]


def test_any_text_comes_back_character_for_character(byte_tokenizer):
    """200 random strings: no normalising, no cleaning up of spaces, no unknown token."""
    for text in random_strings(200):
        assert decode_ids(byte_tokenizer, encode_text(byte_tokenizer, text)) == text


@pytest.mark.parametrize("text", LOOK_ALIKES)
@pytest.mark.parametrize("name", ["byte_tokenizer", "bos_tokenizer", "chat_tokenizer"])
def test_special_tokens_written_in_data_stay_text(request, name, text):
    """A data file cannot end an answer, or open a turn, by writing a token's name."""
    tokenizer = request.getfixturevalue(name)
    ids = encode_text(tokenizer, text)
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert decode_ids(tokenizer, ids) == text


def test_the_special_tokens_are_the_first_ids(byte_tokenizer):
    """pad 0, end 1, sep 2."""
    assert byte_tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2]
    assert (byte_tokenizer.pad_token_id, byte_tokenizer.eos_token_id, byte_tokenizer.sep_token_id) == (0, 1, 2)


def test_training_twice_gives_the_same_tokenizer():
    """Two runs on the same rows have the same ids."""
    texts = random_strings(50) * 2
    first, second = (train_tokenizer(iter(texts), 400).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


def test_the_size_is_what_was_asked_for_or_what_the_texts_can_give(raises):
    """Merges come from the texts; without texts there are the 256 bytes and the special tokens."""
    assert len(train_tokenizer(["a dog and a dot and a dog"] * 3, 262)) == 262
    assert len(train_tokenizer([], 512)) == 259
    with raises("value_out_of_range", "vocab_size=258", "259"):
        train_tokenizer(["x"], 258)


@pytest.mark.parametrize("model_type", [None, "llama", "gpt2", "qwen3", "mistral", "gemma2"])
def test_a_saved_tokenizer_loads_with_plain_transformers(tmp_path, byte_tokenizer, model_type):
    """Beside any of these models' config, AutoTokenizer gives the same ids and the same text."""
    byte_tokenizer.save_pretrained(tmp_path)
    if model_type:
        AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*random_strings(20), "lines with a dog , and .*"]:
        ids = encode_text(byte_tokenizer, text)
        assert loaded(text)["input_ids"] == ids
        assert loaded.decode(ids) == text
    assert len(loaded) == len(byte_tokenizer)


def test_load_tokenizer_gives_back_what_was_saved_beside_any_model(tmp_path, byte_tokenizer):
    """For Qwen2, AutoTokenizer puts another tokenizer in its place; load_tokenizer does not."""
    byte_tokenizer.save_pretrained(tmp_path)
    AutoConfig.for_model("qwen2").save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.backend_tokenizer.to_str() == byte_tokenizer.backend_tokenizer.to_str()
    assert len(loaded) == len(byte_tokenizer)


def test_a_tokenizer_that_is_not_there_is_a_config_error(tmp_path, raises):
    """The message has the name as it was given and what is expected in such a folder."""
    with raises("folder_missing", tmp_path / "gone"):
        load_tokenizer(str(tmp_path / "gone"))
    with raises("tokenizer_not_loadable", tmp_path, "save_pretrained"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text("{")
    (tmp_path / "tokenizer.json").write_text("{")
    with raises("tokenizer_not_loadable", tmp_path):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_larger_than_the_embedding_is_refused(byte_tokenizer, raises):
    """The largest id decides, not the count of tokens."""
    rows = max(byte_tokenizer.get_vocab().values()) + 1
    check_tokenizer_fits(byte_tokenizer, rows)
    with raises("vocabulary_too_large", f"up to {rows - 1} ", f"{rows - 1} rows", f"at least {rows} rows"):
        check_tokenizer_fits(byte_tokenizer, rows - 1)
