"""The nanoGPT drop-in: nanoGPT's model, and LLM-JEPA on it in one fused pass."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import transformers

from llm_jepa.nanogpt import GPT, GPTConfig
from llm_jepa.objective.distances import get_distance

VOCAB_SIZE, BLOCK_SIZE = 40, 24
TINY = {"block_size": BLOCK_SIZE, "vocab_size": VOCAB_SIZE, "n_layer": 2, "n_head": 4, "n_embd": 32}
SPLITS = [0.1, 0.25, 0.5, 0.75, 0.9]


def build(seed=0, **changes):
    """Return a tiny model in training mode, with weights large enough that each of them matters."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**{**TINY, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.train()


def build_rows(B=3, T=BLOCK_SIZE, seed=1):
    rows = torch.randint(VOCAB_SIZE, (B, T + 1), generator=torch.Generator().manual_seed(seed))
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


# ---- an independent implementation: functions of the weights, attention spelled out, one sequence at a time ----


def spelled_out_states(weights, embeddings, n_head=TINY["n_head"]):
    """Return the last hidden states, (T, C), of embeddings (T, C) that stand at positions 0 to T - 1."""

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return x * weights[name + ".weight"] + weights.get(name + ".bias", 0.0)

    def linear(x, name):
        return x @ weights[name + ".weight"].T + weights.get(name + ".bias", 0.0)

    T, C = embeddings.shape
    x = embeddings + weights["transformer.wpe.weight"][:T]
    for layer in range(TINY["n_layer"]):
        block = f"transformer.h.{layer}"
        queries, keys, values = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").split(C, dim=1)
        heads = []
        for head in range(n_head):
            part = slice(head * C // n_head, (head + 1) * C // n_head)
            scores = queries[:, part] @ keys[:, part].T / math.sqrt(C // n_head)
            scores = scores + torch.full((T, T), -math.inf).triu(1)
            heads.append(scores.exp() / scores.exp().sum(1, keepdim=True) @ values[:, part])
        x = x + linear(torch.cat(heads, dim=1), f"{block}.attn.c_proj")
        inner = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        x = x + linear(inner, f"{block}.mlp.c_proj")
    return norm(x, "transformer.ln_f")


def three_forwards(model, idx, targets, jepa_lambda, k, views):
    """Return loss, cross-entropy and distance of Eq. 2, each row and each view in a forward of its own."""
    weights = dict(model.named_parameters())
    words = weights["transformer.wte.weight"]
    logits = torch.stack([spelled_out_states(weights, words[row]) @ words.T for row in idx])
    ce = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    distances = []
    for row, (text_len, code_len) in zip(idx, views, strict=True):
        if code_len < 2:
            continue
        text, code = row[:text_len], row[text_len : text_len + code_len]
        with_pred = torch.cat([words[text], weights["pred_token"][0].expand(k, -1)])
        prediction = spelled_out_states(weights, with_pred)[-1]
        with torch.no_grad():
            target = spelled_out_states(weights, words[code])[-1]
        distances.append(1 - F.cosine_similarity(prediction, target, dim=0))
    jepa = torch.stack(distances).mean() if distances else torch.tensor(0.0)
    return ce + jepa_lambda * jepa, ce, jepa


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def assert_equal_to_three_forwards(model, idx, targets, k, lengths, **how):
    out = model.jepa_loss(idx, targets, jepa_lambda=0.7, jepa_k=k, **how)
    loss, ce, jepa = three_forwards(model, idx, targets, 0.7, k, lengths)
    assert out.loss.item() == pytest.approx(loss.item(), abs=1e-5)
    assert out.ce_loss.item() == pytest.approx(ce.item(), abs=1e-5)
    assert out.jepa_loss.item() == pytest.approx(jepa.item(), abs=1e-5)
    ours, theirs = gradients(model, out.loss), gradients(model, loss)
    if k == 0:  # the formula's zero [PRED] still get a gradient, of zeros
        theirs.pop("pred_token", None)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert (ours[name] - expected).norm() <= 1e-4 * expected.norm(), name
    return out


# ---- nanoGPT's model ----


@pytest.mark.parametrize("bias", [True, False])
def test_logits_equal_an_independent_implementation(bias):
    """Attention, norms and activation spelled out in matrix products, on the same weights: 1e-6."""
    model = build(bias=bias)
    idx, targets = build_rows()
    weights = dict(model.named_parameters())
    words = weights["transformer.wte.weight"]
    expected = torch.stack([spelled_out_states(weights, words[row]) @ words.T for row in idx])
    logits, loss = model(idx, targets)
    assert (logits - expected).abs().max() < 1e-6 * expected.abs().max()
    assert loss.item() == pytest.approx(F.cross_entropy(expected.flatten(0, 1), targets.flatten()).item(), abs=1e-6)


def test_without_targets_only_the_last_token_is_scored():
    """What generation needs: (B, 1, V), and no loss."""
    model = build()
    idx, targets = build_rows()
    logits, loss = model(idx)
    assert loss is None
    assert logits.shape == (3, 1, VOCAB_SIZE)
    torch.testing.assert_close(logits[:, 0], model(idx, targets)[0][:, -1])


def test_state_dict_keys_are_those_of_nanogpt_and_pred_token():
    """A checkpoint fits name by name; the word table is written under both its names."""
    layer = [
        f"{part}.{kind}"
        for part in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
        for kind in ("weight", "bias")
    ]
    expected = {"transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight", "pred_token"}
    expected |= {f"transformer.h.{number}.{name}" for number in range(2) for name in layer}
    expected |= {"transformer.ln_f.weight", "transformer.ln_f.bias"}
    model = build()
    assert model.state_dict().keys() == expected
    assert model.transformer.wte.weight is model.lm_head.weight
    assert model.pred_token.shape == (1, 1, TINY["n_embd"])


def test_the_defaults_are_those_of_nanogpt():
    """GPTConfig() is the 124-million-parameter GPT-2 with a rounded vocabulary."""
    config = GPTConfig()
    values = (config.block_size, config.vocab_size, config.n_layer, config.n_head, config.n_embd)
    assert values == (1024, 50304, 12, 12, 768)
    assert (config.dropout, config.bias) == (0.0, True)


def test_weights_start_as_in_gpt2():
    """Normal with deviation 0.02, residual projections smaller by sqrt(2 n_layer), [PRED] 0.02, biases 0."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=64, vocab_size=500, n_layer=8, n_head=4, n_embd=256))
    assert model.transformer.wte.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert model.transformer.h[0].attn.c_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.03)
    assert model.pred_token.std().item() == pytest.approx(0.02, rel=0.2)
    assert not model.transformer.h[0].mlp.c_fc.bias.any()


def test_pred_token_takes_nothing_from_the_random_stream(monkeypatch):
    """With the same seed, what is drawn after the model is built is what nanoGPT draws, and [PRED] follows the seed."""

    def build_with(seed):
        torch.manual_seed(seed)
        model = GPT(GPTConfig(**TINY))
        return model.pred_token, torch.rand(3)

    pred_token, after = build_with(7)
    again, _ = build_with(7)
    other, _ = build_with(8)
    assert torch.equal(pred_token, again)
    assert not torch.equal(pred_token, other)
    monkeypatch.setattr(torch, "randn", lambda *size, **_: torch.zeros(*size))  # what draws [PRED]
    _, without = build_with(7)
    assert torch.equal(after, without)


def test_generate_continues_each_row_and_keeps_to_the_likeliest():
    """top_k = 1 is greedy decoding, and rows longer than the block are cropped to their end."""
    model = build().eval()
    idx, _ = build_rows(B=2, T=BLOCK_SIZE - 1)
    found = model.generate(idx, 4, temperature=0.7, top_k=1)
    expected = idx
    for _ in range(4):
        expected = torch.cat([expected, model(expected[:, -BLOCK_SIZE:])[0].argmax(-1)], dim=1)
    assert torch.equal(found, expected)
    assert model.generate(idx, 2, top_k=10 * VOCAB_SIZE).shape == (2, BLOCK_SIZE + 1)


def test_crop_block_size_keeps_the_first_positions(raises):
    """Same logits on short rows, an error on long ones, and no way to grow."""
    model = build()
    idx, targets = build_rows(T=8)
    before = model(idx, targets)[0]
    model.crop_block_size(8)
    torch.testing.assert_close(model(idx, targets)[0], before)
    assert model.config.block_size == 8
    with raises("row_too_long", "9 tokens", "block_size is 8"):
        model(build_rows(T=9)[0])
    with raises("value_out_of_range", "block_size=9", "own, 8"):
        model.crop_block_size(9)


def test_parameters_are_counted_as_nanogpt_counts_them():
    """Without positions and [PRED] by default; the tied table once."""
    model = build()
    plain = sum(each.numel() for each in model.parameters()) - 32
    assert model.get_num_params(non_embedding=False) == plain + 32
    assert model.get_num_params() == plain - BLOCK_SIZE * 32
    flops = (6 * model.get_num_params() + 12 * 2 * 32 * BLOCK_SIZE) * BLOCK_SIZE * 5
    assert model.estimate_mfu(5, dt=2.0) == pytest.approx(flops / 2.0 / 312e12)


def test_what_decays_is_what_nanogpt_decays():
    """Matrices and embeddings; not biases, norms or [PRED]."""
    model = build()
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    decayed = {id(each) for group in optimizer.param_groups if group["weight_decay"] for each in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (parameter.dim() == 2), name
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_the_optimizer_of_a_plain_checkpoint_loads():
    """nanoGPT saved two groups and knows no [PRED]; training goes on from its moments."""
    model = build()
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    idx, targets = build_rows()
    model(idx, targets)[1].backward()
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    assert len(saved["param_groups"]) == 3
    plain = {"state": saved["state"], "param_groups": saved["param_groups"][:2]}
    again = build()
    again.load_state_dict(model.state_dict())
    resumed = again.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    resumed.load_state_dict(plain)
    for one, opt in ((model, optimizer), (again, resumed)):
        one.zero_grad()
        one.jepa_loss(idx, targets).loss.backward()
        opt.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(again.named_parameters())[name]), name


# ---- LLM-JEPA ----


@pytest.mark.parametrize("k", range(5))
@pytest.mark.parametrize("split", SPLITS)
def test_the_fused_pass_equals_three_forwards(split, k):
    """Loss within 1e-5, every gradient within 1e-4 relative, up to the last position of the block."""
    model = build()
    for T in (2, 3, 4, 5, 9, BLOCK_SIZE - 4, BLOCK_SIZE):
        idx, targets = build_rows(T=T)
        text = max(2, int(T * split))
        if T - text >= 2 and text + k > BLOCK_SIZE:
            continue  # no position left: an error, tested below
        assert_equal_to_three_forwards(model, idx, targets, k, [(text, T - text)] * 3, jepa_split=split)


@pytest.mark.parametrize("k", range(5))
def test_real_pairs_of_uneven_lengths_equal_three_forwards(k):
    """Each row says where its text and its code are; padding and what is neither carry no gradient of the term."""
    model = build(bias=False)
    idx, targets = build_rows(B=5)
    targets[:, 15:] = -1
    views = [(3, 9), (10, 2), (1, 14), (0, 0), (7, 1)]
    out = assert_equal_to_three_forwards(model, idx, targets, k, views, views=views)
    assert (out.num_pairs, len(out.text_pred), len(out.code_emb)) == (3, 3, 3)
    assert out.note == "2 of 5 rows have a code view of fewer than 2 tokens, so no JEPA term."
    assert_equal_to_three_forwards(model, idx, targets, k, views, views=torch.tensor(views))


def test_a_wrong_mask_is_seen(monkeypatch):
    """Negative control: a [PRED] that sees the code, or stands at the row's end, gives another loss."""
    model = build()
    idx, targets = build_rows(T=12)
    views = [(6, 6), (3, 9), (4, 8)]
    expected = three_forwards(model, idx, targets, 1.0, 2, views)[2].item()

    def found():
        return model.jepa_loss(idx, targets, jepa_k=2, views=views).jepa_loss.item()

    assert found() == pytest.approx(expected, abs=1e-5)
    right = GPT._states
    monkeypatch.setattr("llm_jepa.nanogpt._pred_mask", lambda lengths, S, k: torch.ones(3, 1, k, S + k).bool().tril(S))
    assert abs(found() - expected) > 1e-3
    monkeypatch.undo()
    monkeypatch.setattr(GPT, "_states", lambda self, idx, k=0, text_len=(): right(self, idx, k, [12] * len(text_len)))
    assert abs(found() - expected) > 1e-3


def test_the_row_is_computed_as_if_no_pred_were_there():
    """Its logits have the same bits with [PRED] and without."""
    model = build()
    idx, targets = build_rows()
    assert torch.equal(model.jepa_loss(idx, targets, jepa_k=3).logits, model(idx, targets)[0])


def test_enc_and_pred_equal_a_forward_of_their_own():
    """encode_last has no gradient, encode_last_with_pred has one, and with k = 0 they agree."""
    model = build()
    idx, _ = build_rows(T=9)
    weights = dict(model.named_parameters())
    words = weights["transformer.wte.weight"]
    enc = torch.stack([spelled_out_states(weights, words[row])[-1] for row in idx])
    torch.testing.assert_close(model.encode_last(idx), enc, atol=1e-5, rtol=1e-5)
    assert not model.encode_last(idx).requires_grad
    for k in range(4):
        pred = weights["pred_token"][0].expand(k, -1)
        expected = torch.stack([spelled_out_states(weights, torch.cat([words[row], pred]))[-1] for row in idx])
        found = model.encode_last_with_pred(idx, k_pred=k)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert found.requires_grad
    torch.testing.assert_close(model.encode_last_with_pred(idx, 0), model.encode_last(idx))


def test_the_target_is_the_models_own_encoding_without_gradient():
    """What jepa_loss returns is what encode_last and encode_last_with_pred say of the two halves."""
    model = build()
    idx, targets = build_rows(T=12)
    out = model.jepa_loss(idx, targets, jepa_k=2, jepa_split=0.5)
    torch.testing.assert_close(out.code_emb, model.encode_last(idx[:, 6:]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.text_pred, model.encode_last_with_pred(idx[:, :6], 2), atol=1e-5, rtol=1e-5)
    assert not out.code_emb.requires_grad


def test_lambda_zero_is_the_plain_loss_bit_for_bit_and_costs_nothing(monkeypatch):
    """The same bits in loss and gradients, one forward, [PRED] untouched."""
    model = build(dropout=0.1)
    idx, targets = build_rows()
    torch.manual_seed(3)
    logits, plain = model(idx, targets)
    expected = gradients(model, plain)
    forwards = []
    count = GPT._states
    monkeypatch.setattr(GPT, "_states", lambda *args, **more: forwards.append(1) or count(*args, **more))
    torch.manual_seed(3)
    out = model.jepa_loss(idx, targets, jepa_lambda=0.0)
    assert torch.equal(out.loss, plain)
    assert torch.equal(out.logits, logits)
    assert len(forwards) == 1
    found = gradients(model, out.loss)
    assert found.keys() == expected.keys()
    assert "pred_token" not in found
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert math.isnan(out.jepa_loss)
    assert "jepa_lambda is 0" in out.note


@pytest.mark.parametrize(("T", "split"), [(1, 0.5), (2, 0.5), (3, 0.1), (10, 0.9), (10, 1.0)])
def test_a_code_of_fewer_than_two_tokens_gives_no_term_and_says_so(T, split):
    """The loss is the plain one, the term 0, and the note tells why."""
    model = build()
    idx, targets = build_rows(T=T)
    out = model.jepa_loss(idx, targets, jepa_split=split)
    assert torch.equal(out.loss, model(idx, targets)[1])
    assert out.jepa_loss.item() == 0
    assert out.num_pairs == 0
    assert out.note == "3 of 3 rows have a code view of fewer than 2 tokens, so no JEPA term."


def test_at_the_edge_of_the_block_pred_stands_right_after_the_text(raises):
    """T + k may be over block_size; only the text and [PRED] must fit, and where they do not the error says so."""
    model = build()
    idx, targets = build_rows(T=BLOCK_SIZE)
    views = [(BLOCK_SIZE - 2, 2)] * 3
    assert_equal_to_three_forwards(model, idx, targets, 2, views, views=views)
    with raises("row_too_long", "3 [PRED]", "22 tokens", "25 positions", "block_size is 24"):
        model.jepa_loss(idx, targets, jepa_k=3, views=views)
    with raises("row_too_long", "1 [PRED]", "24 tokens", "25 positions", "block_size is 24"):
        model.encode_last_with_pred(idx, k_pred=1)
    rows_without_a_pair = [(BLOCK_SIZE, 0), (4, 4), (0, 0)]  # take no position, whatever their length
    assert_equal_to_three_forwards(model, idx, targets, 4, rows_without_a_pair, views=rows_without_a_pair)


def test_forward_trains_on_the_jepa_loss_for_wrappers_that_know_of_nothing_else(raises):
    """`model(X, Y, jepa_lambda=1.0)` gives the logits and the loss of jepa_loss; unpacking gives its three terms."""
    model = build()
    idx, targets = build_rows()
    logits, loss = model(idx, targets, jepa_lambda=1.0, jepa_k=2)
    out = model.jepa_loss(idx, targets, jepa_k=2)
    assert torch.equal(loss, out.loss)
    assert torch.equal(logits, out.logits)
    assert [each.item() for each in out] == [out.loss.item(), out.ce_loss.item(), out.jepa_loss.item()]
    with raises("targets_missing", "jepa_lambda"):
        model(idx, jepa_lambda=1.0)


def test_other_distances_are_one_word_away(raises):
    """InfoNCE does not collapse as the cosine does; it is the library's own."""
    from llm_jepa.objective.distances import get_distance

    model = build()
    idx, targets = build_rows()
    out = model.jepa_loss(idx, targets, jepa_distance="infonce")
    assert out.jepa_loss.item() == pytest.approx(get_distance("infonce")(out.text_pred, out.code_emb).mean().item())
    for jepa_lambda in (0.0, 1.0):
        with raises("unknown_distance", "jepa_distance='cosin'"):
            model.jepa_loss(idx, targets, jepa_lambda, jepa_distance="cosin")


@pytest.mark.parametrize(
    ("wrong", "code", "values"),
    [
        ({"jepa_lambda": -1.0}, "value_out_of_range", ["jepa_lambda=-1.0"]),
        ({"jepa_k": -1}, "value_out_of_range", ["jepa_k=-1"]),
        ({"jepa_split": 1.5}, "value_out_of_range", ["jepa_split=1.5"]),
        ({"views": [(3, 3)]}, "wrong_shape", ["views", "3 rows"]),
        ({"views": [(3, 3), (20, 5), (1, 1)]}, "value_out_of_range", ["row 1", "20 tokens of text", "5 of code"]),
        ({"views": [(3, 3), (3, 3), (0, 5)]}, "value_out_of_range", ["row 2", "0 tokens of text"]),
    ],
)
def test_a_wrong_argument_is_named(wrong, code, values, raises):
    """What was given and what was expected."""
    with raises(code, *values):
        build().jepa_loss(*build_rows(), **wrong)


def test_training_lowers_both_terms():
    """A few steps of AdamW on one batch: cross-entropy falls, the distance falls, all parameters move."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**TINY))
    start = {name: each.detach().clone() for name, each in model.named_parameters()}
    optimizer = model.configure_optimizers(0.1, 3e-3, (0.9, 0.95), "cpu")
    idx, targets = build_rows(B=4)
    first = model.jepa_loss(idx, targets)
    for _ in range(30):
        _, loss = model(idx, targets, jepa_lambda=1.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    last = model.jepa_loss(idx, targets)
    assert last.ce_loss < first.ce_loss - 0.5
    assert last.jepa_loss < first.jepa_loss / 2
    assert not [name for name, each in model.named_parameters() if torch.equal(each, start[name])]


# ---- other people's weights ----


def test_gpt2_of_transformers_gives_the_same_logits(tmp_path, raises):
    """An independent implementation once more, with GPT-2's own activation, from a folder on disk."""
    size = {"n_positions": BLOCK_SIZE, "vocab_size": VOCAB_SIZE, "n_layer": 2, "n_head": 4, "n_embd": 32}
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**size, initializer_range=0.5)).eval()
    theirs.save_pretrained(tmp_path)
    ours = GPT.from_pretrained(str(tmp_path), {"dropout": 0.25}).eval()
    assert (ours.config.activation, ours.config.dropout, ours.config.bias) == ("gelu_new", 0.25, True)
    idx, targets = build_rows()
    expected = theirs(idx).logits
    assert (ours(idx, targets)[0] - expected).abs().max() < 1e-6 * expected.abs().max()
    with raises("key_unknown", "n_layer"):
        GPT.from_pretrained(str(tmp_path), {"n_layer": 3})


def test_gpt2s_activation_survives_a_checkpoint_that_does_not_name_it():
    """nanoGPT's train.py saves six fields of the config; the state dict tells the rest."""
    source = build(activation="gelu_new")
    fresh = build(seed=5)
    fresh.load_state_dict(source.state_dict())
    idx, targets = build_rows()
    assert torch.equal(fresh(idx, targets)[0], source(idx, targets)[0])
    assert fresh.state_dict().keys() == source.state_dict().keys()
    assert fresh.config.activation == "gelu_new"
    with pytest.raises(RuntimeError, match='activation="gelu".* "gelu_new"'):
        source.load_state_dict(build().state_dict())


def test_what_nanogpt_saved_loads():
    """Without [PRED], under the prefix of torch.compile, with the attention masks of old versions."""
    source, fresh = build(), build(seed=5)
    pred_token = fresh.pred_token.clone()
    saved = {f"_orig_mod.{name}": each for name, each in source.state_dict().items() if name != "pred_token"}
    saved["_orig_mod.transformer.h.0.attn.bias"] = torch.ones(1, 1, BLOCK_SIZE, BLOCK_SIZE).tril()
    given = dict(saved)
    fresh.load_state_dict(saved)
    idx, targets = build_rows()
    assert torch.equal(fresh(idx, targets)[0], source(idx, targets)[0])
    assert torch.equal(fresh.pred_token, pred_token)
    assert saved.keys() == given.keys(), "the caller's dict is left as it was"
    with pytest.raises(RuntimeError, match="Missing key"):
        fresh.load_state_dict({name: each for name, each in saved.items() if "c_fc" not in name})


def test_a_width_that_the_heads_do_not_share_is_refused(raises):
    """An error instead of nanoGPT's bare assert."""
    with raises("settings_conflict", "n_embd=32", "n_head=5"):
        GPT(GPTConfig(**{**TINY, "n_head": 5}))


# ---- wrappers ----


def test_every_parameter_has_a_gradient_under_data_parallel(tmp_path):
    """DistributedDataParallel waits for each parameter: plain steps, k = 0 and rows without a pair must not hang it."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = build()
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        idx, targets = build_rows()
        for jepa in ({}, {"jepa_lambda": 0.0}, {"jepa_lambda": 1.0}, {"jepa_k": 0}, {"jepa_split": 1.0}, {}):
            wrapped.zero_grad()
            wrapped(idx, targets, **jepa)[1].backward()
            assert all(each.grad is not None for each in model.parameters()), jepa
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_pass_equals_three_forwards_on_a_gpu(dtype):
    """The same check on CUDA; bf16 is autocast, and as close as its 8 bits allow."""
    model = build().cuda()
    idx, targets = (each.cuda() for each in build_rows(B=4))
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        out = model.jepa_loss(idx, targets, jepa_k=2)
        text = model.encode_last_with_pred(idx[:, :12], 2)
        code = model.encode_last(idx[:, 12:])
        _, ce = model(idx, targets)
    expected = ce + (1 - F.cosine_similarity(text.float(), code.float())).mean()
    assert out.loss.item() == pytest.approx(expected.item(), rel=tolerance)
    ours, theirs = gradients(model, out.loss), gradients(model, expected)
    for name, value in theirs.items():
        assert (ours[name] - value).norm() <= 10 * tolerance * value.norm() + 1e-6, name


def test_infonce_is_computed_in_float32_under_autocast():
    """Cosines that are rounded to bf16 and divided by the temperature would change the third digit of the loss."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=16, vocab_size=40, n_layer=1, n_head=2, n_embd=256))
    rows = torch.randint(40, (6, 16))
    with torch.autocast("cpu", torch.bfloat16):
        out = model.jepa_loss(rows, rows, jepa_distance="infonce")
    assert torch.equal(out.jepa_loss, get_distance("infonce")(out.text_pred, out.code_emb).mean())
