"""Promise 1: the fused pass gives the loss and the gradients of separate forwards."""

from __future__ import annotations

import itertools

import pytest
import torch

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, reference_loss
from llm_jepa.objective.backbone import Backbone
from llm_jepa.objective.config import CHOICES

MODELS = ["llama", "gpt2", "qwen3", "mistral", "gemma2"]
SLOW_MODELS = [pytest.param(name, marks=pytest.mark.slow) for name in MODELS[2:]]  # the same promise, minutes in all
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4


def gradients(jepa, loss):
    jepa.zero_grad()
    loss.backward()
    return {name: each.grad.clone() for name, each in jepa.named_parameters() if each.grad is not None}


def relative_error(value, expected):
    return ((value - expected).norm() / expected.norm().clamp(min=1e-6)).item()


def assert_equal_to_reference(jepa, pairs, device="cpu", tolerance=(LOSS_TOLERANCE, GRADIENT_TOLERANCE)):
    fused = jepa(FusedCollator(jepa.config, pad_token_id=0)(pairs).to(device))
    slow = reference_loss(jepa, pairs)
    assert fused.loss.item() == pytest.approx(slow.loss.item(), abs=tolerance[0], rel=tolerance[0])
    assert fused.ce_loss.item() == pytest.approx(slow.ce_loss.item(), abs=tolerance[0], rel=tolerance[0])
    ours, theirs = gradients(jepa, fused.loss), gradients(jepa, slow.loss)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert relative_error(ours[name], theirs[name]) < tolerance[1], name
    return fused, slow


@pytest.mark.parametrize("target", CHOICES["jepa_target"])
@pytest.mark.parametrize("direction", CHOICES["jepa_direction"])
@pytest.mark.parametrize("model", [*MODELS[:2], *SLOW_MODELS])
def test_fused_pass_equals_separate_forwards(model, direction, target, tiny_model, make_pairs):
    """Loss within 1e-5 and each gradient within 1e-4 relative, for every distance and k from 0 to 4."""
    network, pairs = tiny_model(model), make_pairs(3, seed=5)
    for number, (distance, k) in enumerate(itertools.product(CHOICES["jepa_distance"], range(5))):
        config = JEPAConfig(
            jepa_lambda=0.7,
            jepa_gamma=1.3,
            jepa_distance=distance,
            jepa_target=target,
            jepa_direction=direction,
            jepa_k=k,
            jepa_pred_tokens=CHOICES["jepa_pred_tokens"][number % 2],
            loss_on=CHOICES["loss_on"][number % 3 % 2],
        )
        fused, slow = assert_equal_to_reference(LLMJEPA(network, config, check=False), pairs)
        assert relative_error(fused.text_pred, slow.text_pred) < GRADIENT_TOLERANCE
        assert relative_error(fused.code_emb, slow.code_emb) < GRADIENT_TOLERANCE


@pytest.mark.parametrize("model", ["qwen2", "gemma3", "olmo2", "phi", "gpt_neox"])
def test_the_other_families_equal_separate_forwards(model, tiny_model, make_pairs):
    """Rotary positions on a part of the head (Phi, GPT-NeoX), biases, norms after the layers, layers of two kinds."""
    network, pairs = tiny_model(model), make_pairs(3, seed=5, longest=20)
    for target, k in zip(CHOICES["jepa_target"], (1, 0, 3), strict=True):
        config = JEPAConfig(jepa_lambda=0.7, jepa_direction="both", jepa_target=target, jepa_k=k)
        assert_equal_to_reference(LLMJEPA(network, config), pairs)


@pytest.mark.parametrize("model", ["llama", "gpt2", "qwen3", "mistral"])
def test_eager_attention_equals_separate_forwards(model, tiny_model, make_pairs):
    """The additive rendering of the mask says what the boolean one says."""
    network, pairs = tiny_model(model, attention="eager"), make_pairs(3, seed=6)
    for target in CHOICES["jepa_target"]:
        config = JEPAConfig(jepa_target=target, jepa_direction="both", jepa_k=2)
        assert_equal_to_reference(LLMJEPA(network, config), pairs)


