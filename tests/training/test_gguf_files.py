"""Models in a GGUF file: read as ordinary weights, saved as a plain folder, refused with the reason."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llm_jepa.cli import main
from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.runs.build_trainer import notes_on
from llm_jepa.runs.settings import read_run
from llm_jepa.training import gguf_files
from llm_jepa.training.adapters import AdapterConfig
from llm_jepa.training.models import ModelConfig, build_model, check_adapter, load_own_tokenizer

TEXTS = ["lines with a dog", ".*dog.*", "lines without a number 42"]


@pytest.fixture(scope="module")
def packed(write_gguf, tmp_path_factory):
    """A folder with one tiny Llama in three types of tensors, its tokenizer, and what weights each file holds."""
    folder = tmp_path_factory.mktemp("gguf")
    tokenizer = train_tokenizer(TEXTS, 300)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **size))
    kinds = ("Q8_0", "Q4_1", "F32")
    return folder, tokenizer, {kind: write_gguf(model, tokenizer, folder / f"{kind}.gguf", kind) for kind in kinds}


def build(folder, kind, **settings):
    config = ModelConfig(model_name_or_path=str(folder), gguf_file=f"{kind}.gguf", **settings)
    tokenizer = load_own_tokenizer(config)
    return build_model(config, tokenizer, end_id=1, pad_id=0), tokenizer


@pytest.mark.parametrize(("dtype", "expected"), [("float32", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F32"])
def test_the_weights_are_those_of_the_file_in_the_training_dtype(kind, dtype, expected, packed):
    """Ordinary tensors, each with a gradient; nothing is left that says they were quantized."""
    folder, _, held = packed
    model, _ = build(folder, kind, weights_dtype=dtype)
    state = model.state_dict()
    assert state.keys() == held[kind].keys()
    for name, weight in held[kind].items():
        assert torch.equal(state[name], weight.to(expected)), name
    assert all(each.requires_grad and each.dtype == expected for each in model.parameters())
    assert not getattr(model, "is_quantized", False) and not hasattr(model.config, "quantization_config")


def test_it_is_saved_as_a_plain_folder_with_the_same_logits(packed, tmp_path, raises):
    """And so by `llm-jepa export NAME.gguf --to FOLDER`; plain transformers loads it without gguf."""
    folder, own, _ = packed
    model, tokenizer = build(folder, "Q8_0")
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == own(TEXTS[0])["input_ids"]
    assert len(tokenizer) == len(own)  # no token of GPT-2's, which transformers would add
    model.save_pretrained(tmp_path / "saved")
    assert main(["export", str(folder / "Q8_0.gguf"), "--to", str(tmp_path / "plain")]) == 0
    for place in (tmp_path / "saved", tmp_path / "plain"):
        loaded = AutoModelForCausalLM.from_pretrained(place)
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    loaded = AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert [loaded(text)["input_ids"] for text in TEXTS] == [own(text)["input_ids"] for text in TEXTS]
    with raises("file_exists", tmp_path / "plain"):
        gguf_files.convert_gguf(folder / "Q8_0.gguf", tmp_path / "plain")


def test_the_notes_of_a_run_say_that_the_weights_were_quantized(packed):
    folder, _, _ = packed
    settings = {"train_file": "rows.jsonl", "model_name_or_path": str(folder), "learning_rate": 1e-3}
    (note,) = notes_on(read_run(settings | {"gguf_file": "Q4_1.gguf"}))
    assert note.startswith("The weights of Q4_1.gguf were quantized (Q4_1 in 16 of 21 tensors)")
    assert notes_on(read_run(settings | {"gguf_file": "F32.gguf"})) == []


@pytest.mark.parametrize(
    ("name", "change", "code", "value"),
    [
        ("none.gguf", None, "file_missing", "F32.gguf, Q4_1.gguf, Q8_0.gguf"),
        ("cut.gguf", lambda data: data[:2000], "gguf_not_readable", "whole GGUF file"),
        ("text.gguf", lambda data: b"no model", "gguf_not_readable", "whole GGUF file"),
        ("other.gguf", lambda data: data.replace(b"llama", b"lumma"), "gguf_not_readable", "architecture lumma"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(name, change, code, value, packed, tmp_path, raises):
    folder, _, _ = packed
    if change is not None:
        folder, source = tmp_path, folder
        (folder / name).write_bytes(change((source / "F32.gguf").read_bytes()))
    config = ModelConfig(model_name_or_path=str(folder), gguf_file=name)
    with raises(code, name, folder, value):
        load_own_tokenizer(config)
    with raises(code, name, folder, value):
        build_model(config, train_tokenizer(TEXTS, 300), end_id=1, pad_id=0)


def test_the_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, raises):
    monkeypatch.setattr(gguf_files.importlib.util, "find_spec", lambda name: None)
    with raises("package_missing", "gguf_file='a.gguf'", "pip install 'llm-jepa[gguf]'"):
        load_own_tokenizer(ModelConfig(model_name_or_path=str(tmp_path), gguf_file="a.gguf"))


@pytest.mark.parametrize(
    ("settings", "code", "values"),
    [
        ({}, "setting_without_effect", ["gguf_file", "model_name_or_path"]),
        (
            {"model_name_or_path": "x", "model_revision": "main"},
            "settings_conflict",
            ["gguf_file='a.gguf'", "model_revision"],
        ),
    ],
)
def test_settings_that_do_not_go_with_a_file_are_refused(settings, code, values, raises):
    with raises(code, *values):
        ModelConfig(gguf_file="a.gguf", **settings)


def test_lora_asks_for_a_plain_folder(tmp_path, raises):
    """PEFT names its base by a folder, and has no place for a file in it."""
    config = ModelConfig(model_name_or_path=str(tmp_path), gguf_file="a.gguf")
    with raises("settings_conflict", "lora_r=4", "gguf_file='a.gguf'", "llm-jepa export"):
        check_adapter(config, AdapterConfig(lora_r=4))


def test_a_gguf_file_without_its_setting_is_pointed_out(tmp_path, raises):
    """Whoever names the file itself, or its folder alone, is told what to set."""
    (tmp_path / "a.gguf").touch()
    for name, code in ((tmp_path, "setting_missing"), (tmp_path / "a.gguf", "not_a_folder")):
        with raises(code, "gguf_file to a.gguf"):
            load_own_tokenizer(ModelConfig(model_name_or_path=str(name)))
    with raises("folder_missing", "model_name_or_path='owner/name'", "gguf_file='a.gguf'"):
        load_own_tokenizer(ModelConfig(model_name_or_path="owner/name", gguf_file="a.gguf"))
