"""`weights_dtype: bf16`: weights, optimizer states and forward in bf16, with no float32 copy of anything."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from llm_jepa.data.tokenizer import train_tokenizer
from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig
from llm_jepa.training.adapters import AdapterConfig
from llm_jepa.training.bf16_products import has_bf16_instructions
from llm_jepa.training.models import ModelConfig, build_model
from llm_jepa.training.saving import load_jepa

OBJECTIVE = {"jepa_k": 2, "jepa_target": "shared", "jepa_pred_tokens": "distinct"}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["lines with a dog", ".*dog.*"], 280)


@pytest.fixture
def build(tokenizer):
    def make(seed=0, **settings):
        torch.manual_seed(seed)
        return build_model(ModelConfig(**settings), tokenizer, end_id=1, pad_id=0)

    return make


@pytest.fixture
def pretrained(tiny_model, tmp_path):
    """A folder with a model of 280 tokens in float32."""
    tiny_model("llama", vocab_size=280).save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def test_a_preset_starts_from_the_rounded_weights_of_float32(build):
    """The same seed gives the same start in both, and the global random stream goes on alike."""
    whole = build(seed=3)
    after = torch.rand(1)
    rounded = build(seed=3, weights_dtype="bf16")
    assert torch.equal(torch.rand(1), after)
    for one, other in zip(whole.parameters(), rounded.parameters(), strict=True):
        assert one.dtype == torch.float32 and other.dtype == torch.bfloat16
        assert torch.equal(one.to(torch.bfloat16), other)
    assert rounded.get_output_embeddings().weight is rounded.get_input_embeddings().weight
    assert all(each.dtype == torch.float32 for each in rounded.buffers())  # frequencies of rotary positions


def test_a_pretrained_model_is_loaded_in_bf16(build, pretrained):
    """Whatever dtype its folder has."""
    model = build(model_name_or_path=pretrained, weights_dtype="bf16")
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
    assert {each.dtype for each in build(model_name_or_path=pretrained).parameters()} == {torch.float32}


def test_training_keeps_no_float32_copy(build, make_trainer, make_pairs):
    """Weights, [PRED], gradients and both moments are bf16 after a step, and the step is AdamW's on bf16 tensors."""
    config, pairs = JEPAConfig(**OBJECTIVE), make_pairs(4)
    trainer = make_trainer(
        LLMJEPA(build(weights_dtype="bf16"), config), pairs, max_steps=1, warmup_steps=0, max_grad_norm=1e9
    )
    trainer.train()
    states = trainer.optimizer.state.values()
    kept = [each for state in states for name, each in state.items() if name != "step"]
    assert {each.dtype for each in [*trainer.jepa.parameters(), *kept]} == {torch.bfloat16}
    assert len(kept) == 2 * len(list(trainer.jepa.parameters()))

    plain = LLMJEPA(build(weights_dtype="bf16"), config)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0, fused=True)
    plain(FusedCollator(config, pad_token_id=0)(sorted(pairs, key=len))).loss.backward()
    optimizer.step()
    moved = 0
    for one, other in zip(trainer.jepa.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=1e-3)
        moved += (one != 0).any().item()
    assert moved


def test_a_step_below_the_precision_of_bf16_is_lost(build, make_trainer, make_pairs):
    """At a learning rate of 2e-5 every weight moves in float32, and most of those of bf16 stay where they were."""
    share = {}
    for dtype in ("float32", "bf16"):
        jepa = LLMJEPA(build(weights_dtype=dtype), JEPAConfig(jepa_lambda=0))
        before = [each.detach().clone() for each in jepa.model.parameters() if each.ndim == 2]
        trainer = make_trainer(jepa, make_pairs(4), max_steps=1, learning_rate=2e-5, warmup_steps=0)
        trainer.train()
        after = [each for each in jepa.model.parameters() if each.ndim == 2]
        changed = [(one != other).float().mean() for one, other in zip(before[1:], after[1:], strict=True)]
        share[dtype] = torch.stack(changed).mean().item()
    assert share["float32"] > 0.95
    assert 0.1 < share["bf16"] < 0.6  # about 30% is what the published setting has


def test_a_saved_model_says_its_dtype_and_gives_the_same_logits(build, tmp_path, make_trainer, make_pairs):
    """In config.json, in the file, in plain transformers, and loaded as ours."""
    jepa = LLMJEPA(build(weights_dtype="bf16"), JEPAConfig(**OBJECTIVE))
    trainer = make_trainer(jepa, make_pairs(4), max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    for file in ("model", "jepa"):
        saved = load_file(tmp_path / "model" / f"{file}.safetensors")
        assert {each.dtype for each in saved.values()} == {torch.bfloat16}
    ids = torch.arange(2, 20)[None]
    logits = jepa.model.eval()(ids).logits
    plain, ours = AutoModelForCausalLM.from_pretrained(tmp_path / "model"), load_jepa(tmp_path / "model").model
    assert {each.dtype for model in (plain, ours) for each in model.parameters()} == {torch.bfloat16}
    assert torch.equal(ours.eval()(ids).logits, logits)
    weights = plain.state_dict()
    assert all(torch.equal(weights[name], each) for name, each in ours.state_dict().items())
    if has_bf16_instructions():  # else ours has the sums of float32, and PyTorch its own
        assert torch.equal(plain.eval()(ids).logits, logits)
    torch.testing.assert_close(plain.eval()(ids).logits, logits, rtol=2**-5, atol=2**-6)


def test_resuming_gives_the_bits_of_a_run_never_stopped(build, make_trainer, make_pairs, raises):
    """Weights and log, with dropout and accumulation, from two checkpoints; no run in float32 goes on from there."""

    def trainer(out, dtype="bf16"):
        model = build(seed=1 if out == "whole" else 2, weights_dtype=dtype, dropout=0.1)
        jepa = LLMJEPA(model, JEPAConfig(**OBJECTIVE))
        return make_trainer(
            jepa,
            make_pairs(9),
            out=out,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=4,
            save_steps=1 if out == "whole" else None,
            sum_micro_batches=True,
            seed=7,
        )

    whole = trainer("whole")
    whole.train()
    lines = [(line["loss"], line["grad_norm"]) for line in whole.state.log_history if "loss" in line]
    for step in (1, 3):
        resumed = trainer("resumed")
        resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{step}")
        assert [(line["loss"], line["grad_norm"]) for line in resumed.state.log_history if "loss" in line] == lines
        assert all(map(torch.equal, whole.jepa.parameters(), resumed.jepa.parameters()))
    with raises("settings_changed", "weights_dtype was 'bfloat16' and is None"):
        trainer("other", "float32").train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-1")


def test_what_does_not_go_with_bf16_weights_is_refused(tokenizer, pretrained, raises):
    with raises("value_not_allowed", "weights_dtype='fp16'", "float32, bf16"):
        ModelConfig(weights_dtype="fp16")
    config = ModelConfig(model_name_or_path=pretrained, weights_dtype="bf16")
    with raises("settings_conflict", "weights_dtype=bf16", "lora_r=4"):
        build_model(config, tokenizer, AdapterConfig(lora_r=4), end_id=1, pad_id=0)
