"""The formulas of docs/scale.md against what PyTorch counts and small models hold."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

# The benchmark is a script, not part of the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import scale
from llm_jepa import FusedCollator, JEPAConfig, Pair
from llm_jepa.objective import LLMJEPA

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scale.md"
SHAPES = {
    "tiny": scale.Shape(2, 64, 128, 4, 2, 96, tied=True),
    "nano": scale.Shape(4, 128, 384, 4, 4, 512, tied=False),
}
STEPS = {
    "plain": scale.Step(6, 20, 12),
    "k = 1": scale.Step(6, 20, 12, k=1),
    "k = 4, ema": scale.Step(6, 20, 12, k=4, target="ema"),
    "shared": scale.Step(6, 20, 12, k=2, target="shared"),
}


def build(shape, step):
    config = LlamaConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
    )
    jepa_config = JEPAConfig(jepa_lambda=0.0 if step.k is None else 1.0, jepa_k=step.k or 0, jepa_target=step.target)
    jepa = LLMJEPA(LlamaForCausalLM(config), jepa_config)
    pairs = [Pair([5] * step.text, [7] * (step.code - 1) + [1]) for _ in range(step.pairs)]
    return jepa, FusedCollator(jepa_config, pad_token_id=0)(pairs)


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_those_of_the_model(shape):
    """All of them, with and without a tied head."""
    jepa, _ = build(SHAPES[shape], STEPS["plain"])
    assert sum(each.numel() for each in jepa.model.parameters()) == SHAPES[shape].parameters


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_operations_are_those_that_pytorch_counts(shape, step):
    """Forward and backward, to the last one; attention taken apart, for the counter does not know the CPU's kernel."""
    jepa, batch = build(SHAPES[shape], STEPS[step])
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        jepa(batch).loss.backward()
    assert scale.step_flops(SHAPES[shape], STEPS[step]) == counter.get_total_flops()


@pytest.mark.parametrize("step", ["plain", "k = 1", "shared"])
@pytest.mark.parametrize("shape", SHAPES)
def test_saved_activations_are_those_that_autograd_holds(shape, step):
    """In float32, without parameters, each piece of memory once, within 3%."""
    jepa, batch = build(SHAPES[shape], STEPS[step])
    own = {each.untyped_storage().data_ptr() for each in jepa.parameters()}
    held = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = jepa(batch)  # held until it is counted
    predicted = scale.activation_bytes(SHAPES[shape], STEPS[step], checkpointing=False, mixed=False)
    assert output.loss.isfinite()
    assert predicted == pytest.approx(sum(held.values()), rel=0.03)


def test_the_page_holds_the_tables():
    """`python benchmarks/scale.py` makes them."""
    page = PAGE.read_text(encoding="utf-8")
    for table in scale.TABLES.values():
        assert table() in page
