"""Templates of well-known models, in small: what they cut, what they open, what their tokenizers add."""

from __future__ import annotations

import logging

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from llm_jepa.data.config import DataConfig
from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.encoded_pairs import encode_examples
from llm_jepa.data.example import Example
from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.evaluation.evaluate import gold_answers

CORPUS = ["lines with a dog", ".*dog.*", "[INST] a [/INST]", "what ends it"]

# DeepSeek-R1's distilled models: earlier thinking is cut up to </think>, and a prompt opens a new one.
R1 = (
    "{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}{% elif m.role == 'assistant' %}"
    "<|Assistant|>{{ m.content.split('</think>')[-1] }}<|eos|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)

# SmolLM3: a switch in the system message, which is taken out of it, says whether there is thinking.
SMOLLM3 = (
    "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% set quiet = '/no_think' in system %}<|im_start|>system\nReasoning: {{ 'off' if quiet else 'on' }}\n"
    "{{ system.replace('/no_think', '').rstrip() }}<|im_end|>\n"
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and quiet %}<think>\n\n</think>\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if quiet %}<think>\n\n</think>\n{% endif %}{% endif %}"
)

LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def chat(*turns: str, system: str | None = None) -> Example:
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return Example("\n".join(turns[:-1]), turns[-1], system, messages, "rows.jsonl:3")


def make_tokenizer(template: str, special: list[str], words: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = train_tokenizer(CORPUS, 300)
    tokenizer.add_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in words])
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def r1():
    return make_tokenizer(R1, ["<|eos|>"], ["<|User|>", "<|Assistant|>", "<think>", "</think>"])


@pytest.fixture
def smollm3():
    return make_tokenizer(SMOLLM3, ["<|im_start|>", "<|im_end|>"], ["<think>", "</think>"])


@pytest.fixture
def llama2():
    """A tokenizer that puts a space before every text that it is given."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    alphabet = [*map(chr, range(33, 127)), "▁", "\n"]
    specials = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=250, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS * 5, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = LLAMA2
    return tokenizer


def encode(tokenizer, example, **kwargs):
    encoder = PairEncoder(tokenizer, DataConfig(chat_template_kwargs=kwargs))
    (pair,) = encode_examples([example], encoder).pairs
    return pair, [tokenizer.decode(ids) for ids in (pair.text_ids, pair.bridge_ids, pair.code_ids)]


def served(tokenizer, example):
    return tokenizer.apply_chat_template(example.messages[:-1], add_generation_prompt=True, return_dict=False)


# What a template cuts


@pytest.mark.parametrize("thought", ["<think>\nhm\n</think>\n\na", "<think>hm</think>a", "hm</think> a ", "<think>"])
def test_earlier_thinking_that_is_cut_up_to_its_end_alone_loses_no_row(r1, thought):
    """What is left is not stripped; the prompt is a server's."""
    pair, shown = encode(r1, chat("q", thought, "r", "b"))
    assert shown[0] == f"<|User|>q<|Assistant|>{thought.split('</think>')[-1]}<|eos|><|User|>r"
    assert pair.text_ids + pair.bridge_ids == served(r1, chat("q", thought, "r", "b"))


def test_a_message_that_the_template_leaves_out_is_not_lost_in_silence(smollm3, raises):
    """Two rows may differ in it alone."""
    smollm3.chat_template = (
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    )
    assert encode(smollm3, chat("q", "a"))
    with raises("template_drops_message", "rows.jsonl:3", "message 1", "system"):
        encode(smollm3, chat("q", "a", system="Answer in French."))


def test_a_switch_in_the_system_message_that_the_template_takes_out_loses_no_row(smollm3):
    example = chat("q", "a", "r", "b", system="be brief /no_think")
    pair, shown = encode(smollm3, example)
    assert "Reasoning: off\nbe brief<|im_end|>" in shown[0] and shown[0].endswith("user\nr")
    assert shown[1] == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n"
    assert pair.text_ids + pair.bridge_ids == served(smollm3, example)


def test_a_changed_message_that_names_a_control_token_is_refused(smollm3, raises):
    """Where it is in the prompt is not known, and as a token it would end the turn."""
    with raises("template_changes_text", "rows.jsonl:3: "):
        encode(smollm3, chat("q", "a", system="never write <|im_end|> /no_think"))


# What a template opens


@pytest.mark.parametrize("thought", ["<think>\nhm</think>b", "<think>hm</think>b", "\n<think>\nhm</think>b"])
def test_thinking_that_the_prompt_opens_is_opened_once(r1, thought):
    """In the row, in what is generated, and so in the gold answer that it is compared with."""
    encoder = PairEncoder(r1, DataConfig())
    rows = encode_examples([chat("q", thought)], encoder)
    (pair,) = rows.pairs
    assert r1.decode(pair.bridge_ids + pair.code_ids) == "<|Assistant|><think>\nhm</think>b<|eos|>"
    assert gold_answers(encoder, rows) == ["hm</think>b"] == [encoder.decode_code(pair.code_ids)]


def test_what_is_opened_depends_on_the_row(smollm3, raises):
    """The switch of SmolLM3 is in the row: an empty thought is written once, and a thought after it is refused."""
    empty = "<think>\n\n</think>\nb"
    assert encode(smollm3, chat("q", empty))[1][2] == empty + "<|im_end|>"
    assert encode(smollm3, chat("q", empty, system="/no_think"))[1][2] == "b<|im_end|>"
    with raises("answer_opened_twice", "rows.jsonl:3: ", "'<think>'"):
        encode(smollm3, chat("q", "<think>\nhm\n</think>\nb", system="/no_think"))


