"""What the objective promises beyond equality with its reference."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from torch.nn import functional as F

from llm_jepa.objective import (
    LLMJEPA,
    FusedCollator,
    JEPAConfig,
    Pair,
    UnsupportedModelError,
    reference_loss,
)
from llm_jepa.objective.documents import IGNORED
from llm_jepa.objective.schedule import is_dropped


def loss_and_gradients(jepa, batches, **normalisers):
    jepa.zero_grad()
    total = 0.0
    for batch in batches:
        loss = jepa(batch, **normalisers).loss
        loss.backward()
        total += loss.item()
    return total, [each.grad.clone() for each in jepa.parameters() if each.grad is not None]


def assert_same(first, second, tolerance=1e-5):
    assert first[0] == pytest.approx(second[0], abs=tolerance)
    for one, other in zip(first[1], second[1], strict=True):
        assert (one - other).norm() <= tolerance * other.norm().clamp(min=1e-3)


@pytest.mark.parametrize("model", ["llama", "gpt2", "qwen3", "mistral", "gemma2"])
def test_lambda_zero_equals_plain_training_step_for_step(model, tiny_model, make_pairs):
    """Promise 3: 20 steps at jepa_lambda=0 and 20 steps of the model's own loss end in the same bits."""
    ours, theirs = tiny_model(model), tiny_model(model)
    jepa = LLMJEPA(ours, JEPAConfig(jepa_lambda=0))
    mine, plain = (torch.optim.AdamW(each.parameters(), lr=1e-2) for each in (ours, theirs))
    for step in range(20):
        batch = FusedCollator(jepa.config, pad_token_id=0)(make_pairs(4, seed=step))
        loss = jepa(batch).loss
        expected = theirs(
            input_ids=batch.rows.input_ids, attention_mask=batch.rows.real.long(), labels=batch.labels
        ).loss
        assert torch.equal(loss, expected)
        for optimizer, each in ((mine, loss), (plain, expected)):
            optimizer.zero_grad()
            each.backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_lambda_zero_on_code_equals_a_plain_loop_over_code_tokens(tiny_model, make_pairs):
    """With loss_on=code the plain loop is cross-entropy at the code's tokens; the bits are the same."""
    ours, theirs = tiny_model("llama"), tiny_model("llama")
    jepa = LLMJEPA(ours, JEPAConfig(jepa_lambda=0, loss_on="code"))
    batch = FusedCollator(jepa.config, pad_token_id=0)(make_pairs(4))
    jepa(batch).loss.backward()
    rows, columns = (batch.labels != IGNORED).nonzero(as_tuple=True)
    hidden = theirs.model(batch.rows.input_ids, attention_mask=batch.rows.real.long()).last_hidden_state
    F.cross_entropy(theirs.lm_head(hidden[rows, columns - 1]), batch.labels[rows, columns]).backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_lambda_zero_draws_no_random_number_and_encodes_no_view(tiny_model, make_pairs):
    """The baseline sees the random stream it would see without this package, and jepa_loss is nan."""
    model = tiny_model("llama")
    state = torch.get_rng_state()
    for jepa_lambda in (0.0, 1.0):
        jepa = LLMJEPA(model, JEPAConfig(jepa_lambda=jepa_lambda, jepa_k=4))
        out = jepa(FusedCollator(jepa.config, pad_token_id=0)(make_pairs(2)))
        assert torch.equal(state, torch.get_rng_state())
        assert out.jepa_loss.isnan().item() == (jepa_lambda == 0)
        assert (out.text_pred is None) == (jepa_lambda == 0)


def test_a_monitor_reads_the_views_without_training_them(tiny_model, make_pairs):
    """monitor=True reports distance and embeddings at jepa_lambda=0, and the loss stays the plain loss."""
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_lambda=0))
    pairs = make_pairs(3)
    watched = jepa(FusedCollator(jepa.config, pad_token_id=0, monitor=True)(pairs), monitor=True)
    plain = jepa(FusedCollator(jepa.config, pad_token_id=0)(pairs))
    assert watched.text_pred.shape == watched.code_emb.shape == (3, 32)
    assert not watched.text_pred.requires_grad or not watched.jepa_loss.requires_grad
    torch.testing.assert_close(watched.loss, plain.loss)


@pytest.mark.parametrize("target", ["stop_grad", "shared", "ema"])
def test_padding_and_row_order_do_not_change_the_loss(target, tiny_model, make_pairs):
    """Promise 2: a long neighbour that forces padding, and a shuffled batch, change nothing."""
    jepa = LLMJEPA(tiny_model("mistral"), JEPAConfig(jepa_target=target, jepa_k=2))
    pairs = make_pairs(5, seed=4)
    collate = FusedCollator(jepa.config, pad_token_id=0)
    whole = loss_and_gradients(jepa, [collate(pairs)])
    assert_same(whole, loss_and_gradients(jepa, [collate(pairs[::-1])]))
    counts = {"num_labels": collate(pairs).num_labels, "num_pairs": len(pairs)}
    assert_same(whole, loss_and_gradients(jepa, [collate([pair]) for pair in pairs], **counts))