def test_eight_pred_tokens_are_served(tiny_model, make_pairs):
    """k goes up to 8, shared or distinct."""
    for kind in CHOICES["jepa_pred_tokens"]:
        config = JEPAConfig(jepa_k=8, jepa_pred_tokens=kind)
        assert_equal_to_reference(LLMJEPA(tiny_model("llama"), config), make_pairs(2))


@pytest.mark.parametrize("model", ["mistral", "gemma2", "gemma3"])
def test_a_sliding_window_left_out_of_the_mask_is_seen(model, tiny_model, make_pairs, monkeypatch):
    """Negative control: with the view mask but without the window, the states differ and the test notices."""
    jepa = LLMJEPA(tiny_model(model), JEPAConfig())
    plain = {"full_attention": None, "sliding_attention": None} if model != "mistral" else None
    monkeypatch.setattr(jepa.backbone, "windows", plain)
    pairs = make_pairs(4, seed=2, longest=20)
    fused = jepa(FusedCollator(jepa.config, pad_token_id=0)(pairs))
    slow = reference_loss(jepa, pairs)
    assert relative_error(fused.text_pred, slow.text_pred) > 1e-3


def test_pred_tokens_at_the_wrong_position_are_seen(tiny_model, make_pairs, monkeypatch):
    """Negative control: [PRED] counted on from the end of the row, not of the text, is another function."""
    jepa, pairs = LLMJEPA(tiny_model("gpt2"), JEPAConfig()), make_pairs(3, seed=1)
    batch = FusedCollator(jepa.config, pad_token_id=0)(pairs)
    index = torch.arange(batch.rows.input_ids.shape[1])
    batch.rows.position_ids = torch.where(batch.rows.is_pred, index, batch.rows.position_ids)
    assert relative_error(jepa(batch).text_pred, reference_loss(jepa, pairs).text_pred) > 1e-3


def test_the_loss_matches_finite_differences(tiny_model, make_pairs):
    """Along random directions of all parameters, in float64, the slope is the gradient's (N13)."""
    pairs = make_pairs(2, seed=3)
    for distance, k in [("cosine", 0), ("l2", 1), ("mse", 4), ("infonce", 1)]:
        config = JEPAConfig(jepa_distance=distance, jepa_k=k, jepa_target="shared")
        jepa = LLMJEPA(tiny_model("gpt2").double(), config)
        batch = FusedCollator(config, pad_token_id=0)(pairs)
        gradient = gradients(jepa, jepa(batch).loss)
        torch.manual_seed(k)
        for _ in range(5):
            direction = {name: torch.randn_like(each) for name, each in gradient.items()}
            expected = sum((gradient[name] * direction[name]).sum() for name in gradient).item()
            assert slope(jepa, batch, direction) == pytest.approx(expected, rel=1e-5)


def slope(jepa, batch, direction, step=1e-5):
    losses = []
    parameters = dict(jepa.named_parameters())
    with torch.no_grad():
        for shift in (step, -2 * step, step):
            for name, each in direction.items():
                parameters[name].add_(each, alpha=shift)
            losses.append(jepa(batch).loss.item())
    return (losses[0] - losses[1]) / (2 * step)


def test_eager_masks_are_chosen_by_the_attention_of_the_model(tiny_model):
    """The form of the mask follows the model: eager wants numbers, scaled-dot-product attention wants bools."""
    assert Backbone(tiny_model("llama")).attention == "sdpa"
    assert Backbone(tiny_model("gemma2")).attention == "eager"
    assert Backbone(tiny_model("gemma2")).windows == {"full_attention": None, "sliding_attention": 4}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model", MODELS)
def test_fused_pass_equals_separate_forwards_on_cuda(model, dtype, tiny_model, make_pairs):
    """The same promise on a GPU: float32 within 1e-4, bfloat16 within its own rounding (N1 to N3)."""
    torch.backends.cuda.matmul.allow_tf32 = False
    tolerance = (1e-4, 1e-3) if dtype == torch.float32 else (3e-2, 1.5e-1)
    network = tiny_model(model).to("cuda", dtype)
    for target in CHOICES["jepa_target"]:
        config = JEPAConfig(jepa_target=target, jepa_direction="both", jepa_k=2, jepa_distance="mse")
        assert_equal_to_reference(LLMJEPA(network, config), make_pairs(3), "cuda", tolerance)
