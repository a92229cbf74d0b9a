"""FlexAttention gets the same predicate as every other attention. Its speed, and its gradients, need a GPU."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, reference_loss
from llm_jepa.objective.config import CHOICES
from llm_jepa.objective.documents import PRED_OFFSET
from llm_jepa.objective.masks import block_mask, boolean_mask, mask_rule

FAMILIES = ["llama", "qwen3", "mistral", "gemma2"]  # transformers offers it for these; GPT-2 has none


@pytest.fixture
def uncompiled():
    """Run FlexAttention without its compiler, which tests of tiny models do not need."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("direction", CHOICES["jepa_direction"])
@pytest.mark.parametrize("target", CHOICES["jepa_target"])
@pytest.mark.parametrize("packing", [False, True])
def test_the_rule_says_at_every_position_what_the_boolean_mask_says(
    packing, target, direction, window, make_mixed_pairs
):
    """All rows, queries and keys, padding and [PRED] included, with windows counted in positions."""
    config = JEPAConfig(jepa_target=target, jepa_direction=direction, jepa_k=3)
    batch = FusedCollator(config, pad_token_id=0, packing=packing, pack_length=200)(make_mixed_pairs(12))
    for rows in (batch.rows, batch.target_rows):
        if rows is None:
            continue
        B, T = rows.input_ids.shape
        expected = boolean_mask(rows, window)
        assert torch.equal(create_mask(mask_rule(rows, window), B, 1, T, T, "cpu"), expected)
        blocks = block_mask(rows, window)
        assert blocks.shape == (B, 1, T, T)
        # The blocks that are visited hold every key that some query may see.
        size = blocks.BLOCK_SIZE[0]
        visited = blocks.to_dense().repeat_interleave(size, 2).repeat_interleave(size, 3)[:, :, :T, :T].bool()
        assert not (expected & ~visited).any()


def test_another_rule_is_seen(make_mixed_pairs):
    """Negative control: with [PRED]s taken for text, the comparison above fails."""
    rows = FusedCollator(JEPAConfig(), pad_token_id=0, packing=True)(make_mixed_pairs(6)).rows
    expected = boolean_mask(rows)
    rows.roles = torch.where(rows.is_pred, rows.roles - PRED_OFFSET, rows.roles)
    B, T = rows.input_ids.shape
    assert not torch.equal(create_mask(mask_rule(rows), B, 1, T, T, "cpu"), expected)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("model", FAMILIES)
def test_states_equal_those_of_masked_attention(model, packing, tiny_model, make_mixed_pairs, uncompiled):
    """Loss and both views, windows and Gemma-2's soft caps included, within 1e-5 of the reference."""
    config = JEPAConfig(jepa_target="shared", jepa_direction="both", jepa_k=2)
    jepa = LLMJEPA(tiny_model(model, attention="flex_attention"), config)
    plain = LLMJEPA(tiny_model(model), config)
    pairs = make_mixed_pairs(8)
    with torch.no_grad():
        output = jepa(FusedCollator(config, pad_token_id=0, packing=packing, pack_length=80)(pairs))
        expected = reference_loss(plain, pairs)
    torch.testing.assert_close(output.loss, expected.loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.text_pred, expected.text_pred, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.code_emb, expected.code_emb, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("jepa_lambda", [0.0, 1.0])
def test_training_with_it_on_a_cpu_is_refused(jepa_lambda, tiny_model, make_pairs, uncompiled, raises):
    """PyTorch has no gradient for it there; the refusal says what to use."""
    jepa = LLMJEPA(tiny_model("llama", attention="flex_attention"), JEPAConfig(jepa_lambda=jepa_lambda), check=False)
    with raises("device_not_capable", "flex_attention", 'attn_implementation="sdpa"'):
        jepa(FusedCollator(jepa.config, pad_token_id=0)(make_pairs(2)))


@pytest.mark.gpu
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("model", FAMILIES)
def test_gradients_equal_separate_forwards_on_cuda(model, packing, tiny_model, make_mixed_pairs):
    """On a GPU the compiled kernel gives the reference's loss within 1e-4 and gradients within 1e-3, in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    size = {"hidden_size": 64} | ({"head_dim": 16} if model != "llama" else {})  # the kernel wants heads of 16 or more
    pairs = make_mixed_pairs(8)
    config = JEPAConfig(jepa_target="shared", jepa_direction="both", jepa_k=2)
    flex = LLMJEPA(tiny_model(model, attention="flex_attention", **size).cuda(), config)
    plain = LLMJEPA(tiny_model(model, attention="eager", **size).cuda(), config)
    plain.load_state_dict(flex.state_dict())
    fused = flex(FusedCollator(config, pad_token_id=0, packing=packing, pack_length=80)(pairs).to("cuda"))
    slow = reference_loss(plain, pairs)
    assert fused.loss.item() == pytest.approx(slow.loss.item(), abs=1e-4)
    fused.loss.backward()
    slow.loss.backward()
    for (name, one), other in zip(flex.named_parameters(), plain.parameters(), strict=True):
        assert (one.grad - other.grad).norm() <= 1e-3 * other.grad.norm().clamp(min=1e-4), name