@pytest.mark.parametrize("split", [[8], [4, 4], [1, 5, 2], [1] * 8])
def test_accumulation_equals_one_large_batch_for_both_terms(split, tiny_model, make_pairs):
    """Promise 2: however a step is cut into micro-batches, both terms are means over the whole step."""
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_lambda=2.0))
    pairs, collate = make_pairs(8, seed=9), FusedCollator(jepa.config, pad_token_id=0)
    whole = collate(pairs)
    parts, rest = [], list(pairs)
    for size in split:
        parts.append(collate(rest[:size]))
        rest = rest[size:]
    counts = {"num_labels": whole.num_labels, "num_pairs": len(pairs)}
    assert_same(loss_and_gradients(jepa, [whole]), loss_and_gradients(jepa, parts, **counts))


@pytest.mark.parametrize("target", ["stop_grad", "shared"])
def test_neither_view_sees_the_other(target, tiny_model, make_pairs):
    """Another code leaves Pred(Enc(Text)) as it was, and another text leaves Enc(Code) as it was (N12)."""
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_target=target))
    collate = FusedCollator(jepa.config, pad_token_id=0)
    base = jepa(collate([Pair([5, 6, 7], [8, 9, 1], [2])]))
    other_code = jepa(collate([Pair([5, 6, 7], [18, 19, 1], [2])]))
    other_text = jepa(collate([Pair([15, 16, 17], [8, 9, 1], [3])]))
    assert torch.equal(base.text_pred, other_code.text_pred)
    assert torch.equal(base.code_emb, other_text.code_emb)
    assert not torch.equal(base.code_emb, other_code.code_emb)
    assert not torch.equal(base.text_pred, other_text.text_pred)


def test_stop_gradient_reaches_the_text_side_only(tiny_model):
    """With gamma 0 and tokens that only the code has, their embeddings get a gradient under `shared` alone."""
    for target, reached in [("stop_grad", False), ("ema", False), ("shared", True)]:
        model = tiny_model("llama")
        jepa = LLMJEPA(model, JEPAConfig(jepa_gamma=0.0, jepa_target=target))
        jepa(FusedCollator(jepa.config, pad_token_id=0)([Pair([5, 6], [40, 41, 1])])).loss.backward()
        gradient = model.get_input_embeddings().weight.grad
        assert bool(gradient[40].abs().sum() > 0) == reached
        assert gradient[5].abs().sum() > 0
        assert jepa.predictor.embedding.grad.abs().sum() > 0


def test_the_ema_target_follows_the_model_slowly(tiny_model, make_pairs):
    """After one update every weight of the copy is decay * old + (1 - decay) * new; it is never trained."""
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_target="ema", jepa_ema_decay=0.9))
    old = copy.deepcopy(jepa.model.model)
    optimizer = torch.optim.SGD([each for each in jepa.parameters() if each.requires_grad], lr=1.0)
    jepa(FusedCollator(jepa.config, pad_token_id=0)(make_pairs(2))).loss.backward()
    optimizer.step()
    jepa.update_target()
    for slow, before, now in zip(
        jepa.target.parameters(), old.parameters(), jepa.model.model.parameters(), strict=True
    ):
        torch.testing.assert_close(slow, 0.9 * before + 0.1 * now)
        assert slow.grad is None and not slow.requires_grad


def test_loss_dropout_drops_its_share_and_the_same_steps_every_time():
    """The decision depends on seed and step alone, and the share is the rate's."""
    steps = range(4000)
    first = [is_dropped(0.75, 3, step) for step in steps]
    again = [is_dropped(0.75, 3, step) for step in reversed(steps)]
    assert first == again[::-1]
    assert sum(first) / len(first) == pytest.approx(0.75, abs=0.03)
    assert first != [is_dropped(0.75, 4, step) for step in steps]
    assert not any(is_dropped(0.0, 3, step) for step in steps)