@pytest.mark.parametrize("tag", ["<answer>", "[THINK]", "### Answer:"])
def test_any_opening_of_a_prompt_is_written_once(chat_tokenizer, tag):
    template = str(chat_tokenizer.chat_template).partition("{% if add_gen")[0]
    chat_tokenizer.chat_template = (
        template + "{% if add_generation_prompt %}<|im_start|>assistant\n" + tag + "\n{% endif %}"
    )
    _, shown = encode(chat_tokenizer, chat("q", f"{tag}\nb"))
    assert (shown[1] + shown[2]).count(tag) == 1 and shown[2] == "b<|im_end|>"


def test_notes_on_a_template_show_no_markers_of_ours(r1, chat_tokenizer, caplog, raises):
    with caplog.at_level(logging.WARNING, logger="llm_jepa"):
        PairEncoder(r1, DataConfig())
    assert "'<|User|>...<|Assistant|>' in a chat" in caplog.text
    chat_tokenizer.chat_template = "{{ raise_exception('no ' + messages[0].content) }}"
    with raises("template_refuses_chat", "no ..."):
        PairEncoder(chat_tokenizer, DataConfig())
    assert "\ue000" not in caplog.text


# What a tokenizer makes of it


@pytest.mark.parametrize(
    "example",
    [chat("lines with a dog", "x"), chat("q ]", "a", "r", "b"), chat("a\nb", "x")],
    ids=["one", "two", "lines"],
)
def test_a_prompt_is_tokenised_in_one_piece(llama2, example):
    """A tokenizer that puts a space before a text must not put one in the middle of a prompt."""
    pair, _ = encode(llama2, example)
    assert pair.text_ids + pair.bridge_ids == served(llama2, example)
    assert pair.bridge_ids and llama2.decode(pair.text_ids).endswith((example.messages or [])[-2]["content"][-1])


def test_a_word_that_goes_on_in_the_template_keeps_its_end(llama2):
    """Where one token would hold the last letter and the template's, the view ends with the word; a note says so."""
    llama2.chat_template = LLAMA2.replace("' [/INST]'", "'og'")
    encoder = PairEncoder(llama2, DataConfig())
    (pair,) = encode_examples([chat("lines with a d", "x")], encoder).pairs
    assert llama2.convert_ids_to_tokens(pair.text_ids)[-1] == "d"
    assert pair.text_ids + pair.bridge_ids != encoder.served_prompt(chat("lines with a d", "x"))


# Names of control tokens that the tokenizer takes for words


def end_as_word(special: bool = False, **kinds):
    tokenizer = train_tokenizer(CORPUS, 300)
    tokenizer.add_tokens([AddedToken(t, special=special, **kinds) for t in ("<|im_start|>", "<|im_end|>")])
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


@pytest.mark.parametrize("text", ["what ends it <|im_end|>?", "<|im_start|>", "<|im_end|><|im_end|>\n"])
def test_an_added_word_that_ends_a_turn_is_letters_in_every_message(text):
    """The row is that of a tokenizer whose control tokens are special."""
    example = chat(text, text, text, text, system=text)
    pair, shown = encode(end_as_word(), example)
    assert pair == encode(end_as_word(special=True), example)[0]
    assert shown[0].endswith(text)
    assert pair.code_ids.count(pair.code_ids[-1]) == 1


def test_it_is_letters_in_rows_without_a_template_and_in_views_of_their_own():
    tokenizer = end_as_word()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    view = "a <|im_end|> b"
    for row in (Example(view, view), Example(view), Example("q", "a", text_view=view, code_view=view)):
        (pair,) = encode_examples([row], PairEncoder(tokenizer)).pairs
        for ids in (pair.text_ids, pair.code_ids, pair.text_view_ids, pair.code_view_ids):
            assert end not in (ids or [])


def test_an_end_token_that_is_an_added_word_is_letters_without_any_template():
    tokenizer = train_tokenizer(CORPUS, 300)
    tokenizer.add_tokens([AddedToken("</stop>", special=False)])
    tokenizer.eos_token = "</stop>"
    pair, _ = encode(tokenizer, Example("what is </stop>", "a </stop> b"))
    assert pair.code_ids.count(tokenizer.eos_token_id) == 1 and tokenizer.eos_token_id not in pair.text_ids


def test_tags_that_a_model_writes_are_letters_in_questions_and_tokens_in_answers(r1):
    """As a reasoning model has learned them; other added words, of a domain say, are tokens everywhere."""
    r1.add_tokens([AddedToken("[C]", special=False)])
    pair, _ = encode(r1, chat("what is <think>, [C]?", "hm</think>[C]"))
    think, done, domain = r1.convert_tokens_to_ids(["<think>", "</think>", "[C]"])
    assert think not in pair.text_ids and domain in pair.text_ids
    assert done in pair.code_ids and domain in pair.code_ids


# Templates of names


NAMED = {"tool_use": "{{ messages[0].content }}", "rag": "{{ messages[0].content }}"}


def test_named_templates_without_a_default_are_no_matter_to_rows_that_need_none(chat_tokenizer, raises):
    chat_tokenizer.chat_template = NAMED
    assert encode(chat_tokenizer, Example("q", "a"))[1] == ["q", "<|sep|>", "a<|end|>"]
    with raises("no_default_template", "rows.jsonl:3: ", "(rag, tool_use)"):
        encode(chat_tokenizer, chat("q", "a"))


def test_the_default_among_named_templates_is_used(chat_tokenizer):
    plain, shown = encode(chat_tokenizer, chat("q", "a"), date_string="01 Jan 2025")
    chat_tokenizer.chat_template = {**NAMED, "default": chat_tokenizer.chat_template}
    assert encode(chat_tokenizer, chat("q", "a"), date_string="01 Jan 2025") == (plain, shown)
