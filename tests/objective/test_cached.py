"""The experimental pass that reads the text from a cache computes the same objective."""

from __future__ import annotations

import pytest
import torch

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, Pair, UnsupportedModelError, reference_loss
from llm_jepa.objective.cached import CachedLLMJEPA


def gradients(jepa, loss):
    jepa.zero_grad()
    loss.backward()
    return {name: each.grad.clone() for name, each in jepa.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model", ["llama", "qwen3", "gpt2"])
def test_the_cached_pass_equals_separate_forwards(model, attention, tiny_model, make_pairs):
    """Loss within 1e-5 and each gradient within 1e-4 of the reference, for each target it serves and k from 1 to 4."""
    network, pairs = tiny_model(model, attention=attention), make_pairs(5, seed=4)
    for k in range(1, 5):
        for target in ("stop_grad", "ema"):
            config = JEPAConfig(
                jepa_k=k,
                jepa_target=target,
                jepa_lambda=0.7,
                jepa_gamma=1.3,
                jepa_pred_tokens=("shared", "distinct")[k % 2],
                loss_on=("all", "code")[k % 2],
            )
            jepa = LLMJEPA(network, config, check=False)
            cached = CachedLLMJEPA(jepa)
            fused, slow = cached(cached.collate(pairs, pad_token_id=0)), reference_loss(jepa, pairs)
            assert fused.loss.item() == pytest.approx(slow.loss.item(), abs=1e-5)
            torch.testing.assert_close(fused.text_pred, slow.text_pred, atol=1e-5, rtol=1e-4)
            ours = gradients(jepa, fused.loss)
            theirs = gradients(jepa, slow.loss)
            assert ours.keys() == theirs.keys()
            for name, expected in theirs.items():
                assert (ours[name] - expected).norm() <= 1e-4 * expected.norm().clamp(min=1e-6), name


def test_a_cache_without_gradient_is_seen(tiny_model, make_pairs, monkeypatch):
    """Negative control: were the cached text detached, the text's side would train [PRED] alone."""
    jepa, pairs = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_gamma=0.0)), make_pairs(5)
    cached = CachedLLMJEPA(jepa)
    logits_and_cache = jepa.backbone.logits_and_cache

    def detached(rows, at):
        logits, cache = logits_and_cache(rows, at)
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        return logits, cache

    right = gradients(jepa, jepa(FusedCollator(jepa.config, 0)(pairs)).loss)
    monkeypatch.setattr(jepa.backbone, "logits_and_cache", detached)
    wrong = gradients(jepa, cached(cached.collate(pairs, 0)).loss)
    name = "model.model.layers.0.self_attn.k_proj.weight"
    assert (wrong[name] - right[name]).norm() > 0.1 * right[name].norm()


@pytest.mark.parametrize(
    ("model", "objective", "message"),
    [
        ("llama", {"jepa_target": "shared"}, "serves jepa_direction"),
        ("llama", {"jepa_direction": "both"}, "serves jepa_direction"),
        ("llama", {"jepa_k": 0}, "serves jepa_direction"),
        ("mistral", {}, "sliding window"),
        ("gemma2", {}, "sliding window"),
    ],
)
def test_what_a_cache_does_not_serve_is_refused(model, objective, message, tiny_model):
    with pytest.raises(UnsupportedModelError, match=message):
        CachedLLMJEPA(LLMJEPA(tiny_model(model), JEPAConfig(**objective), check=False))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_pairs_and_modes_that_it_does_not_serve_are_refused(tiny_model, make_pairs):
    """A view rendered apart, a row without views, and gradient checkpointing, which keeps no cache."""
    model = tiny_model("llama")
    cached = CachedLLMJEPA(LLMJEPA(model, JEPAConfig()))
    for pair in (Pair([5], [8, 1], text_view_ids=[4]), Pair([5], [8, 1], use_jepa=False)):
        with pytest.raises(ValueError, match="beginning of the row"):
            cached.collate([pair], 0)
    model.gradient_checkpointing_enable()
    with pytest.raises(UnsupportedModelError, match="gradient checkpointing"):
        cached(cached.collate(make_pairs(2), 0))
