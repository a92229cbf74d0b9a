"""What is saved loads in plain transformers, and comes back as it was."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from llm_jepa.data.tokenizer import load_tokenizer, train_tokenizer
from llm_jepa.objective import FusedCollator
from llm_jepa.training.saving import (
    CONFIG,
    INDEX,
    PREDICTOR,
    TARGET,
    WEIGHTS,
    load_jepa,
    restore_weights,
    save_jepa,
)

SHARD = "20KB"  # a model of 100 kB in several files, some of one tensor, some of many

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])

ELSEWHERE = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
assert not [name for name in sys.modules if name.startswith("llm_jepa")]
torch.set_num_threads(int(sys.argv[3]))  # or sums are split otherwise, and have other last digits
with torch.no_grad():
    logits = model(torch.tensor([[5, 6, 7, 8, 9, 10, 11]])).logits
torch.save({"logits": logits, "vocab_size": model.config.vocab_size}, sys.argv[2])
"""


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits


@pytest.mark.parametrize("model", ["llama", "gpt2", "qwen3", "mistral", "gemma2"])
def test_a_saved_model_is_a_plain_transformers_model(model, make_jepa, tmp_path):
    """Promise 4: AutoModelForCausalLM finds every weight it expects and no other, the same logits, vocabulary, [PRED]
    nowhere."""
    jepa = make_jepa(model, jepa_k=3, jepa_target="ema")
    save_jepa(jepa, tmp_path)
    plain, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert type(plain) is type(jepa.model)
    assert plain.get_input_embeddings().num_embeddings == plain.config.vocab_size == 64
    assert torch.equal(logits(plain), logits(jepa.model))


@pytest.mark.slow
def test_a_saved_model_loads_where_this_package_is_not_imported(make_jepa, tmp_path):
    """Promise 4, in a process of its own that never imports llm_jepa."""
    jepa = make_jepa("llama", jepa_k=2)
    save_jepa(jepa, tmp_path / "model")
    command = [
        sys.executable,
        "-c",
        ELSEWHERE,
        str(tmp_path / "model"),
        str(tmp_path / "seen.pt"),
        str(torch.get_num_threads()),
    ]
    subprocess.run(command, check=True, capture_output=True)
    seen = torch.load(tmp_path / "seen.pt", weights_only=True)
    assert seen["vocab_size"] == 64
    assert torch.equal(seen["logits"], logits(jepa.model))


def test_the_tokenizer_is_saved_unchanged(make_jepa, tmp_path):
    """The vocabulary has no [PRED]: it is the tokenizer's own, id for id."""
    tokenizer = train_tokenizer(["lines with a dog", ".*dog.*"], 280)
    save_jepa(make_jepa("llama", changes={"vocab_size": len(tokenizer)}, jepa_k=2), tmp_path, tokenizer)
    assert load_tokenizer(str(tmp_path)).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    "objective",
    [{}, {"jepa_k": 3, "jepa_pred_tokens": "distinct"}, {"jepa_k": 0}, {"jepa_predictor": "mlp", "jepa_k": 0}],
)
def test_pred_tokens_and_objective_come_back_as_they_were(objective, make_jepa, make_pairs, tmp_path):
    """[PRED] and the head have the same bits, the objective the same settings, and so the loss the same value."""
    jepa = make_jepa(jepa_distance="mse", **objective)
    for each in jepa.predictor.parameters():
        torch.nn.init.normal_(each)
    save_jepa(jepa, tmp_path)
    loaded = load_jepa(tmp_path)
    assert loaded.config == jepa.config
    for one, two in zip(loaded.predictor.parameters(), jepa.predictor.parameters(), strict=True):
        assert torch.equal(one, two)
    batch = FusedCollator(jepa.config, pad_token_id=0)(make_pairs(3))
    assert torch.equal(loaded.eval()(batch).loss, jepa.eval()(batch).loss)


def test_the_slow_copy_comes_back_bit_for_bit(make_jepa, make_pairs, tmp_path):
    """With target ema a run goes on from it, and a finished model is looked at with the Enc(Code) of its figures."""
    jepa, other = make_jepa(jepa_target="ema"), make_jepa(seed=1, jepa_target="ema")
    for each in jepa.target.parameters():
        each.data.add_(torch.randn_like(each))
    save_jepa(jepa, tmp_path)
    restore_weights(other, tmp_path)
    loaded = load_jepa(tmp_path)
    for again in (other, loaded):
        for one, two in zip(again.parameters(), jepa.parameters(), strict=True):
            assert torch.equal(one, two)
    batch = FusedCollator(jepa.config, pad_token_id=0)(make_pairs(3))
    seen, expected = loaded.eval()(batch), jepa.eval()(batch)
    assert torch.equal(seen.code_emb, expected.code_emb) and torch.equal(seen.jepa_loss, expected.jepa_loss)


def test_a_slow_copy_that_is_gone_is_the_model_itself(make_jepa, tmp_path):
    """A model that was exported, or passed on without that file, is none the less whole."""
    jepa = make_jepa(jepa_target="ema")
    for each in jepa.target.parameters():
        each.data.add_(0.5)
    save_jepa(jepa, tmp_path)
    (tmp_path / TARGET).unlink()
    own = dict(jepa.backbone.layers.named_parameters())
    for name, each in load_jepa(tmp_path).target.layers.named_parameters():
        assert torch.equal(each, own[name])


def test_only_safetensors_and_json_are_written(make_jepa, tmp_path):
    """F1: nothing in the folder could run code when it is read."""
    save_jepa(make_jepa(jepa_target="ema"), tmp_path, train_tokenizer(["a b"], 260))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


