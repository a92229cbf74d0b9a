"""One text is asked as all training rows were: with their system message, their first turns, their template."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tokenizers import AddedToken

from llm_jepa.cli import main
from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.export.export_run import export_run
from llm_jepa.runs.run import train_run
from llm_jepa.runs.settings import read_run
from llm_jepa.runs.trained_run import load_run

SYSTEM = "Don't chat: answer with a regex."
SHOTS = [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": ".*cat.*"}]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if brief %}brief\n{% endif %}{% endif %}"
)
CASES = ("system", "turns", "include_system")


@pytest.fixture(scope="module")
def runs(tiny_settings, pair_files, write_chats, tmp_path_factory):
    """A run of each kind, by name; all rows of a run have the same before their question. Read only.

    The tokens of the template are added words, as in some published tokenizers: not special, and ends all the same.
    """
    home = tmp_path_factory.mktemp("context")
    tokenizer = train_tokenizer([pair_files[0].read_text(), SYSTEM], 320)
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ("<|im_start|>", "<|im_end|>")])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(home / "tokenizer")
    for name in CASES:
        before = [{"role": "system", "content": SYSTEM}, *(SHOTS if name == "turns" else [])]
        files = [
            write_chats(file, home / f"{name}-{split}.jsonl", before)
            for file, split in zip(pair_files, ("train", "test"), strict=True)
        ]
        kind = {"include_system": True}
        if name != "include_system":
            kind = {"tokenizer_name_or_path": str(home / "tokenizer"), "chat_template_kwargs": {"brief": True}}
        settings = tiny_settings(train_file=files[0], test_file=files[1], max_steps=8, learning_rate=2e-2, **kind)
        train_run(read_run(settings), 7, home / name)
    return {name: home / name for name in CASES}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_generate_answers_a_test_row_as_the_evaluation_did(runs, name, capsys):
    """The text alone is given; what all training rows have before it is sent with it."""
    records = [json.loads(line) for line in (runs[name] / "predictions.jsonl").read_text().splitlines()]
    texts = [json.loads(line)["messages"][-2]["content"] for line in _test_file(runs, name)]
    run = load_run(runs[name])
    assert [run.generate(text) for text in texts] == [record["output"] for record in records]
    assert main(["generate", str(runs[name]), texts[0]]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["system"] == SYSTEM


@pytest.mark.parametrize("name", CASES)
def test_what_is_asked_is_the_prompt_of_the_row(runs, name):
    """Token for token, in `generate` and in the query of `retrieve`."""
    run = load_run(runs[name])
    rows = run.rows(str(runs[name].parent / f"{name}-test.jsonl"))
    text = json.loads(_test_file(runs, name)[0])["messages"][-2]["content"]
    asked = run.context.ask(text)
    assert run.encoder.encode_prompt(asked) == run.encoder.encode_prompt(rows.examples[0])
    assert run.encoder.encode_query(asked, [5]).text_ids == rows.pairs[0].text_ids
    (nearest, *_), (other, *_) = run.retrieve(text, rows, 12), run.retrieve(text, rows, 12, system="")
    assert nearest != other


@pytest.mark.parametrize("name", CASES)
def test_another_system_message_takes_the_place_of_the_runs(runs, name, capsys):
    """--system TEXT replaces it, and --system '' sends none."""
    run = load_run(runs[name])
    for system in ("Answer with SQL.", ""):
        prompt = run.encoder.tokenizer.decode(run.encoder.encode_prompt(run.context.with_system(system).ask("a dog")))
        assert SYSTEM not in prompt and system in prompt
        assert main(["generate", str(runs[name]), "a dog", "--system", system]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["system"] == (system or None)


@pytest.mark.parametrize("name", CASES)
def test_the_cards_python_and_curl_send_what_training_rows_have(runs, name, tmp_path, monkeypatch, capsys):
    """The Python gives the answer of `generate`; the body of the request has the same messages, or the same text."""
    run = load_run(runs[name])
    card = Path(export_run(runs[name], tmp_path / "out")["out"], "README.md").read_text()
    assert SYSTEM in card.partition("## Data")[0].partition("As a program")[0]
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    exec(snippet.replace("YOUR TEXT", "a dog"), {})
    assert capsys.readouterr().out.removesuffix("\n") == run.generate("a dog")
    body = json.loads(re.search(r"-d '([^']*)'\n", card.replace("'\"$MODEL\"'", "x"), flags=re.DOTALL)[1])
    if name == "include_system":
        ids = run.encoder.encode_prompt(run.context.ask("YOUR TEXT"))
        assert body["prompt"] == run.encoder.tokenizer.decode(ids, skip_special_tokens=False)
    else:
        asked = run.context.ask("YOUR TEXT")
        assert body["messages"] == asked.messages and body["chat_template_kwargs"] == {"brief": True}


def test_a_run_without_system_messages_refuses_one(runs, tiny_settings, tmp_path, capsys):
    """It would have no effect: rows of two strings have no place for it."""
    train_run(read_run(tiny_settings(max_steps=1)), 0, tmp_path / "run")
    assert main(["generate", str(tmp_path / "run"), "a dog", "--system", "x"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "--system" in error and error.endswith("[setting_without_effect]")


def test_rows_that_are_asked_in_another_way_are_noted(runs, pair_files, write_chats, tmp_path, caplog):
    """A file without the system message of the training rows, and one that is no chat."""
    run = load_run(runs["system"])
    run.rows(write_chats(pair_files[1], tmp_path / "bare.jsonl", []))
    assert "The system message of the training rows is \"Don't chat" in caplog.text
    run.rows(str(pair_files[1]))
    assert "are asked without a chat template; the training rows with one" in caplog.text


def _test_file(runs, name):
    return (runs[name].parent / f"{name}-test.jsonl").read_text().splitlines()
