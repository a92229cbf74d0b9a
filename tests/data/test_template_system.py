"""A system message that a chat template adds to a chat without one: what it costs, and how it is left out."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from llm_jepa.cli import main
from llm_jepa.data.chat import ChatTemplate, remove_template_system
from llm_jepa.data.config import DataConfig
from llm_jepa.data.encode import PairEncoder
from llm_jepa.data.prepare import load_data
from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.objective.config import JEPAConfig

START, END = "<|im_start|>", "<|im_end|>"
ADDED = f"{START}system\nYou are a tiny assistant.{END}\n"
TURNS = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}ADDED{% endif %}"
    "{{ START + m.role + '\n' + m.content + END + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ START + 'assistant\n' }}{% endif %}"
)
PLAIN = TURNS.replace("START", repr(START)).replace("END", repr(END))  # ChatML, as SmolLM2, Qwen2.5 have it
SMOLLM2 = PLAIN.replace("ADDED", f"{{{{ {ADDED!r} }}}}")
NONE = PLAIN.replace("ADDED", "")
# Llama-3.1: the turn of the system is there in any case, with lines of the template's own.
LLAMA3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    f"{{{{ '{START}system\nKnowledge: 2023\n' + system + '{END}' }}}}"
    f"{{% for m in messages %}}{{{{ '{START}' + m.role + '\n\n' + m.content + '{END}' }}}}{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{{{{ '{START}assistant\n\n' }}}}{{% endif %}}\n"
)
REFUSES_TWO = "{% if messages | length > 2 %}{{ raise_exception('no') }}{% endif %}" + SMOLLM2


def make(template: str, bos: str | None = None):
    tokenizer = train_tokenizer(["You are a tiny assistant.", "lines with a dog", ".*dog.*"], 320)
    tokenizer.add_tokens([AddedToken(token, special=True) for token in (START, END, "<s>")])
    tokenizer.bos_token = bos
    tokenizer.eos_token = tokenizer.pad_token = END
    tokenizer.chat_template = template
    return tokenizer


def chat(*contents: str, system: str | None = None):
    messages = [] if system is None else [{"role": "system", "content": system}]
    return messages + [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


@pytest.mark.parametrize(
    ("template", "bos", "before", "kept"),
    [
        (SMOLLM2, None, f"{ADDED}{START}user\n", f"{START}user\n"),
        (SMOLLM2, START, f"{ADDED}{START}user\n", f"{START}user\n"),  # SmolLM2's begin token opens every turn
        (LLAMA3, "<s>", f"<s>{START}system\nKnowledge: 2023\n{END}{START}user\n\n", f"<s>{START}user\n\n"),
        (NONE, None, f"{START}user\n", f"{START}user\n"),
        (REFUSES_TWO, None, f"{ADDED}{START}user\n", f"{ADDED}{START}user\n"),
    ],
)
def test_what_the_template_adds_is_what_a_later_turn_lacks(template, bos, before, kept):
    assert ChatTemplate(make(template, bos), {}).opening() == (before, kept)


@pytest.mark.parametrize(("template", "bos"), [(SMOLLM2, None), (SMOLLM2, START), (LLAMA3, "<s>")])
def test_without_it_nothing_else_of_a_chat_changes(template, bos, tmp_path):
    """Chats with a system message stay as they are; the saved tokenizer has the changed template."""
    tokenizer, changed = make(template, bos), make(template, bos)
    before, kept = ChatTemplate(tokenizer, {}).opening()
    remove_template_system(changed, {})
    changed.save_pretrained(tmp_path)
    remove_template_system(changed, {})  # as where a finished run is read again
    assert changed.chat_template == AutoTokenizer.from_pretrained(tmp_path).chat_template
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for messages in (chat("a dog"), chat("a", "b", "c"), chat("a", "b"), chat("a", system="be brief")):
        for asks in (True, False):
            old = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
            new = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
            has_own = messages[0]["role"] == "system"
            assert new.rstrip("\n") == (old if has_own else old.replace(before, kept, 1)).rstrip("\n")


@pytest.mark.parametrize("template", [NONE, REFUSES_TWO, None])
def test_a_template_that_adds_none_is_said_to_have_none(raises, template):
    with raises("setting_without_effect", "template_system=false"):
        remove_template_system(make(template), {})


def test_values_for_a_template_that_is_not_there_are_refused(raises):
    with raises("setting_without_effect", "chat_template_kwargs"):
        PairEncoder(make(None), DataConfig(chat_template_kwargs={"enable_thinking": False}))


def test_a_message_with_todays_date_is_not_taken_out(raises):
    """Tomorrow's would be another text, and the template would leave it in."""
    dated = SMOLLM2.replace("{% for m", "{% set day = strftime_now('%d') %}{% for m", 1)
    with raises("template_not_changeable", "template_system=false"):
        remove_template_system(make(dated), {})


def load(tmp_path, rows, tokenizer, **settings):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return load_data(DataConfig(train_file=str(file), validation_size=0, **settings), JEPAConfig(), tokenizer)


def test_its_share_of_the_tokens_is_reported_with_the_way_to_turn_it_off(tmp_path):
    """Half of the rows bring a message of their own; with the setting no row has the template's."""
    bare = [chat(f"dog {number}", f".*{number}.*") for number in range(4)]
    own = [chat(f"cat {number}", f".*{number}.*", system="be brief") for number in range(4)]
    tokenizer = make(SMOLLM2)
    added = len(tokenizer(ADDED)["input_ids"])
    data = load(tmp_path, bare + own, tokenizer)
    share = 4 * added / sum(map(len, data.train.pairs))
    (note,) = [note for note in data.notes if "chat template adds" in note]
    assert f"adds {added} tokens to a chat that has no system message: {ADDED.strip()!r}" in note
    assert f"{share:.0%} of the tokens of the first 8 training rows" in note
    assert "Set template_system: false" in note
    less = load(tmp_path, bare + own, make(SMOLLM2), template_system=False)
    assert not any("chat template adds" in note for note in less.notes)
    lengths = [len(pair) for pair in data.train.pairs]
    assert [len(pair) for pair in less.train.pairs] == [*(each - added for each in lengths[:4]), *lengths[4:]]
    for rows, settings in ((own, {}), (bare, {"template_system": False})):
        notes = load(tmp_path, rows, make(SMOLLM2), **settings).notes
        assert not any("chat template adds" in note for note in notes)


def test_data_inspect_prints_it(tmp_path, capsys):
    make(SMOLLM2).save_pretrained(tmp_path / "tokenizer")
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": chat("a dog", ".*dog.*")}) + "\n")
    arguments = ["data", "inspect", str(file), "--set", f"tokenizer_name_or_path={tmp_path / 'tokenizer'}"]
    assert main(arguments) == 0
    assert "The chat template adds" in capsys.readouterr().out
    assert main([*arguments, "--set", "template_system=false"]) == 0
    assert "The chat template adds" not in capsys.readouterr().out
