"""Models come from a preset or a folder, fit their tokenizer and rows, or are refused with the remedy."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.training import models, whole_model
from llm_jepa.training.adapters import AdapterConfig
from llm_jepa.training.models import (
    PRESETS,
    ModelConfig,
    build_model,
    check_model_fits,
    check_same_ids,
    load_own_tokenizer,
    num_parameters,
    preset_config,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["lines with a dog", ".*dog.*"], 280)


def build(config, tokenizer, **options):
    return build_model(config, tokenizer, end_id=1, pad_id=0, **options)


class OfSize:
    """A tokenizer of so many tokens, of which the presets read the number alone."""

    added_tokens_decoder, special_tokens_map, chat_template = {}, {}, None

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def get_vocab(self):
        return {"last": self.size - 1}


@pytest.mark.parametrize(
    ("preset", "millions"), [("nano", 0.92), ("mini", 14.4), ("gpt2-124m", 124.4), ("llama-1b", 1236)]
)
def test_presets_have_the_sizes_that_their_names_say(preset, millions):
    """Tied parameters counted once; a vocabulary of 512 where the tokenizer decides it."""
    with torch.device("meta"):
        model = build(ModelConfig(model=preset), OfSize(512))
    assert num_parameters(model) / 1e6 == pytest.approx(millions, rel=0.01)
    rows = model.get_input_embeddings().num_embeddings
    assert rows == PRESETS[preset].get("vocab_size", 512)


def test_a_model_knows_the_tokens_that_end_and_fill(tokenizer):
    """Generation and padding need them; no start token is made up."""
    model = build(ModelConfig(), tokenizer)
    assert (model.config.eos_token_id, model.config.pad_token_id, model.config.bos_token_id) == (1, 0, None)
    assert all(each.dtype == torch.float32 for each in model.parameters())


def test_weights_come_from_the_global_random_stream(tokenizer):
    """The run's seed gives the weights: the same seed the same bits, another seed others."""
    built = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        built.append(build(ModelConfig(), tokenizer).get_input_embeddings().weight)
    assert torch.equal(built[0], built[1]) and not torch.equal(built[0], built[2])


@pytest.mark.parametrize("preset", ["nano", "gpt2-124m"])
def test_dropout_reaches_the_layers_of_a_preset(preset):
    config = preset_config(ModelConfig(model=preset, dropout=0.1), 512, end_id=1, pad_id=0)
    names = ["attn_pdrop", "resid_pdrop", "embd_pdrop"] if preset == "gpt2-124m" else ["attention_dropout"]
    assert [getattr(config, name) for name in names] == [0.1] * len(names)


def test_a_model_of_a_folder_is_loaded_with_its_weights(tiny_model, tokenizer, tmp_path):
    """`model_name_or_path` takes what save_pretrained wrote, in float32 whatever it was saved in."""
    saved = tiny_model("llama", vocab_size=len(tokenizer)).to(torch.bfloat16)
    saved.save_pretrained(tmp_path)
    loaded = build(ModelConfig(model_name_or_path=str(tmp_path), attn_implementation="eager"), tokenizer)
    assert loaded.config._attn_implementation == "eager"
    for one, two in zip(loaded.parameters(), saved.parameters(), strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, two.float())


@pytest.mark.parametrize("name", ["~/model", "model", "./model", "../home/model"])
def test_a_model_is_found_by_a_home_folder_and_by_relative_paths(name, tiny_model, tokenizer, tmp_path, monkeypatch):
    home = tmp_path / "home"
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(home / "model")
    tokenizer.save_pretrained(home / "model")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(home)
    config = ModelConfig(model_name_or_path=name)
    assert build(config, load_own_tokenizer(config)).config.vocab_size == len(tokenizer)


@pytest.mark.parametrize("name", ["~/nowhere", "./nowhere", "C:\\models\\mine", "C:/models/mine", "models\\mine"])
def test_a_path_where_nothing_is_is_not_asked_of_the_hub(name, tokenizer, tmp_path, monkeypatch, raises):
    monkeypatch.chdir(tmp_path)
    config = ModelConfig(model_name_or_path=name)
    for load in (lambda: build(config, tokenizer), lambda: load_own_tokenizer(config)):
        with raises("folder_missing", f"model_name_or_path={name!r}"):
            load()


def test_a_file_a_run_and_an_adapter_in_the_place_of_a_model_are_told_apart(tiny_model, tokenizer, tmp_path, raises):
    """Each with what to set instead; an adapter with its base."""
    folder = tmp_path / "run"
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(folder / "model")
    (tmp_path / "adapter").mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": "owner/base", "task_type": "CAUSAL_LM"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    for place, code, value in (
        (folder / "model" / "config.json", "not_a_folder", f"folder that it is in, {folder / 'model'}."),
        (folder, "model_is_run", folder / "model"),
        (tmp_path / "adapter", "model_is_adapter", "owner/base"),
    ):
        config = ModelConfig(model_name_or_path=str(place))
        for load in (lambda config=config: build(config, tokenizer), lambda config=config: load_own_tokenizer(config)):
            with raises(code, "model_name_or_path", value):
                load()


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tiny_model, tokenizer, tmp_path, raises):
    """F4: the model has 64 rows, the tokenizer ids beyond them; numbers and remedy are named."""
    tiny_model("llama").save_pretrained(tmp_path)
    with raises("vocabulary_too_large", len(tokenizer) - 1, 64):
        build(ModelConfig(model_name_or_path=str(tmp_path)), tokenizer)
    with torch.device("meta"), raises("vocabulary_too_large", 59999, 50257):
        build(ModelConfig(model="gpt2-124m"), OfSize(60000))


