"""Products of bf16 weights in float32: close to PyTorch's own in bf16, in values and gradients, and rounded."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llm_jepa.training import bf16_products
from llm_jepa.training.bf16_products import has_bf16_instructions, multiply_in_float32

ROUNDING = 2**-8  # of bf16, relative

MILAN = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 fma sha_ni\nbugs\t\t: bf16\n"
GENOA = MILAN.replace("avx2", "avx2 avx512f avx512_bf16")
SAPPHIRE_RAPIDS = MILAN.replace("avx2", "avx2 amx_bf16 amx_tile")
GRAVITON_2 = "processor\t: 0\nFeatures\t: fp asimd asimdhp\n"
GRAVITON_3 = GRAVITON_2.replace("asimdhp", "asimdhp svebf16 i8mm bf16")


@pytest.fixture(params=["llama", "gpt2"])
def both(request, tiny_model):
    """A model in bf16 with PyTorch's own products, and one with the same weights and these."""
    own = tiny_model(request.param).to(torch.bfloat16).eval()
    ours = copy.deepcopy(own)
    multiply_in_float32(ours)
    return own, ours


def loss_and_gradients(model, checkpointing=False):
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable()
    ids = torch.arange(3, 35).reshape(2, 16)
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: each.grad.float() for name, each in model.named_parameters()}


def test_loss_and_gradients_are_those_of_bf16_up_to_rounding(both):
    """Nearer to each other than a few roundings; what is computed stays in bf16."""
    own, ours = both
    (loss, gradients), (our_loss, our_gradients) = loss_and_gradients(own), loss_and_gradients(ours)
    assert {each.grad.dtype for each in ours.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(our_loss, loss, rtol=4 * ROUNDING, atol=0)
    for name, gradient in gradients.items():
        error = (our_gradients[name] - gradient).norm() / gradient.norm().clamp(min=1e-3)
        assert error < 16 * ROUNDING, name


def test_states_between_layers_are_in_bf16(both):
    """Only a product is in float32: what a layer hands on is rounded, as by hardware."""
    states = both[1](input_ids=torch.arange(3, 19)[None], output_hidden_states=True).hidden_states
    assert {each.dtype for each in states} == {torch.bfloat16}


def test_no_product_is_left_in_bf16(both):
    """Each product that PyTorch does, forward and backward, is of float32 tensors, under gradient checkpointing too."""
    seen: dict[str, set] = {}

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if re.search(r"mm|matmul|attention|linear|einsum", str(func)):
                seen.setdefault(str(func), set()).update(each.dtype for each in args if isinstance(each, torch.Tensor))
            return func(*args, **(kwargs or {}))

    for model, dtypes in ((both[1], {torch.float32}), (both[0], {torch.bfloat16})):  # the second: the spy sees products
        seen.clear()
        with Spy():
            loss_and_gradients(model, checkpointing=True)
        found = {name: kinds & {torch.float32, torch.bfloat16} for name, kinds in seen.items()}
        assert len(found) >= 3 and all(dtypes <= kinds for kinds in found.values()), found
        assert dtypes == {torch.bfloat16} or all(kinds == dtypes for kinds in found.values()), found


def test_the_mode_is_left_after_an_error(both):
    """A layer that fails does not change what comes after it in the process."""
    with pytest.raises(RuntimeError):
        both[1].get_output_embeddings()(torch.zeros(1, 1, 5, dtype=torch.bfloat16))
    assert torch.overrides._get_current_function_mode() is None


@pytest.mark.parametrize(
    ("dtype", "gpu", "instructions", "needed"),
    [
        (torch.bfloat16, False, False, True),
        (torch.bfloat16, True, False, False),
        (torch.bfloat16, False, True, False),
        (torch.float32, False, False, False),
    ],
)
def test_only_where_nothing_multiplies_in_bf16(tiny_model, monkeypatch, dtype, gpu, instructions, needed):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr(bf16_products, "has_bf16_instructions", lambda: instructions)
    assert bf16_products.is_needed(tiny_model("llama").to(dtype)) is needed


@pytest.mark.parametrize(
    ("cpuinfo", "has_it"),
    [(MILAN, False), (GENOA, True), (SAPPHIRE_RAPIDS, True), (GRAVITON_2, False), (GRAVITON_3, True), ("", False)],
)
def test_bf16_instructions_are_found_among_the_flags(cpuinfo, has_it, tmp_path):
    """Whole names of the line of flags alone count."""
    file = tmp_path / "cpuinfo"
    file.write_text(cpuinfo)
    assert has_bf16_instructions(file) is has_it


def test_a_system_that_says_nothing_has_none(tmp_path):
    assert not has_bf16_instructions(tmp_path / "cpuinfo")
