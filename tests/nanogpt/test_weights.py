"""nanoGPT checkpoints and GPT-2 folders hold the same model, and what is neither is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM
from transformers.models.gpt2 import GPT2Config, GPT2LMHeadModel, GPT2Model

from llm_jepa.errors import DataError
from llm_jepa.nanogpt import GPT, GPTConfig
from llm_jepa.nanogpt import weights as weights_module
from llm_jepa.nanogpt.convert import export
from llm_jepa.nanogpt.weights import (
    from_transformers,
    load_gpt2,
    save_checkpoint,
    to_transformers,
)
from llm_jepa.objective import Pair
from llm_jepa.training.saving import PREDICTOR, load_jepa
from llm_jepa.training.view_embeddings import view_embeddings

VOCAB_SIZE, BLOCK_SIZE, C = 40, 24, 32
SIZE = {"block_size": BLOCK_SIZE, "vocab_size": VOCAB_SIZE, "n_layer": 2, "n_head": 4, "n_embd": C}
GPT2_SIZE = {"n_positions": BLOCK_SIZE, "vocab_size": VOCAB_SIZE, "n_layer": 2, "n_head": 4, "n_embd": C}
IDS = torch.randint(VOCAB_SIZE, (3, BLOCK_SIZE), generator=torch.Generator().manual_seed(1))

ELSEWHERE = """
import sys, torch
sys.modules["llm_jepa"] = None  # importing it raises
from transformers import AutoModelForCausalLM
model, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
assert not any(info.values()), info
torch.save(model.eval()(torch.load(sys.argv[2])).logits, sys.argv[3])
"""


def build(seed=0, **changes):
    """Return a tiny GPT with weights so large that each of them, and the activation, matters."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**{**SIZE, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def build_gpt2(seed=0, **changes):
    """Return a tiny GPT-2 of transformers with large weights, biases included."""
    torch.manual_seed(seed)
    ids = {"bos_token_id": None, "eos_token_id": None}
    model = GPT2LMHeadModel(GPT2Config(**{**GPT2_SIZE, **ids, "initializer_range": 0.5, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


@torch.no_grad()
def logits(model):
    model.eval()
    return model(IDS, IDS)[0] if isinstance(model, GPT) else model(IDS).logits


def assert_same_logits(first, second):
    expected = logits(second)
    assert (logits(first) - expected).abs().max() <= 1e-6 * expected.abs().max()


def by_hand(n_layer=2, vocab_size=VOCAB_SIZE, bias=True):
    """Return a checkpoint as nanoGPT's train.py writes it, every name and shape spelled out here."""
    random_tensor = torch.Generator().manual_seed(2)

    def weights(*shape):
        return torch.randn(*shape, generator=random_tensor) * 0.3

    table = weights(vocab_size, C)
    model = {"transformer.wte.weight": table, "transformer.wpe.weight": weights(BLOCK_SIZE, C)}
    shapes = {"attn.c_attn": (3 * C, C), "attn.c_proj": (C, C), "mlp.c_fc": (4 * C, C), "mlp.c_proj": (C, 4 * C)}
    norms = [f"transformer.h.{layer}.ln_{number}" for layer in range(n_layer) for number in (1, 2)]
    for name in [*norms, "transformer.ln_f"]:
        model[f"{name}.weight"] = 1 + weights(C)
        model |= {f"{name}.bias": weights(C)} if bias else {}
    for layer in range(n_layer):
        for name, shape in shapes.items():
            model[f"transformer.h.{layer}.{name}.weight"] = weights(*shape)
            model |= {f"transformer.h.{layer}.{name}.bias": weights(shape[0])} if bias else {}
    model["lm_head.weight"] = table
    model_args = {**SIZE, "n_layer": n_layer, "vocab_size": vocab_size, "bias": bias, "dropout": 0.0}
    return {
        "model": model,
        "optimizer": {"state": {}, "param_groups": []},
        "model_args": model_args,
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.47),
        "config": {"dataset": "letters", "compile": False, "learning_rate": 1e-3},
    }


def write(path, checkpoint):
    torch.save(checkpoint, path)
    return path


# ---- GPT-2 of transformers ----


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh"])
def test_a_gpt2_of_transformers_gives_the_same_logits(activation):
    """1e-6, on weights so large that another activation would show."""
    theirs = build_gpt2(activation_function=activation)
    ours = from_transformers(theirs, dropout=0.25)
    assert_same_logits(ours, theirs)
    assert ours.config == GPTConfig(
        **SIZE, dropout=0.25, bias=True, activation="gelu" if activation == "gelu" else "gelu_new"
    )


def test_the_activation_matters_with_such_weights():
    """What the test above would see of exact gelu in the place of gelu_new."""
    theirs = build_gpt2(activation_function="gelu_new")
    wrong = logits(from_transformers(theirs))
    theirs.config.activation_function = "gelu"
    other = logits(from_transformers(theirs))
    assert (wrong - other).abs().max() > 1e-4 * other.abs().max()


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_model_that_goes_and_comes_back_is_the_same(bias, activation):
    """Weights bit for bit, the config whole; a bias-free model comes back without biases."""
    model = build(bias=bias, activation=activation, dropout=0.1)
    theirs = to_transformers(model)
    assert_same_logits(theirs, model)
    back = from_transformers(theirs, dropout=0.1)
    assert back.config == model.config
    weights = model.state_dict()
    assert back.state_dict().keys() == weights.keys()
    assert [key for key, each in back.state_dict().items() if not torch.equal(each, weights[key])] == ["pred_token"]


def test_the_converted_model_shares_no_memory_with_its_source():
    """Training one does not move the other."""
    model = build()
    theirs = to_transformers(model)
    before = logits(theirs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(logits(theirs), before)


def test_a_bias_free_model_whose_biases_were_trained_elsewhere_keeps_them():
    """transformers has them and trains them; then they are no zeros that may be left out."""
    theirs = to_transformers(build(bias=False))
    with torch.no_grad():
        theirs.transformer.h[1].mlp.c_fc.bias[3] = 0.5
    ours = from_transformers(theirs)
    assert ours.config.bias is True
    assert_same_logits(ours, theirs)


def test_a_gpt2_whose_biases_happen_to_be_zero_keeps_them():
    """Only what `to_transformers` marked is bias-free."""
    theirs = to_transformers(build(bias=False))
    del theirs.config.nanogpt_bias
    assert from_transformers(theirs).config.bias is True


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("activation_function", "relu"),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("reorder_and_upcast_attn", True),
        ("add_cross_attention", True),
        ("n_inner", 48),
        ("layer_norm_epsilon", 1e-6),
        ("tie_word_embeddings", False),
    ],
)
def test_a_gpt2_that_nanogpt_cannot_say_is_refused_by_name(setting, value, tmp_path, raises):
    """In memory, and on disk before its weights are read."""
    theirs = build_gpt2(**{setting: value})
    with raises("model_not_supported", f"{setting}={value!r}"):
        from_transformers(theirs)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with raises("model_not_supported", f"{setting}={value!r}"):
        load_gpt2(str(tmp_path))


def test_a_gpt2_with_a_head_of_its_own_is_refused(raises):
    """Even where its config says that it has none."""
    theirs = build_gpt2()
    theirs.lm_head.weight = torch.nn.Parameter(theirs.lm_head.weight * 2)
    with raises("model_not_supported", "lm_head.weight", "transformer.wte.weight"):
        from_transformers(theirs)


def test_a_sharded_folder_loads(tmp_path):
    """As transformers writes large models: several files and their index."""
    theirs = build_gpt2()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_same_logits(load_gpt2(str(tmp_path)), theirs)


def test_half_precision_weights_load_in_float32(tmp_path):
    """nanoGPT trains float32 weights."""
    theirs = build_gpt2().to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    ours = load_gpt2(str(tmp_path))
    assert ours.lm_head.weight.dtype == torch.float32
    assert_same_logits(ours, theirs.float())


def test_a_folder_of_another_model_is_refused(tiny_model, tmp_path, raises):
    """By its type."""
    tiny_model("llama").save_pretrained(tmp_path)
    with raises("model_not_supported", tmp_path, "'llama'", "'gpt2'"):
        load_gpt2(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", json.dumps({"model_type": "gpt2", **GPT2_SIZE, "n_layer": "two"})),
        ("config.json", json.dumps({"model_type": "gpt2", **GPT2_SIZE, "n_embd": 64})),
        ("model.safetensors", "not a model"),
        ("model.safetensors", None),
    ],
    ids=["syntax", "list", "type", "shape", "damaged", "missing"],
)
def test_a_damaged_folder_is_refused(name, content, tmp_path, raises):
    """With its name, in one paragraph."""
    build_gpt2().save_pretrained(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with raises("model_not_loadable", tmp_path) as caught:
        load_gpt2(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_without_some_weights_is_refused(tmp_path, raises):
    """transformers would fill them with random numbers."""
    shallow = GPT2Model(GPT2Config(**{**GPT2_SIZE, "n_layer": 1}))
    shallow.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"n_layer": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with raises("weights_missing", tmp_path, "12 of its weights", "transformer.h.1.attn"):
        load_gpt2(str(tmp_path))


# ---- checkpoints of nanoGPT ----


@pytest.mark.parametrize("bias", [True, False])
def test_a_checkpoint_written_by_hand_loads(bias, tmp_path):
    """Names and shapes of nanoGPT, without any code of ours or theirs; the logits are those of a GPT-2 built on it."""
    checkpoint = by_hand(bias=bias)
    model = GPT.from_checkpoint(write(tmp_path / "ckpt.pt", checkpoint))
    assert model.config == GPTConfig(**checkpoint["model_args"])
    ids = {"bos_token_id": None, "eos_token_id": None}
    theirs = GPT2LMHeadModel(GPT2Config(**GPT2_SIZE, **ids, activation_function="gelu"))
    linear = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    weights = {key: each.T if key.endswith(linear) else each for key, each in checkpoint["model"].items()}
    zeros = {key: torch.zeros_like(each) for key, each in theirs.state_dict().items() if key.endswith("bias")}
    theirs.load_state_dict({**zeros, **weights})
    assert_same_logits(model, theirs)


@pytest.mark.parametrize("prefix", ["module.", "module._orig_mod.", "_orig_mod.module."])
def test_names_of_ddp_load_with_those_of_torch_compile_in_any_order(prefix, tmp_path, raises):
    """By the file's reader, and by `load_state_dict`."""
    checkpoint = by_hand()
    expected = logits(GPT.from_checkpoint(write(tmp_path / "plain.pt", checkpoint)))
    wrapped = {prefix + key: each for key, each in checkpoint["model"].items()}
    loaded = GPT.from_checkpoint(write(tmp_path / "wrapped.pt", checkpoint | {"model": wrapped}))
    assert torch.equal(logits(loaded), expected)
    loaded.load_state_dict({name: torch.zeros_like(each) for name, each in checkpoint["model"].items()})
    loaded.load_state_dict(dict(wrapped))
    assert torch.equal(logits(loaded), expected)
    both = checkpoint | {"model": checkpoint["model"] | wrapped}
    with raises("weights_repeated", "both.pt"):
        GPT.from_checkpoint(write(tmp_path / "both.pt", both))


def test_names_of_torch_compile_and_masks_of_old_versions_load(tmp_path):
    """`_orig_mod.` and `.attn.bias` are in many checkpoints, and no weights."""
    checkpoint = by_hand()
    expected = logits(GPT.from_checkpoint(write(tmp_path / "plain.pt", checkpoint)))
    weights = {f"_orig_mod.{key}": each for key, each in checkpoint["model"].items()}
    mask = torch.ones(BLOCK_SIZE, BLOCK_SIZE).tril().view(1, 1, BLOCK_SIZE, BLOCK_SIZE)
    weights |= {f"_orig_mod.transformer.h.{layer}.attn.bias": mask for layer in range(2)}
    loaded = GPT.from_checkpoint(write(tmp_path / "old.pt", checkpoint | {"model": weights}))
    assert torch.equal(logits(loaded), expected)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_a_saved_checkpoint_loads_as_it_was(activation, tmp_path):
    """[PRED] and activation, too."""
    model = build(bias=False, activation=activation, dropout=0.2)
    save_checkpoint(model, tmp_path / "ckpt.pt")
    back = GPT.from_checkpoint(tmp_path / "ckpt.pt")
    assert back.config == model.config
    assert torch.equal(back.pred_token, model.pred_token)
    assert torch.equal(logits(back), logits(model))
    assert [each.name for each in tmp_path.iterdir()] == ["ckpt.pt"]


def test_a_saved_checkpoint_is_what_nanogpts_scripts_read(tmp_path):
    """train.py --init_from=resume: its six keys, its names after its own clean-up, its optimizer; then a step."""
    model = build(bias=False)
    save_checkpoint(model, tmp_path / "ckpt.pt", iter_num=7)
    checkpoint = torch.load(tmp_path / "ckpt.pt", map_location="cpu", weights_only=True)
    assert list(checkpoint["model_args"]) == [
        *("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")
    ]
    assert (checkpoint["iter_num"], checkpoint["config"]) == (7, {})
    assert checkpoint["best_val_loss"] > 100
    resumed = GPT(GPTConfig(**{**checkpoint["model_args"], "dropout": 0.1}))
    resumed.load_state_dict(checkpoint["model"])
    optimizer = resumed.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    optimizer.load_state_dict(checkpoint["optimizer"])
    resumed(IDS, IDS)[1].backward()
    optimizer.step()
    assert not torch.equal(logits(resumed), logits(model))


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    """Where writing fails, the old one stands, and nothing beside it."""
    path = tmp_path / "ckpt.pt"
    save_checkpoint(build(), path)
    before = path.read_bytes()
    monkeypatch.setattr(torch, "save", lambda value, file: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_checkpoint(build(1), path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["ckpt.pt"]


class Hostile:
    """On unpickling, makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_holds_code_is_refused_and_not_run(zipped, tmp_path, raises):
    """By the name of what it would call, in either format of torch.save."""
    trap = tmp_path / "trap"
    checkpoint = by_hand() | {"config": Hostile(trap)}
    torch.save(checkpoint, tmp_path / "ckpt.pt", _use_new_zipfile_serialization=zipped)
    with raises("checkpoint_holds_code", "ckpt.pt", ".mkdir"):
        GPT.from_checkpoint(tmp_path / "ckpt.pt")
    assert not trap.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_bare_pickle_is_refused_and_not_run(tmp_path):
    """Whatever its protocol."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "ckpt.pt").write_bytes(pickle.dumps(Hostile(tmp_path / "trap"), protocol))
        with pytest.raises(DataError) as caught:
            GPT.from_checkpoint(tmp_path / "ckpt.pt")
        assert caught.value.code in ("checkpoint_holds_code", "checkpoint_damaged")
        assert not (tmp_path / "trap").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_checkpoint_is_refused_wherever_the_damage_is(tmp_path, raises):
    """Cut short, or with noise in it: a DataError of one paragraph, or the model where only values changed."""
    whole = write(tmp_path / "whole.pt", by_hand()).read_bytes()
    draw, path = random.Random(0), tmp_path / "ckpt.pt"
    cut = [whole[:length] for length in (0, 1, 100, len(whole) // 2, len(whole) - 1, len(whole) - 30)]
    for content in [*cut, b"%PDF-1.4\n%\xe2\xe3", b"hello world\n" * 9]:
        path.write_bytes(content)
        with raises("checkpoint_damaged", path) as caught:
            GPT.from_checkpoint(path)
        assert "\n" not in str(caught.value)
    for _ in range(60):
        noisy = bytearray(whole)
        for _ in range(3):
            noisy[draw.choice([draw.randrange(3000), draw.randrange(len(whole))])] = draw.randrange(256)
        path.write_bytes(noisy)
        try:
            GPT.from_checkpoint(path)
        except DataError as error:
            assert "\n" not in str(error)


def test_what_is_no_file_is_named(tmp_path, raises):
    """Missing, and a folder."""
    with raises("file_missing", "gone.pt"):
        GPT.from_checkpoint(tmp_path / "gone.pt")
    with raises("not_a_file", tmp_path):
        GPT.from_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "list"),
        ({"state_dict": {}, "epoch": 3}, "state_dict, epoch"),
        ({}, "(none)"),
        (by_hand() | {"model": {"transformer.wte.weight": 3}}, "transformer.wte.weight"),
    ],
)
def test_another_kind_of_file_is_refused(content, found, tmp_path, raises):
    """With what it holds."""
    with raises("not_a_checkpoint", "ckpt.pt", found):
        GPT.from_checkpoint(write(tmp_path / "ckpt.pt", content))


@pytest.mark.parametrize(
    ("changes", "code", "values"),
    [
        ({"rotary": True, "n_kv_head": 2}, "key_unknown", ["rotary, n_kv_head"]),
        ({"n_layer": None}, "value_not_allowed", ["n_layer=None"]),
        ({"n_layer": -1, "bias": 1}, "value_not_allowed", ["n_layer=-1, bias=1"]),
        ({"dropout": "no"}, "value_not_allowed", ["dropout='no'"]),
        ({"activation": "relu"}, "value_not_allowed", ["activation='relu'"]),
        ({"n_head": 5}, "settings_conflict", ["n_embd=32", "n_head=5"]),
        ({"n_layer": 10**9}, "weights_of_other_model", ["2 layers", 10**9]),
        ({"vocab_size": 10**12}, "weights_of_other_model", ["wte.weight", (40, 32), (10**12, 32)]),
        ({"block_size": 8}, "weights_of_other_model", ["wpe.weight", (24, 32), (8, 32)]),
        ({"bias": False}, "weights_of_other_model", ["Unexpected key"]),
    ],
)
def test_model_args_that_are_wrong_are_named(changes, code, values, tmp_path, raises):
    """Sizes before a model of such sizes is built."""
    checkpoint = by_hand()
    checkpoint["model_args"] |= changes
    with raises(code, "ckpt.pt", *values) as caught:
        GPT.from_checkpoint(write(tmp_path / "ckpt.pt", checkpoint))
    assert "\n" not in str(caught.value)


def test_missing_model_args_and_weights_are_named(tmp_path, raises):
    """Sizes must be there; dropout and bias have nanoGPT's defaults, as in its sample.py."""
    checkpoint = by_hand()
    for name in ("n_head", "block_size"):
        less = {key: each for key, each in checkpoint["model_args"].items() if key != name}
        with raises("key_missing", "ckpt.pt", name):
            GPT.from_checkpoint(write(tmp_path / "ckpt.pt", checkpoint | {"model_args": less}))
    for name in ("transformer.h.0.mlp.c_fc.weight", "transformer.wpe.weight"):
        less = {key: each for key, each in checkpoint["model"].items() if key != name}
        with raises("weights_of_other_model", "ckpt.pt", name):
            GPT.from_checkpoint(write(tmp_path / "ckpt.pt", checkpoint | {"model": less}))
    assert GPT.from_checkpoint(write(tmp_path / "ckpt.pt", checkpoint | {"model_args": SIZE})).config.bias is True


def test_a_head_that_differs_from_the_word_table_is_refused(tmp_path, raises):
    """One table would silently take the other's place."""
    checkpoint = by_hand()
    checkpoint["model"]["lm_head.weight"] = checkpoint["model"]["lm_head.weight"] * 2
    with raises("model_not_supported", "ckpt.pt", "lm_head.weight", "transformer.wte.weight"):
        GPT.from_checkpoint(write(tmp_path / "ckpt.pt", checkpoint))


# ---- export ----


@pytest.mark.parametrize("bias", [True, False])
def test_export_there_and_back_gives_the_same_checkpoint(bias, tmp_path):
    """Config, weights and [PRED]; each step says what it did."""
    model = build(bias=bias, dropout=0.1)
    save_checkpoint(model, tmp_path / "ckpt.pt")
    there = export(tmp_path / "ckpt.pt", tmp_path / "model")
    back = export(tmp_path / "model", tmp_path / "new" / "back.pt")
    assert there.pop("max_logit_difference") < 1e-4
    count = sum(each.numel() for each in model.parameters()) - C
    assert there == {
        "source": str(tmp_path / "ckpt.pt"),
        "out": str(tmp_path / "model"),
        "format": "transformers",
        "parameters": count,
        "pred_token": "kept",
    }
    assert (back["format"], back["parameters"], back["pred_token"]) == ("nanogpt", count, "kept")
    loaded = GPT.from_checkpoint(tmp_path / "new" / "back.pt")
    assert loaded.config == model.config
    weights = model.state_dict()
    assert loaded.state_dict().keys() == weights.keys()
    assert all(torch.equal(each, weights[key]) for key, each in loaded.state_dict().items())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ckpt.pt", "model", "new"]


@pytest.mark.slow
def test_an_exported_folder_loads_where_llm_jepa_cannot_be_imported(tmp_path):
    """In a process of its own: every weight is found, none is left, the same logits."""
    model = build(bias=False)
    save_checkpoint(model, tmp_path / "ckpt.pt")
    export(tmp_path / "ckpt.pt", tmp_path / "model")
    torch.save(IDS, tmp_path / "ids.pt")
    names = [str(tmp_path / name) for name in ("model", "ids.pt", "logits.pt")]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *names], check=True, capture_output=True)
    torch.testing.assert_close(torch.load(names[2], weights_only=True), logits(model), rtol=1e-6, atol=1e-5)


def test_an_exported_folder_holds_pred_for_load_jepa(tmp_path):
    """Pred(text) of LLMJEPA, which wraps any transformers model, is that of the GPT: 1e-5."""
    model = build(activation="gelu_new")
    save_checkpoint(model, tmp_path / "ckpt.pt")
    export(tmp_path / "ckpt.pt", tmp_path / "model")
    jepa = load_jepa(tmp_path / "model")
    assert torch.equal(jepa.predictor.embedding[None], model.pred_token)
    text, code = IDS[0, :7], IDS[0, 7:12]
    views = view_embeddings(jepa, [Pair(text.tolist(), [*code.tolist(), 1])], pad_token_id=0)  # 1: end, not in Enc
    with torch.no_grad():
        expected = model.encode_last_with_pred(text[None], 1)
    torch.testing.assert_close(views.text_pred, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(views.code_emb, model.encode_last(code[None]), rtol=1e-5, atol=1e-5)


def test_from_pretrained_takes_the_pred_of_an_exported_folder(tmp_path):
    """What was trained is not lost on the way back."""
    model = build()
    save_checkpoint(model, tmp_path / "ckpt.pt")
    export(tmp_path / "ckpt.pt", tmp_path / "model")
    assert torch.equal(GPT.from_pretrained(str(tmp_path / "model")).pred_token, model.pred_token)


def test_without_pred_a_fresh_one_is_drawn_and_said(tmp_path):
    """From either side: a checkpoint of nanoGPT's own class, and a plain GPT-2."""
    write(tmp_path / "ckpt.pt", by_hand())
    assert export(tmp_path / "ckpt.pt", tmp_path / "model")["pred_token"] == "fresh"
    build_gpt2().save_pretrained(tmp_path / "plain")
    assert export(tmp_path / "plain", tmp_path / "plain.pt")["pred_token"] == "fresh"
    assert GPT.from_checkpoint(tmp_path / "plain.pt").config.activation == "gelu_new"


def test_k_different_pred_tokens_are_refused(tmp_path, make_jepa_folder, raises):
    """A GPT has one vector for all."""
    folder = make_jepa_folder(jepa_k=2, jepa_pred_tokens="distinct")
    with raises("weights_of_other_model", PREDICTOR, (2, 32), "jepa_pred_tokens: shared"):
        export(folder, tmp_path / "ckpt.pt")
    (folder / PREDICTOR).write_bytes(b"noise")
    with raises("checkpoint_damaged", PREDICTOR):
        export(folder, tmp_path / "ckpt.pt")
    assert not (tmp_path / "ckpt.pt").exists()


@pytest.fixture
def make_jepa_folder(tiny_model, tmp_path):
    """Return what writes the folder of a run that trained a tiny GPT-2."""
    from llm_jepa.objective import LLMJEPA, JEPAConfig
    from llm_jepa.training.saving import save_jepa

    def make(model="gpt2", **settings):
        save_jepa(LLMJEPA(tiny_model(model), JEPAConfig(**settings)), tmp_path / "run" / "model")
        return tmp_path / "run" / "model"

    return make


def test_a_run_becomes_a_checkpoint_with_its_pred(make_jepa_folder, tmp_path):
    """Export takes the run's folder itself, which it leaves as it was."""
    folder = make_jepa_folder(jepa_k=3)
    done = export(tmp_path / "run", tmp_path / "ckpt.pt")
    assert (done["format"], done["pred_token"]) == ("nanogpt", "kept")
    model = GPT.from_checkpoint(tmp_path / "ckpt.pt").eval()
    assert torch.equal(model.pred_token[0], load_jepa(folder).predictor.embedding)
    ids = IDS[:, :20]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
        torch.testing.assert_close(model(ids, ids)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_run_that_is_no_gpt2_or_goes_to_a_folder_is_refused(make_jepa_folder, tmp_path, raises):
    """With the reason."""
    make_jepa_folder("llama")
    with raises("model_not_supported", "'llama'"):
        export(tmp_path / "run", tmp_path / "ckpt.pt")
    with raises("wrong_ending", "folder", "`export_run`"):
        export(tmp_path / "run", tmp_path / "folder")


def test_a_destination_that_is_there_is_refused_without_force(tmp_path, raises):
    """And with force replaced, file or folder."""
    save_checkpoint(build(), tmp_path / "one.pt")
    save_checkpoint(build(5), tmp_path / "two.pt")
    export(tmp_path / "one.pt", tmp_path / "model")
    with raises("file_exists", tmp_path / "model", "--force"):
        export(tmp_path / "two.pt", tmp_path / "model")
    assert_same_logits(load_gpt2(str(tmp_path / "model")), build())
    export(tmp_path / "two.pt", tmp_path / "model", force=True)
    assert_same_logits(load_gpt2(str(tmp_path / "model")), build(5))
    with raises("file_exists", tmp_path / "one.pt", "--force"):
        export(tmp_path / "model", tmp_path / "one.pt")
    export(tmp_path / "model", tmp_path / "one.pt", force=True)
    assert_same_logits(GPT.from_checkpoint(tmp_path / "one.pt"), build(5))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model", "one.pt", "two.pt"]


def test_force_removes_nothing_that_no_export_wrote(tmp_path, raises):
    """A folder with other files in it, a file in a folder's place, a folder in a file's place."""
    save_checkpoint(build(), tmp_path / "ckpt.pt")
    export(tmp_path / "ckpt.pt", tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    with raises("not_an_export", tmp_path / "model", "tokenizer.json"):
        export(tmp_path / "ckpt.pt", tmp_path / "model", force=True)
    (tmp_path / "notes").write_text("mine")
    with raises("not_a_folder", tmp_path / "notes"):
        export(tmp_path / "ckpt.pt", tmp_path / "notes", force=True)
    (tmp_path / "folder.pt").mkdir()
    with raises("not_a_file", tmp_path / "folder.pt"):
        export(tmp_path / "model", tmp_path / "folder.pt", force=True)
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_destination_at_in_or_around_the_source_is_refused(tmp_path, raises):
    """With force, too, and through a link."""
    (tmp_path / "out").mkdir()
    save_checkpoint(build(), tmp_path / "out" / "ckpt.pt")
    export(tmp_path / "out" / "ckpt.pt", tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    calls = [
        ("out/ckpt.pt", "out/ckpt.pt"),
        ("out/ckpt.pt", "out"),
        ("model", "model"),
        ("model", "model/deep/ckpt.pt"),
        ("model", "link/ckpt.pt"),
        ("model", "model/../model"),
    ]
    for source, to in calls:
        with raises("output_is_input", tmp_path / source):
            export(tmp_path / source, tmp_path / to, force=True)


def test_a_conversion_that_changes_the_logits_leaves_nothing(tmp_path, monkeypatch, raises):
    """Export looks at what it wrote before that gets its name: no new folder, and the old one as it was."""
    save_checkpoint(build(), tmp_path / "ckpt.pt")
    export(tmp_path / "ckpt.pt", tmp_path / "model")
    right = weights_module._transposed
    monkeypatch.setattr(weights_module, "_transposed", lambda key, weight: right(key, weight) * 1.01)
    for name, force in [("other", False), ("model", True)]:
        with raises("export_differs", tmp_path / name, exit_code=1) as caught:
            export(tmp_path / "ckpt.pt", tmp_path / name, force=force)
        assert caught.value.exit_code == 1
    assert_same_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), build())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ckpt.pt", "model"]


def test_a_model_that_diverged_is_refused(tmp_path, raises):
    """nan is not a difference of 0."""
    model = build()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nan
    save_checkpoint(model, tmp_path / "ckpt.pt")
    with raises("weights_not_finite"):
        export(tmp_path / "ckpt.pt", tmp_path / "model")
    assert [each.name for each in tmp_path.iterdir()] == ["ckpt.pt"]


def test_the_loss_of_transformers_on_an_exported_folder_is_nanogpts(tmp_path):
    """The number both trainings look at, targets shifted by hand."""
    model = build()
    save_checkpoint(model, tmp_path / "ckpt.pt")
    export(tmp_path / "ckpt.pt", tmp_path / "model")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        ours = model(IDS[:, :-1].contiguous(), IDS[:, 1:].contiguous())[1]
        expected = F.cross_entropy(theirs(IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
        torch.testing.assert_close(theirs(IDS, labels=IDS).loss, ours)
    torch.testing.assert_close(ours, expected)
