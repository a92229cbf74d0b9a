"""Models that do to their rows what most do not: a window that no mask reaches, embeddings that are scaled."""

from __future__ import annotations

import pytest
import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from llm_jepa.objective import LLMJEPA, FusedCollator, JEPAConfig, Pair
from llm_jepa.objective.reference import reference_loss

WINDOW = 16


@pytest.fixture
def neo():
    """GPT-Neo as of TinyStories, with a global and a local layer; the real window is 256."""
    size = {"vocab_size": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 128}
    torch.manual_seed(0)
    return GPTNeoForCausalLM(GPTNeoConfig(**size, attention_types=[[["global", "local"], 1]], window_size=WINDOW))


def pair_of(length):
    return Pair([5 + number % 40 for number in range(length)], [7, 8, 1], [2])


def test_a_window_that_counts_tokens_of_the_row_is_right_within_it_and_refused_beyond(neo, raises):
    """[PRED] stands behind the code in its row: a local layer would see the code from there, and not the text."""
    jepa = LLMJEPA(neo.eval(), JEPAConfig())
    collate = FusedCollator(jepa.config, pad_token_id=0)
    fits = pair_of(WINDOW - 5)  # with bridge, code and [PRED] as long as the window
    torch.testing.assert_close(jepa(collate([fits])).text_pred, reference_loss(jepa, [fits]).text_pred)
    with raises("row_too_long", "GPTNeoForCausalLM", f"last {WINDOW} tokens", f"has {WINDOW + 1}"):
        jepa(collate([pair_of(WINDOW - 4)]))


def test_plain_rows_of_such_a_model_may_be_longer(neo):
    """Without views its own mask is the right one."""
    jepa = LLMJEPA(neo.eval(), JEPAConfig(jepa_lambda=0.0))
    long = pair_of(40)
    fused = jepa(FusedCollator(jepa.config, pad_token_id=0)([long]))
    torch.testing.assert_close(fused.ce_loss, reference_loss(jepa, [long]).ce_loss)


@pytest.mark.parametrize("model", ["llama", "gpt2", "gemma2", "gemma3"])
def test_pred_enters_the_first_layer_at_the_size_of_a_word(model, tiny_model):
    """Gemma multiplies what it reads from its table by the root of C; [PRED] is not read there, and starts larger."""
    own = tiny_model(model)
    seen = {}
    layers = own.base_model
    first = getattr(layers, "layers", None) or layers.h

    def look(_, args, kwargs):
        seen["states"] = args[0] if args else kwargs["hidden_states"]

    handle = first[0].register_forward_pre_hook(look, with_kwargs=True)
    ids = torch.arange(64)[None]
    jepa = LLMJEPA(own, JEPAConfig(jepa_k=8, jepa_pred_tokens="distinct"), check=False)
    if model == "gpt2":  # its positions are added on the way
        own.transformer.wpe.weight.data.zero_()
    with torch.no_grad():
        own.eval()(input_ids=ids)
        words = seen.pop("states").square().mean().sqrt()
        own(inputs_embeds=jepa.predictor()[None])
        preds = seen.pop("states").square().mean().sqrt()
    handle.remove()
    assert preds / words == pytest.approx(1, abs=0.2)
