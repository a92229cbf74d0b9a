"""`llm-jepa export` as its users meet it."""

from __future__ import annotations

import json

import pytest
import torch

from llm_jepa.cli import WIDTH, main
from llm_jepa.nanogpt import GPT, GPTConfig

SIZE = {"block_size": 16, "vocab_size": 30, "n_layer": 1, "n_head": 2, "n_embd": 16}


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A checkpoint in the current folder, as nanoGPT's own class would be saved: without [PRED]."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    torch.manual_seed(0)
    weights = {key: each for key, each in GPT(GPTConfig(**SIZE)).state_dict().items() if key != "pred_token"}
    (tmp_path / "out").mkdir()
    torch.save({"model": weights, "model_args": SIZE | {"bias": True, "dropout": 0.0}}, "out/ckpt.pt")
    return "out/ckpt.pt"


def call(capsys, *argv):
    """Run a command that must succeed; return its lines above the last, and the last, as an object."""
    assert main(["export", *argv]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    return lines, json.loads(last)


def refused(capsys, *argv):
    """Run a command that must be refused; return its error as one line."""
    assert main(["export", *argv]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    return " ".join(said.err.split())


def test_a_checkpoint_becomes_a_folder_and_the_lines_say_how_to_load_it(checkpoint, capsys, tmp_path):
    """At most 80 columns, then one JSON object."""
    lines, last = call(capsys, checkpoint, "--to", "gpt")
    assert 'load   AutoModelForCausalLM.from_pretrained("gpt")' in lines
    assert any("No tokenizer is in the folder" in line for line in lines)
    assert max(map(len, lines)) <= WIDTH
    assert last.pop("max_logit_difference") < 1e-4
    parameters = 30 * 16 + 16 * 16 + 12 * 16 * 16 + 13 * 16 + 2 * 16
    expected = {"source": checkpoint, "out": "gpt", "format": "transformers", "parameters": parameters}
    assert last == expected | {"pred_token": "fresh"}
    assert sorted(each.name for each in (tmp_path / "gpt").iterdir()) == [
        *("config.json", "generation_config.json", "jepa.safetensors", "jepa_config.json", "model.safetensors")
    ]


def test_a_folder_becomes_a_checkpoint_and_the_lines_name_nanogpts_flag(checkpoint, capsys):
    """With the import that its scripts need."""
    call(capsys, checkpoint, "--to", "gpt")
    lines, last = call(capsys, "gpt", "--to", "again/ckpt.pt")
    said = " ".join(" ".join(lines).split())
    assert "--init_from=resume" in said and "from llm_jepa.nanogpt import GPTConfig, GPT" in said
    assert "No tokenizer is in the file" in said
    assert max(map(len, lines)) <= WIDTH
    assert (last["format"], last["pred_token"]) == ("nanogpt", "kept")


def test_what_is_there_is_written_over_with_force_alone(checkpoint, capsys):
    """Exit code 2, and the flag in the error."""
    call(capsys, checkpoint, "--to", "gpt")
    assert "gpt is there already. Choose another name, or write over it with --force." in refused(
        capsys, checkpoint, "--to", "gpt"
    )
    call(capsys, checkpoint, "--to", "gpt", "--force")


@pytest.mark.parametrize(
    ("source", "to", "message"),
    [
        ("gone.pt", "gpt", "gone.pt is not there. Expected a nanoGPT checkpoint"),
        ("out", "x.pt", "out holds neither config.json nor model/config.json"),
        ("other", "x.pt", "other holds a model of type 'bert'. Expected one of type 'gpt2'."),
        ("notes.txt", "gpt", "notes.txt is damaged, or is no file of torch.save"),
        ("out/ckpt.pt", "gpt.pt", "has no [PRED] among its weights: nanoGPT's own class loads it as it is"),
        ("other", "gpt", "from folder to folder changes nothing"),
        ("run", "gpt", "run holds no config.yaml. Expected the folder of a finished run"),
        ("out/ckpt.pt", "out", "one inside the other"),
    ],
)
def test_a_wrong_call_is_refused_in_one_paragraph(source, to, message, checkpoint, capsys, tmp_path):
    """Exit code 2, nothing on standard output, nothing written."""
    (tmp_path / "notes.txt").write_text("plain words\n")
    for folder in ("other", "run/model"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text('{"model_type": "bert"}')
    before = sorted(tmp_path.rglob("*"))
    assert message in refused(capsys, source, "--to", to)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_check_is_work_that_failed(checkpoint, capsys, tmp_path, monkeypatch):
    """Exit code 1, and no folder."""
    monkeypatch.setattr("llm_jepa.nanogpt.convert.MAX_DIFFERENCE", -1.0)
    assert main(["export", checkpoint, "--to", "gpt"]) == 1
    assert "The two models differ" in " ".join(capsys.readouterr().err.split())
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