# ---- weights in several files ----


def shards_in(folder, name=WEIGHTS):
    return sorted(folder.glob(name.replace(".", "-*-of-*.")))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_in_several_files_is_the_model_in_one(family, make_jepa, tmp_path):
    """Same bits by transformers, by `load_jepa` and put into a model of ours, slow copy included; GPT-2's head is
    tied, and stands in none of the files."""
    jepa, other = (make_jepa(family, seed=seed, jepa_k=2, jepa_target="ema") for seed in (0, 1))
    for each in jepa.target.parameters():
        each.data.add_(0.5)
    save_jepa(jepa, tmp_path, max_shard_size=SHARD)
    for name in (WEIGHTS, TARGET):
        assert not (tmp_path / name).exists() and (tmp_path / (name + INDEX)).is_file()
        assert len(shards_in(tmp_path, name)) > 3
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    plain, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(logits(plain), logits(jepa.model))
    assert torch.equal(logits(load_jepa(tmp_path).model), logits(jepa.model))
    restore_weights(other, tmp_path)
    for one, two in zip(other.parameters(), jepa.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", [WEIGHTS, TARGET])
def test_a_shard_that_is_missing_or_an_index_that_is_damaged_is_named(name, make_jepa, tmp_path, raises):
    """F5: nor does an index lead out of its folder, to weights of somebody else."""
    jepa = make_jepa(jepa_target="ema")
    save_jepa(jepa, tmp_path / "model", max_shard_size=SHARD)
    index = tmp_path / "model" / (name + INDEX)
    good, first = index.read_text(), shards_in(tmp_path / "model", name)[0]
    moved = first.rename(tmp_path / first.name)
    with raises("weights_missing", first):
        restore_weights(jepa, tmp_path / "model")
    outside = good.replace(first.name, f"../{first.name}")
    for text in (outside, good.replace(first.name, str(moved)), good[:100], "[]", "{}", '{"weight_map": {}}'):
        index.write_text(text)
        with raises("checkpoint_damaged", index):
            restore_weights(jepa, tmp_path / "model")


def test_shards_of_another_model_are_refused(make_jepa, tmp_path, raises):
    save_jepa(make_jepa(), tmp_path, max_shard_size=SHARD)
    for changes in ({"num_hidden_layers": 3}, {"intermediate_size": 48}):
        with raises("weights_of_other_model", tmp_path / WEIGHTS):
            restore_weights(make_jepa(changes=changes), tmp_path)


# ---- folders that are not what they should be ----


def test_another_number_of_pred_tokens_is_refused(make_jepa, tmp_path, raises):
    """jepa_k 2 saved, jepa_k 3 asked for: file, both shapes, and the settings to look at are named."""
    save_jepa(make_jepa(jepa_k=2, jepa_pred_tokens="distinct"), tmp_path)
    other = make_jepa(jepa_k=3, jepa_pred_tokens="distinct")
    with raises("weights_of_other_model", tmp_path / PREDICTOR, "(2, 32)", "(3, 32)", "jepa_k", "jepa_pred_tokens"):
        restore_weights(other, tmp_path)


def test_another_head_is_refused(make_jepa, tmp_path, raises):
    """A head where none is asked for, none where one is, and another kind: the file and the setting are named."""
    for saved, wanted in [("mlp", "none"), ("none", "linear"), ("linear", "mlp")]:
        save_jepa(make_jepa(jepa_predictor=saved), tmp_path)
        with raises("weights_of_other_model", tmp_path / PREDICTOR, "embedding", f"jepa_predictor={wanted}"):
            restore_weights(make_jepa(jepa_predictor=wanted), tmp_path)


def test_weights_of_another_model_are_refused(make_jepa, tmp_path, raises):
    """Another number of layers, another width, another family: never loaded in part."""
    save_jepa(make_jepa(), tmp_path)
    for other in (
        make_jepa(changes={"num_hidden_layers": 3}),
        make_jepa(changes={"intermediate_size": 48}),
        make_jepa("gpt2"),
    ):
        with raises("weights_of_other_model", tmp_path / WEIGHTS):
            restore_weights(other, tmp_path)


@pytest.mark.parametrize("name", [WEIGHTS, PREDICTOR, TARGET])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_missing_or_cut_file_of_a_checkpoint_is_named(name, damage, make_jepa, tmp_path, raises):
    """A5, A6: the error is ours and says which file."""
    jepa = make_jepa(jepa_target="ema")
    save_jepa(jepa, tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if damage == "cut":
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with raises("checkpoint_damaged" if damage == "cut" else "weights_missing", tmp_path / name):
        restore_weights(jepa, tmp_path)


def test_a_folder_that_is_no_saved_model_is_refused(make_jepa, tmp_path, raises):
    """An empty folder, settings that are not JSON, an unknown setting, weights cut short."""
    with raises("not_a_saved_model", tmp_path, CONFIG, "RUN/model"):
        load_jepa(tmp_path)
    save_jepa(make_jepa(), tmp_path)
    good = json.loads((tmp_path / CONFIG).read_text())
    for text in ("{", "[]", json.dumps(good | {"jepa_lamda": 1.0}), json.dumps(good | {"jepa_k": -1})):
        (tmp_path / CONFIG).write_text(text)
        with raises("checkpoint_damaged", tmp_path / CONFIG):
            load_jepa(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(good))
    load_jepa(tmp_path)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:1000])
    with raises("model_not_loadable", tmp_path):
        load_jepa(tmp_path)