def test_a_special_token_that_no_row_can_hold_needs_no_row_of_the_model(tiny_model, tokenizer, tmp_path, raises):
    """As that for images in the tokenizer of Gemma-3's text models; one with a role, or in the template, needs it."""
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config, extra = ModelConfig(model_name_or_path=str(tmp_path)), {"image_token": "<image>"}
    more = AutoTokenizer.from_pretrained(tmp_path, extra_special_tokens=extra)
    assert more.special_tokens_map["image_token"] == "<image>" and len(more) == len(tokenizer) + 1
    build(config, more)
    more.chat_template = "{{ messages[0]['content'] }}<image>"
    with raises("vocabulary_too_large", "<image>"):
        build(config, more)
    more.chat_template, more.pad_token = None, "<image>"
    with raises("vocabulary_too_large", "<image>"):
        build(config, more)


@pytest.mark.parametrize("change", ["a layer", "the head", "a shape", "half of the file"])
def test_a_model_without_all_its_weights_is_refused(change, tiny_model, tokenizer, tmp_path, raises):
    """transformers would go on with random numbers for what is missing."""
    tiny_model("llama", vocab_size=len(tokenizer), tie_word_embeddings=False).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    if change == "half of the file":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        words = ["a file is damaged"]
    elif change == "a shape":
        weights["model.norm.weight"] = torch.ones(3)
        words = ["1 of its weights have another shape", "model.norm.weight"]
    else:
        gone = [name for name in weights if name.startswith("model.layers.1." if change == "a layer" else "lm_head")]
        weights = {name: each for name, each in weights.items() if name not in gone}
        words = [f"{len(gone)} of its weights are missing", min(gone)]
    if change != "half of the file":
        save_file(weights, file, metadata={"format": "pt"})
    with raises("model_not_loadable", "model_name_or_path", *words):
        build(ModelConfig(model_name_or_path=str(tmp_path)), tokenizer)


def test_values_of_a_configuration_that_have_no_meaning_are_refused(tiny_model, tokenizer, tmp_path, raises):
    tiny_model("llama").save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"hidden_size": "32"}))
    with raises("model_not_loadable", "model_name_or_path", "config.json", "hidden_size"):
        build(ModelConfig(model_name_or_path=str(tmp_path)), tokenizer)


@pytest.mark.parametrize("settings", [{"dropout": 0.1}, {"model_revision": "main"}])
def test_a_setting_without_effect_on_a_folder_is_refused(settings, tiny_model, tokenizer, tmp_path, raises):
    """A pretrained model's dropout is in its config.json, and a folder has no revisions."""
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    with raises("setting_without_effect", *settings):
        build(ModelConfig(model_name_or_path=str(tmp_path), **settings), tokenizer)


def test_rows_longer_than_the_models_positions_are_refused(tiny_model, tokenizer, tmp_path, raises):
    """128 positions take a row of 128 and no row of 129; those of [PRED] count."""
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    config = ModelConfig(model_name_or_path=str(tmp_path))
    model = build(config, tokenizer)
    check_model_fits(model, tokenizer, max_length=128)
    with raises("row_too_long", 129, "model has 128", "max_length to 128"):
        check_model_fits(model, tokenizer, max_length=129)
    check_model_fits(model, tokenizer, max_length=126, jepa_k=2)
    with raises("row_too_long", 129, "2 of them for [PRED]", "max_length to 126"):
        check_model_fits(model, tokenizer, max_length=127, jepa_k=2)


def test_what_is_no_model_is_refused_by_its_name(tokenizer, tmp_path, raises):
    """A folder that is not there, an empty one, one of a damaged configuration."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    for name, code in (
        ("nowhere", "folder_missing"),
        ("empty", "model_not_loadable"),
        ("damaged", "model_not_loadable"),
    ):
        with raises(code, f"model_name_or_path={str(tmp_path / name)!r}"):
            build(ModelConfig(model_name_or_path=str(tmp_path / name)), tokenizer)


@pytest.mark.parametrize(
    ("changes", "code", "values"),
    [
        ({"model": "nanoo"}, "value_not_allowed", ["model='nanoo'", "nano, mini"]),
        ({"dropout": 1.0}, "value_out_of_range", ["dropout=1.0", "[0, 1)"]),
        ({"model_revision": "main"}, "setting_without_effect", ["model_revision", "model_name_or_path"]),
        ({"trust_remote_code": True}, "setting_without_effect", ["trust_remote_code", "model_name_or_path"]),
        (
            {"model_name_or_path": "a/b", "trust_remote_code": True},
            "code_not_pinned",
            ["trust_remote_code", "model_revision=None", "40 digits"],
        ),
        (
            {"model_name_or_path": "a/b", "trust_remote_code": True, "model_revision": "main"},
            "code_not_pinned",
            ["trust_remote_code", "model_revision='main'", "40 digits"],
        ),
    ],
)
def test_a_setting_out_of_range_names_its_field(changes, code, values, raises):
    with raises(code, *values):
        ModelConfig(**changes)


# ---- code that a model brings along ----


BOMB = """
from pathlib import Path
Path(__file__).with_name("marker").write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM
class Config(LlamaConfig):
    model_type = "bomb"
