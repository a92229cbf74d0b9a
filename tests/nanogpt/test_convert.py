"""`llm-jepa export` as its users meet it."""

from __future__ import annotations

import json

import pytest
import torch

from llm_jepa.cli import main
from llm_jepa.nanogpt import GPT, GPTConfig
from llm_jepa.progress import WIDTH

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
    error = refused(capsys, checkpoint, "--to", "gpt")
    assert "gpt" in error and "--force" in error and error.endswith("[file_exists]")
    call(capsys, checkpoint, "--to", "gpt", "--force")


@pytest.mark.parametrize(
    ("source", "to", "values"),
    [
        ("gone.pt", "gpt", ["gone.pt", "[file_missing]"]),
        ("out", "x.pt", ["out", "model/config.json", "[not_a_saved_model]"]),
        ("other", "x.pt", ["other", "'bert'", "'gpt2'", "[model_not_supported]"]),
        ("notes.txt", "gpt", ["notes.txt", "[checkpoint_damaged]"]),
        ("out/ckpt.pt", "gpt.pt", ["out/ckpt.pt", "[PRED]", "[nothing_to_export]"]),
        ("other", "gpt", ["--to", "gpt", "[wrong_ending]"]),
        ("run", "gpt", ["run", "config.yaml", "[not_a_run]"]),
        ("out/ckpt.pt", "out", ["out/ckpt.pt", "[output_is_input]"]),
    ],
)
def test_a_wrong_call_is_refused_in_one_paragraph(source, to, values, checkpoint, capsys, tmp_path):
    """Exit code 2, nothing on standard output, nothing written."""
    (tmp_path / "notes.txt").write_text("plain words\n")
    for folder in ("other", "run/model"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text('{"model_type": "bert"}')
    before = sorted(tmp_path.rglob("*"))
    error = refused(capsys, source, "--to", to)
    assert all(value in error for value in values), error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_check_is_work_that_failed(checkpoint, capsys, tmp_path, monkeypatch):
    """Exit code 1, and no folder."""
    monkeypatch.setattr("llm_jepa.nanogpt.convert.MAX_DIFFERENCE", -1.0)
    assert main(["export", checkpoint, "--to", "gpt"]) == 1
    assert "[export_differs]" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