@pytest.mark.parametrize("target", ["stop_grad", "shared"])
def test_a_dropped_step_is_a_plain_step(target, tiny_model, make_pairs, raises):
    """A dropped step gives the bits of plain training and nan for the term; evaluation never drops."""
    torch.manual_seed(0)
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_loss_dropout=0.5, jepa_target=target))
    pairs = make_pairs(5)
    batch = FusedCollator(jepa.config, pad_token_id=0)(pairs)
    plain = FusedCollator(JEPAConfig(jepa_lambda=0), pad_token_id=0)(pairs)
    assert torch.equal(batch.without_views().rows.documents, plain.rows.documents)
    dropped = next(step for step in range(50) if jepa.drops_term(step))
    kept = next(step for step in range(50) if not jepa.drops_term(step))
    bare = LLMJEPA(jepa.model, JEPAConfig(jepa_lambda=0))
    assert torch.equal(jepa(batch, step=dropped).loss, bare(plain).loss)
    assert jepa(batch, step=dropped).lambda_eff == 0.0 and jepa(batch, step=dropped).jepa_loss.isnan()
    assert jepa(batch, step=kept).lambda_eff == 1.0
    with raises("step_missing", "jepa_loss_dropout=0.5", "step="):
        jepa(batch)
    assert jepa.eval()(batch).lambda_eff == 1.0


def test_logits_are_computed_for_labelled_positions_only(tiny_model, make_pairs):
    """The head sees one state for each labelled token of the JEPA arm, and nothing else."""
    model = tiny_model("llama")
    sizes = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[:-1].numel()))
    jepa = LLMJEPA(model, JEPAConfig(loss_on="code"), check=False)
    pairs = make_pairs(3)
    jepa(FusedCollator(jepa.config, pad_token_id=0)(pairs))
    assert sizes == [sum(len(pair.code_ids) for pair in pairs)]


class IgnoresItsMask(transformers.LlamaForCausalLM):
    def forward(self, *args, attention_mask=None, **kwargs):
        return super().forward(*args, **kwargs)


def test_a_model_that_ignores_the_mask_is_refused(tiny_model, raises):
    """The views would see each other; the self-check says so before any training."""
    with raises("model_not_supported", "IgnoresItsMask", "relative error") as caught:
        LLMJEPA(IgnoresItsMask(tiny_model("llama").config), JEPAConfig())
    assert isinstance(caught.value, UnsupportedModelError)


def test_models_that_cannot_be_served_are_refused_with_the_reason(tiny_model, raises):
    """A recurrent model, one without a head, and an attention that takes no mask."""
    size = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    with raises("model_not_supported", "MambaForCausalLM", "linear_attention"):
        LLMJEPA(transformers.MambaForCausalLM(transformers.MambaConfig(**size)), JEPAConfig())
    with raises("head_missing", "LlamaModel", "AutoModelForCausalLM"):
        LLMJEPA(tiny_model("llama").model, JEPAConfig())
    model = tiny_model("llama")
    model.config._attn_implementation = "flash_attention_2"
    with raises("value_not_allowed", "flash_attention_2", "sdpa"):
        LLMJEPA(model, JEPAConfig())


def test_the_self_check_leaves_the_model_as_it_was(tiny_model):
    """Modes, gradients and random stream are untouched by it."""
    model = tiny_model("llama")
    model.model.layers[0].eval()
    state = torch.get_rng_state()
    LLMJEPA(model, JEPAConfig())
    assert model.training and not model.model.layers[0].training and model.model.layers[1].training
    assert torch.equal(state, torch.get_rng_state())
    assert all(each.grad is None for each in model.parameters())


def test_a_batch_without_views_is_refused_where_they_are_needed(tiny_model, make_pairs, raises):
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig())
    with raises("batch_not_for_config", "views"):
        jepa(FusedCollator(JEPAConfig(jepa_lambda=0), pad_token_id=0)(make_pairs(2)))


def test_reference_and_fused_pass_agree_that_lambda_zero_has_no_jepa_term(tiny_model, make_pairs):
    jepa = LLMJEPA(tiny_model("llama"), JEPAConfig(jepa_lambda=0))
    slow = reference_loss(jepa, make_pairs(3))
    fused = jepa(FusedCollator(jepa.config, pad_token_id=0)(make_pairs(3)))
    torch.testing.assert_close(slow.loss, fused.loss)
    assert slow.jepa_loss.isnan() and fused.jepa_loss.isnan()


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("jepa_k", 9, "value_out_of_range"),
        ("jepa_k", -1, "value_out_of_range"),
        ("jepa_lambda", -0.1, "value_out_of_range"),
        ("jepa_lambda", float("nan"), "value_out_of_range"),
        ("jepa_distance", "euclid", "unknown_distance"),
        ("jepa_loss_dropout", 1.0, "value_out_of_range"),
        ("jepa_split", 0.0, "value_out_of_range"),
        ("jepa_temperature", 0.0, "value_out_of_range"),
        ("jepa_ema_decay", 1.0, "value_out_of_range"),
        ("loss_on", "text", "value_not_allowed"),
    ],
)
def test_a_setting_out_of_range_names_its_field(field, value, code, raises):
    with raises(code, f"{field}={value!r}"):
        JEPAConfig(**{field: value})
