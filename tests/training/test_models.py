"""Models come from a preset or a folder, fit their tokenizer and rows, or are refused with the remedy."""

from __future__ import annotations

import pytest
import torch

from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.errors import ConfigError
from llm_jepa.training.models import PRESETS, ModelConfig, build_model, num_parameters, preset_config


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["lines with a dog", ".*dog.*"], 280)


def build(config, tokenizer, **options):
    return build_model(config, tokenizer, end_id=1, pad_id=0, **options)


class OfSize:
    """A tokenizer of so many tokens, of which the presets read the number alone."""

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


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tiny_model, tokenizer, tmp_path):
    """F4: the model has 64 rows, the tokenizer ids beyond them; numbers and remedy are named."""
    tiny_model("llama").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"ids up to {len(tokenizer) - 1} .* embedding has 64 rows"):
        build(ModelConfig(model_name_or_path=str(tmp_path)), tokenizer)
    with torch.device("meta"), pytest.raises(ConfigError, match="ids up to 59999 .* embedding has 50257 rows"):
        build(ModelConfig(model="gpt2-124m"), OfSize(60000))


def test_rows_longer_than_the_models_positions_are_refused(tiny_model, tokenizer, tmp_path):
    """128 positions take a row of 128 and no row of 129."""
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    config = ModelConfig(model_name_or_path=str(tmp_path))
    build(config, tokenizer, max_length=128)
    with pytest.raises(ConfigError, match="up to 129 positions.* model has 128.* Set max_length to 128 or less"):
        build(config, tokenizer, max_length=129)


def test_what_is_no_model_is_refused_by_its_name(tokenizer, tmp_path):
    """A folder that is not there, an empty one, one of a damaged configuration."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    for name in ("nowhere", "empty", "damaged"):
        with pytest.raises(ConfigError, match=f"model_name_or_path='.*{name}' cannot be loaded"):
            build(ModelConfig(model_name_or_path=str(tmp_path / name)), tokenizer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"model": "nanoo"}, "model='nanoo' is not one of: nano, mini"), ({"dropout": 1.0}, r"dropout=1.0 must be in")],
)
def test_a_setting_out_of_range_names_its_field(changes, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**changes)