class Model(LlamaForCausalLM):
    config_class = Config
"""


@pytest.fixture
def bomb(tiny_model, tokenizer, tmp_path, monkeypatch):
    """A folder whose config.json asks for Python code of its own, which leaves a marker behind when it runs."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "bomb"
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "bomb", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(BOMB)
    return folder


def markers(folder):
    return list(folder.parent.rglob("marker"))


def test_code_that_a_model_brings_along_is_not_run(bomb, tokenizer, monkeypatch, raises):
    """F3: not run, not asked for on the terminal, and the error names the setting that would allow it."""
    monkeypatch.setattr("builtins.input", lambda _: "y")  # what an impatient user types
    with raises("code_not_trusted", bomb, "trust_remote_code", "model_revision"):
        build(ModelConfig(model_name_or_path=str(bomb)), tokenizer)
    assert not markers(bomb)


def test_code_of_a_pinned_commit_is_run_where_it_is_asked_for(bomb, tokenizer):
    """The control of the test above: the folder is what it seems, and both settings together let it run."""
    config = ModelConfig(model_name_or_path=str(bomb), trust_remote_code=True, model_revision=COMMIT)
    model = build(config, tokenizer)
    assert markers(bomb) and type(model).__name__ == "Model"


def test_a_kernel_of_the_hub_that_a_config_asks_for_is_refused(tiny_model, tokenizer, tmp_path, raises):
    """A line in config.json must not have code fetched and run."""
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"attn_implementation": "somebody/kernel"}))
    with raises("kernel_not_trusted", tmp_path, "'somebody/kernel'"):
        build(ModelConfig(model_name_or_path=str(tmp_path)), tokenizer)


def test_the_revision_reaches_model_and_tokenizer(tokenizer, monkeypatch, tmp_path, raises):
    """Weights of one commit and a tokenizer of another would be a wrong pair."""
    asked = []

    def refuse(name, **source):
        asked.append((name, source["revision"]))
        raise OSError("offline")

    monkeypatch.setattr(whole_model.AutoConfig, "from_pretrained", refuse)
    monkeypatch.setattr(models, "snapshot_download", refuse)
    config = ModelConfig(model_name_or_path="somebody/model", model_revision="v1")
    for load in (lambda: build(config, tokenizer), lambda: load_own_tokenizer(config)):
        with raises("not_downloaded", "somebody/model"):
            load()
    assert asked == [("somebody/model", "v1")] * 2


# ---- another tokenizer than the model's ----


def test_a_tokenizer_with_other_ids_than_the_models_own_is_refused(tokenizer, tmp_path, raises):
    """F4: all its ids fit the table, and each would be read as another word."""
    tokenizer.save_pretrained(tmp_path)
    config = ModelConfig(model_name_or_path=str(tmp_path))
    other = train_tokenizer(["quite other words, many of them, of other lengths"] * 3, 275)
    with raises("tokenizer_of_other_model", "tokenizer_name_or_path='other'", tmp_path, "have another id"):
        check_same_ids(config, other, "other")


def test_a_tokenizer_with_the_models_ids_is_taken(tokenizer, tmp_path):
    """With more tokens than the model's own, with another template, or where the model has none to compare with."""
    tokenizer.save_pretrained(tmp_path)
    more = train_tokenizer(["lines with a dog", ".*dog.*"], 280)
    more.add_tokens(["<new>"])
    more.chat_template = "{{ messages }}"
    check_same_ids(ModelConfig(model_name_or_path=str(tmp_path)), more, "more")
    check_same_ids(ModelConfig(model_name_or_path=str(tmp_path / "nowhere")), more, "more")


# ---- adapters ----


def test_lora_on_random_weights_is_refused(tokenizer, raises):
    """An adapter is saved without the weights it belongs to; random ones would be lost."""
    with raises("setting_missing", "lora_r=4", "'nano'", "model_name_or_path"):
        build(ModelConfig(), tokenizer, adapter=AdapterConfig(lora_r=4))


def test_four_bits_without_what_they_need_are_refused(tiny_model, tokenizer, tmp_path, monkeypatch, raises):
    """No bitsandbytes: told before anything is loaded, with what to install."""
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    adapter = AdapterConfig(lora_r=4, quantization="4bit")
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda _: None)
    with raises("package_missing", "quantization=4bit", "bitsandbytes", "pip install 'llm-jepa[qlora]'"):
        build(ModelConfig(model_name_or_path=str(tmp_path)), tokenizer, adapter=adapter)
